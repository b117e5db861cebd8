"""Files of a hub in a local directory: each gets its own name only when it is complete and its checksum is right.

`.a3b-pull/` in that directory holds what the download needs: partial files, named after their checksum, so that a part
is only continued with the file it belongs to; a record of what was verified; and the lock of the one process that
writes. A part is never discarded because the connection broke, only for a wrong checksum. Does not speak to the hub;
`a3b.hub.client` does. Enter at `Folder.open`, then `Folder.fetch`."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from a3b.errors import DownloadError
from a3b.files import not_linked, open_regular, read_text
from a3b.hub.client import MAX_WAIT_S, Hub, HubFile, Listing, TransientFailure

NUM_WORKERS = 4  # files at a time: one stream rarely fills a fast line
PIECE_BYTES = 1 << 20  # read from the disk at once
NUM_ATTEMPTS = 6  # in a row without a new byte
FIRST_WAIT_S = 1.0  # doubled after each attempt that brings nothing
SPARE_BYTES = 64 << 20  # left free in addition to the files
NOTED_BYTES = 1 << 30  # checking a larger part takes so long that the user is notified
SAVE_S = 1.0  # between two records, which grow with the number of files
INNER = ".a3b-pull"


class DownloadStopped(Exception):
    """Another file failed, or the user interrupted."""


@dataclass(frozen=True)
class DownloadEvent:
    """What happened to a file: `num_bytes` more arrived, negative when it starts again; `done` after its last.

    note: why nothing arrives for a while."""

    file: HubFile
    num_bytes: int = 0
    done: bool = False
    note: str = ""


class Folder:
    """A directory that one process fills from one repository."""

    def __init__(self, path: Path, listing: Listing):
        self.path, self.listing, self.inner = path, listing, path / INNER
        self.record, self.saved = self._read_record(), 0.0

    @classmethod
    @contextmanager
    def open(cls, path: Path, listing: Listing) -> Iterator[Folder]:
        """Make and lock a directory. Raises DownloadError if it cannot be used, or holds another repository."""
        try:
            (path / INNER).mkdir(parents=True, exist_ok=True)
            lock = open(path / INNER / "lock", "ab", opener=not_linked)
        except OSError as error:
            raise DownloadError(f"{path}: {error.strerror}; give a writable directory") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DownloadError(
                    f"{path}: another a3b pull writes there; wait for it, or give another directory"
                ) from None
            yield cls(path, listing)

    def missing(self, files: Iterable[HubFile]) -> list[HubFile]:
        """The files that are not here yet. A file whose size and time are as recorded counts as verified.

        Raises DownloadError for a file of that name that no pull has written, or that cannot be read."""
        try:
            found = self._missing(files)
            self._save()
            return found
        except OSError as error:
            raise DownloadError(
                f"{error.filename or self.path}: {error.strerror}; files of an earlier pull must be readable"
            ) from None

    def _missing(self, files: Iterable[HubFile]) -> list[HubFile]:
        out = []
        for file in files:
            target = self.path / file.path
            known = self.record["files"].get(file.path)
            if file.path.split("/")[0] == INNER:
                raise DownloadError(f"{self.listing.repo}: holds {file.path}, a place that a3b pull keeps for itself")
            if not os.path.lexists(target):
                out.append(file)
            elif known and known == self._entry(file, target):
                continue
            elif target.is_file() and _sum_of(target, file) == file.sum:
                self._remember(file)
            elif known:
                out.append(file)
            else:
                raise DownloadError(
                    f"{target} is in the way, it is not the file of {self.listing.repo}; "
                    "move it or give another directory"
                )
        return out

    def num_bytes_here(self, file: HubFile) -> int:
        """Bytes of a missing file that are already here."""
        part = self._part(file)
        return min(part.stat().st_size, file.num_bytes) if part.exists() else 0

    def check_space(self, files: Iterable[HubFile]) -> None:
        """Raises DownloadError if the missing bytes would not fit."""
        needed = sum(file.num_bytes - self.num_bytes_here(file) for file in files)
        free = shutil.disk_usage(self.path).free
        if needed and needed + SPARE_BYTES > free:
            raise DownloadError(
                f"{self.path}: {needed / 1e9:.2f} GB are still to be downloaded and "
                f"{free / 1e9:.2f} GB are free on that disk; "
                "make room, or give a directory on another disk"
            )

    def fetch(self, hub: Hub, files: Iterable[HubFile], show: Callable[[DownloadEvent], None]) -> None:
        """Download missing files, several at a time. `show` is called for every piece, in this thread.

        Raises the first DownloadError or a KeyboardInterrupt, after the other files have stopped where they were."""
        jobs: queue.SimpleQueue[HubFile] = queue.SimpleQueue()
        events: queue.SimpleQueue[DownloadEvent | BaseException | None] = queue.SimpleQueue()
        for file in files:
            jobs.put(file)
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    file = jobs.get_nowait()
                    self._fetch_one(hub, file, events.put, stop)
                    events.put(DownloadEvent(file, done=True))
            except (queue.Empty, DownloadStopped):
                pass
            except BaseException as error:
                events.put(error)
            events.put(None)

        # Daemons, so that Ctrl-C need not wait for a silent server; a part is intact at any moment.
        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(NUM_WORKERS, jobs.qsize()))]
        for worker in workers:
            worker.start()
        try:
            running = len(workers)
            while running:
                event = events.get()
                if event is None:
                    running -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    if event.done:
                        self._remember(event.file)
                    show(event)
        finally:
            stop.set()
            deadline = time.monotonic() + 1.0
            for worker in workers:
                worker.join(timeout=max(deadline - time.monotonic(), 0))
            self._save()

    def _fetch_one(self, hub: Hub, file: HubFile, tell: Callable[[DownloadEvent], Any], stop: threading.Event) -> None:
        """Complete the part of a file, verify it and give it its name."""
        target, part = self.path / file.path, self._part(file)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for last_chance in (False, True):
                with open(part, "ab+", buffering=0, opener=not_linked) as out:
                    found = self._fill(hub, file, out, tell, stop)
                if found == file.sum:
                    break
                part.unlink()
                tell(DownloadEvent(file, -file.num_bytes))
                if last_chance:
                    raise DownloadError(
                        f"{file.path}: its {file.algorithm} is {found}, the hub says "
                        f"{file.sum}; the bytes were deleted. "
                        "Run the same command again; if that does not help, the server or a proxy alters the file"
                    )
            os.replace(part, target)
            for old in self.inner.iterdir():
                if old.name.endswith("." + _flat(file.path)):
                    old.unlink()  # a part of another version
        except OSError as error:
            raise self._cannot_write(target, error) from None

    def _fill(
        self, hub: Hub, file: HubFile, out: FileIO, tell: Callable[[DownloadEvent], Any], stop: threading.Event
    ) -> str:
        """Append to a part until it is complete, across failures; the checksum of its bytes."""
        digest, have = file.digest(), 0
        if (size := os.fstat(out.fileno()).st_size) > NOTED_BYTES:
            tell(DownloadEvent(file, note=f"checking the {size / 1e9:.1f} GB already here"))
        out.seek(0)
        while piece := out.read(PIECE_BYTES):  # from an earlier run
            digest.update(piece)
            have += len(piece)
        failures, farthest = 0, have
        while have < file.num_bytes:
            try:
                for position, piece in hub.read(file, self.listing.commit, have):
                    if position == 0 and have:  # the server cannot start in the middle
                        tell(DownloadEvent(file, -have))
                        out.truncate(0)
                        digest, have = file.digest(), 0
                    if have + len(piece) > file.num_bytes:
                        raise DownloadError(
                            f"{file.path}: the server sends more than the {file.num_bytes} bytes that the hub states; "
                            "try again later"
                        )
                    _write(out, piece)
                    digest.update(piece)
                    have += len(piece)
                    tell(DownloadEvent(file, len(piece)))
                    if stop.is_set():
                        raise DownloadStopped
                reason, wait_s = "the connection closed early", None
            except TransientFailure as error:
                reason, wait_s = str(error), error.wait_s
            if have < file.num_bytes:
                failures = 1 if have > farthest else failures + 1
                farthest = max(have, farthest)
                if failures >= NUM_ATTEMPTS or (wait_s or 0) > MAX_WAIT_S:
                    raise hub.unreachable(f"{file.path}: {reason}")
                wait_s = FIRST_WAIT_S * 2 ** (failures - 1) if wait_s is None else wait_s
                tell(DownloadEvent(file, note=f"{reason}; next attempt in {wait_s:.0f} s"))
                if stop.wait(wait_s):
                    raise DownloadStopped
        if have > file.num_bytes:  # another process wrote to the part
            return "of too many bytes"
        os.fsync(out.fileno())
        return digest.hexdigest()

    def _cannot_write(self, target: Path, error: OSError) -> DownloadError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DownloadError(
                f"{target}: the disk is full; what arrived is kept: make room and run the same command"
            )
        return DownloadError(
            f"{target}: {error.strerror or error}; what arrived is kept: run the same command once that is fixed"
        )

    def _part(self, file: HubFile) -> Path:
        return self.inner / f"{file.sum[:16]}.{_flat(file.path)}"

    def _entry(self, file: HubFile, target: Path) -> dict[str, Any]:
        status = target.stat()
        return {"sum": file.sum, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _remember(self, file: HubFile) -> None:
        self.record["files"][file.path] = self._entry(file, self.path / file.path)
        self.record["commit"] = self.listing.commit
        if time.monotonic() - self.saved >= SAVE_S:
            self._save()

    def _save(self) -> None:
        """Write the record. Without it files count as verified only once they were read again."""
        new = self.inner / "record.new"
        try:
            with open(new, "w", encoding="utf-8", opener=not_linked) as out:
                out.write(json.dumps(self.record, indent=1))
            os.replace(new, self.inner / "record.json")
            self.saved = time.monotonic()
        except OSError as error:
            raise self._cannot_write(self.path, error) from None

    def _read_record(self) -> dict[str, Any]:
        empty = {"repo": self.listing.repo, "commit": self.listing.commit, "files": {}}
        try:
            record = json.loads(read_text(self.inner / "record.json"))
            known = {"repo": record["repo"], "commit": record["commit"], "files": dict(record["files"])}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return empty  # then files are verified by their contents
        if known["repo"] != self.listing.repo and known["files"]:
            raise DownloadError(
                f"{self.path} holds files of {str(known['repo'])[:200]}; give another directory for {self.listing.repo}"
            )
        return known if known["files"] else empty


def _flat(path: str) -> str:
    return path.replace("/", "\\") + ".part"  # no path of a HubFile has a backslash


def _sum_of(path: Path, file: HubFile) -> str:
    """The checksum of a file on disk, by the algorithm of `file`; empty if its size is another."""
    if path.stat().st_size != file.num_bytes:
        return ""
    digest = file.digest()
    with open_regular(path) as source:
        while piece := source.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _write(out: FileIO, piece: bytes) -> None:
    """Write all of a piece."""
    view = memoryview(piece)
    while view:
        view = view[out.write(view) :]
