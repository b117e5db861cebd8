"""What a session has cost, in lines for people. Enter at `cost_lines`."""

from __future__ import annotations

from a3b.agent.options import SessionCost
from a3b.units import span


def cost_lines(cost: SessionCost) -> list[str]:
    """What a session has cost, in lines for people."""
    usage = cost.usage
    share = f" ({100 * usage.cached / total:.0f} % cached)" if (total := usage.read + usage.cached) else ""
    lines = [
        f"turns      {cost.turns:,} in {span(cost.seconds)}",
        f"read       {usage.read:,} tokens, {usage.cached:,} more were cached{share}",
        f"written    {usage.written:,} tokens, {usage.thinking:,} of them thinking",
        f"context    {cost.in_context:,} of {cost.context:,} tokens; compacted at {cost.compact_at:,}",
    ]
    if usage.drafted:
        lines.append(f"drafted    {usage.drafted:,} tokens, {usage.accepted:,} of them right")
    if cost.recomputed is not None:
        lines.append(f"read again {cost.recomputed:,} tokens of the history")
    for word, tokens, seconds in (("reading", usage.read, usage.prefill_s), ("writing", usage.written, usage.decode_s)):
        if seconds > 0:
            lines.append(f"{word}    {tokens / seconds:,.1f} tokens/s")
    return lines
