"""A packed model for the NumPy kernels: gate and up joined, value heads in the order of Hugging Face, decoded if that fits.

Enter at `for_reference`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from a3b.config import ModelConfig
from a3b.formats.tiles import Tiles
from a3b.weights import EXPAND_SHARE, DeltaNetWeights, ModelWeights, MoEWeights, StackedMatrix, available_memory


@dataclass(frozen=True)
class JoinedExperts:
    """Gate and up [E, F, D] as one [E, 2F, D], decoded at each use."""

    gate: Any
    up: Any

    @property
    def name(self) -> str:
        return self.gate.name

    @property
    def shape(self) -> tuple[int, ...]:
        E, F, D = self.gate.shape
        return E, 2 * F, D

    def f32_expert(self, e: int) -> np.ndarray:
        return np.concatenate([m[e] if isinstance(m, np.ndarray) else m.f32_expert(e) for m in (self.gate, self.up)])


@dataclass(frozen=True)
class PlainExperts:
    """An array [E, out, in] beside experts that are decoded."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def f32_expert(self, e: int) -> np.ndarray:
        return self.array[e]


@dataclass(frozen=True)
class Reordered:
    """A matrix with its rows or its columns in another order, decoded at each use."""

    matrix: Any
    rows: np.ndarray | None = None  # int [out]: where each row comes from
    columns: np.ndarray | None = None

    @property
    def name(self) -> str:
        return self.matrix.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        if self.rows is None:
            return self.matrix.f32_rows(start, stop)[:, self.columns]
        wanted = self.rows[start:stop]
        cuts = np.flatnonzero(np.diff(wanted) != 1) + 1  # runs of neighbours are decoded together
        return np.concatenate([self.matrix.f32_rows(int(run[0]), int(run[-1]) + 1) for run in np.split(wanted, cuts)])


def for_reference(config: ModelConfig, weights: ModelWeights, expand: bool | None = None) -> ModelWeights:
    """The same model, bound by NumPy kernels as any other. expand: as in `load_weights`, for what is packed or in a GGUF file."""
    if weights.residency == "packed":
        if expand is None:
            expand = 4 * config.count_parameters().total <= EXPAND_SHARE * available_memory()
        if expand:
            weights = _expanded(weights)
    layers = []
    for layer in weights.layers:
        mixer = layer.mixer
        if weights.tiled_v_heads and isinstance(mixer, DeltaNetWeights):
            mixer = _untiled(config, mixer)
        layers.append(replace(layer, mixer=mixer, moe=_joined(layer.moe)))
    return replace(weights, layers=tuple(layers), tiled_v_heads=False)


def _expanded(value: Any) -> Any:
    """The same dataclass or tuple with every matrix in it as a float32 array."""
    if isinstance(value, tuple):
        return tuple(_expanded(v) for v in value)
    if isinstance(value, Tiles):
        if len(value.shape) == 3:
            return np.stack([value.f32_expert(e) for e in range(value.shape[0])])
        return value.f32_rows(0, value.shape[0])
    if is_dataclass(value):
        return replace(value, **{f.name: _expanded(getattr(value, f.name)) for f in fields(value) if f.init})
    return value


def _joined(moe: MoEWeights) -> MoEWeights:
    if isinstance(moe.shared_gate_up, tuple):
        pair = moe.shared_gate_up
        arrays = all(isinstance(m, np.ndarray) for m in pair)
        moe = replace(moe, shared_gate_up=np.concatenate(pair) if arrays else StackedMatrix("shared_gate_up", pair))
    if isinstance(moe.gate_up, tuple):
        arrays = all(isinstance(m, np.ndarray) for m in (*moe.gate_up, moe.down))
        gate_up = np.concatenate(moe.gate_up, axis=1) if arrays else JoinedExperts(*moe.gate_up)
        down = PlainExperts(moe.down) if isinstance(moe.down, np.ndarray) and not arrays else moe.down
        moe = replace(moe, gate_up=gate_up, down=down)
    return moe


def _untiled(config: ModelConfig, mixer: DeltaNetWeights) -> DeltaNetWeights:
    """Head h of Hugging Face is head (h mod r)·Hk + h // r of a GGUF file, r value heads a key head."""
    c, r = config, config.Hv // config.Hk
    h = np.arange(c.Hv)
    heads = h % r * c.Hk + h // r
    wide = (heads[:, None] * c.Dv + np.arange(c.Dv)).ravel()
    keys = 2 * c.Hk * c.Dk
    channels = np.concatenate((np.arange(keys), keys + wide))

    def rows(matrix: Any, order: np.ndarray) -> Any:
        return matrix[order] if isinstance(matrix, np.ndarray) else Reordered(matrix, rows=order)

    out = mixer.out_proj
    return DeltaNetWeights(
        in_proj_qkv=rows(mixer.in_proj_qkv, channels),
        in_proj_z=rows(mixer.in_proj_z, wide),
        in_proj_b=rows(mixer.in_proj_b, heads),
        in_proj_a=rows(mixer.in_proj_a, heads),
        conv1d=mixer.conv1d[channels],
        dt_bias=mixer.dt_bias[heads],
        A_log=mixer.A_log[heads],
        norm=mixer.norm,
        out_proj=out[:, wide] if isinstance(out, np.ndarray) else Reordered(out, columns=wide),
    )
