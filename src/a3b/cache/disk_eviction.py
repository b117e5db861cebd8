"""Which stored nodes leave the disk when it holds too much, as a plan made from their rows.

Knows no files and no database. Enter at `plan_eviction`."""

from __future__ import annotations

from collections.abc import Iterable

from a3b.cache.index_rows import Row
from a3b.cache.shares import Holding, next_to_give

IDLE_S = 7 * 86_400  # a namespace that was idle for this long loses its share


def plan_eviction(rows: Iterable[Row], max_bytes: int, now: int) -> tuple[set[bytes], set[bytes]]:
    """(ids to drop, ids of which only the state is dropped) so that the rest fits into `max_bytes`.

    rows: sound ones, parents before children."""
    plans: dict[str, _NamespacePlan] = {}
    for row in rows:
        plans.setdefault(row.namespace, _NamespacePlan()).add(row)
    while sum(plan.num_bytes for plan in plans.values()) > max_bytes:
        name = next_to_give({name: plan.holding for name, plan in plans.items()}, max_bytes, now - IDLE_S)
        if name is None:
            break
        plans[name].give()
    gone: set[bytes] = set().union(*(plan.gone for plan in plans.values()))
    thinned: set[bytes] = set().union(*(plan.thinned for plan in plans.values()))
    return gone, thinned - gone


class _NamespacePlan:
    """What stays and what goes of the nodes of one namespace.

    States in the middle of conversations go first, then whole ends, the least recently used first. The states of system
    prompts, forks, ends and the parents of ends stay for last."""

    def __init__(self) -> None:
        self.left: dict[bytes, Row] = {}
        self.children: dict[bytes, int] = {}
        self.num_bytes = self.used = 0
        self.gone: set[bytes] = set()
        self.thinned: set[bytes] = set()
        self._middle: list[Row] | None = None  # rows whose states may go, the next one last

    def add(self, row: Row) -> None:
        self.left[row.id] = row
        self.children[row.parent] = self.children.get(row.parent, 0) + 1
        self.num_bytes += row.num_bytes
        self.used = max(self.used, row.last_used)

    @property
    def holding(self) -> Holding:
        return Holding(self.num_bytes, len(self.left), self.used)

    def give(self) -> None:
        """Drop the next state, or the next end with the nodes above it that are useless without it."""
        if self._middle is None:
            self._middle = self._states_in_the_middle()
        if self._middle:
            row = self._middle.pop()
            self.thinned.add(row.id)
            self.num_bytes -= row.state_bytes
            return
        self._drop(self._next_end())
        while self.left and not self._has_state(row := self._next_end()):
            self._drop(row)

    def _states_in_the_middle(self) -> list[Row]:
        before_ends = {row.parent for row in self.left.values() if row.id not in self.children}
        middle = [
            row
            for row in self.left.values()
            if self.children.get(row.id) == 1 and row.id not in before_ends and row.kind != "system" and row.has_state
        ]
        return sorted(middle, key=lambda row: (row.last_used, row.num_tokens), reverse=True)

    def _next_end(self) -> Row:
        ends = (row for row in self.left.values() if not self.children.get(row.id))
        return min(ends, key=lambda row: (self._has_state(row), row.last_used, row.num_tokens))

    def _has_state(self, row: Row) -> bool:
        """Whether a prompt can continue from there."""
        return row.has_state and row.id not in self.thinned

    def _drop(self, row: Row) -> None:
        del self.left[row.id]
        self.children[row.parent] -= 1
        self.num_bytes -= row.kv_bytes + (row.state_bytes if self._has_state(row) else 0)
        self.gone.add(row.id)
