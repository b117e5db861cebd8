"""Rotary frequencies are those of the model's config: default, YaRN, and interleaved over time, height and width."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest

from a3b.engine.engine import nano_directory
from a3b.errors import UsageError
from a3b.kernels.ref.ops import rope_apply
from a3b.model.config import with_context
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.rope import Rope, inverse_frequencies, mrope_axis, yarn_range
from tests.support.paths import DATA
from tests.support.random_model import SIZES, config_dict

U = 2.0**-24


def rope_config(**changes):
    """The 35B model's rotary sizes: 64 of 256 dimensions, base 10^7."""
    sizes = {**SIZES["one"], "Dh": 256, "rotary": 64}
    rope = {"rope_theta": 10_000_000, "mrope_section": [11, 11, 10]}
    return replace(config_from_dict(config_dict(sizes, rope), where="test").rope, **changes)


def yarn(factor: float):
    return rope_config(type="yarn", factor=factor, original_context=262144, attention_factor=0.1 * math.log(factor) + 1)


def test_default_frequencies_are_powers_of_the_base():
    expected = [10.0 ** (-7 * 2 * i / 64) for i in range(32)]
    np.testing.assert_allclose(inverse_frequencies(rope_config()), expected, rtol=1e-14)


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones():
    ratio = inverse_frequencies(yarn(4.0)) / inverse_frequencies(rope_config())
    assert yarn_range(yarn(4.0)) == (14, 22)
    np.testing.assert_allclose(ratio[:15], 1, rtol=1e-14)
    np.testing.assert_allclose(ratio[15:22], [0.90625, 0.8125, 0.71875, 0.625, 0.53125, 0.4375, 0.34375], rtol=1e-14)
    np.testing.assert_allclose(ratio[22:], 0.25, rtol=1e-14)


@pytest.mark.parametrize(("factor", "expected"), [(4.0, 1.1386294), (2.0, 1.0693147)])
def test_yarn_scales_cosines_and_sines(factor: float, expected: float):
    cos, sin = Rope(yarn(factor))(np.arange(50))
    np.testing.assert_allclose(np.hypot(cos, sin), expected, rtol=1e-6)


@pytest.mark.parametrize(("factor", "expected"), [(2.0, 1.0693147), (4.0, 1.1386294)])
def test_yarn_has_the_same_attention_factor_from_the_config_and_from_the_context(factor: float, expected: float):
    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 1024}
    written = config_from_dict(config_dict(SIZES["one"], rope)).rope
    asked, _ = with_context(config_from_dict(config_dict(SIZES["one"])), int(factor * 1024))
    assert written.attention_factor == asked.rope.attention_factor == pytest.approx(expected, abs=1e-6)
    assert (
        (written.factor, written.original_context) == (asked.rope.factor, asked.rope.original_context) == (factor, 1024)
    )


def test_yarn_in_the_config_has_the_numbers_of_yarn_by_the_context_where_it_names_none():
    native = config_from_dict(config_dict(SIZES["one"]))
    written = config_from_dict(config_dict(SIZES["one"], {"rope_type": "yarn", "factor": 2.0}))
    assert written.rope == with_context(native, 2 * native.max_context)[0].rope


def published_yarn(dim: int, base: float, native: int, factor: float) -> tuple[list[float], float]:
    """Frequencies and the factor of cos and sin by the formulas of Peng et al. 2023 as transformers has them
    (modeling_rope_utils.py), written out number by number."""

    def index_of(turns: float) -> float:
        return dim * math.log(native / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(index_of(32)), 0), min(math.ceil(index_of(1)), dim - 1)
    found = []
    for i in range(dim // 2):
        plain = 1 / base ** (2 * i / dim)
        kept = 1 - min(max((i - low) / (high - low), 0), 1)  # of the frequency that extrapolates
        found.append(plain / factor * (1 - kept) + plain * kept)
    return found, 0.1 * math.log(factor) + 1


@pytest.mark.parametrize("factor", [2.0, 4.0])
@pytest.mark.parametrize("directory", [DATA / "config-35b-a3b.json", nano_directory()], ids=["35b-a3b", "nano"])
def test_yarn_by_the_context_is_the_published_formula(directory, factor: float):
    native = read_config(directory)
    rope = with_context(native, int(factor * native.max_context))[0].rope
    expected, attention_factor = published_yarn(rope.rotary_dim, native.rope.theta, native.max_context, factor)
    np.testing.assert_allclose(inverse_frequencies(rope), expected, rtol=1e-13)
    assert rope.attention_factor == pytest.approx(attention_factor, rel=1e-15)
    assert (inverse_frequencies(rope) != inverse_frequencies(native.rope)).any()


@pytest.mark.parametrize(
    ("context", "factor"), [(262_144, None), (262_145, 2), (524_288, 2), (524_289, 4), (1 << 20, 4)]
)
def test_the_smaller_sufficient_factor_is_taken_and_said(context: int, factor: int | None):
    scaled, note = with_context(read_config(DATA / "config-35b-a3b.json"), context)
    assert scaled.rope.type == ("yarn" if factor else "default")
    assert note is None if factor is None else f"YaRN factor {factor}" in note
    assert scaled.rope.scaling == (f"YaRN factor {factor}" if factor else "native positions")


def test_beyond_four_times_the_native_length_a_context_is_refused():
    with pytest.raises(UsageError, match="1048577 tokens; at most 1048576"):
        with_context(read_config(DATA / "config-35b-a3b.json"), (1 << 20) + 1)


def test_a_limit_between_two_tokens_is_the_lower_one():
    rope = {"rope_type": "yarn", "factor": 1.5, "original_max_position_embeddings": 1001}
    config = config_from_dict(config_dict(SIZES["one"], rope))
    assert with_context(config, 1501)[0] == config
    with pytest.raises(UsageError, match="at most 1501"):
        with_context(config, 1502)


def test_yarn_in_the_config_never_shortens_the_native_context():
    """Trained for 256 tokens, scaled by 2, and natively 1,024 long: 1,024 remain."""
    config = config_from_dict(
        config_dict(SIZES["one"], {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256})
    )
    assert with_context(config, 1024)[0] == config
    with pytest.raises(UsageError, match="at most 1024"):
        with_context(config, 1025)


def test_a_yarn_range_without_width_still_has_finite_frequencies():
    assert np.isfinite(inverse_frequencies(replace(yarn(4.0), beta_fast=1.0, beta_slow=1.0, original_context=7))).all()


def test_frequencies_take_turns_between_time_height_and_width():
    axis = mrope_axis(rope_config())
    assert [np.flatnonzero(axis == which).tolist() for which in range(3)] == [
        list(range(0, 31, 3)),
        list(range(1, 32, 3)),
        list(range(2, 30, 3)),
    ]


def test_text_positions_are_triples_of_equal_numbers():
    rope, positions = Rope(rope_config()), np.array([0, 1, 5000, 262143])
    for plain, triple in zip(rope(positions), rope(np.stack([positions] * 3)), strict=True):
        np.testing.assert_array_equal(plain, triple)


def test_each_axis_of_a_triple_moves_only_its_own_frequencies():
    rope, base = Rope(rope_config()), np.full((3, 1), 40)
    for which in range(3):
        moved = base.copy()
        moved[which] += 7
        changed = rope(moved)[1] != rope(base)[1]
        np.testing.assert_array_equal(changed[0], rope.axis == which)


def test_angles_of_far_positions_keep_their_accuracy():
    """cos is rounded once (u); the angle, in float64, is off by 2^-52 of itself at most."""
    position = 1_009_999
    cos, _ = Rope(rope_config())(np.array([position]))
    frequency = 10.0 ** (-7 * 2 / 64)
    assert abs(float(cos[0, 1]) - math.cos(math.fmod(position * frequency, 2 * math.pi))) <= U + position * 2.0**-50


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("position", [262_143, 524_287, 1_009_999, (1 << 20) - 1, (1 << 24) + 1])
def test_angles_of_every_frequency_are_right_up_to_the_last_bits(position: int, factor: float):
    """Against a reduction by 2 pi in 60 digits of the float64 frequency; (1 << 24) + 1 is no float32."""
    rope = Rope(rope_config() if factor == 1 else yarn(factor))
    cos, sin = rope(np.array([position]))
    with localcontext() as context:
        context.prec = 60
        turn = 2 * Decimal("3.14159265358979323846264338327950288419716939937510582097494")
        for i, frequency in enumerate(rope.frequencies):
            angle = float(position * Decimal(float(frequency)) % turn)
            bound = rope.factor * (2 * U + position * float(frequency) * 2.0**-51)
            assert abs(float(cos[0, i]) - rope.factor * math.cos(angle)) <= bound
            assert abs(float(sin[0, i]) - rope.factor * math.sin(angle)) <= bound


def test_rope_turns_pairs_half_the_rotary_size_apart_and_leaves_the_rest():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 2, 11)).astype(np.float32)
    angles = rng.uniform(-3, 3, (3, 4))
    pairs = (x[..., :4] + 1j * x[..., 4:8]) * np.exp(1j * angles)[:, None]
    expected = np.concatenate((pairs.real, pairs.imag, x[..., 8:]), axis=-1)
    rope_apply(x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    bound = 4 * U * np.abs(pairs).max()  # cos, sin, product and sum are each rounded once
    assert np.abs(x - expected).max() <= bound
    np.testing.assert_array_equal(x[..., 8:], expected[..., 8:].astype(np.float32))
