"""Which thinking of earlier turns stays in the prompt.

Does not know where the thinking came from, or how the prompt is rendered. Enter at `apply_policy`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from a3b.interface.events import ThinkingInContext
from a3b.interface.request import check_policy
from a3b.prompt.chat_template import REPLAY_KEY
from a3b.thinking.turn import Message

KEEP_OF_BUDGET = 2  # when the budget is exceeded, old thinking is dropped until it fits in the budget divided by this


@dataclass(frozen=True)
class ThinkingBlock:
    """The thinking of an earlier turn in a recalled conversation."""

    index: int  # of the message
    tokens: int
    is_restored: bool  # from memory; otherwise the client sent it


def last_question(messages: Sequence[Message]) -> int:
    """Index of the last turn of the user; -1 if there is none."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def apply_policy(
    messages: Sequence[Message], blocks: Sequence[ThinkingBlock], policy: str
) -> tuple[list[Message], ThinkingInContext, bool]:
    """(messages, tokens of thinking by fate, whether templates must keep thinking of earlier tasks).

    budget:N goes through the turns in order: whenever they have more than N tokens of thinking, that of the oldest is
    dropped until at most N / KEEP_OF_BUDGET are left. So what stays depends on the turns alone, and the beginning of
    the prompt changes only now and then, not with every turn. Raises UsageError for an unknown policy."""
    check_policy(policy)
    name, _, number = policy.partition(":")
    if name == "current-task":
        question = last_question(messages)
        dropped = {block.index for block in blocks if block.index < question}
        return list(messages), _fates(blocks, dropped), False
    dropped = {block.index for block in blocks} if name == "none" else set()
    if name == "budget":
        kept: list[ThinkingBlock] = []
        for block in blocks:
            kept.append(block)
            if _tokens(kept) > int(number):
                while kept and _tokens(kept) > int(number) // KEEP_OF_BUDGET:
                    dropped.add(kept.pop(0).index)
    out = []
    for i, message in enumerate(messages):
        if i in dropped:
            message = {**{key: value for key, value in message.items() if key != REPLAY_KEY}, "reasoning_content": ""}
        out.append(message)
    return out, _fates(blocks, dropped), True


def _tokens(blocks: Iterable[ThinkingBlock]) -> int:
    return sum(block.tokens for block in blocks)


def _fates(blocks: Sequence[ThinkingBlock], dropped: set[int]) -> ThinkingInContext:
    kept = [block for block in blocks if block.index not in dropped]
    return ThinkingInContext(
        sent=_tokens(block for block in kept if not block.is_restored),
        restored=_tokens(block for block in kept if block.is_restored),
        dropped=_tokens(block for block in blocks if block.index in dropped),
    )
