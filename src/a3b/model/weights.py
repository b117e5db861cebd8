"""The weights of a model, layer by layer, as the forward pass reads them. Enter at `ModelWeights`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from a3b.model.matrices import Experts, Matrix


@dataclass(frozen=True)
class DeltaNetWeights:
    in_proj_qkv: Matrix  # [2·Hk·Dk + Hv·Dv, D]
    in_proj_z: Matrix  # [Hv·Dv, D]
    in_proj_b: Matrix  # [Hv, D]
    in_proj_a: Matrix  # [Hv, D]
    conv1d: np.ndarray  # float32 [2·Hk·Dk + Hv·Dv, conv_len]
    dt_bias: np.ndarray  # float32 [Hv]
    A_log: np.ndarray  # float32 [Hv]
    norm: np.ndarray  # float32 [Dv], around 1
    out_proj: Matrix  # [D, Hv·Dv]


@dataclass(frozen=True)
class AttentionWeights:
    q_proj: Matrix  # [Hq·2·Dh, D], per head query then gate
    k_proj: Matrix  # [Hkv·Dh, D]
    v_proj: Matrix  # [Hkv·Dh, D]
    o_proj: Matrix  # [D, Hq·Dh]
    q_norm: np.ndarray  # float32 [Dh], around 0
    k_norm: np.ndarray  # float32 [Dh], around 0


@dataclass(frozen=True)
class MoEWeights:
    router: Matrix  # [E, D]
    gate_up: Experts | tuple[Experts, Experts]  # [E, 2F, D], gate rows first; or gate and up, each [E, F, D]
    down: Experts  # [E, D, F]
    shared_gate_up: Matrix | tuple[Matrix, Matrix]  # [2Fs, D]; or gate and up, each [Fs, D]
    shared_down: Matrix  # [D, Fs]
    shared_expert_gate: Matrix  # [1, D]


@dataclass(frozen=True)
class DenseWeights:
    gate_up: Matrix | tuple[Matrix, Matrix]  # [2F, D], gate rows first; or gate and up, each [F, D]
    down: Matrix  # [D, F]


@dataclass(frozen=True)
class LayerWeights:
    input_norm: np.ndarray  # float32 [D], around 0
    mixer: DeltaNetWeights | AttentionWeights
    post_norm: np.ndarray  # float32 [D], around 0
    moe: MoEWeights | DenseWeights


@dataclass(frozen=True)
class ModelWeights:
    embed: Matrix  # [V, D]
    layers: tuple[LayerWeights, ...]
    norm: np.ndarray  # float32 [D], around 0
    lm_head: Matrix  # [V, D]; the same object as embed if tied
    # "float32": decoded into memory; "mapped": in the file, decoded at each use; "packed": tiles in the file
    residency: str
    extra: dict[str, int] = field(default_factory=dict)  # numbers counted and kept for later: mtp, vision
    # value heads in the order of GGUF files: head h uses key head h % Hk, not h // (Hv / Hk)
    tiled_v_heads: bool = False
