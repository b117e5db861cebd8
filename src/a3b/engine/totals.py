"""What a service has done since it began, in numbers for `/metrics`. Enter at `Totals.count`."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import get_args

from a3b.interface.events import DraftCount, DraftSource, Finished

WHAT = tuple(field.name for field in fields(DraftCount))
NAMES = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "prefill_tokens",  # of prompts, computed, not cached
    "prefill_seconds",
    "decode_seconds",
    "thinking_tokens",
    "thinking_restored_tokens",
    "thinking_dropped_tokens",
    "speculation_steps",
    "speculation_plain_seconds",  # that these steps would have taken without drafts
    *(f"speculation_{source}_{what}" for source in get_args(DraftSource) for what in WHAT),
)


class Totals(dict[str, float]):
    """Counts by name."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(NAMES, 0.0))

    def count(self, finished: Finished) -> None:
        """An answer whose last event this is."""
        usage = finished.usage
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "thinking_tokens"):
            self[name] += getattr(usage, name)
        if finished.reason != "cancelled":  # of which nobody knows how much was read
            self["prefill_tokens"] += usage.prompt_tokens - usage.cached_tokens
            self["prefill_seconds"] += usage.prefill_s
        self["decode_seconds"] += usage.decode_s
        self["thinking_restored_tokens"] += usage.thinking.restored
        self["thinking_dropped_tokens"] += usage.thinking.dropped
        self["speculation_steps"] += usage.speculation.steps
        self["speculation_plain_seconds"] += usage.speculation.plain_s or 0.0
        for source, counts in usage.speculation.sources.items():
            for what, num in asdict(counts).items():
                self[f"speculation_{source}_{what}"] += num

    def metrics(self) -> dict[str, float]:
        """Counters, and what follows from them once a token was written."""
        found = {f"{name}_total": float(value) for name, value in self.items()}
        if steps := self["speculation_steps"]:
            accepted = sum(self[f"speculation_{source}_accepted"] for source in get_args(DraftSource))
            found["speculation_tokens_per_step"] = 1 + accepted / steps
        if seconds := self["decode_seconds"]:
            found["speculation_gain"] = self["speculation_plain_seconds"] / seconds
        return found
