"""Sets of whole numbers as sorted intervals [start, stop): which bytes of a file are here, which pieces are done."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """Disjoint intervals that do not touch, in ascending order."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()):
        self.starts: list[int] = []
        self.stops: list[int] = []
        for start, stop in pairs:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.starts, self.stops, strict=True)

    def add(self, start: int, stop: int) -> tuple[int, int]:
        """Add [start, stop), not empty; the interval that holds it afterwards."""
        first, last = bisect_left(self.stops, start), bisect_right(self.starts, stop)
        if first < last:
            start, stop = min(start, self.starts[first]), max(stop, self.stops[last - 1])
        self.starts[first:last], self.stops[first:last] = [start], [stop]
        return start, stop

    def end_of(self, start: int) -> int:
        """Where the interval that holds `start` ends; `start` itself if none does."""
        i = bisect_right(self.starts, start) - 1
        return max(start, self.stops[i]) if i >= 0 else start

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The intervals of [start, stop) that are not in the set."""
        found, at = [], start
        for i in range(bisect_right(self.stops, start), len(self.starts)):
            if self.starts[i] >= stop:
                break
            if self.starts[i] > at:
                found.append((at, self.starts[i]))
            at = self.stops[i]
        if at < stop:
            found.append((at, stop))
        return found

    @property
    def total(self) -> int:
        return sum(self.stops) - sum(self.starts)
