"""Opens directories and files below a directory, without ever following a symbolic link. Enter at `Beneath`.

Each name is opened relative to its parent with O_NOFOLLOW, so a directory that somebody swaps for a link meanwhile
leads nowhere: the opening fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split(path: str) -> tuple[str, str]:
    """The directory and the name of a path; the directory of the workspace itself is ""."""
    parent, _, name = path.rpartition("/")
    return parent, name


class Beneath:
    """Handles of one directory and of what lies below. Keeps those of the last path open, for the next one is near.

    Raises OSError wherever a part of a path is missing, is no directory or is a link."""

    def __init__(self, root: Path):
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: list[tuple[str, int]] = []

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def close(self) -> None:
        self.forget()
        os.close(self._root)

    def forget(self) -> None:
        """Closes what was kept open, because directories are moved or made."""
        while self._open:
            os.close(self._open.pop()[1])

    def directory(self, path: str) -> int:
        """The handle of a directory, valid until the next call; "" is the root."""
        names = path.split("/") if path else []
        shared = 0
        while shared < min(len(names), len(self._open)) and names[shared] == self._open[shared][0]:
            shared += 1
        while len(self._open) > shared:
            os.close(self._open.pop()[1])
        for name in names[shared:]:
            self._open.append((name, os.open(name, DIRECTORY_FLAGS, dir_fd=self._last())))
        return self._last()

    def _last(self) -> int:
        return self._open[-1][1] if self._open else self._root

    def open_file(self, path: str) -> int:
        """A new handle of a file, to read. Never blocks; the caller checks what kind of file it is, and closes it."""
        parent, name = split(path)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.directory(parent))

    def lstat(self, path: str) -> os.stat_result | None:
        """What is there, None if nothing is."""
        parent, name = split(path)
        try:
            return os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
