"""What holds a task back: its limits, the user's stop, and what the user types meanwhile. Enter at `TaskControl`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from a3b.agent.events import TokenUsage
from a3b.units import counted

T = TypeVar("T")
SHORTEST_S = 0.05  # between two looks at the time, which stands still while the user is asked


@dataclass(frozen=True)
class TaskLimits:
    """Of one task; None is no limit. tokens: computed of prompts, and written."""

    turns: int | None = None
    tokens: int | None = None
    seconds: float | None = None


class TaskHalted(Exception):
    """A task ends before it is done. status: "stopped", "limit", "stuck" or "failed"; the text says why."""

    def __init__(self, status: str, text: str):
        super().__init__(text)
        self.status = status


class TaskControl:
    """Of one task, with the sub-agents that work for it. waited: seconds for which the user was waited for so far;
    those are no time of the task."""

    def __init__(self, limits: TaskLimits | None = None, waited: Callable[[], float] = lambda: 0.0):
        self.limits, self._waited = limits or TaskLimits(), waited
        self.steering: deque[str] = deque()
        self.turns = 0
        self.usage = TokenUsage(0, 0, 0)
        self._stop = asyncio.Event()
        self._begun = self._now()
        self._parent: TaskControl | None = None

    def child(self, turns: int) -> TaskControl:
        """Of a part of the task: with a limit of its own on turns; stop, time and tokens are those of the whole."""
        made = TaskControl(replace(self.limits, turns=turns), self._waited)
        made._stop, made._begun, made._parent = self._stop, self._begun, self
        return made

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def spend(self, usage: TokenUsage) -> None:
        """Counts what a request cost."""
        self.usage += usage
        if self._parent is not None:
            self._parent.spend(usage)

    @property
    def tokens_left(self) -> int | None:
        if self._parent is not None:
            return self._parent.tokens_left
        if self.limits.tokens is None:
            return None
        return self.limits.tokens - self.usage.read - self.usage.written

    def check(self) -> None:
        """Raises TaskHalted if the task may not go on."""
        if self.is_stopped:
            raise TaskHalted("stopped", "stopped by the user")
        if self.limits.turns is not None and self.turns >= self.limits.turns:
            raise TaskHalted("limit", f"stopped after {counted(self.turns, 'turn')} (--max-turns)")
        if self.tokens_left is not None and self.tokens_left <= 0:
            raise TaskHalted("limit", f"stopped at the limit of {self.limits.tokens:,} tokens (--max-tokens)")
        if self._seconds_left() == 0:
            raise self._out_of_time()

    async def until_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; it is cancelled, and TaskHalted raised, when the user stops or the time is over."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            while not task.done() and not self.is_stopped:
                if (left := self._seconds_left()) == 0:
                    raise self._out_of_time()
                timeout = None if left is None else max(left, SHORTEST_S)
                await asyncio.wait((task, stop), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise TaskHalted("stopped", "stopped by the user")
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    def _seconds_left(self) -> float | None:
        if self.limits.seconds is None:
            return None
        return max(self.limits.seconds - (self._now() - self._begun), 0.0)

    def _now(self) -> float:
        """Seconds on a clock that stands still while the user is asked."""
        return time.monotonic() - self._waited()

    def _out_of_time(self) -> TaskHalted:
        return TaskHalted("limit", f"stopped after {self.limits.seconds:g} s (--max-time)")
