"""A packed model in float32, gate and up joined, value heads in Hugging Face's order: what kernels are compared with.

Needs the memory of the whole model in float32. Enter at `dequantised`."""

from __future__ import annotations

import numpy as np

from a3b.kernels import Matrix
from a3b.model.config import ModelConfig
from a3b.model.tensor_names import Place, Tensor
from a3b.model.weights import Floats, ModelWeights, assemble, by_role


def dequantised(config: ModelConfig, weights: ModelWeights) -> ModelWeights:
    """The same model, every matrix a float32 array; one that is not packed is returned as it is."""
    if weights.residency != "packed":
        return weights
    heads = _untiled_heads(config) if weights.tiled_v_heads else None
    source = _Dequantised(config, weights, heads)
    return assemble(config, source, "float32", weights.extra, mtp=weights.mtp is not None)


class _Dequantised:
    """The tensors of a model that is already loaded, as `assemble` asks for them. heads: the place of each value head;
    None: its own."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, heads: np.ndarray | None):
        self.config, self.weights, self.heads = config, weights, heads

    def vector(self, tensor: Tensor, layer: int | None) -> Floats:
        return self._ordered(tensor, self._floats(tensor, layer))

    def matrix(self, tensor: Tensor, layer: int | None) -> Floats:
        return self._ordered(tensor, self._floats(tensor, layer))

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> Floats:
        found = by_role(self.weights, layer)[gate.role]
        if isinstance(found, tuple):
            return np.concatenate([_f32(half) for half in found], axis=-2)
        return _f32(found)

    def _floats(self, tensor: Tensor, layer: int | None) -> Floats:
        found = by_role(self.weights, layer)[tensor.role]
        if isinstance(found, tuple):
            raise TypeError(f"{tensor.role}: is two matrices")
        return _f32(found)

    def _ordered(self, tensor: Tensor, values: Floats) -> Floats:
        """Value heads in the order of Hugging Face."""
        if self.heads is None or tensor.place is not Place.DELTA or tensor.role == "delta_norm":
            return values
        axes = self.config.axes
        order, wide = self.heads, (self.heads[:, None] * axes.Dv + np.arange(axes.Dv)).ravel()
        if tensor.role == "out_proj":
            columns: Floats = values[:, wide]
            return columns
        if tensor.role == "in_proj_z":
            order = wide
        elif tensor.role in ("in_proj_qkv", "conv1d"):
            keys = 2 * axes.Hk * axes.Dk
            order = np.concatenate((np.arange(keys), keys + wide))
        rows: Floats = values[order]
        return rows


def _f32(matrix: Matrix) -> Floats:
    if isinstance(matrix, np.ndarray):
        return matrix
    if len(matrix.shape) == 3:
        return np.stack([matrix.f32_expert(e) for e in range(matrix.shape[0])])
    return matrix.f32_rows(0, matrix.shape[0])


def _untiled_heads(config: ModelConfig) -> np.ndarray:
    """Head h of Hugging Face is head (h mod r)·Hk + h // r of a GGUF file, r value heads a key head."""
    Hk, Hv = config.linear_num_key_heads, config.linear_num_value_heads
    ratio = Hv // Hk
    head = np.arange(Hv)
    return head % ratio * Hk + head // ratio
