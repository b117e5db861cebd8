"""What packing needs to know of a file that is elsewhere. `a3b.hub.ranges` has such files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol


class RemoteFile(Protocol):
    """A file that can be read in ranges."""

    @property
    def path(self) -> str:
        """Its name with directories, for people."""

    @property
    def name(self) -> str:
        """Its name in a directory."""

    @property
    def num_bytes(self) -> int: ...

    @property
    def sha256(self) -> str:
        """In hex."""

    @property
    def takes_ranges(self) -> bool:
        """False once it is known that every request gives the file from its first byte on."""

    def read(self, start: int, stop: int, stopped: threading.Event, tell: Callable[[str], None]) -> Iterator[bytes]:
        """The bytes [start, stop) in order; gives up when `stopped` is set. tell: gets a sentence when it waits."""
