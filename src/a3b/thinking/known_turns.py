"""The turns a server knows, by namespace and key: a bounded number in memory, and all in records if there are any.

Does not know what makes a key (`a3b.thinking.conversation_key`). Used by any thread. Enter at `KnownTurns`."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Protocol

from a3b.interface.events import TruncationPoint
from a3b.thinking.turn import Turn

MAX_TOKENS = 2 << 20  # of turns in memory; older ones are found in the records, if there are any
TURN_TOKENS = 64  # what a turn counts in addition to its tokens
DATE_TOKENS = 8  # what a date counts
MAX_ALIKE = 16  # turns under one key; the latest of them are kept


class TurnRecords(Protocol):
    """Where turns outlive the process: values by namespace and key, oldest first."""

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None = None) -> None: ...

    def get_records(self, namespace: str, key: bytes) -> list[bytes]: ...

    def changes(self) -> int:
        """A number that changes when another process drops something."""


class KnownTurns:
    """Turns by namespace and key. No call takes longer because a conversation is longer.

    num_tokens: the total count of the turns in memory."""

    def __init__(self, records: TurnRecords | None = None, max_tokens: int = MAX_TOKENS):
        self._records, self._max_tokens, self.num_tokens = records, max_tokens, 0
        self._lock = threading.RLock()
        self._turns: OrderedDict[tuple[str, bytes], list[Turn]] = OrderedDict()  # least recently used first
        self._tokens_of: Counter[str] = Counter()  # of each namespace
        self._recorded: set[tuple[str, bytes]] = set()  # keys in memory whose turns are in the records too
        self._changes = records.changes() if records else 0

    def at(self, namespace: str, key: bytes) -> list[Turn]:
        """Turns under a key, the latest last."""
        with self._lock:
            known = self._turns.get((namespace, key))
            if known is None and self._records is not None:
                known = _read(self._records.get_records(namespace, key))
                if known:
                    self._recorded.add((namespace, key))
                    self._keep((namespace, key), known[-MAX_ALIKE:])
            return known or []

    def add(self, namespace: str, key: bytes, turn: Turn, persist: bool, node: bytes | None = None) -> None:
        """Keep a turn as the latest of its key. persist: in the records too, as long as `node` is there."""
        with self._lock:
            others = [t for t in self.at(namespace, key) if (t, t.dates) != (turn, turn.dates)]
            self._keep((namespace, key), [*others, turn][-MAX_ALIKE:])
            if persist and self._records is not None:
                self._records.put_record(namespace, key, turn.to_bytes(), node)
                self._recorded.add((namespace, key))

    def follow_records(self) -> None:
        """Drop from memory what another process may have dropped from the records."""
        with self._lock:
            changes = self._records.changes() if self._records else 0
            if changes != self._changes:
                self._changes = changes
                for key in list(self._recorded):
                    self._drop(key)

    def _keep(self, key: tuple[str, bytes], turns: list[Turn]) -> None:
        """Set the turns of a key and mark it as used; the largest namespaces make room, least recently used turns
        first."""
        self._count(key, _size(turns) - _size(self._turns.pop(key, [])))
        self._turns[key] = turns
        while self.num_tokens > self._max_tokens and len(self._turns) > 1:
            largest = max(self._tokens_of, key=self._tokens_of.__getitem__)
            self._drop(next(known for known in self._turns if known[0] == largest))

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._count(key, -_size(self._turns.pop(key, [])))
        self._recorded.discard(key)

    def _count(self, key: tuple[str, bytes], num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self._tokens_of[key[0]] += num_tokens


def _read(records: Sequence[bytes]) -> list[Turn]:
    """The turns of records; what is not a turn is left out."""
    turns = []
    for data in records:
        try:
            turns.append(Turn.from_bytes(data))
        except ValueError:
            continue
    return turns


def _size(turns: Sequence[Turn]) -> int:
    return sum(
        TURN_TOKENS
        + len(turn.ids)
        + len(turn.cuts) * len(TruncationPoint._fields)
        + DATE_TOKENS * sum(map(len, turn.dates.values()))
        for turn in turns
    )
