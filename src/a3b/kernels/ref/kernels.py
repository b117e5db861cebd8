"""The NumPy twins of all ops, composed of the small steps of `ops`: slow, obvious, the reference for every kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from a3b.formats.tiles import Tiles
from a3b.kernels import (
    AttentionOp,
    DeltaOp,
    EmbedOp,
    GateUp,
    InPlaceOp,
    Kernels,
    LinearOp,
    Matrix,
    MoeMatrices,
    Op,
    Segments,
    kv,
)
from a3b.kernels.ref import ops
from a3b.kernels.ref.quant_linear import QuantLinear


class Reference(Kernels):
    """Float weights go through BLAS, mapped ones are decoded at each use, tiles are multiplied by int8 activations."""

    isa = "reference"
    num_threads = 1

    def _embed(self, table: Matrix, V: int, D: int) -> EmbedOp:
        return ops.bind_embed(table, V, D)

    def _linear(
        self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None, eps: float
    ) -> LinearOp:
        return LinearTwin(weights, num_in, norm, eps)

    def _norm(self, weight: np.ndarray, eps: float) -> Op:
        return ops.bind_rms_norm(weight, eps)

    def _delta(
        self,
        conv: np.ndarray,
        A_log: np.ndarray,
        dt_bias: np.ndarray,
        norm: np.ndarray,
        eps: float,
        Hk: int,
        Hv: int,
        Dk: int,
        Dv: int,
        tiled_heads: bool,
    ) -> DeltaOp:
        return DeltaTwin(conv, A_log, dt_bias, norm, eps, Hk, Hv, Dk, Dv, tiled_heads)

    def _attention(
        self, q_norm: np.ndarray, k_norm: np.ndarray, eps: float, Hq: int, Hkv: int, Dh: int, rotary_half: int, kv: str
    ) -> AttentionOp:
        return AttentionTwin(q_norm, k_norm, eps, Hq, Hkv, Dh, kv)

    def _moe(
        self, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int
    ) -> InPlaceOp:
        return MoeTwin(weights, norm, eps, E, K, D, F, Fs)

    def _mlp(self, gate_up: GateUp, down: Matrix, norm: np.ndarray, eps: float, D: int, F: int) -> InPlaceOp:
        return MlpTwin(gate_up, down, norm, eps, D, F)


class LinearTwin:
    """The op of `Kernels.bind_linear`."""

    def __init__(self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None, eps: float):
        self.norm = None if norm is None else ops.bind_rms_norm(norm, eps)
        self.parts: list[Op]
        if any(isinstance(w, Tiles) for _, w in weights):
            self.parts = [
                QuantLinear(w) if isinstance(w, Tiles) else ops.bind_linear([(name, w)], num_in) for name, w in weights
            ]
        else:
            self.parts = [ops.bind_linear(weights, num_in)]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.norm is not None:
            x = self.norm(x)
        outs = [part(x) for part in self.parts]
        return outs[0] if len(outs) == 1 else np.concatenate(outs, axis=1)

    def add(self, x: np.ndarray, h: np.ndarray) -> None:
        h += self(x)


class DeltaTwin:
    """The op of `Kernels.bind_delta`."""

    def __init__(
        self,
        conv: np.ndarray,
        A_log: np.ndarray,
        dt_bias: np.ndarray,
        norm: np.ndarray,
        eps: float,
        Hk: int,
        Hv: int,
        Dk: int,
        Dv: int,
        tiled_heads: bool,
    ):
        self.Hk, self.Hv, self.Dv, self.channels = Hk, Hv, Dv, len(conv)
        # Tiled heads: value head h belongs to key head h % Hk. The twin of the rule takes a key head's value heads
        # together.
        order = np.arange(Hv).reshape(-1, Hk).T.ravel() if tiled_heads else np.arange(Hv)
        self.order = order if tiled_heads else None
        self.back = np.argsort(order)
        self.conv = ops.bind_causal_conv(conv, len(conv), conv.shape[1])
        self.rule = ops.bind_delta_rule(
            np.ascontiguousarray(A_log[order]), np.ascontiguousarray(dt_bias[order]), Hk, Hv, Dk, Dv
        )
        self.norm = ops.bind_gated_rms_norm(norm, eps, Dv)

    def __call__(
        self,
        projected: np.ndarray,
        conv_state: np.ndarray,
        state: np.ndarray,
        taken: np.ndarray | None = None,
        num_drafted: int = 0,
    ) -> np.ndarray:
        T, C, Hv, Dv = len(projected), self.channels, self.Hv, self.Dv
        z = projected[:, C : C + Hv * Dv].reshape(T, Hv, Dv)
        rows = np.concatenate((projected[:, :C], projected[:, C + Hv * Dv :]), axis=1)  # [T, q k v | b a]
        if taken is not None:
            self._advance(taken, conv_state, state)
        staying = T - num_drafted
        out = self._advance(rows[:staying], conv_state, state)
        if num_drafted:
            out = np.concatenate((out, self._advance(rows[staying:], conv_state.copy(), state.copy())))
        return self.norm(out, z).reshape(T, Hv * Dv)

    def _advance(self, rows: np.ndarray, conv_state: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Rows [T, q k v | b a] -> [T, Hv, Dv]; both states advance in place."""
        T, C, Hv, Dv = len(rows), self.channels, self.Hv, self.Dv
        if not T:
            return np.empty((0, Hv, Dv), np.float32)
        mixed, ba = self.conv(rows[:, :C], conv_state), rows[:, C:]
        if self.order is None:
            out: np.ndarray = self.rule(mixed, ba, state)
            return out
        keys = C - Hv * Dv
        v = mixed[:, keys:].reshape(T, Hv, Dv)[:, self.order].reshape(T, -1)
        ba = ba.reshape(T, 2, Hv)[:, :, self.order].reshape(T, -1)
        moved = state[self.order]
        out = self.rule(np.concatenate((mixed[:, :keys], v), axis=1), ba, moved)
        state[...] = moved[self.back]
        return out[:, self.back]


class AttentionTwin:
    """The op of `Kernels.bind_attention`."""

    def __init__(self, q_norm: np.ndarray, k_norm: np.ndarray, eps: float, Hq: int, Hkv: int, Dh: int, kv_type: str):
        self.Hq, self.Hkv, self.Dh, self.kv = Hq, Hkv, Dh, kv_type
        scale = np.concatenate((np.tile(q_norm, (Hq, 1)), np.tile(k_norm, (Hkv, 1))))
        self.qk_norm = ops.bind_rms_norm(scale, eps, "qk_norm")
        self.k_norm = ops.bind_rms_norm(scale[Hq:], eps, "k_norm")
        self.attend = ops.bind_paged_attention(Hq, Hkv, Dh)

    def __call__(
        self, projected: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments: Segments, start: int
    ) -> np.ndarray:
        T, Hq, Hkv, Dh = len(projected), self.Hq, self.Hkv, self.Dh
        query_gate = projected[:, : 2 * Hq * Dh].reshape(T, Hq, 2, Dh)
        k = projected[:, 2 * Hq * Dh : (2 * Hq + Hkv) * Dh].reshape(T, Hkv, Dh)
        v = projected[:, (2 * Hq + Hkv) * Dh :].reshape(T, Hkv, Dh)
        qk = self.qk_norm(np.concatenate((query_gate[:, :, 0], k), axis=1))
        ops.rope_apply(qk, cos, sin)
        self._store(qk[:, Hq:], v, segments, start)
        loaded = [kv.load(self.kv, keys, values, Dh) for keys, values in segments]
        y = self.attend(qk[:, :Hq], loaded, start)
        y *= ops.sigmoid(query_gate[:, :, 1]).reshape(T, Hq * Dh)
        return y

    def store(self, kv: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments: Segments, start: int) -> None:
        heads = kv.reshape(len(kv), 2, self.Hkv, self.Dh)
        k = self.k_norm(heads[:, 0])
        ops.rope_apply(k, cos, sin)
        self._store(k, heads[:, 1], segments, start)

    def _store(self, k: np.ndarray, v: np.ndarray, segments: Segments, start: int) -> None:
        """k, v [T, Hkv, Dh] into their pages."""
        segment_len, done = len(segments[0][0]) * kv.PAGE_LEN, 0
        while done < len(k):
            index, at = divmod(start + done, segment_len)
            num = min(segment_len - at, len(k) - done)
            keys, values = segments[index]
            kv.store(self.kv, keys, values, at, k[done : done + num], v[done : done + num])
            done += num


class MoeTwin:
    """The op of `Kernels.bind_moe`."""

    def __init__(self, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int):
        self.E, self.K = E, K
        self.norm = ops.bind_rms_norm(norm, eps)
        self.router = ops.bind_linear(
            [("router", weights.router), ("shared_expert_gate", weights.shared_expert_gate)], D
        )
        gate_up = weights.gate_up
        if isinstance(gate_up, np.ndarray) and isinstance(weights.down, Tiles):
            gate_up = gate_up[:, :F], gate_up[:, F:]
        self.experts: Op
        if isinstance(gate_up, tuple):
            gate, up = gate_up
            self.experts = SeparateExperts(gate, up, weights.down)
        else:
            self.experts = ops.bind_moe(gate_up, weights.down, E, D, F)
        shared = weights.shared_gate_up if isinstance(weights.shared_gate_up, tuple) else (weights.shared_gate_up,)
        self.shared_in = LinearTwin([("shared_gate_up", w) for w in shared], D, None, 0)
        self.shared_out = LinearTwin([("shared_down", weights.shared_down)], Fs, None, 0)

    def __call__(self, h: np.ndarray) -> None:
        x = self.norm(h)
        logits = self.router(x)
        ids, weights = ops.route(logits[:, : self.E], self.K)
        order = np.argsort(ids, axis=1)  # ascending ids: the order in which experts are added
        y = self.experts(x, np.take_along_axis(ids, order, 1), np.take_along_axis(weights, order, 1))
        shared = self.shared_out(ops.swiglu(self.shared_in(x)))
        shared *= ops.sigmoid(logits[:, self.E :])
        h += y
        h += shared


class MlpTwin:
    """The op of `Kernels.bind_mlp`."""

    def __init__(self, gate_up: GateUp, down: Matrix, norm: np.ndarray, eps: float, D: int, F: int):
        parts = gate_up if isinstance(gate_up, tuple) else (gate_up,)
        self.project_in = LinearTwin([("gate_up", w) for w in parts], D, norm, eps)
        self.project_out = LinearTwin([("down", down)], F, None, 0)

    def __call__(self, h: np.ndarray) -> None:
        h += self.project_out(ops.swiglu(self.project_in(h)))


class SeparateExperts:
    """Experts with gate and up in two matrices: adds each token's chosen ones in the order of its ids."""

    def __init__(self, gate: Matrix, up: Matrix, down: Matrix):
        self.matrices = (gate, up, down)
        self.bound: dict[int, list[LinearTwin]] = {}

    def __call__(self, x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        out = np.zeros_like(x)
        for t, (row_ids, row_weights) in enumerate(zip(ids.tolist(), weights, strict=True)):
            for e, weight in zip(row_ids, row_weights, strict=True):
                if e not in self.bound:
                    experts = [_expert(matrix, e) for matrix in self.matrices]
                    self.bound[e] = [LinearTwin([("expert", w)], w.shape[1], None, 0) for w in experts]
                gate, up, down = self.bound[e]
                row = x[t : t + 1]
                out[t] += weight * down(ops.swiglu(np.concatenate((gate(row), up(row)), axis=1)))[0]
        return out


def _expert(matrix: Matrix, e: int) -> Matrix:
    if isinstance(matrix, np.ndarray):
        expert: np.ndarray = matrix[e]
        return expert
    return matrix.expert(e) if isinstance(matrix, Tiles) else matrix.f32_expert(e)
