"""A file of a hub in ranges, several of them at a time, each continued when its connection breaks.

Writes no files. Enter at `RangedFile.read`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from a3b.errors import DownloadError
from a3b.hub import download
from a3b.hub.client import MAX_WAIT_S, Hub, HubFile, TransientFailure


class RangedFile:
    """A file of a repository at a commit, and the bytes of any range of it."""

    def __init__(self, hub: Hub, file: HubFile, commit: str):
        self.hub, self.file, self.commit = hub, file, commit
        self.path, self.num_bytes, self.sha256 = file.path, file.num_bytes, file.sum
        self.takes_ranges = True  # until the server has sent the whole file in place of a range

    @property
    def name(self) -> str:
        """Its name without directories."""
        return self.path.rsplit("/", 1)[-1]

    def read(
        self, start: int, stop: int, stopped: threading.Event, tell: Callable[[str], None] = lambda note: None
    ) -> Iterator[bytes]:
        """The bytes [start, stop) in order, as they arrive.

        tell: gets a sentence before each new attempt. A server that cannot begin in the middle sends everything before
        `start` again, which is passed over. Raises DownloadError, and DownloadStopped once `stopped` is set."""
        at = farthest = start
        failures = 0
        while at < stop:
            reason, wait_s = "the connection closed early", None
            try:
                for piece in self._once(at, stop):
                    yield piece
                    at += len(piece)
                    if stopped.is_set():
                        raise download.DownloadStopped
            except TransientFailure as error:
                reason, wait_s = str(error), error.wait_s
            if at >= stop:
                return
            failures = 1 if at > farthest else failures + 1
            farthest = at
            if failures >= download.NUM_ATTEMPTS or (wait_s or 0) > MAX_WAIT_S:
                raise self.hub.unreachable(f"{self.path}: {reason}")
            wait_s = download.FIRST_WAIT_S * 2 ** (failures - 1) if wait_s is None else wait_s
            tell(f"{self.path}: {reason}; next attempt in {wait_s:.0f} s")
            if stopped.wait(wait_s):
                raise download.DownloadStopped

    def _once(self, at: int, stop: int) -> Iterator[bytes]:
        """What one connection gives of [at, stop)."""
        for position, piece in self.hub.read(self.file, self.commit, at, stop):
            if position + len(piece) > self.num_bytes:
                raise DownloadError(
                    f"{self.path}: the server sends more than the {self.num_bytes} bytes that the hub states; "
                    "try again later"
                )
            if position < at:
                self.takes_ranges = False
            wanted = piece[max(at - position, 0) : max(stop - position, 0)]
            at += len(wanted)
            if wanted:
                yield wanted
            if at >= stop:
                return
