"""How much memory snapshots hold together, and how much one of them would free. Enter at `SnapshotBytes`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from a3b.cache.snapshot_files import num_pages
from a3b.model.state import SEGMENT_PAGES, Segment, Snapshot


@dataclass
class _HeldSegment:
    segment: Segment  # kept alive so that its id is not reused
    num_snapshots: int = 0
    num_bytes: int = 0


class SnapshotBytes:
    """Bytes of the snapshots added.

    A segment that several share counts once, and only with the pages that hold tokens."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num = 0  # snapshots
        self._segments: dict[int, _HeldSegment] = {}  # by `id` of the segment

    def add(self, snapshot: Snapshot) -> None:
        """Count a snapshot."""
        self.num += 1
        self.num_bytes += snapshot.num_bytes
        for segment, size in _used_bytes(snapshot):
            held = self._segments.setdefault(id(segment), _HeldSegment(segment))
            held.num_snapshots += 1
            self.num_bytes += max(size - held.num_bytes, 0)
            held.num_bytes = max(size, held.num_bytes)

    def remove(self, snapshot: Snapshot) -> None:
        """Stop counting a snapshot that was added."""
        self.num -= 1
        self.num_bytes -= snapshot.num_bytes
        for segment in snapshot.segments:
            held = self._segments[id(segment)]
            held.num_snapshots -= 1
            if not held.num_snapshots:
                self.num_bytes -= held.num_bytes
                del self._segments[id(segment)]

    def freed_by(self, snapshot: Snapshot) -> int:
        """Bytes that removing a snapshot would free."""
        held = (self._segments[id(segment)] for segment in snapshot.segments)
        return snapshot.num_bytes + sum(entry.num_bytes for entry in held if entry.num_snapshots == 1)


def _used_bytes(snapshot: Snapshot) -> Iterator[tuple[Segment, int]]:
    left = num_pages(snapshot.num_tokens)
    for segment in snapshot.segments:
        used = min(left, SEGMENT_PAGES)
        yield segment, (segment.keys.nbytes + segment.values.nbytes) * used // SEGMENT_PAGES
        left -= used
