"""Where the states of a prompt are worth keeping while it is read. Enter at `snapshot_points`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

LEAST_CHUNK = 16  # tokens of a prompt in a step; also the first piece, before anything is known of the machine
MAX_SNAPSHOTS = 16  # snapshots taken while one prompt is read
SNAPSHOT_GAP = 192  # tokens between two of them, but for the first and the last two

SnapshotKind = Literal["system", "turn", "end"]


def snapshot_points(
    turn_starts: Sequence[int], reused: int, num_ids: int, has_system: bool = True
) -> list[tuple[int, SnapshotKind]]:
    """Where snapshots are due while tokens [reused, num_ids) are read: (tokens, kind), ascending.

    The end of the system turn, the starts of the last two turns, and of others with some distance; none within
    LEAST_CHUNK tokens of what is there already. A prompt without turns is remembered all but its last token."""
    first = turn_starts[1] if has_system and len(turn_starts) > 1 else None
    last = num_ids - 1 if not turn_starts else turn_starts[-1]
    kept: list[tuple[int, SnapshotKind]] = []
    at = reused
    for position in sorted({*turn_starts[1:], last}):
        if position - reused < (LEAST_CHUNK if reused else 1) or position >= num_ids:
            continue
        is_last = position >= last or position in turn_starts[-2:]
        if position == first or is_last or position - at >= SNAPSHOT_GAP:
            kept.append((position, "system" if position == first else "turn"))
            at = position
    return kept if len(kept) <= MAX_SNAPSHOTS else [kept[0], *kept[-MAX_SNAPSHOTS + 1 :]]
