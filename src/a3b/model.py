"""The forward pass: token ids and a state in, logits out. Everything it reads is an argument.

Enter at `Model(config, weights)`. A model is immutable and holds ops bound to weights; what tokens leave behind is in
`a3b.cache.state.State`. Knows no tokenizer, no sampling and no files.

    h = embed[ids];  per layer: h += mixer(norm(h)), h += moe(norm(h));  logits = norm(h) · lm_headᵀ

Rows of several sequences share every product with a weight; mixers run per sequence, on its rows and its state. What a
row becomes depends on its token, its position and its state alone, so cutting or batching the work changes nothing but
the rounding inside BLAS (see `a3b.kernels`).
Axes: T rows of a step, D hidden, Hq Hkv Dh attention, Hk Hv Dk Dv delta net, E experts, K chosen, F Fs widths, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from a3b import kernels
from a3b.cache.state import State, advancing
from a3b.config import ModelConfig
from a3b.errors import UsageError
from a3b.rope import Rope
from a3b.weights import AttentionWeights, DeltaNetWeights, LayerWeights, ModelWeights, MoEWeights

CHUNK = 512  # most tokens of one sequence in a step; bounds the memory of a long prompt


@dataclass(frozen=True)
class Span:
    """The rows of one sequence in a step."""

    rows: slice
    state: State


class Model:
    """A checkpoint ready to compute. Keeps no reference to `weights` beyond the arrays it uses."""

    def __init__(self, config: ModelConfig, weights: ModelWeights):
        """Bind every op. Raises TensorError if a weight does not have the shape that `config` says."""
        self.config = config
        self._embed = kernels.bind_embed(weights.embed, config.V, config.D)
        self._layers = _bind_layers(config, weights.layers)
        self._norm = kernels.bind_rms_norm(weights.norm, config.norm_eps, "norm")
        self._lm_head = kernels.bind_lm_head(weights.lm_head, config.V, config.D)
        self._rope = Rope(config.rope)

    def new_state(self) -> State:
        return State(self.config)

    def forward(self, ids: np.ndarray, state: State, logits: str = "last") -> np.ndarray | None:
        """Read ids int [T], advance `state` by T; logits "last" -> float32 [V], "all" -> [T, V], "none" -> None.

        Raises UsageError if ids are not a non-empty 1-D integer array of values in [0, V), or the state is torn.
        """
        if logits == "all":
            return np.concatenate(list(self.forward_chunks(ids, state)))
        if logits not in ("last", "none"):
            raise UsageError(f"logits: {logits!r}; expected 'last', 'all' or 'none'")
        for hidden in self._chunks(self._checked(ids), state):
            last = hidden[-1:]
        return self._lm_head(self._norm(last))[0] if logits == "last" else None

    def forward_chunks(self, ids: np.ndarray, state: State) -> Iterator[np.ndarray]:
        """Like forward with "all", in pieces float32 [up to CHUNK, V]: for prompts whose logits fill the memory."""
        for hidden in self._chunks(self._checked(ids), state):
            yield self._lm_head(self._norm(hidden))

    def forward_batch(self, pieces: Sequence[tuple[np.ndarray, State]]) -> list[np.ndarray]:
        """Advance several sequences together: (ids, state) each -> logits float32 [V] of each last token.

        Raises UsageError as `forward` does, and if two pieces share a state.
        """
        if len({id(state) for _, state in pieces}) != len(pieces):
            raise UsageError("pieces: a state occurs twice; fork it, or join its tokens into one piece")
        rests = []
        for ids, state in [(self._checked(ids), state) for ids, state in pieces]:
            head = (len(ids) - 1) // CHUNK * CHUNK  # long prompts go ahead alone; at most CHUNK tokens each remain
            for _ in self._chunks(ids[:head], state):
                pass
            rests.append((ids[head:], state))
        if not rests:
            return []
        hidden = self._step(rests)
        lasts = np.cumsum([len(ids) for ids, _ in rests]) - 1
        return list(self._lm_head(self._norm(hidden[lasts])))

    def forward_hidden(self, ids: np.ndarray, state: State) -> np.ndarray:
        """Advance `state`; float32 [T, D] after the final norm, what lm_head sees."""
        return np.concatenate([self._norm(hidden) for hidden in self._chunks(self._checked(ids), state)])

    def _chunks(self, ids: np.ndarray, state: State) -> Iterator[np.ndarray]:
        """Hidden rows before the final norm, up to CHUNK at a time."""
        for start in range(0, len(ids), CHUNK):
            yield self._step([(ids[start : start + CHUNK], state)])

    def _step(self, pieces: Sequence[tuple[np.ndarray, State]]) -> np.ndarray:
        """One pass through all layers: float32 [T, D] before the final norm, rows in the order of the pieces."""
        spans, positions, stop = [], [], 0
        for ids, state in pieces:
            spans.append(Span(slice(stop, stop + len(ids)), state))
            positions.append(np.arange(state.num_tokens, state.num_tokens + len(ids)))
            stop += len(ids)
        cos_sin = self._rope(_joined(positions))
        with advancing([(state, len(ids)) for ids, state in pieces]):
            h = self._embed(_joined([ids for ids, _ in pieces]))
            for layer in self._layers:
                h = layer(h, spans, cos_sin)
        return h

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
            raise UsageError(f"ids: {ids.dtype} {list(ids.shape)}; expected a non-empty 1-D array of integers")
        if ids.min() < 0 or ids.max() >= self.config.V:
            bad = ids[(ids < 0) | (ids >= self.config.V)][0]
            raise UsageError(f"ids: found {bad}; expected ids in [0, {self.config.V})")
        return ids


class Layer:
    """Norm, mixer, norm, experts; each half added to the residual stream."""

    def __init__(self, config: ModelConfig, weights: LayerWeights, mixer: DeltaNet | Attention, name: str):
        self.input_norm = kernels.bind_rms_norm(weights.input_norm, config.norm_eps, f"{name}.input_norm")
        self.mixer = mixer
        self.post_norm = kernels.bind_rms_norm(weights.post_norm, config.norm_eps, f"{name}.post_norm")
        self.moe = SparseMoe(config, weights.moe, name)

    def __call__(self, h: np.ndarray, spans: Sequence[Span], cos_sin: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        h = h + self.mixer(self.input_norm(h), spans, cos_sin)
        h += self.moe(self.post_norm(h))
        return h


class DeltaNet:
    """Gated delta net: a convolution and a matrix per head remember the sequence; it has no positions."""

    def __init__(self, config: ModelConfig, weights: DeltaNetWeights, index: int, name: str):
        c = config
        self.index = index  # among the delta-net layers: its place in the state
        self.Hv, self.Dv = c.Hv, c.Dv
        channels = 2 * c.Hk * c.Dk + c.Hv * c.Dv
        self.mixed_end, self.z_end = channels, channels + c.Hv * c.Dv
        self.project_in = kernels.bind_linear(
            [(f"{name}.in_proj_{key}", getattr(weights, f"in_proj_{key}")) for key in ("qkv", "z", "b", "a")], c.D
        )
        self.conv = kernels.bind_causal_conv(weights.conv1d, channels, c.conv_len)
        self.delta_rule = kernels.bind_delta_rule(weights.A_log, weights.dt_bias, c.Hk, c.Hv, c.Dk, c.Dv)
        self.norm = kernels.bind_gated_rms_norm(weights.norm, c.norm_eps, c.Dv)
        self.project_out = kernels.bind_linear([(f"{name}.out_proj", weights.out_proj)], c.Hv * c.Dv)

    def __call__(self, x: np.ndarray, spans: Sequence[Span], _: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        projected = self.project_in(x)  # [T, q k v | z | b a]
        mixed, ba = projected[:, : self.mixed_end], projected[:, self.z_end :]
        z = projected[:, self.mixed_end : self.z_end].reshape(-1, self.Hv, self.Dv)
        outs = []
        for span in spans:
            state, rows = span.state, span.rows
            qkv = self.conv(mixed[rows], state.conv[self.index])
            outs.append(self.delta_rule(qkv, ba[rows], state.delta[self.index]))
        y = self.norm(_joined(outs), z)
        return self.project_out(y.reshape(len(x), self.Hv * self.Dv))


class Attention:
    """Gated full attention with rotary positions on part of each head."""

    def __init__(self, config: ModelConfig, weights: AttentionWeights, index: int, name: str):
        c = config
        self.index = index  # among the attention layers: its place in the state
        self.Hq, self.Hkv, self.Dh = c.Hq, c.Hkv, c.Dh
        self.q_end, self.k_end = c.Hq * 2 * c.Dh, (2 * c.Hq + c.Hkv) * c.Dh
        self.project_in = kernels.bind_linear(
            [(f"{name}.{key}_proj", getattr(weights, f"{key}_proj")) for key in "qkv"], c.D
        )
        scale = np.concatenate((np.tile(weights.q_norm, (c.Hq, 1)), np.tile(weights.k_norm, (c.Hkv, 1))))
        self.qk_norm = kernels.bind_rms_norm(scale, c.norm_eps, f"{name}.qk_norm")
        self.attention = kernels.bind_paged_attention(c.Hq, c.Hkv, c.Dh)
        self.project_out = kernels.bind_linear([(f"{name}.o_proj", weights.o_proj)], c.Hq * c.Dh)

    def __call__(self, x: np.ndarray, spans: Sequence[Span], cos_sin: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        T, Hq, Dh = len(x), self.Hq, self.Dh
        projected = self.project_in(x)  # [T, per query head: query, gate | k | v]
        query_gate = projected[:, : self.q_end].reshape(T, Hq, 2, Dh)
        k = projected[:, self.q_end : self.k_end].reshape(T, self.Hkv, Dh)
        v = projected[:, self.k_end :].reshape(T, self.Hkv, Dh)
        qk = self.qk_norm(np.concatenate((query_gate[:, :, 0], k), axis=1))  # [T, Hq + Hkv, Dh]
        kernels.rope_apply(qk, *cos_sin)
        outs = []
        for span in spans:
            state, rows = span.state, span.rows
            state.append(self.index, qk[rows, Hq:], v[rows])
            outs.append(self.attention(qk[rows, :Hq], state.segments(self.index), state.num_tokens))
        y = _joined(outs)
        y *= kernels.sigmoid(query_gate[:, :, 1]).reshape(T, Hq * Dh)
        return self.project_out(y)


class SparseMoe:
    """The K best of E experts, plus a shared expert behind a gate of its own."""

    def __init__(self, config: ModelConfig, weights: MoEWeights, name: str):
        c = config
        self.E, self.K = c.E, c.K
        self.project_router = kernels.bind_linear(
            [(f"{name}.router", weights.router), (f"{name}.shared_expert_gate", weights.shared_expert_gate)], c.D
        )
        self.experts = kernels.bind_moe(weights.gate_up, weights.down, c.E, c.D, c.F)
        self.shared_in = kernels.bind_linear([(f"{name}.shared_gate_up", weights.shared_gate_up)], c.D)
        self.shared_out = kernels.bind_linear([(f"{name}.shared_down", weights.shared_down)], c.Fs)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        logits = self.project_router(x)  # [T, E router | 1 gate of the shared expert]
        ids, expert_weights = kernels.route(logits[:, : self.E], self.K)
        y = self.experts(x, ids, expert_weights)
        shared = self.shared_out(kernels.swiglu(self.shared_in(x)))
        shared *= kernels.sigmoid(logits[:, self.E :])
        y += shared
        return y


def _bind_layers(config: ModelConfig, layers: Sequence[LayerWeights]) -> list[Layer]:
    """Bind all layers; mixers are numbered per kind, as the state stores them."""
    bound, num_seen = [], {DeltaNet: 0, Attention: 0}
    for i, (kind, weights) in enumerate(zip(config.layer_types, layers, strict=True)):
        mixer_class = Attention if kind == "full_attention" else DeltaNet
        name = f"layers.{i}"
        mixer = mixer_class(config, weights.mixer, num_seen[mixer_class], name)
        num_seen[mixer_class] += 1
        bound.append(Layer(config, weights, mixer, name))
    return bound


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array of the parts, without a copy if there is only one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
