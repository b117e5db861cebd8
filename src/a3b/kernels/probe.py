"""The limits of this machine as the kernels meet them: bytes read in streams, int8 products out of registers.

Speeds are compared with these rates. Both use the threads and the instruction set of the given kernels. `tune` chooses
what is faster on one processor and slower on another. Enter at `read_bandwidth`, `int8_operations` and `tune`.
"""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from a3b.errors import UsageError
from a3b.formats.tiles import FORMATS, TILE_ROWS, Tiles
from a3b.kernels import Kernels, open_kernels
from a3b.kernels.native import Native
from a3b.machine import cache_bytes

if TYPE_CHECKING:
    from a3b.kernels._native import Runtime

# twice what the last cache holds: of a buffer that is read from end to end, nothing is there at the next turn
BUFFER_BYTES = max(512 << 20, 2 * cache_bytes())
PIECE_BYTES = 64 << 20  # read at a time, so that starting costs nothing
HUGE_PAGE = 2 << 20
WARM_UP_SHARE = 0.2
TUNED_BYTES = 32 << 20  # of each of two formats
TUNED_PAIRS = 7
LEAST_RUNS = 5
LEAST_RUN_S = 0.02  # runs take at least that long, so that starting one costs nothing


_prefetch_pays: dict[str, bool] = {}  # per instruction set


@dataclass(frozen=True)
class Rate:
    """Bytes or operations per second."""

    median: float
    lowest: float
    highest: float
    num_runs: int

    @classmethod
    def of(cls, rates: list[float]) -> Rate:
        return cls(statistics.median(rates), min(rates), max(rates), len(rates))


def read_bandwidth(kernels: Kernels, seconds: float = 2.0, data: np.ndarray | None = None) -> Rate:
    """Bytes per second that all threads together read from memory: from `data`, uint8, or from huge pages of our
    own."""
    runtime, data = runtime_of(kernels), huge_buffer(BUFFER_BYTES) if data is None else data
    return _measured(lambda: (runtime.probe_read(data), data.size)[1], seconds)


class InPlace:
    """Reads what lies in memory where it lies, a piece after the other: as much of it comes out of a cache as of any
    work that goes through all of it."""

    def __init__(self, kernels: Kernels, data: Sequence[np.ndarray]):
        """data: uint8, at least a byte."""
        self._runtime = runtime_of(kernels)
        self._pieces = cycle(
            [array[at : at + PIECE_BYTES] for array in data for at in range(0, len(array), PIECE_BYTES)]
        )

    def bandwidth(self, seconds: float) -> float:
        """Bytes per second of the next pieces."""
        num_bytes, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds or not num_bytes:
            num_bytes += len(piece := next(self._pieces))
            self._runtime.probe_read(piece)
        return num_bytes / spent


def huge_buffer(num_bytes: int) -> np.ndarray:
    """uint8 [num_bytes], in huge pages if the system has them; every page is in memory."""
    memory = mmap.mmap(-1, num_bytes + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without huge pages: small ones are what there is to measure
    data = np.frombuffer(memory, np.uint8)
    data = data[-data.ctypes.data % HUGE_PAGE :][:num_bytes]
    data[:] = 1  # pages never written are all the same page of zeros
    return data


def int8_operations(kernels: Kernels, seconds: float = 1.0) -> Rate:
    """Multiplications and additions of int8 products per second, by all threads together."""
    products, count = runtime_of(kernels).probe_products, 64
    while _timed(products, count)[1] < LEAST_RUN_S and count < 1 << 28:
        count *= 2
    return _measured(lambda: products(count), seconds)


def tune(kernels: Kernels) -> None:
    """Choose whether products with a single token prefetch their weights: measured in pairs, once per process.

    One thread measures: the limit of all of them together hides what a core does with its own loads.
    """
    runtime, isa = runtime_of(kernels), kernels.isa
    if isa not in _prefetch_pays:
        alone = open_kernels(isa, 1)
        n, ratios, tiles = 2048, [], []
        for name in ("w4k32", "w6k32"):  # the most frequent formats of the presets
            format = FORMATS[name]
            rows = TUNED_BYTES // format.num_bytes(TILE_ROWS, n) * TILE_ROWS
            tiles.append((name, Tiles(name, format, (rows, n), huge_buffer(format.num_bytes(rows, n)))))
        product, x = alone.bind_linear(tiles, n), np.ones((1, n), np.float32)
        for _ in range(TUNED_PAIRS):
            seconds = []
            for runtime_of(alone).prefetches_stream in (True, False):
                seconds.append(_timed(lambda: product(x).size)[1])
            ratios.append(seconds[0] / seconds[1])
        _prefetch_pays[isa] = statistics.median(ratios) < 1
    runtime.prefetches_stream = _prefetch_pays[isa]


def runtime_of(kernels: Kernels) -> Runtime:
    """What runs compiled kernels. Raises UsageError if these are not compiled."""
    if not isinstance(kernels, Native):
        raise UsageError(f"kernels {kernels.isa!r} have no probes; measure with compiled ones (unset A3B_ISA)")
    return kernels.runtime


def _measured(work: Callable[[], float], seconds: float) -> Rate:
    """work: does some of it and returns how much."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds * WARM_UP_SHARE:
        work()
    rates: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(rates) < LEAST_RUNS:
        done, spent = _timed(work)
        rates.append(done / spent)
    return Rate.of(rates)


def _timed(work: Callable[..., float], *args: int) -> tuple[float, float]:
    start = time.perf_counter()
    done = work(*args)
    return done, time.perf_counter() - start
