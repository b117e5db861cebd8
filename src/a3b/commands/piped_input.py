"""Text from stdin, alone or in addition to a prompt. Enter at `piped_text`."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from contextlib import suppress
from typing import TextIO

from a3b.errors import UsageError
from a3b.printable import say

MAX_BYTES = 16 << 20  # many times the longest context
TOLD_AFTER_S = 1.0


def piped_text(timeout_s: float | None = None) -> str:
    """What stdin holds, "" at a terminal or if it is closed. timeout_s: for its first byte; None waits as long as it
    takes.

    Raises UsageError for text that is too long or not UTF-8, and if nothing came in time: a pipe whose writer never
    writes and never ends looks like one that is slow, and an answer without the text would be wrong."""
    stream = sys.stdin
    if stream.isatty():
        return ""
    try:
        stream.fileno()
    except (OSError, ValueError):  # not a file: its replacement may refuse to be read
        return _text(_replaced(stream))
    if timeout_s is not None:
        _await_first_byte(timeout_s)
    try:
        data = stream.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        if error.errno == errno.EBADF:  # as nohup leaves it: open, but not readable
            return ""
        raise UsageError(f"stdin: {error.strerror}; give text, or </dev/null for none") from None
    return _text(data)


def writer_of(stream: TextIO) -> int | None:
    """The number of a process that has the other end of a pipe open, as the program before a bar in a shell has; None
    for what is no pipe, or has no writer but the processes above this one, which may never write and never end."""
    with suppress(OSError, ValueError):
        own = os.fstat(stream.fileno())
        if stat.S_ISFIFO(own.st_mode):
            above = _processes_above(os.getpid())
            for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
                if pid not in above and _writes(pid, own):
                    return pid
    return None


def _processes_above(pid: int) -> set[int]:
    """A process and its parents."""
    found: set[int] = set()
    with suppress(OSError, ValueError, IndexError):
        while pid > 0 and pid not in found:
            found.add(pid)
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
    return found


def _writes(pid: int, pipe: os.stat_result) -> bool:
    with suppress(OSError):  # ended, or another user's
        for handle in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{handle}")
                if (found.st_dev, found.st_ino) == (pipe.st_dev, pipe.st_ino):
                    if os.lstat(f"/proc/{pid}/fd/{handle}").st_mode & stat.S_IWUSR:
                        return True
    return False


def _replaced(stream: TextIO) -> bytes | str:
    try:
        data: bytes | str = getattr(stream, "buffer", stream).read(MAX_BYTES + 1)
        return data
    except OSError:
        return b""


def _await_first_byte(timeout_s: float) -> None:
    began = time.monotonic()
    if _ready(sys.stdin, min(TOLD_AFTER_S, timeout_s)):
        return
    if timeout_s > TOLD_AFTER_S:
        say(f"a3b run: stdin is open: waiting up to {timeout_s:g} s for text on it; '</dev/null' gives none")
        if _ready(sys.stdin, timeout_s - (time.monotonic() - began)):
            return
    raise UsageError(
        f"stdin: open, but nothing came in {timeout_s:g} s; close it with '</dev/null', leave it unread with "
        "--stdin-timeout 0, or wait longer with --stdin-timeout S"
    )


def _ready(stream: TextIO, timeout_s: float) -> bool:
    """Whether a byte or the end is there within that time."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(max(timeout_s, 0) * 1000))


def _text(data: bytes | str) -> str:
    if len(data) > MAX_BYTES:
        raise UsageError(f"stdin: more than {MAX_BYTES >> 20} MiB; pipe only what fits the context")
    if isinstance(data, str):
        return data
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at {error.start} is not UTF-8"
        raise UsageError(f"stdin: {found}; convert text first (iconv -t utf-8), binary data cannot be read") from None
    if "\0" in text:
        raise UsageError(f"stdin: a zero byte at {data.index(0)}: this is binary data; pipe text in UTF-8")
    return text
