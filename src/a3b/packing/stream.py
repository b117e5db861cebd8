"""Packs a model while its files arrive: the peak on the disk is the packed model and a bounded spill.

In DST.part, `source/NAME` holds the files as they arrive (`sparse_file`) beside the side files that the caller puts
there, the shards are written into their final places, and `stream.json` says what is done. The result is what
`writer.write` makes of the same files. Enter at `StreamedPack.open`, then `fetch_headers`, `judge`, `run`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from a3b.errors import CheckpointError, FileFormatError, UsageError
from a3b.files import read_text
from a3b.formats.gguf import GgufFile, UnreadableTypes
from a3b.formats.gptq import GptqMatrix, check_order
from a3b.formats.packed import LAYOUT, MANIFEST, VERSION, Manifest, new_checksum
from a3b.formats.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from a3b.packing.conductor import BeginAgain, Conductor, Layout, StreamProgress, WrongChecksum
from a3b.packing.fetch_order import fetch_order, largest_spill
from a3b.packing.pieces import FilePlaces, kept_ranges, plan_pieces
from a3b.packing.plan import Plan
from a3b.packing.remote import RemoteFile
from a3b.packing.source import Source
from a3b.packing.sparse_file import FileProgress, SparseFile, makes_holes, write_all
from a3b.packing.stream_journal import JOURNAL, SOURCE, StreamJournal
from a3b.packing.writer import (
    LOCK,
    SPARE_BYTES,
    check_target,
    disk_errors,
    locked,
    manifest_of,
    packed_rows,
    shards_of,
    sync_directory,
    write_file,
    write_side_files,
)

MAX_SPILL = 2 << 30  # bytes of sources on the disk at a time
RESERVE = 512 << 20  # of them, for what arrives out of order and what is given back late
HEADER_STEP = 1 << 20  # bytes of a header fetched at least
Opener = Callable[[list[str] | None], Source]  # opens the files; a list: only their headers, see `open_source`


class StreamedPack:
    """One model on its way from files elsewhere to a packed directory."""

    def __init__(self, target: Path, name: str, journal: StreamJournal):
        self.target, self.part, self.journal = target, journal.path.parent, journal
        self.directory = self.part / SOURCE / name  # of side files and the files that arrive
        self.files: list[SparseFile] = []

    @classmethod
    @contextmanager
    def open(cls, target: Path, repo: str, commit: str) -> Iterator[StreamedPack]:
        """Lock DST.part, or make it; without anything in it worth keeping it is removed at the end.

        Raises UsageError if `target` is taken, or holds what another command has begun."""
        check_target(target)
        part = target.with_name(target.name + ".part")
        with disk_errors(part):
            part.mkdir(parents=True, exist_ok=True)
            with locked(part / LOCK):
                journal = StreamJournal.open(part, repo, commit)
                pack = cls(target, repo.rpartition("/")[2], journal)
                pack.directory.mkdir(parents=True, exist_ok=True)
                try:
                    yield pack
                finally:
                    for file in pack.files:
                        file.close()
                    if part.exists() and not journal.path.exists():
                        shutil.rmtree(part)

    def expect(self, remotes: Sequence[RemoteFile], commit: str) -> None:
        """Say which files the model consists of. Raises UsageError if an earlier run has begun with other ones."""
        known = self.journal.files
        for path, progress in known.items():
            found = next((remote for remote in remotes if remote.path == path), None)
            if found is None or found.sha256 != progress.sum or found.num_bytes != progress.num_bytes:
                raise UsageError(
                    f"{self.part}: was begun from {self.journal.repo} at {self.journal.commit[:12]}, which has "
                    f"another {path} than {commit[:12]}: --revision {self.journal.commit} continues with the old one, "
                    f"or remove {self.part} and begin again"
                )
        if known and len(known) != len(remotes):
            raise UsageError(f"{self.part}: was begun with other files; remove it, or give the options of that run")
        self.journal.commit = commit
        for remote in remotes:
            progress = known.setdefault(remote.path, FileProgress(remote.sha256, remote.num_bytes))
            self.files.append(SparseFile(self.directory / remote.name, remote, progress))

    def fetch_headers(self, tell: Callable[[str], None]) -> None:
        """Fetch the header of each file, and check that it describes the file. Raises FileFormatError, TensorError."""
        for file in self.files:
            fetch_header(file, tell)

    def judge(self, opener: Opener, make_plan: Callable[[Source], Plan]) -> tuple[Source, Plan]:
        """Decide from the headers what will be packed. Raises CheckpointError for a model that cannot be."""
        deferred: list[str] = []
        self.opener, self.make_plan = opener, make_plan
        source = opener(deferred)
        plan, self.headers = make_plan(source), header_sums(source)
        by_path = {container.path: container for container in source.containers}
        if set(by_path) != {file.path for file in self.files}:
            raise UsageError(f"{self.directory}: holds files that are not of this model; remove {self.part}")
        containers = [by_path[file.path] for file in self.files]
        self._check_order(plan, FilePlaces(containers))
        shards = shards_of(plan)
        by_item = plan_pieces(plan, shards, containers)
        pieces = [piece for pieces in by_item for piece in pieces]
        first = [0]
        for each in by_item:
            first.append(first[-1] + len(each))
        kept, sizes = list(kept_ranges(deferred, containers)), [file.remote.num_bytes for file in self.files]
        self.spill_bytes = min(largest_spill(sizes, pieces, kept) + RESERVE, sum(sizes))
        self.layout = Layout(plan, shards, pieces, first, kept, fetch_order(sizes, pieces), self.spill_bytes)
        self._check_identity()
        return source, plan

    def _check_order(self, plan: Plan, place: FilePlaces) -> None:
        """Fetch one of the orders of columns that come with GPTQ: if it is not plain, none is. Raises TensorError."""
        for item in plan.items:
            matrix = item.value.expert(0) if item.kind and len(item.tensor.shape) == 3 else item.value
            if isinstance(matrix, GptqMatrix) and matrix.order is not None:
                file, start, stop = place.of(matrix.order)
                for low, high in self.files[file].progress.arrived.missing(start, stop):
                    self.files[file].fetch(low, high)
                return check_order(matrix.name, matrix.order, matrix.group)

    def check_disk(self) -> None:
        """Raises CheckpointError if the disk cannot hold what is packed and what waits."""
        if self.spill_bytes > MAX_SPILL:
            raise CheckpointError(
                f"{self.journal.repo}: its files are in an order in which {self.spill_bytes / 1e9:.1f} GB would "
                f"have to wait on the disk at a time; packing while downloading keeps {MAX_SPILL / 1e9:.1f} GB at "
                "most: --keep-source DIR downloads it first"
            )
        if not makes_holes(self.part):
            raise CheckpointError(
                f"{self.part}: this file system gives no room back within a file, so packing while downloading would "
                "need all of it; give a place on ext4, xfs, btrfs or tmpfs, or --keep-source DIR to download first"
            )
        packed = sum(shard.num_bytes for shard in self.layout.shards)
        there = sum(path.stat().st_blocks * 512 for path in self.part.rglob("*") if path.is_file())
        need, free = packed + self.spill_bytes + SPARE_BYTES - there, shutil.disk_usage(self.part).free
        if free < need:
            raise CheckpointError(
                f"{self.part.parent}: {free / 1e9:.2f} GB free; {packed / 1e9:.2f} GB packed and up to "
                f"{self.spill_bytes / 1e9:.2f} GB that wait to be packed need {need / 1e9:.2f} GB more: "
                "make room, or give another place"
            )

    @property
    def download_bytes(self) -> int:
        return sum(file.remote.num_bytes for file in self.files)

    @property
    def arrived_bytes(self) -> int:
        return sum(file.progress.arrived.total for file in self.files)

    def run(self, threads: int, show: Callable[[StreamProgress], None]) -> Manifest:
        """Fetch and pack what is missing. Raises CheckpointError, DownloadError; what is done stays for the next run,
        except after a wrong checksum that came twice."""
        with disk_errors(self.part):
            for file in self.files:
                file.sync()
            self.journal.save()  # before there is a shard
            try:
                while True:
                    try:
                        Conductor(self.part, self.files, self.layout, self.journal, threads, show).run()
                        break
                    except BeginAgain:
                        continue
                return self._finish()
            except WrongChecksum:
                shutil.rmtree(self.part)
                raise

    def _finish(self) -> Manifest:
        """Write what is read from the complete source, then the manifest, and give the directory its name."""
        source = self.opener(None)
        plan, layout = self.make_plan(source), self.layout
        if plan.tensors != layout.plan.tensors or header_sums(source) != self.headers:
            shutil.rmtree(self.part)
            raise FileFormatError(
                f"{self.journal.repo}: a header came differently the second time; what was packed is removed: "
                "try again later"
            )
        checksums = dict(self.journal.tensors)
        for item, first in zip(plan.items, layout.first, strict=False):
            piece = layout.pieces[first]
            if not piece.reads:
                data = packed_rows(item, item.value, piece.start, piece.stop, None)
                with open(self.part / piece.file, "r+b", buffering=0) as file:
                    write_all(file.fileno(), piece.at, data.data)
                total = new_checksum()
                total.update(data.data)
                checksums[item.tensor.name] = total.hexdigest()
        for shard in layout.shards:
            with open(self.part / shard.file, "r+b") as file:
                os.fsync(file.fileno())
        names = write_side_files(source, self.part)
        checksums = {tensor.name: checksums[tensor.name] for shard in layout.shards for tensor in shard.tensors}
        manifest = manifest_of(source, plan, list(layout.shards), checksums, self.part, names)
        write_file(self.part / MANIFEST, manifest.to_json().encode())
        if self.target.exists():
            self.target.rmdir()
        os.rename(self.part, self.target)
        sync_directory(self.target.parent)
        clear(self.target)
        return manifest

    def _check_identity(self) -> None:
        """Take over what an earlier run has packed. Raises UsageError if it followed another plan."""
        total, layout = new_checksum(), self.layout
        tensors = [(shard.file, asdict(tensor)) for shard in layout.shards for tensor in shard.tensors]
        files = [[file.path.name, file.remote.sha256] for file in self.files]
        value = [VERSION, LAYOUT, layout.plan.preset, files, self.headers, tensors]
        total.update(json.dumps(value, sort_keys=True).encode())
        identity = total.hexdigest()
        if self.journal.identity not in ("", identity):
            raise UsageError(
                f"{self.part}: was begun with other options, such as another preset; give the same, or remove it"
            )
        self.journal.identity = identity


def fetch_header(file: SparseFile, tell: Callable[[str], None]) -> None:
    """Fetch the header of a file, and check that it describes the file. Raises FileFormatError, TensorError."""
    kind = GgufFile if file.path.suffix == ".gguf" else SafetensorsFile
    with suppress(UnreadableTypes):  # told when the model is opened, with the types of all its files
        kind(file.path, _Header(file, tell).arrive)


class _Header:
    """Fetches the beginning of a file as far as its reader asks for it."""

    def __init__(self, file: SparseFile, tell: Callable[[str], None]):
        self.file, self.tell, self.here = file, tell, file.progress.arrived.end_of(0)

    def arrive(self, stop: int) -> None:
        if stop <= self.here:
            return
        if stop > MAX_HEADER_BYTES + 8:
            raise FileFormatError(
                f"{self.file.remote.path}: its header would end at byte {stop} or later; expected {MAX_HEADER_BYTES} "
                "bytes at most"
            )
        stop = min(max(stop, 2 * self.here, HEADER_STEP), self.file.remote.num_bytes)
        self.file.fetch(self.here, stop, self.tell)
        self.here = stop


def header_sums(source: Source) -> list[str]:
    """Checksums of the headers, on which all places depend."""
    found = []
    for container in source.containers:
        total = new_checksum()
        total.update(container.mapped[: container.header_bytes].data)
        found.append(total.hexdigest())
    return found


def clear(target: Path) -> str | None:
    """Remove what a run that was killed after its last step has left in a packed directory; the repository of it."""
    if not (target / JOURNAL).exists() or not (target / MANIFEST).exists():
        return None
    repo = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        repo = str(json.loads(read_text(target / JOURNAL))["repo"])
    shutil.rmtree(target / SOURCE, ignore_errors=True)
    (target / LOCK).unlink(missing_ok=True)
    (target / JOURNAL).unlink()
    return repo
