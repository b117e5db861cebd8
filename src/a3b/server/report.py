"""What a3b reports with an answer beyond the published APIs: cache, thinking, speed, drafts, warnings.

Enter at `report`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from a3b.interface.events import Finished, Usage

MAX_WARNINGS = 100  # in an answer


def report(finished: Finished, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """The `a3b` object of an answer: where its prompt came from, what ended its thinking, seconds, drafts, warnings."""
    usage = finished.usage
    cache, thinking = usage.cache, usage.thinking
    return {
        "cache": asdict(cache),
        "thinking_in_context": {"sent": thinking.sent, "restored": thinking.restored, "dropped": thinking.dropped},
        "thinking_stop_reason": finished.thinking_stop or None,
        "prefill_s": usage.prefill_s,
        "decode_s": usage.decode_s,
        "speculation": speculation(usage),
        "warnings": [
            *warnings[:MAX_WARNINGS],
            *([f"and {more} more"] if (more := len(warnings) - MAX_WARNINGS) > 0 else []),
        ],
    }


def speculation(usage: Usage) -> dict[str, Any]:
    """What drafting did for an answer: drafts by source, tokens a step, and how many times faster it came."""
    found = usage.speculation
    per_step, gain = found.tokens_per_step, found.gain(usage.decode_s)
    return {
        "drafted": found.drafted,
        "accepted": found.accepted,
        "steps": found.steps,
        "tokens_per_step": None if per_step is None else round(per_step, 3),
        "gain": None if gain is None else round(gain, 3),
        "sources": {source: asdict(counts) for source, counts in found.sources.items()},
    }


def warning_headers(warnings: Sequence[str], most: int = 5) -> dict[str, str]:
    """The header x-a3b-warnings: the first few warnings in ASCII on one line; no header without warnings."""
    if not warnings:
        return {}
    told = [*warnings[:most], *([f"and {len(warnings) - most} more"] if len(warnings) > most else [])]
    line = re.sub(r"[^ -~]", "?", "; ".join(text[:200] for text in told))
    return {"x-a3b-warnings": line}
