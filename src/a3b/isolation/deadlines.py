"""Work for a waiting client: it ends when the client leaves, when the server stops, or when it takes too long.

Loops whose length a client chooses call `check`. Does not know what the work is. Enter at `in_thread`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from typing import Any, TypeVar

from a3b.errors import Interrupted, UsageError

CHECK_S = 0.05  # between two calls of `check` in code that waits for something else
T = TypeVar("T")
_current: ContextVar[Work | None] = ContextVar("work", default=None)


class Work:
    """One piece of work for one request. `cancel` may be called from any thread."""

    def __init__(self, what: str, seconds: float):
        """what: the name of the work in errors. seconds: how long it may take."""
        self._what, self._seconds, self._until = what, seconds, time.monotonic() + seconds
        self._is_cancelled = threading.Event()

    def run(self, fn: Callable[..., T], *args: Any) -> T:
        """fn(*args), in which `deadlines.check` ends the work. Raises Interrupted and UsageError."""
        token = _current.set(self)
        try:
            self.check()
            return fn(*args)
        finally:
            _current.reset(token)

    def cancel(self) -> None:
        """Make the next `check` end the work."""
        self._is_cancelled.set()

    def check(self) -> None:
        """Raises Interrupted if the work was cancelled, UsageError if it has taken too long."""
        if self._is_cancelled.is_set():
            raise Interrupted("the client no longer waits for this request")
        if time.monotonic() > self._until:
            raise UsageError(f"{self._what}: takes longer than {self._seconds:g} s to prepare; expected a smaller one")


async def in_thread(threads: Executor, what: str, seconds: float, fn: Callable[..., T], *args: Any) -> T:
    """fn(*args) as a piece of work in one of `threads`; cancelled with the task that waits for it."""
    work = Work(what, seconds)
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, work.run, fn, *args)
    finally:
        work.cancel()


def check() -> None:
    """Raises Interrupted or UsageError if the work of this thread has to end; outside of any work it does nothing."""
    if (work := _current.get()) is not None:
        work.check()
