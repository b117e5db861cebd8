"""Weights moved from a mapped file into huge pages, in the background, while they are being read.

A weight that is streamed once per token costs a page-table walk every 4 KiB in a file mapping, every 2 MiB here. The move reads a
piece of the file, puts it in the place of the file's pages at the same addresses, and gives those back, so that no more than one
piece exists twice; the system reads the next one meanwhile. Enter at `HugePages`.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from a3b.machine import Machine

PIECE = 64 << 20
LEAST_GAIN = 1.02  # in reading speed of the first piece, or it is also the last
TRIES = 10
SPARE_BYTES = 1 << 30  # left free: unlike pages of a file, these cannot be dropped


class HugePages:
    """Moves mapped files one after the other, as much as memory has room for; `stop` ends it between two pieces.

    What was not moved stays where it is, in the file's pages."""

    def __init__(self, files: Sequence[tuple[Path, np.ndarray]], read: Callable[[np.ndarray], object]):
        """files: the path and the mapped bytes (uint8, the whole file) of each. read: reads every byte of an array, as ops do."""
        self.files, self.read = files, read
        self.most_bytes = max(Machine.read().memory_bytes - SPARE_BYTES, 0)
        self.total_bytes = sum(data.size for _, data in files)
        self.moved_bytes, self.error = 0, 0
        self.gain: float | None = None  # reading speed of the first piece, after to before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="huge pages", daemon=True)

    def start(self) -> HugePages:
        atexit.register(self.stop)  # the interpreter must not unmap what is being copied
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self.wait()

    def wait(self) -> None:
        self._thread.join()
        atexit.unregister(self.stop)  # or the weights would live as long as the process

    def _run(self) -> None:
        for path, data in self.files:
            try:
                with open(path, "rb") as file:
                    self._move(file.fileno(), data)
            except OSError as error:
                self.error = error.errno or 1
            if self.error or self._stop.is_set():
                return

    def _move(self, fd: int, data: np.ndarray) -> None:
        from a3b.kernels import _native

        base = data.ctypes.data
        start = -base % _native.HUGE_PAGE
        while not self._stop.is_set():
            room = min(data.size - start, self.most_bytes - self.moved_bytes)
            size = min(PIECE, room // _native.HUGE_PAGE * _native.HUGE_PAGE)
            if size <= 0:
                return
            piece = data[start : start + size]
            before = self._read_s(piece) if self.gain is None else 0
            os.posix_fadvise(fd, start + size, PIECE, os.POSIX_FADV_WILLNEED)
            self.error = _native.to_huge_pages(base + start, size, fd, start)
            if self.error:
                return
            os.posix_fadvise(fd, start, size, os.POSIX_FADV_DONTNEED)
            start += size
            self.moved_bytes += size
            if self.gain is None:
                self.gain = before / self._read_s(piece)
                if self.gain < LEAST_GAIN:
                    self._stop.set()

    def _read_s(self, piece: np.ndarray) -> float:
        times = []
        for _ in range(TRIES + 1):
            start = time.perf_counter()
            self.read(piece)
            times.append(time.perf_counter() - start)
        return min(times)  # other processes only ever add to it; the first brings the pages in
