"""What each namespace may hold when together they want more than there is.

Each of N namespaces in use is sure of the N-th part of the room, and may hold what the others leave. When room is
needed, whoever has been idle for long gives first, whatever it holds. After that only those give that hold more than
their share: who holds most, as long as it has more than one thing to lose, else who was used longest ago. So nobody
loses for another's sake what is within its share, and of very many the last ones used keep something. Knows no
snapshots and no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Holding:
    num_bytes: int
    num: int  # things that can be given up one by one
    used: float  # time of the last use


def giver(holdings: Mapping[str, Holding], room: int, used_since: float) -> str | None:
    """Who gives something up, if together they hold more than `room`; None if nobody has anything.

    used_since: who was used last before that is not in use."""
    held = {name: holding for name, holding in holdings.items() if holding.num}
    idle = [name for name, holding in held.items() if holding.used < used_since]
    if idle or not held:
        return min(idle, key=lambda name: held[name].used, default=None)
    over = [name for name, holding in held.items() if holding.num_bytes * len(held) > room]
    rich = [name for name in over if held[name].num > 1]
    if rich:
        return max(rich, key=lambda name: held[name].num_bytes)
    return min(over or held, key=lambda name: held[name].used)


def level(sizes: Iterable[int], room: int) -> float:
    """The most that each may keep so that all fit: who holds less keeps everything, and what it leaves goes to the
    others."""
    left = sorted(sizes)
    for i, size in enumerate(left):
        share = room / (len(left) - i)
        if size > share:
            return share
        room -= size
    return float("inf")
