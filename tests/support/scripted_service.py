"""A service that answers from a script: for tests of wire formats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from a3b.errors import TokenizerError
from a3b.interface.events import (
    CacheReport,
    DraftCount,
    Event,
    Finished,
    Speculation,
    Started,
    ThinkingInContext,
    Usage,
)
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams, preset


class ScriptedService:
    """Gives `events` (or, if it is an error, raises it) to every request, and remembers the requests."""

    model, context, places, template = "a3b-nano", 8192, 4, "{{ messages }}"
    positions = "native positions"
    status = "ok"

    def __init__(self, events: Iterable[Event] | Exception):
        self.events = events if isinstance(events, Exception) else list(events)
        self.requests: list[Request] = []
        self.closed = 0  # streams left before their end

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        self.requests.append(request)
        if isinstance(self.events, Exception):
            raise self.events
        ended = False
        try:
            for event in self.events:
                ended = isinstance(event, Finished)
                yield event
        finally:
            self.closed += not ended

    async def count_tokens(self, request: Request) -> int:
        self.requests.append(request)
        return 42

    async def render(self, request: Request) -> list[int]:
        self.requests.append(request)
        return [7] * 42

    def sampling(self, request: Request) -> SamplingParams:
        return preset("nano", **request.sampling)

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int]) -> str:
        if any(id > 255 for id in ids):
            raise TokenizerError(f"id {max(ids)}; expected 0 to 255")
        return bytes(ids).decode("utf-8", "replace")

    def health(self) -> dict[str, str]:
        return {"status": self.status}

    def metrics(self) -> dict[str, float]:
        return {"prompt_tokens_total": 100.0, "places_free": 3.0}


SPECULATION = Speculation(10, 1.5, {"forced": DraftCount(4, 4), "repeated": DraftCount(12, 5)})
SPECULATED = {  # as an answer has it
    "drafted": 16,
    "accepted": 9,
    "steps": 10,
    "tokens_per_step": 1.9,
    "gain": 1.5,
    "sources": {"forced": {"drafted": 4, "accepted": 4}, "repeated": {"drafted": 12, "accepted": 5}},
}
USAGE = Usage(100, 60, 20, 8, 0.5, 1.0, CacheReport(60, "none"), ThinkingInContext(5, 7, 9), SPECULATION)
STARTED = Started(Usage(prompt_tokens=100, cached_tokens=60, cache=USAGE.cache, thinking=USAGE.thinking))
