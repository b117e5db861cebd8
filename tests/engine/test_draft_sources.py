"""What is drafted without weights: what followed the same tokens before, and what a grammar forces."""

from __future__ import annotations

import random

import pytest

from a3b.engine.draft_sources import MAX_MATCH, MIN_MATCH, PER_MATCH, ContextDrafter, Repeat, Repeats
from a3b.errors import UsageError


def slow_find(ids: list[int], ahead: list[int], most: int) -> Repeat:
    """The same by comparing everything with everything."""
    last, best = [*ids, *ahead][-MAX_MATCH:], Repeat([], 0)
    for end in range(len(ids) - 1):
        num = 0
        while num < len(last) and end - num >= 0 and ids[end - num] == last[-1 - num]:
            num += 1
        if num and num >= best.num_matching:
            found = [ids[end + 1 + i] if end + 1 + i < len(ids) else None for i in range(most)]
            for i in range(most):
                if found[i] is None and not ahead:
                    found[i] = found[i - (len(ids) - 1 - end)]
            best = Repeat([token for token in found if token is not None], num)
    return best if most > 0 else Repeat([], 0)


@pytest.mark.parametrize("seed", range(40))
def test_the_longest_match_is_found_and_of_several_the_latest(seed: int):
    rng = random.Random(seed)
    num_kinds = rng.choice([1, 2, 3, 20])
    ids = [rng.randrange(num_kinds) for _ in range(rng.randrange(0, 60))]
    repeats, done = Repeats(ids[: len(ids) // 2]), len(ids) // 2
    while True:
        ahead = [rng.randrange(num_kinds) for _ in range(rng.choice([0, 0, 1, 5]))]
        most = rng.randrange(0, 9)
        assert repeats.find(ahead, most) == slow_find(ids[:done], ahead, most)
        assert len(repeats) == done
        if done == len(ids):
            break
        more = min(len(ids), done + rng.randrange(1, 5))
        repeats.extend(ids[done:more])
        done = more


def test_a_repetition_that_is_going_on_is_thought_to_go_on():
    assert Repeats([9, 1, 2, 3, 1, 2, 3, 1]).find([], 7).ids == [2, 3, 1, 2, 3, 1, 2]


def test_growing_keeps_every_token():
    repeats = Repeats([])
    for token in range(3000):
        repeats.extend([token])
    repeats.extend([7, 8])
    assert repeats.find([], 3) == Repeat([9, 10, 11], 2)


class Answer:
    """Stands in for a Generation: what it has, and what its constraint says."""

    def __init__(self, sampled=(), forced=(), barred=()):
        self.sampled, self._forced, self._barred = list(sampled), list(forced), barred

    def forced(self, most: int) -> list[int]:
        return self._forced[:most]

    def may_follow(self, token: int) -> bool:
        return token not in self._barred


PROMPT = [50, *range(1, 40), 60, 1, 2]


def test_what_followed_the_same_tokens_is_drafted_the_longer_the_more_matched():
    drafter = ContextDrafter(PROMPT)
    assert drafter.propose(Answer(), 64) == list(range(3, 3 + 2 * PER_MATCH))
    assert drafter.propose(Answer([3, 4]), 64) == list(range(5, 5 + 4 * PER_MATCH))
    assert drafter.propose(Answer([3, 4]), 3) == [5, 6, 7]
    assert drafter.propose(Answer([3, 4, 61]), 64) == []


def test_one_token_that_matches_is_no_reason_to_draft():
    assert MIN_MATCH == 2
    assert ContextDrafter([1, 2, 3, 9, 1]).propose(Answer(), 64) == []


def test_forced_tokens_come_first_and_what_followed_them_before_comes_next():
    drafter = ContextDrafter(PROMPT)
    assert drafter.propose(Answer(forced=[10, 11]), 64) == [10, 11, *range(12, 12 + 2 * PER_MATCH)]
    assert drafter.propose(Answer(forced=[10, 11, 70]), 64) == [10, 11, 70]
    assert drafter.propose(Answer(forced=[10, 11]), 1) == [10]


def test_a_draft_that_the_constraint_bars_is_not_read():
    assert ContextDrafter(PROMPT).propose(Answer(barred=[3]), 64) == []


def test_an_error_of_the_constraint_is_left_to_the_choice(monkeypatch):
    from a3b.engine.generation import Generation
    from a3b.interface.sampling_params import SamplingParams
    from tests.support.constraints import TOKENIZER

    class Broken:
        knows_end, sees_thinking, ready, notes, thinking = False, True, True, (), None

        def mask(self):
            raise UsageError("planted")

    one = Generation(TOKENIZER, [1], [2, 3], SamplingParams(temperature=0), 9, in_thinking=False, constraint=Broken())
    assert one.may_follow(5) and one.may_follow(6)
