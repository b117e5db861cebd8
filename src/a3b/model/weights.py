"""The weights of a model, layer by layer, as the forward pass reads them.

Enter at `ModelWeights`; `assemble` builds one from any source that gives the tensors of `a3b.model.tensor_names`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from a3b.kernels import GateUp, Matrix
from a3b.model.config import ModelConfig
from a3b.model.tensor_names import BY_ROLE, MTP_LAYER, Place, Tensor, places_of

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DeltaNetWeights:
    in_proj_qkv: Matrix  # [C, D]
    in_proj_z: Matrix  # [Hv·Dv, D]
    in_proj_b: Matrix  # [Hv, D]
    in_proj_a: Matrix  # [Hv, D]
    conv1d: Floats  # [C, conv_len]
    dt_bias: Floats  # [Hv]
    A_log: Floats  # [Hv]
    delta_norm: Floats  # [Dv], around 1
    out_proj: Matrix  # [D, Hv·Dv]


@dataclass(frozen=True)
class AttentionWeights:
    q_proj: Matrix  # [2·Hq·Dh, D], per head query then gate
    k_proj: Matrix  # [Hkv·Dh, D]
    v_proj: Matrix  # [Hkv·Dh, D]
    o_proj: Matrix  # [D, Hq·Dh]
    q_norm: Floats  # [Dh], around 0
    k_norm: Floats  # [Dh], around 0


@dataclass(frozen=True)
class MoEWeights:
    router: Matrix  # [E, D]
    gate_up: GateUp  # [E, 2F, D], or twice [E, F, D]
    down: Matrix  # [E, D, F]
    shared_gate_up: GateUp  # [2Fs, D], or twice [Fs, D]
    shared_down: Matrix  # [D, Fs]
    shared_expert_gate: Matrix  # [1, D]


@dataclass(frozen=True)
class DenseWeights:
    gate_up: GateUp  # [2F, D], or twice [F, D]
    down: Matrix  # [D, F]


@dataclass(frozen=True)
class LayerWeights:
    input_norm: Floats  # [D], around 0
    mixer: DeltaNetWeights | AttentionWeights
    post_norm: Floats  # [D], around 0
    mlp: MoEWeights | DenseWeights


@dataclass(frozen=True)
class MtpWeights:
    """What drafts the token after the next one; embedding and head are the model's. See `a3b.model.mtp`."""

    fc: Matrix  # [D, 2D]: columns for the next token's embedding, then for the hidden state after the final norm
    embedding_norm: Floats  # [D], around 0
    hidden_norm: Floats  # [D], around 0
    layer: LayerWeights  # of attention
    norm: Floats  # [D], around 0


@dataclass(frozen=True)
class ModelWeights:
    embed: Matrix  # [V, D]
    layers: tuple[LayerWeights, ...]
    norm: Floats  # [D], around 0
    lm_head: Matrix  # [V, D]; the same object as embed if tied
    # "float32": decoded into memory; "mapped": in the file, decoded at each use; "packed": tiles in the file
    residency: str
    extra: dict[str, int] = field(default_factory=dict)  # numbers counted and not loaded: mtp, vision
    # value heads in the order of GGUF files: head h uses key head h % Hk, not h // (Hv / Hk)
    tiled_v_heads: bool = False
    mtp: MtpWeights | None = None


class TensorSource(Protocol):
    """Where `assemble` takes weights from. layer: None for a tensor that occurs once, MTP_LAYER for all of the MTP
    module."""

    def vector(self, tensor: Tensor, layer: int | None) -> Floats:
        """A small tensor, in the shape that it has in memory."""

    def matrix(self, tensor: Tensor, layer: int | None) -> Matrix:
        """A matrix [out, in], or the experts [E, out, in]."""

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> GateUp:
        """Two matrices that are used together."""


def assemble(
    config: ModelConfig,
    source: TensorSource,
    residency: str,
    extra: dict[str, int] | None = None,
    tiled_v_heads: bool = False,
    mtp: bool = False,
) -> ModelWeights:
    """All weights of a source. mtp: also those of the MTP module, which it has."""
    embed = source.matrix(BY_ROLE["embed"], None)
    lm_head = embed if config.tie_word_embeddings else source.matrix(BY_ROLE["lm_head"], None)
    layers = tuple(_layer(config, source, layer) for layer in range(config.num_layers))
    norm = source.vector(BY_ROLE["norm"], None)
    module = _mtp(config, source) if mtp else None
    return ModelWeights(embed, layers, norm, lm_head, residency, extra or {}, tiled_v_heads, module)


def _mtp(config: ModelConfig, source: TensorSource) -> MtpWeights:
    return MtpWeights(
        fc=source.matrix(BY_ROLE["mtp.fc"], MTP_LAYER),
        embedding_norm=source.vector(BY_ROLE["mtp.embedding_norm"], MTP_LAYER),
        hidden_norm=source.vector(BY_ROLE["mtp.hidden_norm"], MTP_LAYER),
        layer=_layer(config, source, MTP_LAYER),
        norm=source.vector(BY_ROLE["mtp.norm"], MTP_LAYER),
    )


def _layer(config: ModelConfig, source: TensorSource, layer: int) -> LayerWeights:
    def vector(role: str) -> Floats:
        return source.vector(BY_ROLE[role], layer)

    def matrix(role: str) -> Matrix:
        return source.matrix(BY_ROLE[role], layer)

    def gate_up(gate: str, up: str) -> GateUp:
        return source.gate_up(BY_ROLE[gate], BY_ROLE[up], layer)

    places = places_of(config, layer)
    mixer: AttentionWeights | DeltaNetWeights
    mlp: MoEWeights | DenseWeights
    if Place.ATTENTION in places:
        mixer = AttentionWeights(
            q_proj=matrix("q_proj"),
            k_proj=matrix("k_proj"),
            v_proj=matrix("v_proj"),
            o_proj=matrix("o_proj"),
            q_norm=vector("q_norm"),
            k_norm=vector("k_norm"),
        )
    else:
        mixer = DeltaNetWeights(
            in_proj_qkv=matrix("in_proj_qkv"),
            in_proj_z=matrix("in_proj_z"),
            in_proj_b=matrix("in_proj_b"),
            in_proj_a=matrix("in_proj_a"),
            conv1d=vector("conv1d"),
            dt_bias=vector("dt_bias"),
            A_log=vector("A_log"),
            delta_norm=vector("delta_norm"),
            out_proj=matrix("out_proj"),
        )
    if Place.DENSE in places:
        mlp = DenseWeights(gate_up=gate_up("gate", "up"), down=matrix("down"))
    else:
        mlp = MoEWeights(
            router=matrix("router"),
            gate_up=gate_up("experts.gate", "experts.up"),
            down=matrix("experts.down"),
            shared_gate_up=gate_up("shared.gate", "shared.up"),
            shared_down=matrix("shared.down"),
            shared_expert_gate=matrix("shared_gate"),
        )
    return LayerWeights(vector("input_norm"), mixer, vector("post_norm"), mlp)


def by_role(weights: ModelWeights, layer: int | None) -> dict[str, GateUp]:
    """The tensors of a layer, or (None) those that occur once, by role; MTP_LAYER: of the MTP module. Gate and up both
    give what holds both."""
    if layer is None:
        return {"embed": weights.embed, "norm": weights.norm, "lm_head": weights.lm_head}
    if layer == MTP_LAYER:
        if weights.mtp is None:
            raise KeyError("the MTP module is not loaded")
        once = {f"mtp.{f.name}": getattr(weights.mtp, f.name) for f in fields(weights.mtp) if f.name != "layer"}
        return once | _roles_of(weights.mtp.layer)
    return _roles_of(weights.layers[layer])


def _roles_of(of: LayerWeights) -> dict[str, GateUp]:
    found: dict[str, GateUp] = {"input_norm": of.input_norm, "post_norm": of.post_norm}
    found |= {f.name: getattr(of.mixer, f.name) for f in fields(of.mixer)}
    if isinstance(of.mlp, DenseWeights):
        return found | {"gate": of.mlp.gate_up, "up": of.mlp.gate_up, "down": of.mlp.down}
    return found | {
        "router": of.mlp.router,
        "experts.gate": of.mlp.gate_up,
        "experts.up": of.mlp.gate_up,
        "experts.down": of.mlp.down,
        "shared.gate": of.mlp.shared_gate_up,
        "shared.up": of.mlp.shared_gate_up,
        "shared.down": of.mlp.shared_down,
        "shared_gate": of.mlp.shared_expert_gate,
    }
