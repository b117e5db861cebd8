"""Work for a client that waits: it ends when the client leaves, when the server stops, or when it takes too long.

Loops whose length a client chooses call `check`. Enter at `in_thread`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from typing import Any

from a3b.errors import Interrupted, UsageError

LOOK_S = 0.05  # between two calls of `check` by whoever waits for something else
_current: ContextVar[Work | None] = ContextVar("work", default=None)


class Work:
    """One piece of work of one request. `cancel` may come from any thread."""

    def __init__(self, what: str, seconds: float):
        """what: the client's name for it."""
        self._what, self._seconds, self._until = what, seconds, time.monotonic() + seconds
        self._is_cancelled = threading.Event()

    def run(self, fn: Callable, *args: Any) -> Any:
        """fn(*args); `check` within it ends the work. Raises Interrupted, UsageError."""
        token = _current.set(self)
        try:
            self.check()
            return fn(*args)
        finally:
            _current.reset(token)

    def cancel(self) -> None:
        self._is_cancelled.set()

    def check(self) -> None:
        if self._is_cancelled.is_set():
            raise Interrupted("nobody waits for this request any more")
        if time.monotonic() > self._until:
            raise UsageError(f"{self._what}: takes longer than {self._seconds:g} s to prepare; expected a smaller one")


async def in_thread(threads: Executor, what: str, seconds: float, fn: Callable, *args: Any) -> Any:
    """fn(*args) as a piece of work in one of `threads`, cancelled when nobody waits for it any more."""
    work = Work(what, seconds)
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, work.run, fn, *args)
    finally:
        work.cancel()


def check() -> None:
    """Raise Interrupted or UsageError if the work of this thread has to end; does nothing outside of any work."""
    if (work := _current.get()) is not None:
        work.check()
