"""Programs in a pseudo-terminal, and what such a terminal shows of their output."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Sequence

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x08|\r")
SEQUENCE = re.compile(r"\x1b\[([?]?)([0-9;]*)([a-zA-Z])")
HARMLESS_MODES = {"1", "7", "12", "25", "2004"}  # arrow keys, wrapping, cursor, pasting


class Screen:
    """A terminal of some rows and columns. It knows what a3b may write, and fails on everything else."""

    def __init__(self, rows: int = 24, columns: int = 80):
        self.rows, self.columns = rows, columns
        self.scrolled: list[str] = []
        self.lines = [""] * rows
        self.x = self.y = 0
        self.colours: set[str] = set()
        self._rest = ""

    @property
    def text(self) -> str:
        """All that was shown, with what has scrolled by."""
        return "\n".join(line.rstrip() for line in [*self.scrolled, *self.lines])

    def resize(self, rows: int, columns: int) -> None:
        self.lines = (self.lines + [""] * rows)[:rows]
        self.rows, self.columns, self.y = rows, columns, min(self.y, rows - 1)

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        i = 0
        while i < len(text):
            char = text[i]
            if char == "\x1b":
                found = SEQUENCE.match(text, i)
                if not found:
                    assert re.fullmatch(r"\x1b(\[[?]?[0-9;]*)?", text[i:]), f"unknown sequence {text[i : i + 20]!r}"
                    self._rest = text[i:]
                    return
                self._obey(found[1], found[2], found[3])
                i = found.end()
                continue
            i += 1
            if char == "\n":
                self._down()
            elif char == "\r":
                self.x = 0
            elif char == "\x08":
                self.x = max(self.x - 1, 0)
            elif char == "\t":
                self.x = min(self.x // 8 * 8 + 8, self.columns - 1)
            else:
                assert char.isprintable() or char == "\u00ad", f"control character {char!r}"
                if self.x == self.columns:
                    self.x = 0
                    self._down()
                line = self.lines[self.y].ljust(self.x)
                self.lines[self.y] = line[: self.x] + char + line[self.x + 1 :]
                self.x += 1

    def _down(self) -> None:
        self.y += 1
        if self.y == self.rows:
            self.scrolled.append(self.lines.pop(0))
            self.lines.append("")
            self.y -= 1

    def _obey(self, private: str, numbers: str, final: str) -> None:
        number = int(numbers.partition(";")[0] or 1) if not private else 0
        if private:
            assert final in "hl" and set(numbers.split(";")) <= HARMLESS_MODES, f"mode {numbers}{final}"
        elif final == "m":
            self.colours |= {code for code in numbers.split(";") if code not in ("", "0", "1", "2", "22")}
        elif final in "AB":
            self.y = min(max(self.y + (number if final == "B" else -number), 0), self.rows - 1)
        elif final in "CD":
            self.x = min(max(self.x + (number if final == "C" else -number), 0), self.columns - 1)
        elif final == "K" and not numbers:
            self.lines[self.y] = self.lines[self.y][: self.x]
        elif final == "J" and numbers in ("", "0"):
            self.lines[self.y :] = [self.lines[self.y][: self.x]] + [""] * (self.rows - self.y - 1)
        elif final == "J" and numbers == "2":
            self.lines = [""] * self.rows
        elif final == "H":
            self.y, self.x = 0, 0
        else:
            raise AssertionError(f"unknown sequence {numbers}{final}")


class Terminal:
    """A program in a terminal. seen: its output without escapes, since the last match; screen: what is shown."""

    def __init__(
        self,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        size: tuple[int, int] = (24, 80),
    ):
        self.screen, self.seen, self.raw = Screen(*size), "", b""
        for descriptor in pass_fds:
            os.set_inheritable(descriptor, True)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            os.execvpe(sys.executable, argv, {**os.environ, "TERM": "xterm", **(env or {})})
        self.has_ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, left: float) -> None:
        """Takes what comes within so many seconds."""
        if not self.has_ended and select.select([self.fd], [], [], max(left, 0))[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            self.has_ended = not data
            self.raw += data
            text = self._decoder.decode(data)
            if "\x1b[6n" in text:  # where is the cursor?
                os.write(self.fd, b"\x1b[1;1R")
                text = text.replace("\x1b[6n", "")
            self.screen.feed(text)
            self.seen += ESCAPES.sub("", text)

    def expect(self, pattern: str, timeout_s: float = 60) -> None:
        """Waits until what came since the last match holds the pattern."""
        end = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.seen, re.S)):
            left = end - time.monotonic()
            assert left > 0 and not self.has_ended, f"no {pattern!r} in {self.seen!r}"
            self.read(left)
        self.seen = self.seen[match.end() :]

    def shows(self, pattern: str, timeout_s: float = 30) -> re.Match[str]:
        """Waits until the screen, with what has scrolled by, holds the pattern."""
        end = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.screen.text)):
            left = end - time.monotonic()
            assert left > 0 and not self.has_ended, f"no {pattern!r} in\n{self.screen.text}"
            self.read(left)
        return match

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def leave(self) -> int:
        self.type("\x04")
        return self.ended()

    def ended(self) -> int:
        """Reads to the end; the exit status."""
        while not self.has_ended:
            self.read(60)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
