"""The journal's records: one file that only grows, a line for each, chained by checksums. Enter at `RecordLog`.

A line is the first 32 hexadecimal digits of SHA-256(the digits of the line before + the JSON), a blank, and the JSON.
What a kill left of the last line is cut off; any other line that is not as it was written makes the file refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from a3b.errors import JournalError
from a3b.files import open_private

DIGITS = 32
MAX_LINE = 16 << 20
MAX_LOG = 256 << 20
START = "0" * DIGITS


def _sum(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:DIGITS]


class RecordLog:
    """The file. Its user holds the lock of the journal for every call."""

    def __init__(self, path: Path):
        self.path = path
        self._sum, self._end, self._lines, self._inode = START, 0, 0, -1

    @property
    def num_bytes(self) -> int:
        return self._end

    def was_replaced(self) -> bool:
        """Whether another process has begun the file anew since it was read here."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return self._inode != -1
        return found.st_ino != self._inode or found.st_size < self._end

    def fresh(self) -> Iterator[dict[str, Any]]:
        """The records that were added since the last call, by this process or others. Raises JournalError."""
        with open(self.path, "a+b", opener=open_private) as file:
            found = os.fstat(file.fileno())
            self._inode = found.st_ino
            if found.st_size > MAX_LOG:
                raise JournalError(f"{self.path}: has {found.st_size:,} bytes; expected at most {MAX_LOG:,}")
            file.seek(self._end)
            while line := file.readline(MAX_LINE + 1):
                if not line.endswith(b"\n") and len(line) <= MAX_LINE:
                    os.truncate(self.path, self._end)  # a record that a kill cut short was never acted upon
                    return
                yield self._record(line)

    def _record(self, line: bytes) -> dict[str, Any]:
        self._lines += 1
        where = f"{self.path}: line {self._lines}"
        text = line[DIGITS + 1 : -1]
        if len(line) > MAX_LINE or line[: DIGITS + 1] != f"{_sum(self._sum, text)} ".encode():
            raise JournalError(f"{where} is not as it was written (checksum)")
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            raise JournalError(f"{where} is no JSON") from None
        if not isinstance(record, dict):
            raise JournalError(f"{where} is no record")
        self._sum, self._end = line[:DIGITS].decode(), self._end + len(line)
        return record

    def where(self) -> str:
        """The line that was read last, for messages."""
        return f"{self.path}: line {self._lines}"

    def add(self, records: Iterable[dict[str, Any]], is_final: bool = False) -> None:
        """Appends records; final: they have reached the disk when this returns. Raises OSError."""
        data, before, lines = _lines(records, self._sum)
        if not lines and not is_final:
            return
        with open(self.path, "ab", opener=open_private) as file:
            try:
                file.write(data)
                file.flush()
                if is_final:
                    os.fdatasync(file.fileno())
            except OSError:
                os.truncate(self.path, self._end)  # the disk is full: half a line would spoil the next one
                raise
        self._sum, self._end, self._lines = before, self._end + len(data), self._lines + lines

    def replace(self, records: Iterable[dict[str, Any]]) -> None:
        """Begins the file anew, in one step."""
        data, last, lines = _lines(records, START)
        fresh = self.path.with_suffix(".new")
        with open(fresh, "wb", opener=open_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            self._inode = os.fstat(file.fileno()).st_ino
        os.rename(fresh, self.path)
        self._sum, self._end, self._lines = last, len(data), lines


def _lines(records: Iterable[dict[str, Any]], before: str) -> tuple[bytes, str, int]:
    """The lines, the sum of the last one, and how many there are."""
    out = []
    for record in records:
        text = json.dumps(record, separators=(",", ":")).encode()
        before = _sum(before, text)
        out.append(f"{before} ".encode() + text + b"\n")
    return b"".join(out), before, len(out)
