"""Drafting where it pays: what a step costs is measured, what is wrong is noticed, and at its worst it costs next to
nothing. Time is simulated."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from a3b.engine.draft_prices import (
    ALLOWED,
    BORROWED,
    DEEPER,
    FEW,
    FIRST_PATIENCE,
    FIRST_PRICE,
    FIRST_TOKENS,
    LEAST_PRICE,
    MOST_PATIENCE,
    PAUSE_S,
    PLAIN_AT_ONCE,
    PLAIN_EVERY,
    PLAIN_STEPS,
    RETRY_PRICE,
    Balance,
    Effort,
    Odds,
    StepCosts,
)
from a3b.engine.draft_sources import ContextDrafter
from a3b.engine.drafts import Answer


class Text:
    """Stands in for a Generation that nothing constrains."""

    def __init__(self) -> None:
        self.sampled: list[int] = []

    def forced(self, most: int) -> list[int]:
        return []

    def may_follow(self, token: int) -> bool:
        return True


Next = Callable[[ContextDrafter, Text], int]  # the token that the model chooses


def simulated(num_answers: int, tokens: int, choose: Next, extra: float, seed: int = 0) -> tuple[float, float, list]:
    """Seconds with drafts, seconds without, and the drafts read in each step, after the first 64 tokens of each.

    A step takes a second, and so much more for each drafted token; one of twenty is disturbed."""
    rng, costs, known = random.Random(seed), StepCosts(), Odds(memory=0.995)
    answers = [Text() for _ in range(num_answers)]
    drafters = [ContextDrafter(range(50), known) for _ in answers]
    with_drafts, plain, sizes = 0.0, 0.0, []
    while min(len(one.sampled) for one in answers) < tokens:
        prices = costs.prices(num_answers)
        pairs = zip(drafters, answers, strict=True)
        guesses = [drafter.propose(Answer(one, None, []), 64, prices) for drafter, one in pairs]
        drafts = [[draft.token for draft in guessed] for guessed in guesses]
        num = sum(map(len, drafts))
        seconds = 1 + extra * num
        counts = min(len(one.sampled) for one in answers) >= 64
        noise = rng.uniform(0.97, 1.03) * (rng.uniform(1.5, 4) if rng.random() < 0.05 else 1)
        costs.note(num_answers, num, seconds * noise)
        got = 0
        for one, drafter, drafted in zip(answers, drafters, drafts, strict=True):
            for place in range(len(drafted) + 1):
                one.sampled.append(choose(drafter, one))
                got += 1
                if place == len(drafted) or one.sampled[-1] != drafted[place]:
                    break
        if counts:
            with_drafts, plain = with_drafts + seconds, plain + got / num_answers
            sizes.append(num)
    return with_drafts, plain, sizes


def never_as_guessed(drafter: ContextDrafter, one: Text) -> int:
    """What the drafter expects least: of few tokens, so that there is always something to guess."""
    place = len(one.sampled) - len(drafter._repeats) + drafter._num_prompt
    guess = drafter._found[place] if place < len(drafter._found) else 0
    return (guess + 1) % 7


def random_token(drafter: ContextDrafter, one: Text) -> int:
    return hash((len(one.sampled), 17)) * 2654435761 % 2**32 % 5


def lures(drafter: ContextDrafter, one: Text) -> int:
    """As the drafter guesses, except where the guess was read."""
    place = len(one.sampled) - len(drafter._repeats) + drafter._num_prompt
    guess = drafter._found[place] if place < len(drafter._found) else 0
    return guess if place >= len(drafter._drafts) else (guess + 1) % 7


@pytest.mark.slow
@pytest.mark.parametrize("num_answers", [1, 4, 8])
@pytest.mark.parametrize("extra", [0.05, 0.28, 0.9])
@pytest.mark.parametrize("choose", [never_as_guessed, random_token, lures])
def test_answers_that_cannot_be_guessed_cost_next_to_nothing(num_answers: int, extra: float, choose: Next):
    with_drafts, plain, _ = simulated(num_answers, 600, choose, extra)
    assert with_drafts <= 1.02 * plain


@pytest.mark.parametrize("period", [5, 20, 80])
def test_answers_that_are_to_be_guessed_now_and_then_do_not_cost_more_than_they_give(period: int):
    def choose(drafter: ContextDrafter, one: Text) -> int:
        num = len(one.sampled)
        return num % 50 if num // period % 2 else never_as_guessed(drafter, one)

    with_drafts, plain, _ = simulated(1, 1500, choose, 0.28)
    assert with_drafts <= 1.02 * plain


@pytest.mark.parametrize(("num_answers", "least"), [(1, 2.0), (4, 1.15)])
def test_answers_that_copy_come_faster(num_answers: int, least: float):
    with_drafts, plain, sizes = simulated(
        num_answers, 600, lambda _, one: len(one.sampled) % 50, 0.28 / num_answers**0.5
    )
    assert plain / with_drafts > least and max(sizes) > 4


def test_where_drafts_cost_as_much_as_steps_nothing_is_lost():
    with_drafts, plain, _ = simulated(1, 600, lambda _, one: len(one.sampled) % 50, 1.0)
    assert with_drafts <= 1.02 * plain


def test_where_drafts_cost_twice_as_much_as_steps_nothing_is_drafted():
    *_, sizes = simulated(1, 600, lambda _, one: len(one.sampled) % 50, 2.0)
    assert sum(sizes) <= 0.05 * len(sizes)


def test_the_price_is_what_a_draft_adds_in_tokens_of_all_answers():
    costs = StepCosts()
    assert costs.prices(2).token == math.inf, "nothing is known"
    for seconds in (1.0, 1.1, 0.9, 50.0, 1.0):  # one was disturbed
        costs.note(2, 0, seconds)
    assert costs.plain(2) == 1.0 and costs.plain(1) is None
    assert costs.prices(2).token == FIRST_PRICE
    for num, seconds in ((2, 1.2), (3, 1.3), (1, 30.0), (1, 1.1), (2, 1.2)):
        costs.note(2, num, seconds)
    assert costs.prices(2).token == pytest.approx(2 * 0.1)
    for _ in range(20):
        costs.note(2, 4, 0.5)
    assert costs.prices(2).token == LEAST_PRICE


def drafted_for_long() -> StepCosts:
    costs = StepCosts()
    for _ in range(PLAIN_AT_ONCE):
        assert costs.prices(1).token == math.inf
        costs.note(1, 0, 1.0)
    for _ in range(PLAIN_EVERY):
        assert costs.prices(1).token < math.inf
        costs.note(1, 2, 1.4)
    assert costs.prices(1).token == math.inf
    return costs


def test_a_price_that_was_measured_in_a_bad_moment_is_tried_again_and_later_each_time():
    costs, patience = StepCosts(), FIRST_PATIENCE
    for num, seconds, times in ((0, 1.0, PLAIN_AT_ONCE), (1, 9.0, 17)):
        for _ in range(times):
            costs.note(1, num, seconds)
    while patience < MOST_PATIENCE:
        for _ in range(patience):
            assert costs.prices(1).token > 1, "nothing is worth that"
            costs.note(1, 0, 1.0)
        assert costs.prices(1).token == RETRY_PRICE
        costs.note(1, 1, 9.0)
        patience *= 2


def test_after_good_tries_the_price_is_what_was_found_then_and_patience_is_short_again():
    costs = StepCosts()
    for num, seconds, times in ((0, 1.0, PLAIN_AT_ONCE), (1, 9.0, 17), (0, 1.0, FIRST_PATIENCE)):
        for _ in range(times):
            costs.note(1, num, seconds)
    for _ in range(FEW):
        for _ in range(MOST_PATIENCE if costs.prices(1).token > 1 else 0):
            costs.note(1, 0, 1.0)
        assert costs.prices(1).token <= RETRY_PRICE
        costs.note(1, 1, 1.3)
    assert costs.prices(1).token == pytest.approx(0.3)
    for _ in range(17):
        costs.note(1, 1, 9.0)
    for _ in range(FIRST_PATIENCE):
        costs.note(1, 0, 1.0)
    assert costs.prices(1).token == RETRY_PRICE


def test_one_bad_measure_does_not_keep_likely_drafts_away():
    costs = StepCosts()
    for _ in range(PLAIN_AT_ONCE):
        costs.note(1, 0, 1.0)
    costs.note(1, 1, 1.9)
    assert costs.prices(1).token == pytest.approx((FIRST_PRICE + 0.9) / 2)


def test_steps_with_drafts_are_compared_with_those_after_them_too():
    costs = StepCosts()
    for _ in range(9):
        costs.note(1, 0, 1.0)
    for _ in range(20):  # meanwhile the machine has become slower
        costs.note(1, 1, 1.3 * 2.0)
    assert costs.prices(1).token > 1
    for _ in range(3):
        costs.note(1, 0, 2.0)
    assert costs.prices(1).token == pytest.approx(0.3)
    for _ in range(30):  # and what comes long after them says nothing
        costs.note(1, 0, 1.0)
    assert costs.prices(1).token == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_guesses_of_which_two_of_three_are_right_pay_where_a_token_costs_a_third(seed: int):
    rng = random.Random(seed)

    def choose(drafter: ContextDrafter, one: Text) -> int:
        place = len(one.sampled) - len(drafter._repeats) + drafter._num_prompt
        guess = drafter._found[place] if place < len(drafter._found) else len(one.sampled) % 50
        return guess if rng.random() < 0.67 else (guess + 1 + rng.randrange(40)) % 50

    with_drafts, plain, _ = simulated(1, 1500, choose, 0.33, seed)
    assert plain / with_drafts > 1.1


def test_prices_do_not_change_where_the_whole_machine_is_slower():
    costs = StepCosts()
    for slowness in (1.0, 2.0):
        for _ in range(9):
            costs.note(1, 0, slowness)
        for _ in range(FEW):
            costs.note(1, 1, 1.3 * slowness)
        assert costs.prices(1).token == pytest.approx(0.3)


def test_a_step_without_drafts_is_measured_again_now_and_then():
    costs = drafted_for_long()
    costs.note(1, 0, 1.05)
    assert costs.prices(1).token < math.inf


@pytest.mark.parametrize(
    ("tokens", "now", "again"),
    [(DEEPER, 1.0, False), (DEEPER + 1, 1.0, True), (0, PAUSE_S, False), (0, PAUSE_S + 1, True)],
)
def test_a_measure_of_other_answers_or_of_long_ago_is_no_price_of_these(tokens: int, now: float, again: bool):
    costs = StepCosts()
    costs.expect(1, 0, 0.0)
    for _ in range(PLAIN_STEPS):
        costs.note(1, 0, 5.0)
    costs.expect(1, tokens, now)
    assert (costs.prices(1).token == math.inf) is again
    if not again:
        return
    for _ in range(PLAIN_AT_ONCE):
        assert costs.prices(1).token == math.inf
        costs.note(1, 0, 1.0)
        costs.expect(1, tokens, now)
    for _ in range(FEW):
        costs.note(1, 2, 1.6)
    assert costs.plain(1) == 1.0 and costs.prices(1).token == pytest.approx(0.3)


def test_guesses_beside_a_prompt_are_not_those_of_the_next_step():
    costs = StepCosts()
    for _ in range(PLAIN_AT_ONCE):
        costs.note(1, 0, 0.1)
    for _ in range(FEW):
        for _ in range(8):
            costs.note_guess(1, 0.005)
        assert costs.skip(1) == 0.1
        costs.note(1, 2, 0.16)
    assert costs.prices(1).token == pytest.approx(0.3)


@pytest.mark.parametrize("seconds", [2.0, 0.5])
def test_a_machine_that_has_become_slower_or_faster_is_believed_after_some_steps(seconds: float):
    costs = drafted_for_long()
    for _ in range(PLAIN_AT_ONCE):
        assert costs.prices(1).token == math.inf
        costs.note(1, 0, seconds)
    assert costs.plain(1) == seconds and costs.prices(1).token < math.inf


def test_one_disturbed_step_does_not_change_the_measure():
    costs = drafted_for_long()
    for seconds in (3.0, 1.0, 1.0):
        assert costs.prices(1).token == math.inf
        costs.note(1, 0, seconds)
    assert costs.plain(1) == 1.0 and costs.prices(1).token < math.inf


def test_what_drafts_may_lose_is_bounded_and_what_they_gain_may_be_lost_again():
    balance = Balance()
    assert balance.affords(2.0) and not balance.affords(2.1) and not balance.affords(float("inf"))
    balance.note(1, 0, 2.0)
    assert not balance.affords(0.3), "all were wrong"
    for _ in range(60):
        balance.note(1, 0, 0.0)
    assert balance.affords(0.45) and not balance.affords(0.5), "some loss is allowed with time"
    balance.note(9, 8, 0.3)
    assert balance.affords(6.0)
    for _ in range(1000):
        balance.note(9, 8, 0.3)
    assert balance.affords(16.0) and not balance.affords(16.1), "no success is remembered for ever"


def test_what_other_answers_gained_may_be_lost_by_one_that_has_bad_luck():
    gained = Balance(tokens=0.0)
    lucky, unlucky = Balance(gained), Balance(gained)
    lucky.note(10, 5, 2.0)
    unlucky.note(1, 0, 2.0)
    assert unlucky.affords(1.0) and not unlucky.affords(1.2), "of the three that the other one gained"
    unlucky.note(1, 0, 1.1)
    assert not unlucky.affords(0.2) and lucky.affords(5.0)


def test_of_what_others_gained_one_answer_may_lose_a_part():
    common = Balance(tokens=0.0)
    Balance(common).note(1, 1000, 0.0)
    unlucky, lost, written = Balance(common), 0.0, 256
    for _ in range(written):
        paid = 0.5 if unlucky.affords(0.5) else 0.0
        unlucky.note(1, 0, paid)
        lost += paid
    assert BORROWED < lost <= FIRST_TOKENS + BORROWED + ALLOWED * written


def test_looking_for_drafts_that_are_never_right_takes_a_small_share_of_the_time():
    effort, looks = Effort(), 0
    for _ in range(1000):
        if not effort.is_spent:
            looks += 1
            effort.pay(0.05)
        effort.note(0)
    assert looks * 0.05 < 0.007 * 1000


def test_who_finds_drafts_that_are_accepted_may_look_at_each_step():
    effort = Effort()
    for step in range(1000):
        assert not effort.is_spent
        effort.pay(0.2)
        effort.note(int(step % 4 == 0))
    for _ in range(15):
        effort.pay(0.2)
        effort.note(0)
    assert effort.is_spent, "no success is remembered for ever"


def test_a_look_in_which_the_thread_was_stopped_counts_as_a_long_one():
    effort = Effort()
    effort.pay(1e6)
    for _ in range(99):
        effort.note(0)
    assert not effort.is_spent


def test_odds_follow_what_was_seen_lately_and_begin_with_what_others_saw():
    known = Odds()
    first = Odds(known)
    start = first.of(3)
    for _ in range(50):
        first.note(3, False)
    assert first.of(3) < 0.1 < start
    assert Odds(known).of(3) == known.of(3) < start and first.of(4) == Odds().of(4)
    for _ in range(50):
        first.note(3, True)
    assert first.of(3) > 0.85
