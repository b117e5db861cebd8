"""Long output on disk, where the agent can read it from inside the sandbox. Bounded, and gone with the session.

Enter at `KeptOutput`, whose directory belongs into the sandbox's `readable`, and `OutputRecord`."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from a3b.agent.tools.cut import MAX_CHARACTERS, MAX_LINES, cut, is_short, join

MAX_FILE = 16 << 20  # bytes of one output
MAX_ALL = 256 << 20  # bytes of a session; the oldest outputs make room
HELD = 64 << 10  # characters of the beginning, and as many of the end, that stay in memory
PREFIX = "a3b-output-"


class KeptOutput:
    """A private directory with the outputs of one session."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._count = 0
        self._open: set[Path] = set()

    def new(self) -> tuple[Path, BinaryIO]:
        """A new file; `done` has to be told when it is complete. Raises OSError."""
        self._make_room()
        self._count += 1
        path = self.directory / f"{self._count}.txt"
        file = open(path, "xb")
        self._open.add(path)
        return path, file

    def done(self, path: Path) -> None:
        self._open.discard(path)

    def keep(self, text: str) -> Path:
        """Puts a text into a new file. Raises OSError."""
        path, file = self.new()
        with file:
            file.write(text.encode("utf-8", "backslashreplace")[:MAX_FILE])
        self.done(path)
        return path

    def cut(self, text: str) -> str:
        """A result as the model reads it, with all of it in a file if that is more and the disk can take it."""
        if is_short(text):
            return text
        try:
            return cut(text, str(self.keep(text)))
        except OSError:
            return cut(text, "")

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make_room(self) -> None:
        files = sorted(self.directory.iterdir(), key=lambda path: int(path.stem))
        sizes = {path: path.stat().st_size for path in files}
        for path in files:
            if sum(sizes.values()) <= MAX_ALL - MAX_FILE:
                return
            if path not in self._open:
                path.unlink()
                del sizes[path]


def sweep() -> None:
    """Removes what sessions left behind that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        found = re.fullmatch(rf"{PREFIX}(\d+)-\w+", path.name)
        with suppress(OSError):
            if found and path.lstat().st_uid == os.getuid() and not Path(f"/proc/{found[1]}").exists():
                shutil.rmtree(path)


class OutputRecord:
    """The output of one command while it comes: head and tail in memory, all of it in a file once it is long.

    at_once: make the file at the beginning, for jobs whose output is read while they run. path: of the file, None if
    there is none, or none any more because the disk is full."""

    def __init__(self, kept: KeptOutput, at_once: bool = False):
        self._kept = kept
        self._head = self._tail = ""
        self._newlines = self._characters = self._bytes = 0
        self._file: BinaryIO | None = None
        self._is_lost = False
        self.path: Path | None = None
        if at_once:
            self._begin_file()

    def add(self, text: str) -> None:
        self._characters += len(text)
        self._newlines += text.count("\n")
        to_head = text[: HELD - len(self._head)]
        self._head += to_head
        self._tail += text[len(to_head) :]
        if len(self._tail) > 2 * HELD:
            self._tail = self._tail[-HELD:]
        if self._file is not None:
            self._write(text)
        elif self._characters > MAX_CHARACTERS or self._newlines >= MAX_LINES:
            self._begin_file()

    def close(self) -> None:
        if self._file is None and self._characters <= HELD and not is_short(self._head):
            self._begin_file()
        if self._file is not None and self.path is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
            self._kept.done(self.path)

    def text(self) -> str:
        """What the model reads of it, cut by the rule."""
        where = str(self.path) if self.path else ""
        if self._characters <= HELD:
            return cut(self._head.removesuffix("\n"), where)
        head = self._head.split("\n")
        tail = self._tail.removesuffix("\n").split("\n")
        held = len(self._head) + len(self._tail)
        total = self._newlines + (not self._tail.endswith("\n"))
        if held == self._characters:  # nothing is gone: the line in the middle belongs to both
            whole = (self._head + self._tail).removesuffix("\n").split("\n")
            return join(whole, 0, [], where)
        head, tail = head[: max(1, len(head) - 1)], tail[1:]
        return join(head, max(0, total - len(head) - len(tail)), tail, where)

    def last_lines(self, count: int) -> str:
        lines = (self._head[-HELD:] + self._tail).removesuffix("\n").split("\n")[-count:]
        return cut("\n".join(lines), "")

    def _begin_file(self) -> None:
        if self._is_lost:
            return
        try:
            self.path, self._file = self._kept.new()
        except OSError:
            self._is_lost = True
        else:
            self._write(self._head + self._tail)

    def _write(self, text: str) -> None:
        """Writes and flushes, since the agent may read the file while it grows."""
        data = text.encode("utf-8", "backslashreplace")
        if self._file is None or self._bytes >= MAX_FILE:
            return
        try:
            self._file.write(data[: MAX_FILE - self._bytes])
            self._bytes += len(data)
            if self._bytes >= MAX_FILE:
                self._file.write(b"\n[more was printed and is not kept]\n")
            self._file.flush()
        except OSError:
            self._is_lost, lost = True, self.path
            self.close()
            self.path = None
            if lost:
                lost.unlink(missing_ok=True)
