"""Policies: which thinking of earlier turns stays in the prompt."""

from __future__ import annotations

import pytest

from a3b.errors import UsageError
from a3b.prompt.chat_template import REPLAY_KEY
from a3b.thinking.policy import ThinkingBlock, apply_policy
from tests.support.turns import answer, user

# -- policies


def conversation(*sizes: int) -> tuple[list[dict], list[ThinkingBlock]]:
    messages, blocks = [], []
    for i, size in enumerate(sizes):
        messages += [user(f"q{i}"), {**answer(f"a{i}", f"t{i}"), REPLAY_KEY: (i, 99)}]
        blocks.append(ThinkingBlock(2 * i + 1, size, is_restored=i % 2 == 0))
    return [*messages, user("last")], blocks


def kept(messages: list[dict]) -> list[int]:
    return [i for i, message in enumerate(messages) if REPLAY_KEY in message]


def test_all_keeps_every_block_and_counts_who_brought_it():
    messages, blocks = conversation(5, 6, 7)
    out, fates, keep = apply_policy(messages, blocks, "all")
    assert kept(out) == [1, 3, 5] and keep
    assert (fates.sent, fates.restored, fates.dropped) == (6, 12, 0)


def test_none_takes_all_thinking_out_and_leaves_the_answers():
    messages, blocks = conversation(5, 6)
    out, fates, _ = apply_policy(messages, blocks, "none")
    assert kept(out) == [] and [m["reasoning_content"] for m in out if m["role"] == "assistant"] == ["", ""]
    assert [m["content"] for m in out] == [m["content"] for m in messages] and fates.dropped == 11


def test_current_task_is_the_templates_own_rule():
    messages, blocks = conversation(5, 6)
    messages = messages[:-1]  # the last turn is the assistant's, behind the last question
    _, fates, keep = apply_policy(messages, blocks, "current-task")
    assert not keep and (fates.dropped, fates.sent) == (5, 6)


def test_a_budget_lets_the_oldest_leave_in_one_batch_and_then_the_beginning_stays_for_a_while():
    sizes = (30,) * 12
    lasting = []
    for n in range(1, 13):
        messages, blocks = conversation(*sizes[:n])
        out, fates, _ = apply_policy(messages, blocks, "budget:100")
        assert fates.sent + fates.restored <= 100
        lasting.append(kept(out)[0])
    changes = sum(a != b for a, b in zip(lasting, lasting[1:], strict=False))
    assert lasting[:3] == [1, 1, 1] and changes <= 4, lasting


def test_a_budget_that_is_just_spent_lets_nothing_leave():
    messages, blocks = conversation(40, 60)
    assert apply_policy(messages, blocks, "budget:100")[1].dropped == 0
    assert apply_policy(messages, blocks, "budget:99")[1].dropped == 100  # what is left must be half of it at most


def test_what_is_just_half_of_the_budget_stays():
    messages, blocks = conversation(51, 50)
    assert apply_policy(messages, blocks, "budget:100")[1].dropped == 51


def test_a_block_above_the_whole_budget_leaves_too():
    messages, blocks = conversation(500)
    assert apply_policy(messages, blocks, "budget:100")[1].dropped == 500


@pytest.mark.parametrize("policy", ["some", "budget", "budget:", "budget:-1", "budget:x", "all:1", ""])
def test_unknown_policies_are_refused(policy):
    with pytest.raises(UsageError, match="thinking policy"):
        apply_policy([], [], policy)
