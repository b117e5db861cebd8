"""What the toolbar says: what happens now, and what the session has cost. Knows no terminal. Enter at
`SessionFigures`."""

from __future__ import annotations

import time
from collections.abc import Callable

from a3b.agent.events import (
    AgentEvent,
    CallProgress,
    Compacted,
    PromptProgress,
    SessionOpened,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    TokenUsage,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from a3b.agent.options import SessionCost
from a3b.agent.terminal.lines import fit_line
from a3b.units import span

LEAST_S = 0.5  # a speed over less is noise


def short(number: int) -> str:
    """A number of tokens in few characters: 950, 1.2k, 262k, 1.1M."""
    for scale, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= scale:
            value = number / scale
            return f"{value:.0f}{letter}" if value >= 100 else f"{value:.1f}{letter}"
    return str(number)


class SessionFigures:
    """Figures of one session, from its events. clock: seconds, rising."""

    def __init__(self, opened: SessionOpened, cost: SessionCost, clock: Callable[[], float] = time.monotonic):
        self.opened, self.cost, self.clock = opened, cost, clock
        self.budget: int | None = None  # tokens for thinking, if the user set one
        self.does_think = True  # the user has not switched it off
        self.jobs = 0  # commands in the background
        self.turn = TokenUsage(0, 0, 0)
        self.reading = self.writing = 0.0  # tokens per second
        self._state, self._since, self._chunks = "", clock(), 0
        self._progress: tuple[PromptProgress, float] | None = None  # the first of a turn, and when it came
        self._latest: PromptProgress | None = None
        self._call = ""
        self._tools: dict[str, tuple[str, float]] = {}
        self._asked: float | None = None  # when the user was asked something

    @property
    def chunks(self) -> int:
        """Pieces of the thinking or the answer that is being written; about as many as tokens."""
        return self._chunks

    def account(self, cost: SessionCost) -> None:
        """Takes the session's own account."""
        self.cost = cost

    def take(self, event: AgentEvent) -> None:
        match event:
            case TurnStarted():
                self._enter("waiting for the server")
                self._progress = self._latest = None
            case PromptProgress():
                self._progress = self._progress or (event, self.clock())
                self._latest = event
                self._enter("reading")
            case ThinkingChunk() | TextChunk():
                self._enter("thinking" if isinstance(event, ThinkingChunk) else "writing")
                self._chunks += 1
                if (elapsed := self.clock() - self._since) > LEAST_S and self._chunks > 1:
                    self.writing = (self._chunks - 1) / elapsed
            case CallProgress(tool=tool, characters=characters):
                self._enter("calling")
                self._call = f"writing a call of {fit_line(tool, 40)}, {characters:,} characters"
            case TurnFinished(usage=usage):
                self._finish(usage)
            case ToolStarted(call=call, summary=summary):
                self._tools[call] = (summary, self.clock())
            case ToolFinished(call=call):
                self._tools.pop(call, None)
            case Compacted(after=after):
                self.turn = TokenUsage(after, 0, 0)
            case TaskFinished():
                self._enter("")
                self._tools.clear()

    @property
    def is_waiting(self) -> bool:
        return self._asked is not None

    def wait(self, does_wait: bool) -> None:
        """Whether the user is asked something: that takes no time of a call."""
        if does_wait:
            self._asked = self.clock()
        elif self._asked is not None:
            waited, self._asked = self.clock() - self._asked, None
            self._tools = {call: (summary, since + waited) for call, (summary, since) in self._tools.items()}

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state, self._since, self._chunks = state, self.clock(), 0

    def _finish(self, usage: TokenUsage) -> None:
        self.turn = usage
        if usage.prefill_s > 0:
            self.reading = usage.read / usage.prefill_s
        if usage.decode_s > 0:
            self.writing = usage.written / usage.decode_s
        self._enter("working")

    def doing(self) -> str:
        """What happens now, in one line; "" if nothing does."""
        now = self.clock()
        if self.is_waiting:
            return "waits for your answer"
        if self._tools:
            summary, since = next(reversed(self._tools.values()))
            return f"{fit_line(summary, 60)}, {span(now - since)}"
        if self._state == "reading" and self._latest:
            return self._reading(self._latest, now)
        if self._state == "thinking":
            return f"thinking for {span(now - self._since)}, about {self._chunks:,} tokens"
        if self._state == "calling":
            return self._call
        return f"{self._state}, {span(now - self._since)}" if self._state else ""

    def _reading(self, latest: PromptProgress, now: float) -> str:
        text = f"reading {latest.read:,} of {latest.total:,} tokens"
        if latest.cached:
            text += f" ({latest.cached:,} cached)"
        first, since = self._progress or (latest, now)
        if (done := latest.read - first.read) > 0 and now > since + LEAST_S:
            self.reading = done / (now - since)
        if self.reading > 0 and (left := latest.total - latest.read) > 0:
            text += f", {span(left / self.reading)} left"
        return text

    def numbers(self) -> list[str]:
        """Figures in the order of their importance."""
        cost, turn = self.cost, self.turn
        used = turn.read + turn.cached + turn.written or cost.in_context
        total = cost.context or self.opened.context
        parts = [
            f"context {short(used)}/{short(total)} {100 * used / total:.0f}%" if total else f"context {short(used)}",
            f"turn {short(turn.read)} read {short(turn.cached)} cached",
            f"session {short(cost.usage.read)} read {short(cost.usage.cached)} cached",
        ]
        speeds = [
            f"{word} {speed:,.0f}/s" for word, speed in (("read", self.reading), ("write", self.writing)) if speed
        ]
        parts += [" ".join(speeds)] if speeds else []
        if not self.does_think:
            parts.append("does not think")
        elif self.budget is not None:
            parts.append(f"thinks up to {short(self.budget)}")
        parts.append(fit_line(self.opened.sandbox, 30))
        if self.jobs:
            parts.append(f"{self.jobs} job{'s' if self.jobs > 1 else ''}")
        return parts
