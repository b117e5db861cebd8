"""In which order the bytes of a model are fetched, and how many of them wait on the disk meanwhile at most.

Files come one after the other, from their first byte to their last. Only what a piece needs beside its matrix (a scale,
say) and would arrive much later is fetched ahead. Enter at `fetch_order` and `largest_spill`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from a3b.packing.intervals import Intervals
from a3b.packing.pieces import PackedPiece, Read

CHUNK = 1 << 16  # bytes of a source that are given back together
NEAR = 64 << 20  # bytes; what arrives so soon after its matrix is not fetched ahead
GAP = 1 << 20  # bytes between two ranges ahead that are rather fetched than left out


def fetch_order(sizes: Sequence[int], pieces: Sequence[PackedPiece]) -> list[Read]:
    """Every byte of files of these sizes once, in the order in which they are fetched."""
    base = np.concatenate(([0], np.cumsum(sizes)))
    ahead: dict[int, dict[int, Intervals]] = {}  # by the file whose turn it is, by file
    for piece in pieces:
        if len(piece.reads) > 1:
            main = max(piece.reads, key=lambda read: read[2] - read[1])
            for file, start, stop in piece.reads:
                if base[file] + stop > base[main[0]] + main[2] + NEAR:
                    wanted = ahead.setdefault(main[0], {}).setdefault(file, Intervals())
                    wanted.add(start // CHUNK * CHUNK, min(-(-stop // CHUNK) * CHUNK, sizes[file]))
    planned, order = [Intervals() for _ in sizes], []
    for turn, size in enumerate(sizes):
        for file, wanted in sorted(ahead.get(turn, {}).items()):
            for start, stop in joined(wanted):
                order += _planned(planned[file], file, start, stop)
        if size:
            order += _planned(planned[turn], turn, 0, size)
    return order


def joined(intervals: Intervals) -> list[tuple[int, int]]:
    """Intervals with the small gaps between them."""
    out: list[tuple[int, int]] = []
    for start, stop in intervals:
        if out and start - out[-1][1] <= GAP:
            out[-1] = out[-1][0], stop
        else:
            out.append((start, stop))
    return out


def _planned(planned: Intervals, file: int, start: int, stop: int) -> list[Read]:
    """What of a range is not planned yet; it is afterwards."""
    found = [(file, a, b) for a, b in planned.missing(start, stop)]
    planned.add(start, stop)
    return found


def largest_spill(sizes: Sequence[int], pieces: Sequence[PackedPiece], kept: Sequence[Read]) -> int:
    """Bytes that wait on the disk at the worst moment, if every piece is packed as soon as its bytes are here.

    kept: what stays until the end. A byte also waits until those before it are here, since checksums go from the
    first byte on."""
    times = [_Arrivals(size) for size in sizes]
    clock = 0
    for file, start, stop in fetch_order(sizes, pieces):
        times[file].fetched(start, stop, clock)
        clock += stop - start
    freed = [np.maximum.accumulate(each.last) for each in times]
    for piece in pieces:
        ready = max((times[file].when(start, stop) for file, start, stop in piece.reads), default=0)
        for file, start, stop in piece.reads:
            part = freed[file][start // CHUNK : -(-stop // CHUNK)]
            np.maximum(part, ready, out=part)
    for file, start, stop in kept:
        freed[file][start // CHUNK : -(-stop // CHUNK)] = clock
    held = np.zeros(clock // CHUNK + 2, np.int64)
    for each, until in zip(times, freed, strict=True):
        np.add.at(held, each.first // CHUNK, 1)
        np.add.at(held, until // CHUNK + 1, -1)
    return int(np.cumsum(held).max()) * CHUNK


class _Arrivals:
    """When the chunks of a file arrive, counted in bytes fetched before: their first byte and their last."""

    def __init__(self, size: int):
        num = -(-size // CHUNK)
        self.first, self.last = np.full(num, 1 << 62, np.int64), np.zeros(num, np.int64)

    def fetched(self, start: int, stop: int, clock: int) -> None:
        low, high = start // CHUNK, -(-stop // CHUNK)
        edges = np.arange(low, high) * CHUNK - start + clock
        self.first[low:high] = np.minimum(self.first[low:high], np.maximum(edges, clock))
        self.last[low:high] = np.maximum(self.last[low:high], np.minimum(edges + CHUNK, clock + stop - start))

    def when(self, start: int, stop: int) -> int:
        """When all of a range is here."""
        return int(self.last[start // CHUNK : -(-stop // CHUNK)].max())
