"""Every kernel on every instruction set of this machine against its NumPy twin, within the bound of its contract."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import TensorError, UsageError
from a3b.formats.tiles import FORMATS, SUPER
from a3b.kernels import MAX_DRAFTED, MoeMatrices, _native, kv, open_kernels
from a3b.kernels.ref.quant_linear import quantise_rows
from tests.support.random_tiles import random_tiles

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

U = 2.0**-24
ISAS = _native.isas()
TWIN = open_kernels("reference")
DRAFTS = [(1, 1, 0), (1, 1, 1), (1, 3, 2), (2, 5, 5), (1, 64, 64), (130, 7, 3), (127, 4, 4), (128, 64, 9), (0, 2, 1)]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def bf16(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32)


def magnitudes(tiles, x: np.ndarray) -> np.ndarray:
    """What a product adds up, without signs: float64 [T, out]."""
    format = tiles.format
    parts = tiles.parts(0, tiles.shape[0])
    scale, minimum = (np.abs(np.repeat(p, format.group, axis=1)).astype(np.float64) for p in parts.scales(format))
    low = minimum if format.has_minimum else 0
    middle = format.zero if not format.has_minimum else 0
    return np.abs(x).astype(np.float64) @ (scale * np.abs(parts.q.astype(np.float64) - middle) + low).T


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("rows", [5, 16, 70])
def test_linear_over_tiles(isa: str, format, rows: int):
    n, block = (512, SUPER) if format.is_super else (320, format.group)  # of one exact sum
    tiles = random_tiles(format, rows, n)
    op, twin = (k.bind_linear([("w", tiles)], n) for k in (open_kernels(isa, 2), TWIN))
    for T in (1, 3, 4, 69):
        x = normal(T, n, seed=T)
        bound = (3 * n / block + 4) * U * 1.01 * magnitudes(tiles, x)
        assert (np.abs(op(x) - twin(x)) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_products_have_the_same_bits_in_any_company(isa: str, format):
    n = 512
    weights = [
        ("a", random_tiles(format, 150, n)),
        ("b", normal(20, n)),
        ("c", random_tiles(FORMATS["w8s32"], 33, n, seed=2)),
    ]
    x, norm = normal(70, n), normal(n, scale=0.1)
    whole = open_kernels(isa, 2).bind_linear(weights, n, norm, 1e-6)(x)
    alone = open_kernels(isa, 1).bind_linear(weights, n, norm, 1e-6)
    for rows in (slice(0, 1), slice(69, 70), slice(3, 8), slice(1, 67)):
        np.testing.assert_array_equal(alone(x[rows]), whole[rows])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_a_few_tokens_have_the_bits_of_many_however_their_bytes_are_asked_for(isa: str, format):
    """So many rows that few tokens walk several pieces at once, one of them across two matrices."""
    n, x = 256, normal(9, 256)
    weights = [("a", random_tiles(format, 4200, n)), ("b", random_tiles(format, 4300, n, seed=1))]
    kernels = open_kernels(isa, 1)
    op = kernels.bind_linear(weights, n)
    whole = op(x)
    for kernels.runtime.prefetches_stream in (True, False):
        for T in (1, 2, 4, 7):
            np.testing.assert_array_equal(op(x[:T]), whole[:T])
            added = np.ones_like(whole[:T])
            op.add(x[:T], added)
            np.testing.assert_array_equal(added, whole[:T] + 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["w4k32", "w6s32", "bf16", "mlp"])
def test_a_few_tokens_of_wide_experts_have_the_bits_of_many(isa: str, form: str):
    E, K, D, F, Fs = 5, 4, 1024, 256, 1280
    w = moe_weights("w4m64" if form == "mlp" else form, E, D, F, Fs)
    norm, h = normal(D, scale=0.1), normal(9, D)
    kernels = open_kernels(isa, 1)
    if form == "mlp":
        op = kernels.bind_mlp(w.shared_gate_up, w.shared_down, norm, 1e-6, D, Fs)
    else:
        op = kernels.bind_moe(w, norm, 1e-6, E, K, D, F, Fs)
    whole = h.copy()
    op(whole)
    for kernels.runtime.prefetches_stream in (True, False):
        for T in (1, 3, 7):
            part = h[:T].copy()
            op(part)
            np.testing.assert_array_equal(part, whole[:T])


@pytest.mark.parametrize("isa", ISAS)
def test_sums_stay_exact_at_the_edge_of_their_integers(isa: str):
    """The largest weights against the largest activations, all of one sign: what overflows 16 bits if a kernel adds too
    much there."""
    for format in FORMATS.values():
        n = 512
        tiles = random_tiles(format, 16, n)
        parts = tiles.parts(0, 16)
        parts.q[...] = (1 << format.bits) - 1
        from a3b.formats.tiles import Tiles, pack

        full = Tiles("full", format, (16, n), pack(format, parts).ravel())
        for sign in (1, -1):
            x = np.full((2, n), sign, np.float32)
            op, twin = (k.bind_linear([("w", full)], n)(x) for k in (open_kernels(isa), TWIN))
            np.testing.assert_allclose(op, twin, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("is_bf16", [True, False])
def test_linear_over_floats_with_a_norm_before_it_and_a_sum_after_it(isa: str, is_bf16: bool):
    w = normal(37, 50)
    w = bf16(w) if is_bf16 else w
    norm = normal(50, scale=0.2, seed=1)
    op, twin = (k.bind_linear([("w", w)], 50, norm, 1e-6) for k in (open_kernels(isa, 2), TWIN))
    for T in (1, 6, 70):
        x, h = normal(T, 50, seed=T), normal(T, 37, seed=T + 1)
        sums = np.abs(twin(x)) + np.abs(x) @ np.abs(w).T * 4
        assert (np.abs(op(x) - twin(x)) <= (50 + 40) * U * sums).all()
        added = h.copy()
        op.add(x, added)
        np.testing.assert_array_equal(added, h + op(x))


def test_activations_are_rounded_in_groups_and_halves_to_even():
    q, scale = quantise_rows(np.array([[127, 2.5, 3.5, -126.5, 0, 0, 0, 0]], np.float32), 4)
    assert q.tolist() == [[127, 2, 4, -126, 0, 0, 0, 0]] and scale.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_embed_gives_the_rows_of_the_table(isa: str, format):
    tiles = random_tiles(format, 40, 512)
    ids = np.array([39, 0, 16, 16, 15])
    np.testing.assert_array_equal(open_kernels(isa).bind_embed(tiles, 40, 512)(ids), tiles.f32_rows(0, 40)[ids])


@pytest.mark.parametrize("isa", ISAS)
def test_embed_of_floats_is_exact(isa: str):
    for table in (normal(21, 7), bf16(normal(21, 7))):
        np.testing.assert_array_equal(
            open_kernels(isa).bind_embed(table, 21, 7)(np.array([20, 3, 3])), table[[20, 3, 3]]
        )


def delta_case(T: int, Hk: int, Hv: int, Dk: int, Dv: int, conv_len: int = 4):
    C = 2 * Hk * Dk + Hv * Dv
    weights = (
        normal(C, conv_len, seed=1, scale=0.5),
        normal(Hv, seed=2),
        normal(Hv, seed=3),
        1 + normal(Dv, seed=4, scale=0.1),
        1e-6,
    )
    projected = normal(T, C + Hv * Dv + 2 * Hv, seed=5)
    states = normal(conv_len - 1, C, seed=6), normal(Hv, Dk, Dv, seed=7)
    return weights, (Hk, Hv, Dk, Dv), projected, states


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("sizes", [(2, 4, 24, 48), (1, 3, 7, 5), (2, 6, 128, 128)], ids=str)
def test_delta(isa: str, tiled: bool, sizes):
    for T in (1, 2, 140):
        weights, sizes, projected, states = delta_case(T, *sizes)
        results = []
        for k in (open_kernels(isa, 2), TWIN):
            conv, M = (s.copy() for s in states)
            results.append((k.bind_delta(*weights, *sizes, tiled_heads=tiled)(projected, conv, M), conv, M))
        for found, expected in zip(*results, strict=True):
            scale = np.abs(expected).max()
            assert np.abs(found - expected).max() <= (2 * sizes[2] + sizes[3] / 2 + 60) * U * 8 * scale


@pytest.mark.parametrize("isa", ISAS)
def test_delta_has_the_same_bits_however_it_is_cut(isa: str):
    weights, sizes, projected, states = delta_case(150, 2, 4, 24, 40)
    conv, M = (s.copy() for s in states)
    whole = open_kernels(isa, 2).bind_delta(*weights, *sizes)(projected, conv, M)
    op, (conv2, M2), at = open_kernels(isa, 1).bind_delta(*weights, *sizes), (s.copy() for s in states), 0
    for num in (1, 1, 127, 3, 18):
        np.testing.assert_array_equal(op(projected[at : at + num], conv2, M2), whole[at : at + num])
        at += num
    np.testing.assert_array_equal(M, M2)
    np.testing.assert_array_equal(conv, conv2)


@pytest.mark.parametrize("isa", [*ISAS, "reference"])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("sizes", [(2, 4, 24, 40), (1, 3, 7, 5), (2, 4, 32, 128)], ids=str)
@pytest.mark.parametrize(("sure", "drafted", "kept"), DRAFTS, ids=str)
def test_delta_leaves_no_trace_of_drafted_rows_but_those_that_are_taken_in_later(
    isa: str, tiled: bool, sizes, sure: int, drafted: int, kept: int
):
    """Beside the same rows without drafts: outputs of all, and the states after each step, to the bit."""
    k, after = open_kernels(isa, 2), 3
    weights, sizes, projected, states = delta_case(sure + drafted + after, *sizes)
    op, C, values = k.bind_delta(*weights, *sizes, tiled_heads=tiled), len(weights[0]), sizes[1] * sizes[3]
    expected, found = (tuple(s.copy() for s in states) for _ in range(2))
    out = op(projected[: sure + drafted], *found, None, drafted)
    np.testing.assert_array_equal(out[:sure], op(projected[:sure], *expected))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    rows = projected[sure : sure + drafted]
    alone = [s.copy() for s in expected]
    singly = [op(rows[i : i + 1], *alone) for i in range(drafted)]
    np.testing.assert_array_equal(out[sure:], np.concatenate([out[:0], *singly]))
    taken = np.ascontiguousarray(np.concatenate((rows[:, :C], rows[:, C + values :]), axis=1)[:kept])
    for i in range(kept):
        op(rows[i : i + 1], *expected)
    last = projected[sure + drafted :]
    np.testing.assert_array_equal(op(last, *found, taken, 1), op(last, *expected, None, 1))
    op(last[:0], *found, taken[:0])  # nothing at all
    op(last[:0], *found, np.ascontiguousarray(np.concatenate((last[:, :C], last[:, C + values :]), axis=1))[-1:])
    op(last[-1:], *expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("isa", ISAS)
def test_delta_refuses_more_drafted_rows_than_it_has(isa: str):
    weights, sizes, projected, states = delta_case(MAX_DRAFTED + 1, 1, 1, 4, 4)
    op = open_kernels(isa).bind_delta(*weights, *sizes)
    for T, drafted in ((2, 3), (MAX_DRAFTED + 1, MAX_DRAFTED + 1), (2, -1)):
        with pytest.raises(ValueError, match="too many drafted rows"):
            op(projected[:T], *states, None, drafted)
    with pytest.raises(ValueError, match="wrong rows to take in"):
        op(projected[:1], *states, projected[:1], 0)
    assert MAX_DRAFTED == _native.MAX_DRAFTED


def pages(kv_type: str, num_segments: int, pages_each: int, Hkv: int, Dh: int):
    sizes = kv.page_bytes(kv_type, Dh)
    return [tuple(np.zeros((pages_each, Hkv, size), np.uint8) for size in sizes) for _ in range(num_segments)]


def attention_case(T: int, Hq: int, Hkv: int, Dh: int, half: int, seed: int = 0):
    projected = normal(T, (2 * Hq + 2 * Hkv) * Dh, seed=seed)
    angle = np.arange(T)[:, None] * 0.1 ** np.arange(half)[None]
    cos_sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return (normal(Dh, seed=8, scale=0.3), normal(Dh, seed=9, scale=0.3), 1e-6, Hq, Hkv, Dh, half), projected, cos_sin


@pytest.mark.parametrize("kv_type", kv.KV_TYPES)
def test_page_sizes_are_those_of_the_kernels(kv_type: str):
    for Dh in (5, 16, 64, 100, 256):
        assert kv.page_bytes(kv_type, Dh) == _native.kv_page_bytes(kv.KV_TYPES[kv_type], Dh)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_type", kv.KV_TYPES)
@pytest.mark.parametrize("sizes", [(6, 2, 24, 4), (8, 1, 64, 16), (3, 3, 10, 5), (13, 1, 256, 32)], ids=str)
def test_attention(isa: str, kv_type: str, sizes):
    T = 150
    args, projected, (cos, sin) = attention_case(T, *sizes)
    results = []
    for k in (open_kernels(isa, 2), TWIN):
        segments = pages(kv_type, 2, 2, sizes[1], sizes[2])
        op, out = k.bind_attention(*args, kv_type), []
        for a, b in ((0, 1), (1, 65), (65, 149), (149, 150)):
            out.append(op(projected[a:b], cos[a:b], sin[a:b], segments, a))
        results.append((np.concatenate(out), segments))
    (found, found_pages), (expected, expected_pages) = results
    # q8: queries in int8, whose error the twin does not have: 1/254 of the largest in a score, that of the weights in
    # the values bf16: a number at a tie may be rounded the other way
    bound = {"f32": (sizes[2] * 8 + T + 8) * U, "bf16": 2**-8, "q8": 0.03}[kv_type]
    assert np.abs(found - expected).max() <= bound * max(1, np.abs(expected).max())
    stored = [
        np.concatenate([kv.load(kv_type, *s, sizes[2])[i].swapaxes(1, 2).reshape(-1, sizes[1], sizes[2]) for s in p])[
            :T
        ]
        for p in (found_pages, expected_pages)
        for i in (0, 1)
    ]
    for k, v, which in ((0, 2, "keys"), (1, 3, "values")):
        # a rounding may fall the other way
        step = np.abs(stored[v]).max() * {"f32": 20 * U, "bf16": 2**-7, "q8": 1 / 127}[kv_type]
        assert np.abs(stored[k] - stored[v]).max() <= 1.01 * step, which


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_type", kv.KV_TYPES)
def test_attention_has_the_same_bits_however_it_is_cut(isa: str, kv_type: str):
    args, projected, (cos, sin) = attention_case(400, 10, 2, 40, 6)
    segments = pages(kv_type, 3, 3, 2, 40)
    whole = open_kernels(isa, 2).bind_attention(*args, kv_type)(projected, cos, sin, segments, 0)
    op, mine, at = open_kernels(isa, 1).bind_attention(*args, kv_type), pages(kv_type, 3, 3, 2, 40), 0
    for num in (1, 62, 1, 1, 130, 190, 15):
        rows = slice(at, at + num)
        np.testing.assert_array_equal(op(projected[rows], cos[rows], sin[rows], mine, at), whole[rows])
        at += num
    for a, b in zip(segments, mine, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("isa", [*ISAS, "reference"])
@pytest.mark.parametrize("kv_type", kv.KV_TYPES)
def test_keys_and_values_stored_alone_are_those_that_attention_stores(isa: str, kv_type: str):
    args, projected, (cos, sin) = attention_case(300, 6, 2, 24, 4)
    k, expected, mine = open_kernels(isa, 2), pages(kv_type, 2, 3, 2, 24), pages(kv_type, 2, 3, 2, 24)
    op = k.bind_attention(*args, kv_type)
    op(projected, cos, sin, expected, 0)
    for a, b in ((0, 1), (1, 60), (60, 200), (200, 300)):
        op.store(projected[a:b, -4 * 24 :], cos[a:b], sin[a:b], mine, a)
    for one, other in zip(expected, mine, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_type", kv.KV_TYPES)
def test_attention_ignores_what_follows_its_tokens(isa: str, kv_type: str):
    args, projected, (cos, sin) = attention_case(70, 4, 2, 32, 8)
    results = []
    for fill in (0, 77):
        segments = pages(kv_type, 1, 2, 2, 32)
        for part in segments[0]:
            part[...] = fill if kv_type == "q8" else 0
            if fill and kv_type != "q8":
                part.view(np.float32)[...] = 1e30
        op = open_kernels(isa, 1).bind_attention(*args, kv_type)
        parts = [op(projected[a:b], cos[a:b], sin[a:b], segments, a) for a, b in ((0, 69), (69, 70))]
        results.append(np.concatenate(parts))
    np.testing.assert_array_equal(*results)


def moe_weights(form: str, E: int, D: int, F: int, Fs: int) -> MoeMatrices:
    router, gate = normal(E, D, seed=1), normal(1, D, seed=2)
    if form in ("f32", "bf16"):
        parts = [
            normal(*shape, seed=3 + i, scale=0.1)
            for i, shape in enumerate(((E, 2 * F, D), (E, D, F), (2 * Fs, D), (D, Fs)))
        ]
        return MoeMatrices(router, gate, *(bf16(p) if form == "bf16" else p for p in parts))
    format = FORMATS[form]
    gate_up = tuple(random_tiles(format, E, F, D, seed=s, spread=0.01) for s in (1, 2))
    shared = tuple(random_tiles(format, Fs, D, seed=s, spread=0.01) for s in (4, 5))
    down, shared_down = (
        random_tiles(format, E, D, F, seed=3, spread=0.01),
        random_tiles(format, D, Fs, seed=6, spread=0.01),
    )
    return MoeMatrices(router, gate, gate_up, down, shared, shared_down)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["f32", "bf16", *FORMATS])
def test_moe(isa: str, form: str):
    whole = 256 if form in FORMATS and FORMATS[form].is_super else 64
    E, K, D, F, Fs = 7, 3, (256 if whole == 256 else 192), whole, 2 * whole
    weights, norm = moe_weights(form, E, D, F, Fs), normal(D, scale=0.1, seed=9)
    op, twin = (k.bind_moe(weights, norm, 1e-6, E, K, D, F, Fs) for k in (open_kernels(isa, 2), TWIN))
    for T in (1, 5, 80):
        h = normal(T, D, seed=T)
        found, expected = h.copy(), h.copy()
        op(found)
        twin(expected)
        # The hidden activations are rounded to int8 behind exp(): a float's last bit may move one of them by a step.
        bound = (2 * D + F + K + 40) * U * 4 if form in ("f32", "bf16") else 2e-3
        assert np.abs(found - expected).max() <= bound * np.abs(expected - h).max()
        assert np.abs(expected - h).max() > 0.05


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["bf16", "w4m64", "w6k16"])
def test_moe_has_the_same_bits_in_any_company(isa: str, form: str):
    E, K, D, F, Fs = 7, 3, 256, 256, 256
    weights, norm = moe_weights(form, E, D, F, Fs), normal(D, scale=0.1, seed=9)
    whole = normal(140, D)
    alone = [whole[rows].copy() for rows in (slice(0, 1), slice(5, 75), slice(139, 140))]
    open_kernels(isa, 2).bind_moe(weights, norm, 1e-6, E, K, D, F, Fs)(whole)
    op = open_kernels(isa, 1).bind_moe(weights, norm, 1e-6, E, K, D, F, Fs)
    for part, rows in zip(alone, (slice(0, 1), slice(5, 75), slice(139, 140)), strict=True):
        op(part)
        np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["f32", "bf16", "w4m64", "w6k16", "w8s32"])
def test_mlp(isa: str, form: str):
    D, F = 256, 512
    w, norm = moe_weights(form, 1, D, 256, F), normal(D, scale=0.1, seed=9)
    kernels = (open_kernels(isa, 2), open_kernels(isa, 1), TWIN)
    op, alone, twin = (k.bind_mlp(w.shared_gate_up, w.shared_down, norm, 1e-6, D, F) for k in kernels)
    h = normal(80, D)
    found, expected, one = h.copy(), h.copy(), h[70:71].copy()
    op(found)
    twin(expected)
    alone(one)
    np.testing.assert_array_equal(one, found[70:71])
    bound = (2 * D + F + 40) * U * 4 if form in ("f32", "bf16") else 2e-3  # as for the experts
    assert np.abs(found - expected).max() <= bound * np.abs(expected - h).max() and np.abs(expected - h).max() > 0.05


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("down", "F", "Fs"), [("w4m64", 64, 128), ("w6k16", 512, 320), ("w4k32", 768, 96)])
def test_moe_takes_matrices_in_different_formats(isa: str, down: str, F: int, Fs: int):
    """As in files whose quantiser gave some matrices more bits. Hidden columns share a scale by 64, 256, 32 in one
    op."""
    E, K, D = 7, 3, 256
    gate, up, down = (
        random_tiles(FORMATS[f], *shape, seed=s, spread=0.01)
        for s, (f, shape) in enumerate((("w4k32", (E, F, D)), ("w6k16", (E, F, D)), (down, (E, D, F))))
    )
    shared = (
        random_tiles(FORMATS["w4m64"], Fs, D, seed=4, spread=0.01),
        random_tiles(FORMATS["w8s32"], Fs, D, seed=5, spread=0.01),
    )
    w = MoeMatrices(
        normal(E, D, seed=1),
        normal(1, D, seed=2),
        (gate, up),
        down,
        shared,
        random_tiles(FORMATS["w8s32"], D, Fs, seed=6),
    )
    norm = normal(D, scale=0.1, seed=9)
    op, twin = (k.bind_moe(w, norm, 1e-6, E, K, D, F, Fs) for k in (open_kernels(isa, 2), TWIN))
    mlp, mlp_twin = (k.bind_mlp(shared, w.shared_down, norm, 1e-6, D, Fs) for k in (open_kernels(isa, 2), TWIN))
    for first, second in ((op, twin), (mlp, mlp_twin)):
        h = normal(9, D)
        found, expected = h.copy(), h.copy()
        first(found)
        second(expected)
        assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected - h).max()


@pytest.mark.parametrize("num", [0, -1, 10**9])
def test_an_impossible_number_of_threads_is_refused(num: int):
    with pytest.raises(UsageError, match=f"threads: {num}; expected 1 to"):
        open_kernels(None, num)


@pytest.mark.parametrize("isa", ISAS)
def test_moe_takes_the_lower_id_among_equal_experts(isa: str):
    E, K, D, F, Fs = 6, 2, 64, 64, 64
    w = moe_weights("f32", E, D, F, Fs)
    # logits equal in every bit, also those that BLAS adds in another order for the twin
    nothing = np.zeros_like(w.router)
    equal = MoeMatrices(nothing, w.shared_expert_gate, w.gate_up, w.down, w.shared_gate_up, w.shared_down)
    h, expected = normal(3, D), normal(3, D)
    open_kernels(isa).bind_moe(equal, normal(D, scale=0.1), 1e-6, E, K, D, F, Fs)(h)
    TWIN.bind_moe(equal, normal(D, scale=0.1), 1e-6, E, K, D, F, Fs)(expected)
    np.testing.assert_allclose(h, expected, atol=1e-4)


def test_an_instruction_set_this_machine_lacks_is_refused_by_name():
    with pytest.raises(UsageError, match="instruction set 'avx1024' is not available here; this machine runs .*scalar"):
        open_kernels("avx1024")


def test_a_weight_of_the_wrong_shape_is_refused_by_name():
    k = open_kernels()
    with pytest.raises(TensorError, match=r"lm_head: found shape \[5, 4\]; expected \[5, 3\]"):
        k.bind_linear([("lm_head", normal(5, 4))], 3)
    with pytest.raises(TensorError, match="A_log: found float64"):
        weights, sizes, *_ = delta_case(1, 1, 1, 4, 4)
        k.bind_delta(weights[0], weights[1].astype(np.float64), *weights[2:], *sizes)
    with pytest.raises(UsageError, match="kv: 'q3'; expected one of f32, q8, bf16"):
        k.bind_attention(normal(8), normal(8), 1e-6, 2, 1, 8, 2, "q3")
