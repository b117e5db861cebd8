"""A file that is being fetched: full size from the start, with holes where nothing has arrived or all is packed.

Whatever opens model files opens it unchanged, and the blocks it occupies are the bytes that wait. Enter at
`SparseFile`."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from a3b.files import regular
from a3b.kernels.sha256 import Sha256
from a3b.packing.fetch_order import CHUNK
from a3b.packing.intervals import Intervals
from a3b.packing.remote import RemoteFile

KEEP_SIZE, PUNCH_HOLE = 1, 2  # of fallocate
HOLE = "hole"  # file in which holes are tried
BUFFER = 1 << 20  # bytes hashed at a time


@dataclass
class FileProgress:
    """How far a file is, as the journal holds it."""

    sum: str
    num_bytes: int
    arrived: Intervals = field(default_factory=Intervals)
    hashed: int = 0  # bytes from the start on
    state: bytes = b""  # of the checksum after them
    sums: dict[int, int] = field(default_factory=dict)  # CRC-32 by chunk, of what of it is in the checksum and here
    failures: int = 0  # complete, with a wrong checksum

    def forget(self) -> None:
        self.arrived, self.hashed, self.state, self.sums = Intervals(), 0, b"", {}


class SparseFile:
    """A file, how much of it has arrived, and which chunks of it are still needed."""

    def __init__(self, path: Path, remote: RemoteFile, progress: FileProgress):
        """Open or create it. Progress without the file it is about is forgotten."""
        self.path, self.remote, self.progress = path, remote, progress
        if not path.is_file() or path.stat().st_size != remote.num_bytes:
            progress.forget()
        with open(path, "ab", opener=regular):
            pass
        self.handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if not progress.arrived.total:
            os.ftruncate(self.handle, 0)
        os.ftruncate(self.handle, remote.num_bytes)
        self.sha = Sha256(progress.state)
        num = -(-remote.num_bytes // CHUNK)
        self.needed = np.zeros(num, np.int32)  # by how many pieces that are not packed
        self.present = np.zeros(num, np.bool_)
        for start, stop in progress.arrived:
            self.present[_chunks(start, stop)] = True

    def close(self) -> None:
        os.close(self.handle)

    def forget(self) -> None:
        """Begin again, as far as the journal is concerned."""
        self.progress.forget()
        self.sha = Sha256()

    def empty(self) -> None:
        """Make it one hole."""
        punch(self.handle, 0, self.remote.num_bytes)
        self.present[:] = False

    @property
    def is_hashed(self) -> bool:
        return self.progress.hashed == self.remote.num_bytes

    @property
    def num_present(self) -> int:
        """Chunks that occupy the disk."""
        return int(np.count_nonzero(self.present))

    def fetch(self, start: int, stop: int, tell: Callable[[str], None] = lambda note: None) -> None:
        """Fetch a small range here and now."""
        for piece in self.remote.read(start, stop, threading.Event(), tell):
            self.write(start, piece)
            self.arrive(start, start + len(piece))
            start += len(piece)

    def write(self, at: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes at their place; any thread may."""
        write_all(self.handle, at, data)

    def arrive(self, start: int, stop: int) -> tuple[int, int]:
        """Note that [start, stop) has been written; the interval that is here around it."""
        self.present[_chunks(start, stop)] = True
        return self.progress.arrived.add(start, stop)

    def need(self, start: int, stop: int, count: int) -> None:
        """Count a piece that needs these bytes, or with -1 one that no longer does."""
        self.needed[_chunks(start, stop)] += count

    def hash(self) -> None:
        """Continue the checksum as far as bytes are here without a gap."""
        end = self.progress.arrived.end_of(self.progress.hashed)
        buffer = memoryview(bytearray(min(BUFFER, end - self.progress.hashed)))
        while self.progress.hashed < end:
            size = os.preadv(self.handle, [buffer[: end - self.progress.hashed]], self.progress.hashed)
            if not size:
                raise OSError(errno.EIO, "became shorter", str(self.path))
            self.sha.update(buffer[:size])
            self._add_sums(buffer[:size])
            self.progress.hashed += size

    def _add_sums(self, data: memoryview) -> None:
        """Continue the sums of chunks with the bytes that are next in the checksum."""
        at, sums = self.progress.hashed, self.progress.sums
        while data:
            chunk, inside = divmod(at, CHUNK)
            part = data[: CHUNK - inside]
            sums[chunk] = zlib.crc32(part, sums.get(chunk, 0) if inside else 0)
            at, data = at + len(part), data[len(part) :]

    def is_intact(self) -> bool:
        """Whether the bytes that pieces still need are those that went into the checksum, which passes them once."""
        for chunk in np.flatnonzero(self.needed[: -(-self.progress.hashed // CHUNK)]).tolist():
            size = min(CHUNK, self.progress.hashed - chunk * CHUNK)
            if zlib.crc32(os.pread(self.handle, size, chunk * CHUNK)) != self.progress.sums.get(chunk):
                return False
        return True

    def free_chunks(self) -> np.ndarray:
        """Truth values: chunks that are here, in the checksum, and needed by nobody."""
        free: np.ndarray = self.present & (self.needed == 0)
        if not self.is_hashed:
            free[self.progress.hashed // CHUNK :] = False
        return free

    def give_back(self, free: np.ndarray) -> None:
        """Make holes of chunks."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], free.astype(np.int8), [0]))))
        for first, last in edges.reshape(-1, 2):
            punch(self.handle, int(first) * CHUNK, int(last - first) * CHUNK)
        self.present &= ~free
        for chunk in np.flatnonzero(free).tolist():
            self.progress.sums.pop(chunk, None)

    def sync(self) -> None:
        os.fsync(self.handle)
        self.progress.state, self.progress.hashed = self.sha.state, self.sha.num_bytes  # whatever was interrupted


def _chunks(start: int, stop: int) -> slice:
    return slice(start // CHUNK, -(-stop // CHUNK))


def write_all(handle: int, at: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        size = os.pwrite(handle, view, at)
        view, at = view[size:], at + size


def punch(handle: int, start: int, size: int) -> None:
    """Give the blocks of a range back to the file system; it reads as zeros then. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = ctypes.c_int(handle), ctypes.c_int(PUNCH_HOLE | KEEP_SIZE), ctypes.c_int64(start), ctypes.c_int64(size)
    while libc.fallocate(*arguments):
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))


def makes_holes(directory: Path) -> bool:
    """Whether files in a directory give blocks back when holes are made in them."""
    path = directory / HOLE
    try:
        with open(path, "wb+", buffering=0, opener=regular) as file:
            file.write(b"\1" * 4 * CHUNK)
            os.fsync(file.fileno())
            before = os.fstat(file.fileno()).st_blocks
            try:
                punch(file.fileno(), CHUNK, 2 * CHUNK)
            except (OSError, AttributeError):
                return False
            return os.fstat(file.fileno()).st_blocks < before and os.pread(file.fileno(), 1, CHUNK) == b"\0"
    finally:
        path.unlink(missing_ok=True)
