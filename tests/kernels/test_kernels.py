"""Every small step of the twins does what its contract says, against plain formulas in float64 and within the bound it
states.

u = 2^-24. A bound "n·u" is of the sum of magnitudes, computed here by the same formula over absolute values.
"""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import TensorError
from a3b.kernels.ref import ops as kernels
from a3b.kernels.ref.activation import silu
from a3b.kernels.threads import set_blas_threads

U = 2.0**-24
EPS = 1e-6


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (rng(seed).standard_normal(shape) * scale).astype(np.float32)


def wide(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64)


class MappedStandIn:
    """A matrix in the form that stays in its file, with decoding counted."""

    def __init__(self, array: np.ndarray):
        self.name, self.shape, self._array = "mapped", array.shape, array
        self.most_rows = 0

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        self.most_rows = max(self.most_rows, stop - start)
        return self._array[start:stop].copy()

    def f32_expert(self, e: int) -> np.ndarray:
        return self._array[e].copy()


# activations


def test_sigmoid_and_silu_are_quiet_and_right_at_any_input():
    x = np.array([-1e30, -200.0, -88.5, -3.0, -1e-8, 0.0, 2.0, 90.0, 1e30], np.float32)
    exact = 1 / (1 + np.exp(np.clip(-wide(x), None, 700)))
    np.testing.assert_allclose(kernels.sigmoid(x), exact, rtol=4 * U, atol=1e-37)
    np.testing.assert_allclose(silu(x[1:]), (wide(x) * exact)[1:], rtol=8 * U, atol=1e-35)


def test_swiglu_gates_the_second_half_by_the_first():
    hidden = normal(3, 10)
    gate, up = wide(hidden[:, :5]), wide(hidden[:, 5:])
    np.testing.assert_allclose(kernels.swiglu(hidden), gate / (1 + np.exp(-gate)) * up, rtol=8 * U, atol=1e-12)


# embed, linear, lm_head


def test_embed_returns_rows_bit_for_bit_from_either_kind_of_table():
    table, ids = normal(13, 5), np.array([12, 0, 7, 7])
    for source in (table, MappedStandIn(table)):
        np.testing.assert_array_equal(kernels.bind_embed(source, 13, 5)(ids), table[ids])


@pytest.mark.parametrize("num_rows", [1, 2, 37])
@pytest.mark.parametrize("kind", [lambda w: w, MappedStandIn], ids=["float32", "mapped"])
def test_linear_puts_the_products_of_its_weights_side_by_side(kind, num_rows: int):
    x, a, b = normal(num_rows, 19), normal(2500, 19, seed=1), normal(3, 19, seed=2)
    y = kernels.bind_linear([("a", kind(a)), ("b", kind(b))], 19)(x)
    joined = np.concatenate((a, b))
    bound = 19 * U * (np.abs(wide(x)) @ np.abs(wide(joined)).T)
    assert y.shape == (num_rows, 2503) and y.dtype == np.float32
    assert (np.abs(y - wide(x) @ wide(joined).T) <= bound).all()


def test_a_mapped_matrix_is_never_decoded_whole():
    weight = MappedStandIn(normal(5000, 4))
    kernels.bind_lm_head(weight, 5000, 4)(normal(2, 4))
    assert 0 < weight.most_rows <= 128


# norms


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_rms_norm_is_centred_on_one(size: float):
    x, weight = normal(4, 3, 23, scale=size), normal(3, 23, seed=1, scale=0.5)
    exact = wide(x) / np.sqrt((wide(x) ** 2).mean(-1, keepdims=True) + EPS) * (1 + wide(weight))
    np.testing.assert_allclose(kernels.bind_rms_norm(weight, EPS)(x), exact, rtol=(23 / 2 + 6) * U)


def test_gated_rms_norm_has_a_plain_weight_and_gates_after_the_norm():
    x, z, weight = normal(5, 3, 11), normal(5, 3, 11, seed=1, scale=3), 1 + normal(11, seed=2, scale=0.3)
    exact = wide(weight) * wide(x) / np.sqrt((wide(x) ** 2).mean(-1, keepdims=True) + EPS)
    exact *= wide(z) / (1 + np.exp(-wide(z)))
    np.testing.assert_allclose(kernels.bind_gated_rms_norm(weight, EPS, 11)(x, z), exact, rtol=(11 / 2 + 10) * U)


# causal_conv


def conv_by_hand(x: np.ndarray, weight: np.ndarray, before: np.ndarray) -> np.ndarray:
    padded = np.concatenate((wide(before), wide(x)))
    taps = weight.shape[1]
    c = np.array([sum(wide(weight)[:, j] * padded[t + j] for j in range(taps)) for t in range(len(x))])
    return c / (1 + np.exp(-c))


@pytest.mark.parametrize("T", [1, 2, 3, 9])
def test_causal_conv_looks_back_over_its_state(T: int):
    x, weight, state = normal(T, 7), normal(7, 4, seed=1), normal(3, 7, seed=2)
    exact, after = conv_by_hand(x, weight, state), np.concatenate((state, x))[-3:]
    y = kernels.bind_causal_conv(weight, 7, 4)(x, state)
    np.testing.assert_allclose(y, exact, atol=8 * U * 10)  # magnitudes of four products of normals stay below 10
    np.testing.assert_array_equal(state, after)


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [11, 1], [2, 1, 9]])
def test_causal_conv_gives_the_same_bits_however_it_is_cut(cuts: list[int]):
    x, conv = normal(12, 7), kernels.bind_causal_conv(normal(7, 4, seed=1), 7, 4)
    whole_state, state = np.zeros((3, 7), np.float32), np.zeros((3, 7), np.float32)
    whole = conv(x, whole_state)
    pieces = np.concatenate([conv(piece, state) for piece in np.split(x, np.cumsum(cuts)[:-1])])
    np.testing.assert_array_equal(pieces, whole)
    np.testing.assert_array_equal(state, whole_state)


# delta_rule


def delta_by_hand(mixed, ba, state, A_log, dt_bias, Hk, Dk):
    """The recurrence with one loop per token and head, float64; returns outputs and the final state."""
    Hv, _, Dv = state.shape
    M, outs = wide(state).copy(), []
    for row, gate in zip(wide(mixed), wide(ba), strict=True):
        q, k = row[: Hk * Dk].reshape(Hk, Dk), row[Hk * Dk : 2 * Hk * Dk].reshape(Hk, Dk)
        v, o = row[2 * Hk * Dk :].reshape(Hv, Dv), np.empty((Hv, Dv))
        for h in range(Hv):
            j = h // (Hv // Hk)
            q_h = q[j] / np.sqrt((q[j] ** 2).sum() + 1e-6) * Dk**-0.5
            k_h = k[j] / np.sqrt((k[j] ** 2).sum() + 1e-6)
            beta = 1 / (1 + np.exp(-gate[h]))
            M[h] *= np.exp(-np.exp(A_log[h]) * np.log1p(np.exp(gate[Hv + h] + dt_bias[h])))
            M[h] += np.outer(k_h, beta * (v[h] - M[h].T @ k_h))
            o[h] = M[h].T @ q_h
        outs.append(o)
    return np.array(outs), M


@pytest.mark.parametrize(("Hk", "Hv"), [(3, 3), (2, 4), (2, 6)])
def test_delta_rule_follows_the_recurrence_head_by_head(Hk: int, Hv: int):
    T, Dk, Dv = 40, 5, 9
    mixed, ba = normal(T, 2 * Hk * Dk + Hv * Dv, seed=1), normal(T, 2 * Hv, seed=2)
    A_log, dt_bias, state = normal(Hv, seed=3), normal(Hv, seed=4), normal(Hv, Dk, Dv, seed=5)
    exact, after = delta_by_hand(mixed, ba, state, A_log, dt_bias, Hk, Dk)
    y = kernels.bind_delta_rule(A_log, dt_bias, Hk, Hv, Dk, Dv)(mixed, ba, state)
    # A step adds at most (2·Dk + 20)·u of the magnitudes in M and v; nothing amplifies it, as |decay| and |I - βkkᵀ|
    # are at most 1, so T steps add T times that.
    bound = T * (2 * Dk + 20) * U * (np.abs(after).max() + np.abs(mixed).max())
    assert y.shape == (T, Hv, Dv)
    assert np.abs(y - exact).max() <= bound and np.abs(state - after).max() <= bound


@pytest.mark.parametrize("cuts", [[1] * 9, [4, 5], [8, 1]])
def test_delta_rule_agrees_with_itself_however_it_is_cut(cuts: list[int]):
    Hk, Hv, Dk, Dv = 2, 4, 6, 5
    mixed, ba = normal(9, 2 * Hk * Dk + Hv * Dv, seed=1), normal(9, 2 * Hv, seed=2)
    op = kernels.bind_delta_rule(normal(Hv, seed=3), normal(Hv, seed=4), Hk, Hv, Dk, Dv)
    whole_state, state = (np.zeros((Hv, Dk, Dv), np.float32) for _ in range(2))
    whole, at = op(mixed, ba, whole_state), np.cumsum(cuts)[:-1]
    pieces = np.concatenate([op(m, g, state) for m, g in zip(np.split(mixed, at), np.split(ba, at), strict=True)])
    np.testing.assert_allclose(pieces, whole, atol=9 * (2 * Dk + 20) * U * np.abs(mixed).max())
    np.testing.assert_allclose(state, whole_state, atol=9 * (2 * Dk + 20) * U * np.abs(mixed).max())


def test_delta_rule_adds_a_millionth_to_the_squares_of_queries_and_keys():
    """As transformers' l2norm does: a vector whose squares sum to 1e-6 becomes one of length √½, not 1."""
    rule = kernels.bind_delta_rule(np.zeros(1, np.float32), np.zeros(1, np.float32), 1, 1, 4, 3)
    qk = np.zeros((1, 2, 4), np.float32)
    qk[0, 0, 1], qk[0, 1, 2] = 1e-3, -1e-3
    unit = rule.unit_qk(qk)
    np.testing.assert_allclose(unit[0, 0, 1], 0.5**0.5 / 2, rtol=1e-5)  # queries also by Dk^-0.5
    np.testing.assert_allclose(unit[0, 1, 2], -(0.5**0.5), rtol=1e-5)


def test_delta_rule_is_quiet_with_gates_wide_open_or_shut():
    ba = np.array([[-200.0, 200.0], [200.0, -200.0]], np.float32)
    op = kernels.bind_delta_rule(np.zeros(1, np.float32), np.zeros(1, np.float32), 1, 1, 2, 3)
    state = np.ones((1, 2, 3), np.float32)
    out = op(normal(2, 7), ba, state)
    assert np.isfinite(out).all() and np.isfinite(state).all()
    np.testing.assert_array_equal(out[0], 0)  # everything forgotten, nothing written


# paged_attention


def pages_of(rows: np.ndarray, pages_per_segment: int) -> list[np.ndarray]:
    """[S, H, Dh] -> segments [pages, H, 64, Dh]; what is not written is a large finite number."""
    size = 64 * pages_per_segment
    num = -(-len(rows) // size) * size
    padded = np.full((num, *rows.shape[1:]), 1e3, np.float32)
    padded[: len(rows)] = rows
    segments = padded.reshape(-1, pages_per_segment, 64, *rows.shape[1:])
    return [np.ascontiguousarray(s.swapaxes(1, 2)) for s in segments]


def attend_by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int) -> np.ndarray:
    T, Hq, Dh = q.shape
    G, out = Hq // k.shape[1], np.empty((T, Hq, Dh))
    for t in range(T):
        for h in range(Hq):
            scores = wide(k)[: start + t + 1, h // G] @ wide(q)[t, h] * Dh**-0.5
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ wide(v)[: start + t + 1, h // G] / weights.sum()
    return out.reshape(T, Hq * Dh)


@pytest.mark.parametrize(
    ("start", "T"), [(0, 1), (62, 1), (63, 1), (64, 1), (300, 1), (0, 65), (0, 200), (59, 70), (255, 3)]
)
def test_attention_sees_the_past_and_nothing_else(start: int, T: int):
    Hq, Hkv, Dh, S = 6, 2, 12, start + T
    q, k, v = normal(T, Hq, Dh), normal(S, Hkv, Dh, seed=1, scale=2), normal(S, Hkv, Dh, seed=2)
    segments = list(zip(pages_of(k, 2), pages_of(v, 2), strict=True))
    out = kernels.bind_paged_attention(Hq, Hkv, Dh)(q, segments, start)
    top = np.abs(np.einsum("thd,shd->ths", wide(q), np.repeat(wide(k), 3, axis=1)) * Dh**-0.5).max()
    assert np.abs(out - attend_by_hand(q, k, v, start)).max() <= (Dh * top + S + 8) * U * np.abs(v).max()


def test_attention_of_a_query_does_not_depend_on_its_neighbours():
    Hq, Hkv, Dh, S = 4, 1, 8, 200
    q, k, v = normal(S, Hq, Dh), normal(S, Hkv, Dh, seed=1), normal(S, Hkv, Dh, seed=2)
    segments, op = list(zip(pages_of(k, 2), pages_of(v, 2), strict=True)), kernels.bind_paged_attention(Hq, Hkv, Dh)
    whole = op(q, segments, 0)
    alone = np.concatenate([op(q[t : t + 1], segments, t) for t in range(S)])
    np.testing.assert_allclose(alone, whole, atol=2 * (Dh * 4 + S + 8) * U * np.abs(v).max())


def test_attention_survives_scores_that_overflow_a_plain_exponential():
    q = np.full((1, 1, 4), 50, np.float32)
    k = np.linspace(-50, 50, 130, dtype=np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32)
    v = normal(130, 1, 4)
    out = kernels.bind_paged_attention(1, 1, 4)(q, list(zip(pages_of(k, 3), pages_of(v, 3), strict=True)), 129)
    np.testing.assert_allclose(out[0], v[-1, 0], rtol=1e-5)


# route, moe


def test_route_takes_the_best_first_and_the_lower_id_among_equals():
    logits = np.array([[1, 3, 3, 2, 3], [0, 0, 0, 0, 0], [-5, -9, 4, -1, 4]], np.float32)
    ids, weights = kernels.route(logits, 3)
    np.testing.assert_array_equal(ids, [[1, 2, 4], [0, 1, 2], [2, 4, 3]])
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=4 * U)
    np.testing.assert_array_equal(weights[0], np.float32(1 / 3))


def test_route_weights_are_the_softmax_over_all_renormalised():
    logits = normal(50, 11, scale=4)
    ids, weights = kernels.route(logits, 4)
    probabilities = np.exp(wide(logits)) / np.exp(wide(logits)).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, ids, -1)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=-1, kind="stable")[:, :4])
    # exp of a rounded difference: its argument, at most 40 here, is off by u of itself
    np.testing.assert_allclose(weights, chosen / chosen.sum(-1, keepdims=True), rtol=(40 + 8) * U)


def test_route_is_quiet_at_any_size_of_logits():
    ids, weights = kernels.route(np.array([[2e3, -3e38, 1e3, 2e3], [-1e3, -3e38, -2e3, -1e3]], np.float32), 3)
    np.testing.assert_array_equal(ids, [[0, 3, 2]] * 2)
    np.testing.assert_array_equal(weights, [[0.5, 0.5, 0]] * 2)


@pytest.mark.parametrize("T", [1, 2, 50])
@pytest.mark.parametrize("kind", [lambda w: w, MappedStandIn], ids=["float32", "mapped"])
def test_moe_sums_the_chosen_experts(kind, T: int):
    E, D, F, K = 7, 10, 6, 3
    x, gate_up, down = normal(T, D), normal(E, 2 * F, D, seed=1), normal(E, D, F, seed=2)
    ids, weights = kernels.route(normal(T, E, seed=3), K)
    exact, size = np.zeros((T, D)), np.zeros((T, D))
    for t in range(T):
        for e, w in zip(ids[t], wide(weights[t]), strict=True):
            hidden = wide(gate_up)[e] @ wide(x)[t]
            reach = np.abs(wide(gate_up)[e]) @ np.abs(wide(x)[t])  # sums of magnitudes in front of the activation
            gate, up = hidden[:F], hidden[F:]
            exact[t] += w * (wide(down)[e] @ (gate / (1 + np.exp(-gate)) * up))
            size[t] += w * (np.abs(wide(down)[e]) @ (reach[:F] * reach[F:]))
    y = kernels.bind_moe(kind(gate_up), kind(down), E, D, F)(x, ids, weights)
    # silu has a slope of at most 1.1 and |silu(g)| <= |g|, so errors of gate and up add up to 2.1·D·u of `size`
    assert (np.abs(y - exact) <= (2.1 * D + F + K + 12) * U * size).all()


def test_moe_adds_in_the_order_of_the_ids_of_a_row():
    """1e8 + 1 - 1e8 is 0 in float32, 1e8 - 1e8 + 1 is 1: the order shows in the result."""
    gate_up = np.ones((3, 2, 1), np.float32)
    down = np.array([1e8, 1.0, -1e8], np.float32).reshape(3, 1, 1)
    op, one = kernels.bind_moe(gate_up, down, 3, 1, 1), np.float32(1 / (1 + np.exp(-1.0)))
    for T in (1, 4):
        x, weights = np.ones((T, 1), np.float32), np.full((T, 3), 1 / one, np.float32)
        first = op(x, np.array([[0, 1, 2]] * T), weights)
        second = op(x, np.array([[0, 2, 1]] * T), weights)
        assert (first == 0).all() and np.allclose(second, 1)


# what bind refuses


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        (lambda: kernels.bind_embed(normal(5, 4), 5, 3), r"embed: found shape \[5, 4\]; expected \[5, 3\]"),
        (lambda: kernels.bind_lm_head(normal(5, 4).astype(np.float64), 5, 4), "lm_head: found float64"),
        (lambda: kernels.bind_linear([("in_proj_z", normal(5, 4))], 3), r"in_proj_z: .* expected \[5, 3\]"),
        (lambda: kernels.bind_gated_rms_norm(normal(4), EPS, 5), r"gated_rms_norm: found float32 \[4\]; expected"),
        (lambda: kernels.bind_rms_norm(normal(4).astype(np.float16), EPS, "norm"), "norm: found float16"),
        (lambda: kernels.bind_causal_conv(normal(6, 3), 6, 4), "conv1d: .* expected float32 \\[6, 4\\]"),
        (lambda: kernels.bind_delta_rule(normal(3), normal(4), 2, 4, 5, 5), "A_log"),
        (lambda: kernels.bind_delta_rule(normal(3), normal(3), 2, 3, 5, 5), "3 value heads over 2 key heads"),
        (lambda: kernels.bind_paged_attention(5, 2, 8), "5 query heads over 2 KV heads"),
        (lambda: kernels.bind_moe(normal(3, 8, 5), normal(3, 5, 3), 3, 5, 4), "down: found shape"),
        (lambda: kernels.bind_moe(normal(3, 5, 8), normal(3, 5, 4), 3, 5, 4), "gate_up: found shape"),
    ],
)
def test_bind_refuses_a_wrong_weight_by_name(bind, message: str):
    with pytest.raises(TensorError, match=message):
        bind()


# threads


def test_blas_threads_can_be_limited_without_changing_a_product_much():
    """What the machine has decides whether a BLAS is found; either way the call is harmless."""
    x, y = normal(60, 70), normal(70, 50, seed=1)
    before = x @ y
    assert set_blas_threads(1) in (True, False)
    assert np.abs(x @ y - before).max() <= 2 * 70 * U * (np.abs(x) @ np.abs(y)).max()
