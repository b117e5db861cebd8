"""How namespaces share a bounded space, in memory and on disk.

Each of N namespaces in use is entitled to an N-th of the space, and may use what the others leave free. When space is
needed, a namespace that has been idle for long gives way first, whatever it holds. After that only namespaces beyond
their share give something up: the largest one, as long as it has more than one thing to lose, otherwise the least
recently used one. So no namespace loses what is within its share to another, and even among very many namespaces the
most recently used ones keep something. Knows neither snapshots nor files. Enter at `next_to_give`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Holding:
    """What one namespace holds."""

    num_bytes: int
    num: int  # items that can be dropped one by one
    used: float  # time of the last use


def next_to_give(holdings: Mapping[str, Holding], max_bytes: int, used_since: float) -> str | None:
    """The namespace that gives something up when all together hold more than `max_bytes`; None if none holds anything.

    used_since: a namespace last used before that is idle."""
    held = {name: holding for name, holding in holdings.items() if holding.num}
    idle = [name for name, holding in held.items() if holding.used < used_since]
    if idle or not held:
        return min(idle, key=lambda name: held[name].used, default=None)
    over = [name for name, holding in held.items() if holding.num_bytes * len(held) > max_bytes]
    rich = [name for name in over if held[name].num > 1]
    if rich:
        return max(rich, key=lambda name: held[name].num_bytes)
    return min(over or held, key=lambda name: held[name].used)


def fair_share(sizes: Iterable[int], total: int) -> float:
    """The most that each may keep so that all fit into `total`.

    A namespace that holds less keeps everything, and leaves the rest of its share to the others."""
    left = sorted(sizes)
    for i, size in enumerate(left):
        share = total / (len(left) - i)
        if size > share:
            return share
        total -= size
    return float("inf")
