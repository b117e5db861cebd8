"""Weights moved from a mapped file into huge pages, in the background, while they are being read.

A weight that is streamed once per token costs a page-table walk every 4 KiB in a file mapping, every 2 MiB here. The
move reads a piece of the file into huge pages, maps these at the addresses of the file's pages, and frees those, so
that at most one piece exists twice; the system reads the next one meanwhile. Where moving does not pay, the file's
pages are brought into memory instead; otherwise the first tokens to use each expert would wait for them. Enter at
`HugePages`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from a3b.kernels.probe import HUGE_PAGE
from a3b.machine import Machine

PIECE = 64 << 20
# pieces from all over the files decide whether moving pays: a single one may be in huge pages already
JUDGED = 5
LEAST_GAIN = 1.02  # in their reading speed; below it nothing more is moved
TRIES = 10
SPARE_BYTES = 1 << 30  # left free: unlike pages of a file, these cannot be dropped


class HugePages:
    """Moves mapped files, as much as memory has room for; `stop` ends it between two pieces.

    What is not moved stays in the file's pages; as many of these as fit are in memory when the thread ends.
    """

    def __init__(self, files: Sequence[tuple[Path, np.ndarray]], read: Callable[[np.ndarray], object]):
        """files: path and mapped bytes (uint8, the whole file). read: reads every byte of an array, as ops do."""
        self.files, self.read = files, read
        self.most_bytes = max(Machine.read().memory_bytes - SPARE_BYTES, 0)
        self.total_bytes = sum(data.size for _, data in files)
        self.moved_bytes, self.error = 0, 0
        self.gain: float | None = None  # reading speed after to before, the median of the pieces that judge
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="huge pages", daemon=True)

    def start(self) -> HugePages:
        atexit.register(self.stop)  # the interpreter must not unmap pages that are being copied
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self.wait()

    def wait(self) -> None:
        self._thread.join()
        atexit.unregister(self.stop)  # otherwise the weights would live as long as the process

    def _run(self) -> None:
        pieces, gains = self._pieces(), []
        judging = pieces[:: max(1, len(pieces) // JUDGED)][:JUDGED]
        order = judging + [piece for piece in pieces if piece not in judging]
        with contextlib.ExitStack() as opened:
            try:
                files = [opened.enter_context(open(path, "rb")).fileno() for path, _ in self.files]
                for index, (file, start, size) in enumerate(order):
                    if self._stop.is_set():
                        return
                    piece = self.files[file][1][start : start + size]
                    before = self._read_s(piece) if self.gain is None else 0
                    if index + 1 < len(order):
                        next_file, next_start, next_size = order[index + 1]
                        os.posix_fadvise(files[next_file], next_start, next_size, os.POSIX_FADV_WILLNEED)
                    self._move(piece, files[file], start)
                    if self.gain is None:
                        gains.append(before / self._read_s(piece))
                        if len(gains) == len(judging):
                            self.gain = statistics.median(gains)
                            if self.gain < LEAST_GAIN:
                                return self._populate(order[len(judging) :])
            except OSError as error:
                self.error = error.errno or 1

    def _pieces(self) -> list[tuple[int, int, int]]:
        """Index of a file, start and size: whole huge pages, as many as there is room for."""
        pieces, room = [], self.most_bytes
        for file, (_, data) in enumerate(self.files):
            start = -data.ctypes.data % HUGE_PAGE
            while (size := min(PIECE, data.size - start, room) // HUGE_PAGE * HUGE_PAGE) > 0:
                pieces.append((file, start, size))
                start, room = start + size, room - size
        return pieces

    def _move(self, piece: np.ndarray, fd: int, start: int) -> None:
        from a3b.kernels import _native

        if error := _native.to_huge_pages(piece.ctypes.data, piece.size, fd, start):
            raise OSError(error, os.strerror(error))
        os.posix_fadvise(fd, start, piece.size, os.POSIX_FADV_DONTNEED)
        self.moved_bytes += piece.size

    def _populate(self, pieces: list[tuple[int, int, int]]) -> None:
        from a3b.kernels import _native

        for file, start, size in pieces:
            piece = self.files[file][1][start : start + size]
            if self._stop.is_set() or _native.populate(piece.ctypes.data, size):
                return  # an older system: pages come in at their first use

    def _read_s(self, piece: np.ndarray) -> float:
        times = []
        for _ in range(TRIES + 1):
            start = time.perf_counter()
            self.read(piece)
            times.append(time.perf_counter() - start)
        return min(times)  # other processes only add to it; the first try brings the pages in
