"""The small steps of which the twins are made: one contract each, checked once when weights are bound.

`bind_<op>(weights, sizes)` checks every shape and dtype and returns the op: a callable that trusts its
arguments, so that a call costs what its arithmetic costs. What a caller passes in a call is what the model made
itself from checked token ids. Ops without weights or sizes are plain functions.

Arithmetic is float32. Vectors are contiguous float32 arrays. A matrix [out, in] is a float32 array or a mapped one:
an object with `name`, `shape`, `f32_rows(start, stop)` and, for experts [E, out, in], `f32_expert(e)`, decoded at
each use.
Accuracy: u = 2^-24; "n·u" bounds the error relative to the sum of the magnitudes that were added.
Order: a result depends on the token's own row, its state and its position, never on the other rows of the call.
Where BLAS picks the order of a sum (products with a weight, scores, q·M) that holds within the stated bound; all
other sums here have one order.
Errors: bind raises TensorError (name, found, expected); calls raise nothing of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from a3b.errors import TensorError
from a3b.kernels import Matrix, Op, checked_floats, checked_matrix
from a3b.kernels.kv import PAGE_LEN
from a3b.kernels.ref import activation
from a3b.kernels.ref.causal_conv import CausalConv
from a3b.kernels.ref.delta_rule import DeltaRule
from a3b.kernels.ref.linear import FloatEmbed, FloatLinear
from a3b.kernels.ref.moe import FloatExperts
from a3b.kernels.ref.norm import GatedRmsNorm, RmsNorm
from a3b.kernels.ref.paged_attention import PagedAttention
from a3b.kernels.ref.rope_apply import rope_apply as _rope_apply
from a3b.kernels.ref.route import route as _route


def bind_embed(table: Matrix, V: int, D: int) -> Op:
    """ids int [T], each in [0, V) -> float32 [T, D]: rows of the table. Exact."""
    return FloatEmbed(checked_matrix("embed", table, (V, D)))


def bind_rms_norm(weight: np.ndarray, eps: float, name: str = "rms_norm") -> Op:
    """x float32 [..., n] -> x·rsqrt(mean(x²) + eps)·(1 + weight) over the last axis.

    weight float32 [n] or [..., n] (one row per head), stored around 0. Accuracy: (n/2 + 6)·u per element.
    Source: Qwen3_5MoeRMSNorm in transformers.
    """
    weight = checked_floats(name, weight, (*np.shape(weight)[:-1], np.shape(weight)[-1]))
    return RmsNorm(1.0 + weight.astype(np.float64), eps)


def bind_gated_rms_norm(weight: np.ndarray, eps: float, Dv: int) -> Op:
    """x, z float32 [T, Hv, Dv] -> weight·x·rsqrt(mean(x²) + eps)·silu(z) over the last axis.

    weight float32 [Dv], stored around 1: no 1 is added. Accuracy: (Dv/2 + 10)·u per element.
    Source: Qwen3_5MoeRMSNormGated in transformers, without its rounding in the middle.
    """
    return GatedRmsNorm(checked_floats("gated_rms_norm", weight, (Dv,)), eps)


def bind_linear(weights: Sequence[tuple[str, Matrix]], num_in: int) -> Op:
    """x float32 [T, in] -> [T, sum of out]: x·Wᵀ for each named W [out, in], results side by side.

    Float32 matrices are joined once, mapped ones decoded in row blocks per call. Accuracy: in·u.
    """
    return FloatLinear([checked_matrix(name, w, (w.shape[0], num_in)) for name, w in weights])


def bind_lm_head(weight: Matrix, V: int, D: int) -> Op:
    """x float32 [T, D] (after the final norm) -> logits float32 [T, V]. Accuracy: D·u."""
    return FloatLinear([checked_matrix("lm_head", weight, (V, D))])


def bind_causal_conv(weight: np.ndarray, num_channels: int, conv_len: int) -> Op:
    """x float32 [T, C], state float32 [conv_len - 1, C] -> silu(c) [T, C]; the state is advanced in place.

    c_t = Σ_j weight[:, j]·x_(t - conv_len + 1 + j), j ascending: depthwise, the last tap meets the current token. State
    rows are the latest inputs, oldest first; zeros at the start. weight float32 [C, conv_len].
    Accuracy: (conv_len + 4)·u; the same bits however T is cut. Source: spec of the model's linear attention,
    causal_conv1d_fn in transformers.
    """
    return CausalConv(checked_floats("conv1d", weight, (num_channels, conv_len)))


def bind_delta_rule(A_log: np.ndarray, dt_bias: np.ndarray, Hk: int, Hv: int, Dk: int, Dv: int) -> Op:
    """Gated delta rule, token by token: mixed, ba, state -> float32 [T, Hv, Dv]; the state is advanced in place.

    mixed float32 [T, Hk·Dk q | Hk·Dk k | Hv·Dv v] (after the convolution), ba float32 [T, Hv b | Hv a] (raw
    projections), state float32 [Hv, Dk, Dv], C-contiguous. A_log, dt_bias float32 [Hv].
    q, k ← u·rsqrt(Σu² + 1e-6) per head, q also ·Dk^-0.5; β = sigmoid(b); decay = exp(-e^A_log·softplus(a + dt_bias)).
    Value head h uses key head h // (Hv / Hk). Per token, in this order:
    M ← decay·M;  δ = β(v - Mᵀk);  M ← M + kδᵀ;  o = Mᵀq.
    Accuracy: one token (2·Dk + 20)·u of the magnitudes in M and v; errors of earlier tokens fade with the decay.
    Source: torch_recurrent_gated_delta_rule in transformers; Yang et al., "Gated Delta Networks", 2024.
    """
    if Hv % Hk:
        raise TensorError(f"delta_rule: {Hv} value heads over {Hk} key heads; expected a multiple")
    return DeltaRule(checked_floats("A_log", A_log, (Hv,)), checked_floats("dt_bias", dt_bias, (Hv,)), Hk, Dk, Dv)


def rope_apply(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
    """Turn the first 2·half numbers of every head in place: x float32 [T, H, Dh], cos and sin float32 [T, half].

    Pairs are (i, i + half): x_i ← x_i·cos - x_(i+half)·sin, x_(i+half) ← x_(i+half)·cos + x_i·sin. The rest of the
    head is left alone. Accuracy: 3u. Source: apply_rotary_pos_emb in transformers (rotate_half).
    """
    _rope_apply(x, cos, sin)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), elementwise: float32 of any shape -> a new array. Accuracy: 4u; for x < -88 it stays at e^-88."""
    return activation.sigmoid(x)


def swiglu(hidden: np.ndarray) -> np.ndarray:
    """silu(gate)·up: hidden float32 [..., F gate | F up] -> a new array [..., F]. Accuracy: 6u.

    Source: Shazeer, "GLU variants improve transformer", 2020.
    """
    return activation.swiglu(hidden)


def bind_paged_attention(Hq: int, Hkv: int, Dh: int) -> Op:
    """Causal attention over stored pages: q, segments, start -> float32 [T, Hq·Dh].

    q float32 [T, Hq, Dh] at positions start .. start + T - 1. segments: consecutive (keys, values), each float32
    [pages, Hkv, 64, Dh], page p of the sequence holding positions 64p .. 64p + 63, those of the queries included;
    unwritten positions must be finite. Query heads G·j .. G·j + G - 1 share KV head j, G = Hq / Hkv.
    out = softmax(q·kᵀ·Dh^-0.5)·v over keys at positions <= the query's. Pages are absolute, so a query meets the same
    pages however the prompt was cut. A page gives maximum, sum and weighted values; these are combined from page 0
    upward (online softmax; the twin rescales once per segment, with the maximum of the segment).
    Accuracy: (Dh·max|score| + S + 8)·u. Source: Milakov and Gimelshein, "Online normalizer calculation", 2018.
    """
    if Hq % Hkv:
        raise TensorError(f"paged_attention: {Hq} query heads over {Hkv} KV heads; expected a multiple")
    return PagedAttention(Hq, Hkv, Dh, PAGE_LEN)


def route(logits: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
    """The K best experts per token: logits float32 [T, E] -> ids int64 [T, K], weights float32 [T, K] (sum 1).

    Best first; equal logits: lower id first. weights = softmax over all E, renormalised over the chosen, which is the
    softmax of the chosen logits. Accuracy: (K + 4)·u. Source: Qwen3_5MoeTopKRouter in transformers.
    """
    return _route(logits, K)


def bind_moe(gate_up: Matrix, down: Matrix, E: int, D: int, F: int) -> Op:
    """x float32 [T, D], ids int [T, K], weights float32 [T, K] -> float32 [T, D].

    Σ over the chosen of weight·down_e(silu(gate_e x)·(up_e x)), in the order of a row's ids. gate_up [E, 2F, D] holds
    the rows of gate first; down [E, D, F]. Accuracy: (2D + F + K + 12)·u. Source: Qwen3_5MoeExperts in transformers.
    """
    return FloatExperts(checked_matrix("gate_up", gate_up, (E, 2 * F, D)), checked_matrix("down", down, (E, D, F)))
