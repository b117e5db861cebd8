"""Slots for heavy work, shared between namespaces so that none takes them all. Enter at `Slots.one`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from a3b.isolation import deadlines


class Slots:
    """`most` slots in total, at most `each` of them for one namespace. Used by any thread."""

    def __init__(self, most: int, each: int):
        self._most, self._each = most, each
        self._changed, self._taken = threading.Condition(), list[str]()

    @contextmanager
    def one(self, namespace: str) -> Iterator[None]:
        """Hold a slot, waiting until one is free. Raises whatever ends the work of this thread meanwhile."""
        with self._changed:
            while len(self._taken) >= self._most or self._taken.count(namespace) >= self._each:
                deadlines.check()
                self._changed.wait(deadlines.CHECK_S)
            self._taken.append(namespace)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(namespace)
                self._changed.notify_all()
