"""What is drafted without weights: what followed the same tokens before, and what a grammar forces."""

from __future__ import annotations

import random

import pytest

from a3b.engine.draft_prices import Odds, Prices
from a3b.engine.draft_sources import MAX_MATCH, ContextDrafter, Repeat, Repeats
from a3b.engine.drafts import Answer
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


class Text:
    """Stands in for a Generation: what it has, and what its constraint says."""

    def __init__(self, sampled=(), forced=(), barred=()):
        self.sampled, self._forced, self._barred = list(sampled), list(forced), barred

    def forced(self, most: int) -> list[int]:
        return self._forced[:most]

    def may_follow(self, token: int) -> bool:
        return token not in self._barred


PROMPT = [50, *range(1, 40), 60, 1, 2]
CHEAP, DEAR = 0.01, 0.5


def tokens_of(drafter: ContextDrafter, text: Text, most: int, price: float) -> list[int]:
    return [draft.token for draft in drafter.propose(Answer(text, None, []), most, Prices(price))]


def test_what_followed_the_same_tokens_is_drafted_while_it_is_likely_enough():
    drafter = ContextDrafter(PROMPT)
    assert tokens_of(drafter, Text(), 64, CHEAP)[:5] == [3, 4, 5, 6, 7]
    assert tokens_of(drafter, Text(), 2, CHEAP) == [3, 4]
    assert tokens_of(drafter, Text(), 64, DEAR) == []
    written = list(range(3, 25))
    long = tokens_of(drafter, Text(written), 64, DEAR)
    assert long == list(range(25, 25 + len(long))) and 1 < len(long) < 10
    assert tokens_of(drafter, Text(written), 64, float("inf")) == []
    assert tokens_of(drafter, Text([*written, 61]), 64, CHEAP) == []


def test_what_was_wrong_lately_is_drafted_no_more_and_again_once_it_would_have_been_right():
    """Nothing has to be read for that: the guess is compared with what was chosen."""
    rng = random.Random(1)
    pattern = [rng.randrange(1000) for _ in range(20)]
    drafter, sampled = ContextDrafter(pattern * 3), []

    def drafted(num: int, is_right: bool) -> list[int]:
        sizes = [0]
        for _ in range(num):
            for _ in range(1 + sizes[-1] if is_right else 1):
                sampled.append(pattern[len(sampled) % 20] if is_right else 5000 + rng.randrange(3000) % 7)
            sizes.append(len(tokens_of(drafter, Text(sampled), 64, 0.5)))
        return sizes

    assert drafted(20, True)[-1] > 5
    drafted(60, False)
    assert sum(drafted(40, False)) <= 4, "what cannot be guessed costs nothing"
    sampled += pattern * 2
    assert drafted(99, True)[-1] > 5


def test_what_was_learned_from_an_answer_is_known_to_the_next():
    known = Odds()
    first = ContextDrafter(PROMPT, known)
    for num in range(30):
        tokens_of(first, Text(list(range(3, 3 + num))), 64, DEAR)
    assert len(tokens_of(ContextDrafter(PROMPT, known), Text(), 64, 0.3)) > len(
        tokens_of(ContextDrafter(PROMPT), Text(), 64, 0.3)
    )


def test_forced_tokens_come_first_and_what_followed_them_before_comes_next():
    def found(forced: list[int], most: int, price: float) -> list[int]:
        return tokens_of(ContextDrafter(PROMPT), Text(forced=forced), most, price)

    assert found([10, 11], 64, CHEAP)[:4] == [10, 11, 12, 13]
    assert found([10, 11], 64, DEAR) == [10, 11]
    assert found([10, 11, 70], 64, 0.3) == [10, 11, 70]
    assert found([10, 11], 1, CHEAP) == [10]


def test_a_draft_that_the_constraint_bars_is_not_read():
    assert tokens_of(ContextDrafter(PROMPT), Text(barred=[3]), 64, CHEAP) == []


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
