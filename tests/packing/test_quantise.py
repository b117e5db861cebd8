"""Our own quantiser: better than rounding to nearest and than llama.cpp's type of the size, and honest about what it
cannot hold."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import TensorError
from a3b.formats.tiles import FORMATS, Format
from a3b.packing.quantise import QUANTISABLE, quantise

gguf = pytest.importorskip("gguf", reason="llama.cpp's types come from the package gguf")
# of about the same bits per weight
RIVALS = {"w4m64": "Q4_0", "w4s32": "Q4_0", "w4k32": "Q4_0", "w4m32": "Q4_1", "w8s32": "Q8_0"}
# The errors of Q4_K and Q6_K by ggml_quantize_chunk (llama.cpp in llama-cpp-python 0.3.36) on `matrix_for(kind)`, in
# units of 1e-5; the package gguf cannot make these.
ERRORS = {
    "w4k32": {"normal": 142.7, "heavy tails": 249.7, "outlier columns": 217.5, "one side": 142.2},
    "w6k32": {"normal": 35.5, "heavy tails": 66.3, "outlier columns": 55.8, "one side": 39.1},
}
KINDS = {
    "normal": lambda rng, shape: rng.normal(0, 0.02, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(4, shape) * 0.02,
    "outlier columns": lambda rng, shape: rng.normal(0, 0.02, shape) * np.exp(rng.normal(0, 0.5, shape[1])),
    "one side": lambda rng, shape: np.abs(rng.normal(0.1, 0.02, shape)),
}


def matrix(kind: str, rows: int = 64, n: int = 512) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(7), (rows, n)).astype(np.float32)


def matrix_for(format: Format, kind: str) -> np.ndarray:
    """Super-blocks have no minimums above zero, so "one side" is moved to where its groups reach below."""
    return matrix(kind) - np.float32(0.09 if format.is_super and kind == "one side" else 0)


def rmse(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.square(x - y, dtype=np.float64).mean()))


def nearest(format: Format, x: np.ndarray) -> np.ndarray:
    """Rounding to nearest over the range of each group."""
    groups = x.reshape(len(x), -1, format.group).astype(np.float64)
    if format.has_minimum:
        low = groups.min(-1, keepdims=True)
        scale = (groups.max(-1, keepdims=True) - low) / (2**format.bits - 1)
        return (np.rint((groups - low) / scale) * scale + low).reshape(x.shape)
    scale = np.abs(groups).max(-1, keepdims=True) / (format.zero - 1)
    return (np.rint(groups / scale) * scale).reshape(x.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", QUANTISABLE)
def test_the_error_is_below_that_of_rounding_to_nearest(name, kind):
    format = FORMATS[name]
    x = matrix_for(format, kind)
    assert rmse(quantise(format, x).f32(format), x) < rmse(nearest(format, x), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RIVALS)
def test_the_error_is_not_above_that_of_llama_cpp_s_type_of_the_size(name, kind):
    x, format, rival = matrix(kind), FORMATS[name], gguf.GGMLQuantizationType[RIVALS[name]]
    theirs = gguf.quants.dequantize(gguf.quants.quantize(x, rival), rival)
    assert rmse(quantise(format, x).f32(format), x) <= rmse(theirs, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ERRORS)
def test_the_error_of_super_blocks_is_not_above_that_of_llama_cpp_s(name, kind):
    format = FORMATS[name]
    x = matrix_for(format, kind)
    assert rmse(quantise(format, x).f32(format), x) <= ERRORS[name][kind] * 1e-5


@pytest.mark.parametrize("name", QUANTISABLE)
def test_importance_lowers_the_error_of_what_is_important(name):
    x, format = matrix("heavy tails"), FORMATS[name]
    importance = np.where(np.arange(x.shape[1]) % 4 == 0, 100, 1).astype(np.float32)
    plain, weighted = (np.square(quantise(format, x, w).f32(format) - x) * importance for w in (None, importance))
    assert weighted.sum() < plain.sum()


@pytest.mark.parametrize("name", QUANTISABLE)
def test_a_row_is_quantised_alone(name):
    x, format = matrix("normal", rows=300), FORMATS[name]
    whole, part = quantise(format, x), quantise(format, x[123:124])
    assert np.array_equal(whole.q[123:124], part.q) and np.array_equal(whole.scale[123:124], part.scale)


@pytest.mark.parametrize("name", QUANTISABLE)
@pytest.mark.parametrize("value", [0.0, 0.75, -3.0])
def test_constant_groups_come_back(name, value):
    format = FORMATS[name]
    x = np.full((3, 2 * format.unit), value, np.float32)
    exact = format.has_minimum and not format.is_super
    tolerance = abs(value) * (0 if exact else 2.0**-7)  # integers that are no power of two times a half
    assert np.abs(quantise(format, x).f32(format) - x).max() <= tolerance


def test_numbers_that_fit_exactly_are_kept_exactly():
    rng, format = np.random.default_rng(1), FORMATS["w4m64"]
    q = rng.integers(0, 16, (20, 128))
    q[:, ::64], q[:, 1::64] = 0, 15
    x = (q * 0.25 - 1.5).astype(np.float32)
    assert np.array_equal(quantise(format, x).f32(format), x)


@pytest.mark.parametrize("name", QUANTISABLE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_halves_cannot_hold_is_refused(name, value):
    x = matrix("normal", 4, 256)
    x[2, 70] = value
    with pytest.raises(TensorError, match="not finite, or too large"):
        quantise(FORMATS[name], x)


def test_no_scale_of_a_super_block_is_cut_off_by_the_half_that_multiplies_its_codes():
    """Groups of two values only, whose scale is beyond doubt; most multiples of 1/255 are not half-precision numbers,
    and half of these are below."""
    format = FORMATS["w6k32"]
    wanted = np.random.default_rng(8).uniform(0.001, 1, (200, 1)).astype(np.float32)
    row = np.where(np.arange(256) % 2, np.float32(63), np.float32(0)) * wanted
    parts = quantise(format, row)
    assert (parts.super_scale.astype(np.float32) * 255 >= wanted * (1 - 1e-6)).all()
    np.testing.assert_allclose(parts.f32(format), row, rtol=1 / 255, atol=1e-4)


def test_tiny_weights_are_not_lost():
    for name in QUANTISABLE:
        # 1e-3 or 2e-5
        x, format = matrix("normal") * np.float32(0.05 if FORMATS[name].is_super else 1e-3), FORMATS[name]
        assert rmse(quantise(format, x).f32(format), x) < 0.12 * x.std(), name


def test_kept_formats_and_odd_widths_are_refused():
    with pytest.raises(TensorError, match="w6k16: is only kept"):
        quantise(FORMATS["w6k16"], np.zeros((1, 256), np.float32))
    with pytest.raises(TensorError, match="48 columns; expected a multiple of 64"):
        quantise(FORMATS["w4m64"], np.zeros((1, 48), np.float32))
