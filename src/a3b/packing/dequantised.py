"""A packed model in float32, gate and up joined, value heads in the order of Hugging Face: what its kernels are judged
against.

Needs the memory of the whole model in float32. Enter at `dequantised`.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from a3b.formats.tiles import Tiles
from a3b.model.config import ModelConfig
from a3b.model.weights import DeltaNetWeights, DenseWeights, ModelWeights, MoEWeights


def dequantised(config: ModelConfig, weights: ModelWeights) -> ModelWeights:
    """The same model, every matrix a float32 array."""
    weights = _floats(weights)
    layers = []
    for layer in weights.layers:
        mixer = layer.mixer
        if weights.tiled_v_heads and isinstance(mixer, DeltaNetWeights):
            mixer = _untiled(config, mixer)
        layers.append(replace(layer, mixer=mixer, mlp=_joined(layer.mlp)))
    return replace(weights, layers=tuple(layers), tiled_v_heads=False, residency="float32")


def _floats(value: Any) -> Any:
    """The same dataclass or tuple with every matrix in it as a float32 array."""
    if isinstance(value, tuple):
        return tuple(_floats(v) for v in value)
    if isinstance(value, Tiles):
        if len(value.shape) == 3:
            return np.stack([value.f32_expert(e) for e in range(value.shape[0])])
        return value.f32_rows(0, value.shape[0])
    if is_dataclass(value):
        return replace(value, **{f.name: _floats(getattr(value, f.name)) for f in fields(value) if f.init})
    return value


def _joined(moe: MoEWeights | DenseWeights) -> MoEWeights | DenseWeights:
    if isinstance(moe.gate_up, tuple):
        moe = replace(moe, gate_up=np.concatenate(moe.gate_up, axis=-2))
    if isinstance(moe, MoEWeights) and isinstance(moe.shared_gate_up, tuple):
        moe = replace(moe, shared_gate_up=np.concatenate(moe.shared_gate_up))
    return moe


def _untiled(config: ModelConfig, mixer: DeltaNetWeights) -> DeltaNetWeights:
    """Head h of Hugging Face is head (h mod r)·Hk + h // r of a GGUF file, r value heads a key head."""
    a = config.axes
    r = a.Hv // a.Hk
    h = np.arange(a.Hv)
    heads = h % r * a.Hk + h // r
    wide = (heads[:, None] * a.Dv + np.arange(a.Dv)).ravel()
    keys = 2 * a.Hk * a.Dk
    channels = np.concatenate((np.arange(keys), keys + wide))
    return DeltaNetWeights(
        in_proj_qkv=mixer.in_proj_qkv[channels],
        in_proj_z=mixer.in_proj_z[wide],
        in_proj_b=mixer.in_proj_b[heads],
        in_proj_a=mixer.in_proj_a[heads],
        conv1d=mixer.conv1d[channels],
        dt_bias=mixer.dt_bias[heads],
        A_log=mixer.A_log[heads],
        delta_norm=mixer.delta_norm,
        out_proj=mixer.out_proj[:, wide],
    )
