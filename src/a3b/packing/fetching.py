"""Connections that fetch the ranges of a model's files, in order, each into its place. Enter at `Fetching`."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from a3b.packing.pieces import Read
from a3b.packing.sparse_file import SparseFile

NUM_CONNECTIONS = 4  # one stream rarely fills a fast line
RANGE = 32 << 20  # bytes that a request asks for
WRITE = 1 << 20  # bytes written at once
MAX_WAITING = 32  # writes that nobody has taken notice of yet
STALL_S = 0.2  # how often a connection that must wait looks whether to stop


@dataclass(frozen=True)
class Arrived:
    """Bytes [start, stop) of a file are at their place."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


class Stopped(Exception):
    """The conductor has ended."""


class Fetching:
    """Threads that fetch what is missing. Events go to `events`: Arrived, Note, or the error that ended a thread."""

    def __init__(self, files: Sequence[SparseFile], order: Sequence[Read], events: queue.SimpleQueue[object]):
        self.files, self.events = files, events
        self.stopped, self.room = threading.Event(), threading.Event()  # room: whether bytes may be written
        self.room.set()
        self.places = threading.BoundedSemaphore(MAX_WAITING)
        self.lock, self.gate = threading.Lock(), threading.Lock()
        self.jobs = deque(
            (file, at, min(at + RANGE, b))
            for file, start, stop in order
            for a, b in files[file].progress.arrived.missing(start, stop)
            for at in range(a, b, RANGE)
        )
        # Daemons, so that nobody waits for a silent server.
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(NUM_CONNECTIONS)]

    def __enter__(self) -> Fetching:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on nothing is written."""
        with self.gate:
            self.stopped.set()

    def taken(self) -> None:
        """Notice of one Arrived was taken."""
        self.places.release()

    def _work(self) -> None:
        try:
            while job := self._next():
                self._fetch(*job)
        except Stopped:
            pass
        except BaseException as error:
            if not self.stopped.is_set():
                self.events.put(error)

    def _next(self) -> Read | None:
        with self.lock:
            if self.stopped.is_set() or not self.jobs:
                return None
            file, start, stop = self.jobs.popleft()
            if not self.files[file].remote.takes_ranges:  # then one request fetches all that is left of it
                rest = [job for job in self.jobs if job[0] == file]
                self.jobs = deque(job for job in self.jobs if job[0] != file)
                start, stop = min(start, *(job[1] for job in rest), start), max(stop, *(job[2] for job in rest), stop)
            return file, start, stop

    def _fetch(self, file: int, start: int, stop: int) -> None:
        target, at, buffer = self.files[file], start, bytearray()
        for piece in target.remote.read(start, stop, self.stopped, lambda text: self.events.put(Note(text))):
            buffer += piece
            if len(buffer) >= WRITE or at + len(buffer) == stop:
                while not self.room.wait(STALL_S):
                    self._check()
                while not self.places.acquire(timeout=STALL_S):
                    self._check()
                with self.gate:
                    self._check()
                    target.write(at, buffer)
                self.events.put(Arrived(file, at, at + len(buffer)))
                at += len(buffer)
                buffer = bytearray()

    def _check(self) -> None:
        if self.stopped.is_set():
            raise Stopped
