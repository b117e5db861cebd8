"""Lines typed in `a3b chat`, kept for the Up key of later chats: the latest ones, in a private file."""

from __future__ import annotations

import os
from pathlib import Path

from prompt_toolkit.history import FileHistory

from a3b.files import open_private, private_directory
from a3b.printable import say

MAX_BYTES = 1 << 20


class TypedLines(FileHistory):
    """Continues without the file if it can no longer be written, and says so once."""

    def __init__(self, path: Path):
        """Raises OSError."""
        private_directory(path.parent)
        handle = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            _shorten(handle)
        finally:
            os.close(handle)
        self._is_kept = True
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        if self._is_kept:
            try:
                super().store_string(string)
            except OSError as error:
                self._is_kept = False
                say(f"typed lines are no longer kept: {error.strerror or error}")


def _shorten(handle: int) -> None:
    """To the second half of what may be kept, at the beginning of an entry."""
    size = os.fstat(handle).st_size
    if size <= MAX_BYTES:
        return
    tail = os.pread(handle, MAX_BYTES // 2, size - MAX_BYTES // 2)
    tail = tail[tail.find(b"\n# ") + 1 :] if b"\n# " in tail else b""
    os.pwrite(handle, tail, 0)
    os.ftruncate(handle, len(tail))
