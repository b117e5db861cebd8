"""Intervals have published values, cover what they promise, and know that tries of one case are alike."""

from __future__ import annotations

import random

import pytest

from a3b.evals.intervals import difference, mcnemar, share, student, wilson


def single(values: list[float]) -> list[list[float]]:
    """One try of each case."""
    return [[value] for value in values]


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_has_the_published_values(successes, count, low, high):
    """Table I of Newcombe, Statistics in Medicine 17 (1998)."""
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (7, 7), (3, 7), (1, 1)])
def test_the_interval_of_a_share_stays_between_nothing_and_all_and_holds_it(successes, count):
    low, high = wilson(successes, count)
    assert 0 <= low <= successes / count <= high <= 1
    assert low < high


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (2, 4.303), (9, 2.262), (30, 2.042), (120, 1.980)])
def test_students_quantiles_are_those_of_the_tables(freedom, value):
    assert student(freedom) == pytest.approx(value, abs=5e-4)


def test_one_try_of_each_case_is_a_plain_share():
    found = share(single([1.0] * 81 + [0.0] * 182))
    assert (found.low, found.high, found.cases) == (*wilson(81, 263), 263)


def test_tries_that_always_end_alike_count_once():
    often = share([[1.0] * 9, [0.0] * 9, [0.0] * 9, [1.0] * 9])
    assert often == share(single([1.0, 0.0, 0.0, 1.0]))


def test_a_case_weighs_the_same_however_often_it_was_tried():
    assert share([[1.0], [0.0] * 9]).mean == 0.5


def test_cases_whose_tries_vary_have_an_interval_of_their_means():
    found = share([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    half = student(3) * (0.5 / 3 / 4) ** 0.5  # means 0.5, 1, 0, 0.5
    assert (found.low, found.high) == pytest.approx((max(0.5 - half, 0), min(0.5 + half, 1)))


def test_cases_that_all_score_alike_do_not_prove_that_others_do():
    found = share([[1.0, 0.0]] * 20)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.4304, 0.5696), abs=1e-4)  # 1 - 0.05 ** (1 / 20)
    rounded = share([[0.3], [0.1 + 0.2]] * 10)
    assert rounded.high - rounded.low == pytest.approx(0.1391, abs=1e-4)


def test_a_case_that_was_solved_by_half_leaves_no_more_certainty_than_none():
    none, half = share([[0.0, 0.0]] * 100), share([[0.0, 0.0]] * 99 + [[1.0, 0.0]])
    assert none.low == half.low == 0.0
    assert half.high > 0.9 * none.high
    assert share([[1.0, 1.0]] * 99 + [[1.0, 0.0]]).low == pytest.approx(1 - half.high)


def test_about_nineteen_of_twenty_intervals_hold_a_share_of_which_a_sample_shows_one_half_only():
    rng, held = random.Random(4), 0
    for _ in range(300):
        found = share([[0.0, 0.0] if rng.random() < 0.03 else [1.0, 0.0] for _ in range(40)])
        held += found.low <= 0.97 * 0.5 <= found.high
    assert held >= 0.93 * 300


@pytest.mark.parametrize(
    ("scores", "limits"),
    [
        ([[0.0]], wilson(0, 1)),
        ([[1.0, 1.0]], wilson(1, 1)),
        ([[0.5]], (0.0, 1.0)),
        ([[0.0]] * 9, wilson(0, 9)),
        ([[1.0]] * 9, wilson(9, 9)),
        ([], (0.0, 1.0)),
        ([[], []], (0.0, 1.0)),
    ],
)
def test_few_cases_and_whole_ones_leave_room(scores, limits):
    found = share(scores)
    assert (found.low, found.high) == limits and found.low < found.high


def test_the_interval_of_a_difference_is_that_of_its_standard_error():
    rng = random.Random(1)
    first = [rng.gauss(5, 2) for _ in range(400)]
    found = difference(single(first), single([a + rng.gauss(1, 0.5) for a in first]))
    error = 0.5 / 400**0.5
    assert (found.low, found.high) == pytest.approx((found.mean - 1.96 * error, found.mean + 1.96 * error), abs=0.01)


def test_about_nineteen_of_twenty_intervals_hold_the_true_difference():
    rng, held = random.Random(2), 0
    for index in range(100):
        first, second = ([float(rng.random() < share) for _ in range(80)] for share in (0.5, 0.7))
        found = difference(single(first), single(second), seed=index, draws=2000)
        held += found.low <= 0.2 <= found.high
    assert 88 <= held <= 100


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly_the_same():
    first, second = single([1.0, 0.0, 1.0, 1.0, 0.0] * 8), single([0.0, 0.0, 1.0, 0.0, 1.0] * 8)
    assert difference(first, second, seed=3) == difference(first, second, seed=3)
    assert difference(first, second, seed=3).low == pytest.approx(difference(first, second, seed=4).low, abs=0.03)


def test_what_is_common_to_both_does_not_widen_the_interval():
    rng = random.Random(5)
    hard = [rng.gauss(0, 100) for _ in range(50)]
    found = difference(single(hard), single([h + 1 for h in hard]))
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_cases_that_all_change_alike_do_not_prove_that_others_do():
    same = difference(single([1.0] * 100), single([1.0] * 100), most=1.0)
    assert (same.low, same.high) == pytest.approx((-0.0295, 0.0295), abs=1e-4)  # 1 - 0.05 ** (1 / 100)
    better = difference(single([0.0] * 100), single([1.0] * 100), most=1.0)
    assert (better.low, better.high) == pytest.approx((1 - 2 * 0.0295, 1.0), abs=1e-4)
    third, two = [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]
    rounded = difference([third, two] * 50, [two, [1.0]] * 50, most=1.0)  # 2 / 3 - 1 / 3 is not 1 - 2 / 3
    assert rounded.high - rounded.low == pytest.approx(2 * 0.0295, abs=1e-4)


@pytest.mark.parametrize(
    ("won", "lost", "p"), [(10, 2, 2 * 79 / 4096), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 3, 1.0), (0, 0, 1.0)]
)
def test_mcnemar_is_the_exact_binomial_of_the_cases_that_differ(won, lost, p):
    assert mcnemar(won, lost) == pytest.approx(p)
    first, second = [0.0] * won + [1.0] * lost + [1.0, 0.0], [1.0] * won + [0.0] * lost + [1.0, 0.0]
    found = difference(single(first), single(second))
    assert (found.won, found.lost, found.p) == (won, lost, pytest.approx(p))


def test_cases_without_a_partner_are_refused():
    with pytest.raises(ValueError, match="zip"):
        difference(single([1.0]), single([1.0, 0.0]))
