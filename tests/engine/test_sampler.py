"""From logits to an id: parameters, cuts, penalties, and draws keyed by (seed, position)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from a3b.engine.sampler import LogitsError, Sampler, TokenCounts, uniform
from a3b.errors import A3BError, UsageError
from a3b.interface.sampling_params import PRESETS, SamplingParams, preset

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}


def logits_of(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float32))


def distribution(logits, counts=None, **params):
    """What a sampler draws from, float64 [V]."""
    return Sampler(SamplingParams(**{**PLAIN, **params}), len(logits)).probabilities(logits, counts)


def draw(logits, num, num_tokens=None, counts=None, **params):
    """Ids drawn at positions 0 to num - 1."""
    sampler = Sampler(SamplingParams(**{**PLAIN, **params}), num_tokens or len(logits))
    return [sampler.sample(logits, counts, position) for position in range(num)]


# Parameters


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 10**400),
        ("min_p", -(10**400)),
        ("temperature", True),
        ("temperature", "1"),
        ("temperature", None),
        ("top_k", -1),
        ("top_k", 2.0),
        ("top_k", True),
        ("top_k", None),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("seed", 1.0),
        ("seed", 2**64),
        ("seed", False),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("stop", "END"),
        ("stop", ("a", "")),
        ("stop", (1,)),
        ("stop", None),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(UsageError, match=f"^{field}: .*expected"):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"top_k": 0},
        {"top_p": 1},
        {"min_p": 1},
        {"presence_penalty": -2},
        {"seed": -1},
        {"max_tokens": 1},
        {"stop": ["a"]},
        {"top_k": np.int64(3)},
        {"temperature": np.float32(0.5)},
    ],
)
def test_limits_are_allowed_and_values_become_plain(params):
    made = SamplingParams(**params)
    assert type(made.temperature) is type(made.top_p) is float and type(made.top_k) is int
    assert hash(made) == hash(SamplingParams(**params))


def test_presets_are_the_recommended_ones():
    recommended = {
        "thinking": (1.0, 20, 0.95, 1.5),
        "coding": (0.6, 20, 0.95, 0.0),
        "instruct": (0.7, 20, 0.8, 1.5),
        "greedy": (0.0, 0, 1.0, 0.0),
        "nano": (1.0, 20, 0.95, 0.0),
    }
    assert {k: (p.temperature, p.top_k, p.top_p, p.presence_penalty) for k, p in PRESETS.items()} == recommended
    assert all(preset(name) == params for name, params in PRESETS.items())


@pytest.mark.parametrize("situation", [{"has_tools": True}, {"is_nano": True}])
def test_presence_penalty_is_dropped_with_tools_and_for_nano_unless_asked_for(situation):
    assert preset("thinking", **situation).presence_penalty == 0
    assert preset("thinking", **situation, presence_penalty=1.5).presence_penalty == 1.5
    assert preset("thinking", **situation, presence_penalty=None).presence_penalty == 0
    assert preset("thinking", **situation, temperature=0.2).temperature == 0.2


def test_unknown_presets_and_fields_are_refused_by_name():
    with pytest.raises(UsageError, match="'fast'.*thinking"):
        preset("fast")
    with pytest.raises(UsageError, match="'topk'.*top_k"):
        preset("greedy", topk=3)


def test_a_random_sampler_needs_a_seed_and_a_greedy_one_does_not():
    with pytest.raises(UsageError, match="seed"):
        Sampler(SamplingParams(temperature=1), 4)
    assert draw(logits_of(0.2, 0.8), 1, temperature=0, seed=None) == [1]


# Greedy and refusals


def test_greedy_takes_the_lowest_id_of_equals():
    assert draw(np.array([1, 3, 3, 2], np.float32), 3, temperature=0) == [1, 1, 1]


def test_rows_without_a_token_are_never_chosen():
    logits = np.array([0, 1, 0, 50, np.nan], np.float32)
    assert draw(logits, 1, num_tokens=3, temperature=0) == [1]
    assert set(draw(logits, 200, num_tokens=3)) == {0, 1, 2}


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, r"\+inf"), (-np.inf, "all -inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_impossible_logits_are_an_error_that_says_which(value, what, temperature):
    logits = np.full(4, -np.inf, np.float32)
    logits[2] = value
    with pytest.raises(LogitsError, match=f"position 0: {what}"):
        draw(logits, 1, temperature=temperature)
    assert issubclass(LogitsError, A3BError)


def test_too_few_logits_are_refused():
    with pytest.raises(LogitsError, match=r"\(3,\).*at least 4"):
        draw(np.zeros(3, np.float32), 1, num_tokens=4)


def test_tokens_at_minus_infinity_are_never_drawn():
    logits = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    for cut in ({}, {"top_k": 3}, {"top_p": 0.999}, {"temperature": 1e-300}):
        assert set(draw(logits, 100, **cut)) <= {1, 3}


@pytest.mark.parametrize(("value", "token_id"), [(0.0, 1), (1 - 2**-53, 3)])
def test_the_lowest_and_highest_draws_take_possible_tokens(monkeypatch, value, token_id):
    monkeypatch.setattr("a3b.engine.sampler.uniform", lambda seed, position: value)
    assert draw(np.array([-np.inf, 0, -np.inf, -0.3, -np.inf], np.float32), 1) == [token_id]


def test_logits_are_left_alone():
    logits = logits_of(0.25, 0.75)
    before = logits.copy()
    counts = TokenCounts(2, [0, 1])
    counts.add(1)
    draw(logits, 5, counts=counts, presence_penalty=1, repetition_penalty=2)
    assert (logits == before).all()


# Distribution


def test_temperature_divides_logits():
    expected = np.exp(np.array([0, 1, 3]) / 0.5)
    np.testing.assert_allclose(
        distribution(np.array([0, 1, 3], np.float32), temperature=0.5), expected / expected.sum()
    )


@pytest.mark.parametrize("temperature", [1e-300, 1e-3])
def test_tiny_temperatures_are_greedy_without_overflow(temperature):
    assert draw(np.array([1, 9, -9], np.float32), 20, temperature=temperature) == [1] * 20


def test_top_k_keeps_the_k_highest_and_of_equals_the_lower_ids():
    logits = np.array([1, 2, 2, 2, 0], np.float32)
    assert distribution(logits, top_k=2).tolist() == [0, 0.5, 0.5, 0, 0]
    assert np.count_nonzero(distribution(logits, top_k=4)) == 4
    assert (
        np.count_nonzero(distribution(logits, top_k=99)) == np.count_nonzero(distribution(logits, top_k=10**400)) == 5
    )


@pytest.mark.parametrize("top_k", [0, 4])
@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.88, 4), (1.0, 4)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_k, top_p, kept):
    logits = logits_of(0.125, 0.5, 0.125, 0.25)
    expected = np.array([0.125 * (kept > 2), 0.5, 0.125 * (kept > 3), 0.25 * (kept > 1)])
    np.testing.assert_allclose(
        distribution(logits, top_k=top_k, top_p=top_p), expected / expected.sum(), rtol=1e-6, atol=0
    )


def test_top_p_reached_exactly_keeps_no_more():
    assert np.count_nonzero(distribution(np.zeros(4, np.float32), top_p=0.5)) == 2


def test_top_p_counts_the_mass_that_top_k_left():
    logits = logits_of(0.4, 0.3, 0.2, 0.1)  # after top-k 2 the first holds 4/7 = 0.571
    assert np.count_nonzero(distribution(logits, top_k=2, top_p=0.57)) == 1
    assert np.count_nonzero(distribution(logits, top_p=0.57)) == 2


def test_min_p_is_a_share_of_the_most_likely():
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    assert np.flatnonzero(distribution(logits, min_p=0.25)).tolist() == [0, 1, 2]
    assert np.flatnonzero(distribution(logits, min_p=1.0)).tolist() == [0]
    assert np.flatnonzero(distribution(logits, min_p=0.25, top_p=0.6)).tolist() == [0, 1]


@pytest.mark.parametrize("params", [{"top_p": 0.3}, {"top_p": 0.9999}, {"min_p": 0.3}, {"min_p": 1e-9, "top_p": 0.999}])
def test_cuts_over_a_large_vocabulary_equal_sorting_it_all(params):
    logits = np.random.default_rng(5).normal(size=3000).astype(np.float32).round(2)  # many ties
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits[order].astype(np.float64) - logits.max())
    cumulative = np.cumsum(weights) / weights.sum()
    num = 1 + np.count_nonzero(cumulative < params.get("top_p", 1.0))
    kept = order[:num][weights[:num] >= params.get("min_p", 0.0)]
    assert sorted(np.flatnonzero(distribution(logits, **params))) == sorted(kept)


# Penalties


def test_penalties_are_those_computed_by_hand():
    counts = TokenCounts(5, [0, 1])
    for token_id in (1, 2, 2):
        counts.add(token_id)
    logits = np.array([4, -4, 6, 8, -8], np.float32)
    sampler = Sampler(SamplingParams(**PLAIN, repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25), 5)
    # 0: prompt only, 4/2. 1: both, -4*2 - 0.5 - 0.25. 2: generated twice, 6/2 - 0.5 - 2*0.25. 3, 4: new.
    expected = np.exp(np.array([2, -8.75, 2, 8, -8]))
    np.testing.assert_allclose(sampler.probabilities(logits, counts), expected / expected.sum(), rtol=1e-7)


def test_penalties_change_greedy_choices():
    counts = TokenCounts(2)
    counts.add(0)
    assert draw(np.array([1.0, 0.5], np.float32), 1, counts=counts, temperature=0, presence_penalty=1) == [1]


def test_a_penalty_needs_counts():
    with pytest.raises(UsageError, match="counts"):
        draw(np.zeros(3, np.float32), 1, presence_penalty=1)


def test_counts_hold_many_ids_and_refuse_unknown_ones():
    counts = TokenCounts(1000, range(0, 1000, 2))
    for token_id in (7, 7, 8):
        counts.add(token_id)
    assert counts.generated.tolist() == [7, 8] and counts.of(np.array([7, 8, 9])).tolist() == [2, 1, 0]
    assert sorted(counts.seen) == sorted({7, *range(0, 1000, 2)})
    for token_id in (-1, 1000):
        with pytest.raises(UsageError, match="999"):
            counts.add(token_id)


# Draws


def test_a_draw_depends_on_seed_and_position_only():
    logits = np.random.default_rng(6).normal(size=50).astype(np.float32)
    sampler = Sampler(SamplingParams(**PLAIN), 50)
    forwards = [sampler.sample(logits, None, position) for position in range(30)]
    backwards = [sampler.sample(logits, None, position) for position in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert forwards != draw(logits, 30, seed=1)
    assert draw(logits, 30, seed=-1) != draw(logits, 30, seed=2**64 - 1)


def test_the_draw_of_a_seed_and_position_never_changes_between_versions():
    assert [uniform(0, 0), uniform(1, 0), uniform(0, 1)] == [
        0.3859926107094097,
        0.48055380340761744,
        0.29868916236736043,
    ]


def chi_square(observed, probabilities):
    expected = probabilities * observed.sum()
    return float(((observed - expected) ** 2 / expected).sum())


def chi_square_limit(degrees):
    """Exceeded by chance once in a million (Wilson-Hilferty; 4.753 is the normal quantile)."""
    ninth = 2 / (9 * degrees)
    return degrees * (1 - ninth + 4.753 * math.sqrt(ninth)) ** 3


@pytest.mark.parametrize("params", [{}, {"top_k": 12}, {"top_p": 0.9}, {"temperature": 2.0, "min_p": 0.05}])
def test_draws_follow_the_distribution(params):
    logits = np.random.default_rng(7).normal(size=24).astype(np.float32)
    probabilities = distribution(logits, **params)
    kept = probabilities > 0
    observed = np.bincount(draw(logits, 10_000, **params), minlength=24)
    assert observed[~kept].sum() == 0
    limit = chi_square_limit(kept.sum() - 1)
    assert chi_square(observed[kept], probabilities[kept]) < limit
    wrong = distribution(logits, **params | {"temperature": params.get("temperature", 1.0) * 0.85})
    assert chi_square(observed[kept], np.maximum(wrong[kept], 1e-9)) > limit  # the comparison sees such an error


def test_draws_are_uniform_over_seeds_and_over_positions():
    for values in ([uniform(3, n) for n in range(20_000)], [uniform(n, 3) for n in range(20_000)]):
        observed = np.bincount((np.array(values) * 64).astype(int), minlength=64)
        assert len(observed) == 64
        assert chi_square(observed, np.full(64, 1 / 64)) < chi_square_limit(63)
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / math.sqrt(len(values))


# Masks


@pytest.mark.parametrize("params", [{}, {"temperature": 0.7}, {"top_k": 12}, {"top_p": 0.9}, {"min_p": 0.02}])
def test_a_mask_keeps_the_ratios_of_what_it_allows(params):
    logits = np.random.default_rng(8).normal(size=40).astype(np.float32)
    allowed = np.random.default_rng(9).random(40) < 0.4
    sampler = Sampler(SamplingParams(**{**PLAIN, **params}), 40)
    masked = sampler.probabilities(logits, None, allowed)
    plain = np.exp(logits.astype(np.float64) / params.get("temperature", 1.0))
    kept = masked > 0
    assert not (kept & ~allowed).any() and kept.sum() > 3
    np.testing.assert_allclose(masked[kept] / masked.max(), plain[kept] / plain[allowed].max(), rtol=1e-12)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {}])
def test_a_few_barred_tokens_are_never_drawn_and_leave_the_others_their_shares(params):
    logits = np.random.default_rng(4).normal(size=40).astype(np.float32)
    allowed = np.ones(40, bool)
    allowed[[int(logits.argmax()), 7]] = False
    sampler, kept = Sampler(SamplingParams(**{**PLAIN, **params}), 40), logits.copy()
    others = Sampler(SamplingParams(**{**PLAIN, **params}), 38)
    expected = np.zeros(40)
    expected[allowed] = others.probabilities(logits[allowed], None)
    np.testing.assert_allclose(sampler.probabilities(logits, None, allowed), expected, rtol=1e-12)
    assert all(allowed[sampler.sample(logits, None, position, allowed)] for position in range(50))
    assert (logits == kept).all()


def test_cuts_count_among_allowed_tokens_only():
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    allowed = np.array([False, True, True, True])
    sampler = Sampler(SamplingParams(**{**PLAIN, "top_k": 2}), 4)
    np.testing.assert_allclose(sampler.probabilities(logits, None, allowed), [0, 2 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("params", [{"temperature": 0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_only_allowed_tokens_are_drawn_and_the_same_seed_draws_the_same(params):
    logits = np.random.default_rng(10).normal(size=300).astype(np.float32)
    allowed = np.zeros(300, bool)
    allowed[[5, 17, 200]] = True
    before = logits.copy()
    first, again = (
        [Sampler(SamplingParams(**{**PLAIN, **params}), 300).sample(logits, None, n, allowed) for n in range(60)]
        for _ in range(2)
    )
    assert first == again and set(first) <= {5, 17, 200} and (logits == before).all()
    other = [
        Sampler(SamplingParams(**{**PLAIN, **params, "seed": 1}), 300).sample(logits, None, n, allowed)
        for n in range(60)
    ]
    assert (first == other) == (len(set(first)) == 1)


def test_a_mask_of_everything_changes_no_draw():
    logits = np.random.default_rng(11).normal(size=100).astype(np.float32)
    sampler = Sampler(SamplingParams(**{**PLAIN, "top_p": 0.9}), 100)
    assert [sampler.sample(logits, None, n, np.ones(100, bool)) for n in range(50)] == draw(logits, 50, top_p=0.9)


def test_penalties_cannot_bring_back_what_a_mask_took():
    counts = TokenCounts(3, [0, 1])
    counts.add(0)
    params = SamplingParams(**PLAIN, repetition_penalty=2, presence_penalty=-2, frequency_penalty=-2)
    masked = Sampler(params, 3).probabilities(np.array([5, -5, 0], np.float32), counts, np.array([False, True, True]))
    assert masked[0] == 0 and masked.sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_mask_that_allows_nothing_is_an_error(temperature):
    sampler = Sampler(SamplingParams(**{**PLAIN, "temperature": temperature}), 4)
    with pytest.raises(LogitsError, match="position 7: no token is allowed"):
        sampler.sample(np.zeros(4, np.float32), None, 7, np.zeros(4, bool))


# Logprobs


def test_logprobs_are_a_log_softmax_of_the_raw_logits():
    logits = (np.random.default_rng(12).normal(size=50) * 20).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=0.3, top_k=2, seed=0, presence_penalty=2), 40)  # none of them matters
    exact = logits[:40].astype(np.float64)
    exact -= np.log(np.exp(exact - exact.max()).sum()) + exact.max()
    logprob, top = sampler.logprobs(logits, 7, 5)
    assert logprob == pytest.approx(exact[7], rel=1e-12)
    assert [i for i, _ in top] == np.argsort(-exact, kind="stable")[:5].tolist()
    assert [value for _, value in top] == pytest.approx(exact[[i for i, _ in top]], rel=1e-12)


def test_logprobs_of_equals_are_in_order_of_ids():
    sampler = Sampler(SamplingParams(**PLAIN), 6)
    logprob, top = sampler.logprobs(np.array([1, 2, 2, 1, 2, 0], np.float32), 0, 4)
    assert [i for i, _ in top] == [1, 2, 4, 0] and top[3][1] == logprob


def test_logprobs_can_have_no_alternatives_or_all():
    sampler = Sampler(SamplingParams(**PLAIN), 4)
    assert sampler.logprobs(np.zeros(4, np.float32), 2, 0) == (-math.log(4), [])
    assert len(sampler.logprobs(np.zeros(4, np.float32), 2, 99)[1]) == 4


# Guesses from logits of some tokens


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.0},
        {"top_k": 9, "temperature": 1.5},
        {"top_p": 0.7, "min_p": 0.01},
        {"repetition_penalty": 1.4, "presence_penalty": 0.6, "frequency_penalty": 0.3},
        {"logit_bias": [(7, 3.0), (40, -100), (12, 2.0)]},
    ],
    ids=lambda params: "-".join(params) or "plain",
)
@pytest.mark.parametrize("is_masked", [False, True])
def test_a_guess_among_some_tokens_is_the_draw_with_all_others_barred(params: dict, is_masked: bool):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=60).astype(np.float32)
    ids = np.unique([*rng.choice(60, 25, replace=False), 7, 55])  # the vocabulary ends at 50
    mask = rng.random(50) < 0.5 if is_masked else np.ones(50, bool)
    among = mask.copy()
    among[np.setdiff1d(np.arange(50), ids)] = False
    counts = TokenCounts(50, [3, 7, 9])
    for token in (7, 7, 20):
        counts.add(token)
    sampler = Sampler(SamplingParams(**{**PLAIN, **params}), 50)
    found = [sampler.guess(logits[ids], ids, counts, at, mask if is_masked else None) for at in range(200)]
    assert found == [sampler.sample(logits, counts, at, among) for at in range(200)]
    assert len(set(found)) > 2 or params.get("temperature") == 0


def test_a_guess_where_none_of_the_tokens_is_allowed_is_any_of_them():
    logits, ids, mask = np.array([1.0, 9.0, 2.0], np.float32), np.array([2, 5, 6]), np.zeros(8, bool)
    mask[3] = True
    sampler = Sampler(SamplingParams(temperature=0.0), 8)
    assert sampler.guess(logits, ids, TokenCounts(8), 0, mask) == 5
    with pytest.raises(LogitsError):
        sampler.guess(np.full(3, np.nan, np.float32), ids, TokenCounts(8), 0, None)
