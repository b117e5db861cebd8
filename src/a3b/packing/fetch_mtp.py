"""Fetches of a model that is elsewhere what its MTP module needs: headers, the module, small tensors to compare.

The files stand in `DIR.mtp.part` at their full size, with holes where nothing was fetched, so that they are opened like
whole ones. They are removed at the end, whatever happens. Enter at `MtpFetch.open`, then `judge`, `run` and
`source`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a3b.errors import CheckpointError
from a3b.model.weights import by_role
from a3b.packing.add_mtp import Target, compared_tensors, planned_by_headers
from a3b.packing.fetch_order import joined
from a3b.packing.intervals import Intervals
from a3b.packing.open_source import open_source
from a3b.packing.pieces import Read, arrays_of, kept_ranges, places_in, plan_pieces
from a3b.packing.remote import RemoteFile
from a3b.packing.source import Source
from a3b.packing.sparse_file import FileProgress, SparseFile
from a3b.packing.stream import fetch_header
from a3b.packing.writer import check_free, disk_errors, locked, shards_of

PART, LOCK, SOURCE = ".mtp.part", "lock", "source"
STEP = 32 << 20  # bytes of one request
CONNECTIONS = 4


class MtpFetch:
    """What of a model is fetched for one packed directory."""

    def __init__(self, target: Target, directory: Path):
        self.target, self.directory = target, directory
        self.files: list[SparseFile] = []
        self.reads: list[Read] = []

    @classmethod
    @contextmanager
    def open(cls, target: Target, name: str) -> Iterator[MtpFetch]:
        """Make and lock a place beside the packed directory. name: of the model, for people. Raises UsageError if
        another process uses it."""
        place = target.directory.resolve()
        part = place.with_name(place.name + PART)
        with disk_errors(part):
            part.mkdir(exist_ok=True)
            with locked(part / LOCK):
                shutil.rmtree(part / SOURCE, ignore_errors=True)  # of a run that was killed
                (part / SOURCE / name).mkdir(parents=True)
                fetch = cls(target, part / SOURCE / name)
                try:
                    yield fetch
                finally:
                    for file in fetch.files:
                        file.close()
                    shutil.rmtree(part, ignore_errors=True)

    def judge(self, remotes: Sequence[RemoteFile], tell: Callable[[str], None]) -> None:
        """Fetch the headers, and decide by them what else is needed. Raises UsageError or CheckpointError for a model
        whose module cannot be added."""
        for remote in remotes:
            progress = FileProgress(remote.sha256, remote.num_bytes)
            self.files.append(SparseFile(self.directory / remote.name, remote, progress))
            fetch_header(self.files[-1], tell)
        deferred: list[str] = []
        source = self._opened(deferred)
        plan = planned_by_headers(self.target, source)
        by_path = {container.path: container for container in source.containers}
        containers = [by_path[file.path] for file in self.files]
        wanted = [*kept_ranges(deferred, containers)]
        wanted += [r for each in plan_pieces(plan, shards_of(plan), containers) for piece in each for r in piece.reads]
        for tensor, layer in compared_tensors(self.target, source):
            value: Any = by_role(source.weights, layer)[tensor.role]
            wanted += [places_in(containers, array) for array in arrays_of(value, 0, value.shape[0])]
        self.reads = list(self._missing(wanted))
        check_free(self.directory, self.num_bytes + sum(shard.num_bytes for shard in shards_of(plan)))

    def _missing(self, wanted: Sequence[Read]) -> Iterator[Read]:
        """What of the ranges is not here, joined where the gap between two is small, in steps."""
        for index, file in enumerate(self.files):
            found = Intervals()
            for which, start, stop in wanted:
                if which == index and start < stop:
                    found.add(start, stop)
            for start, stop in joined(found):
                for low, high in file.progress.arrived.missing(start, stop):
                    yield from ((index, at, min(at + STEP, high)) for at in range(low, high, STEP))

    @property
    def num_bytes(self) -> int:
        """To be fetched."""
        return sum(stop - start for _, start, stop in self.reads)

    @property
    def total_bytes(self) -> int:
        """Of the whole model."""
        return sum(file.remote.num_bytes for file in self.files)

    def run(self, done: Callable[[int], None], tell: Callable[[str], None]) -> None:
        """Fetch. done: called with the number of bytes that arrived. Raises DownloadError."""
        stopped, counting = threading.Event(), threading.Lock()

        def fetch(read: Read) -> None:
            index, at, stop = read
            file = self.files[index]
            for piece in file.remote.read(at, stop, stopped, tell):
                if not file.remote.takes_ranges:
                    raise CheckpointError(
                        f"{file.remote.path}: the hub sends whole files instead of parts; download the model first, "
                        "with a3b pull, and give its directory"
                    )
                file.write(at, piece)
                at += len(piece)
                with counting:
                    done(len(piece))

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            futures = [pool.submit(fetch, read) for read in self.reads]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stopped.set()
                for future in futures:
                    future.cancel()
                raise

    def source(self) -> Source:
        """The model, whose numbers can be read as far as the module needs them."""
        return self._opened(None)

    def _opened(self, deferred: list[str] | None) -> Source:
        ggufs = [file.path for file in self.files if file.path.suffix == ".gguf"]
        return open_source(ggufs[0] if ggufs else self.directory, None, True, deferred, late=True)
