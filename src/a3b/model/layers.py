"""The layers of the model: what mixes the rows of a sequence, and what works on each row alone.

A layer holds ops bound to weights and nothing else; what a sequence accumulates is in `a3b.model.state.State`. Enter at
`bind_layers`. Axes: T rows of a step, D hidden, Hq Hkv Dh attention, Hk Hv Dk Dv delta net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from a3b import kernels
from a3b.kernels import Kernels
from a3b.model.config import ModelConfig
from a3b.model.state import State
from a3b.model.weights import AttentionWeights, DeltaNetWeights, DenseWeights, ModelWeights, MoEWeights


@dataclass(frozen=True)
class Span:
    """The rows of one sequence in a step."""

    rows: slice
    state: State
    num_drafted: int = 0  # of the rows, the last ones: they leave no trace in the state but what it notes of them


class Layer:
    """Norm and mixer, then norm and experts or one MLP; each half is added to the residual stream."""

    def __init__(self, mixer: DeltaNet | Attention, mlp: kernels.InPlaceOp):
        self.mixer, self.mlp = mixer, mlp

    def __call__(self, h: np.ndarray, spans: Sequence[Span], cos_sin: tuple[np.ndarray, np.ndarray]) -> None:
        self.mixer(h, spans, cos_sin)
        self.mlp(h)


class DeltaNet:
    """Gated delta net: a convolution and a matrix per head remember the sequence; it uses no positions."""

    def __init__(
        self,
        k: Kernels,
        config: ModelConfig,
        weights: DeltaNetWeights,
        norm: np.ndarray,
        index: int,
        name: str,
        tiled_heads: bool,
    ):
        a, eps = config.axes, config.norm_eps
        self.index = index  # among the delta-net layers: its place in the state
        parts = [(f"{name}.in_proj_{key}", getattr(weights, f"in_proj_{key}")) for key in ("qkv", "z", "b", "a")]
        self.project_in = k.bind_linear(parts, a.D, norm, eps)
        self.mix = k.bind_delta(
            weights.conv1d,
            weights.A_log,
            weights.dt_bias,
            weights.delta_norm,
            eps,
            a.Hk,
            a.Hv,
            a.Dk,
            a.Dv,
            tiled_heads,
        )
        self.project_out = k.bind_linear([(f"{name}.out_proj", weights.out_proj)], a.Hv * a.Dv)
        self.z = slice(a.C, a.C + a.Hv * a.Dv)  # its columns in `projected`
        self.num_columns = self.z.stop + 2 * a.Hv

    def __call__(self, h: np.ndarray, spans: Sequence[Span], _: tuple[np.ndarray, np.ndarray]) -> None:
        projected = self.project_in(h)  # [T, q k v | z | b a]
        self.project_out.add(joined([self._mixed(projected[s.rows], s.state, s.num_drafted) for s in spans]), h)

    def settle(self, state: State) -> None:
        """Take in what the state was fed for drafted tokens that it has kept."""
        self._mixed(np.empty((0, self.num_columns), np.float32), state, 0)

    def _mixed(self, rows: np.ndarray, state: State, num_drafted: int) -> np.ndarray:
        i = self.index
        out = self.mix(rows, state.conv[i], state.delta[i], state.taken(i), num_drafted)
        if num_drafted:
            drafts = rows[len(rows) - num_drafted :]
            state.set_fed(i, drafts[:, : self.z.start], drafts[:, self.z.stop :])
        return out


class Attention:
    """Gated full attention with rotary positions on part of each head."""

    def __init__(
        self,
        k: Kernels,
        config: ModelConfig,
        weights: AttentionWeights,
        norm: np.ndarray,
        index: int,
        name: str,
        kv: str,
    ):
        a, eps = config.axes, config.norm_eps
        self.index = index  # among the attention layers: its place in the state
        parts = [(f"{name}.{key}_proj", getattr(weights, f"{key}_proj")) for key in "qkv"]
        self.project_in = k.bind_linear(parts, a.D, norm, eps)
        self.attend = k.bind_attention(
            weights.q_norm, weights.k_norm, eps, a.Hq, a.Hkv, a.Dh, config.rope.rotary_dim // 2, kv
        )
        self.project_out = k.bind_linear([(f"{name}.o_proj", weights.o_proj)], a.Hq * a.Dh)

    def __call__(self, h: np.ndarray, spans: Sequence[Span], cos_sin: tuple[np.ndarray, np.ndarray]) -> None:
        projected = self.project_in(h)  # [T, per query head: query, gate | k | v]
        cos, sin = cos_sin
        outs = [
            self.attend(projected[s.rows], cos[s.rows], sin[s.rows], s.state.segments(self.index), s.state.num_tokens)
            for s in spans
        ]
        self.project_out.add(joined(outs), h)

    def settle(self, state: State) -> None:
        """Nothing: keys and values of drafted tokens are where they belong."""


def bind_mlp(
    k: Kernels, config: ModelConfig, weights: MoEWeights | DenseWeights, norm: np.ndarray
) -> kernels.InPlaceOp:
    w = weights
    if isinstance(w, DenseWeights):
        return k.bind_mlp(w.gate_up, w.down, norm, config.norm_eps, config.hidden_size, config.intermediate_size)
    parts = kernels.MoeMatrices(w.router, w.shared_expert_gate, w.gate_up, w.down, w.shared_gate_up, w.shared_down)
    return k.bind_moe(
        parts,
        norm,
        config.norm_eps,
        config.num_experts,
        config.num_experts_per_tok,
        config.hidden_size,
        config.intermediate_size,
        config.shared_expert_intermediate_size,
    )


def bind_layers(k: Kernels, config: ModelConfig, model: ModelWeights, kv: str) -> list[Layer]:
    """Bind all layers; mixers are numbered per kind, as the state stores them."""
    bound, num_attention = [], 0
    for i, weights in enumerate(model.layers):
        name = f"layers.{i}"
        mixer: Attention | DeltaNet
        if isinstance(weights.mixer, AttentionWeights):
            mixer = Attention(k, config, weights.mixer, weights.input_norm, num_attention, name, kv)
            num_attention += 1
        else:
            mixer = DeltaNet(k, config, weights.mixer, weights.input_norm, i - num_attention, name, model.tiled_v_heads)
        bound.append(Layer(mixer, bind_mlp(k, config, weights.mlp, weights.post_norm)))
    return bound


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array of the parts, without a copy if there is only one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
