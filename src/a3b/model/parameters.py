"""Parameter counts: of the text model by part, of what a token uses, and of what is stored besides it. Enter at
`count_parameters`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from a3b.model.config import MAX_SIZE, ModelConfig
from a3b.model.tensor_names import Place, Tensor, mtp_tensors, tensors_of


@dataclass(frozen=True)
class ParameterCount:
    """Parameter counts. `total` and `active` are of the text model; active leaves out idle experts and the
    embedding."""

    total: int
    active: int
    mtp: int
    vision: int
    breakdown: dict[str, int]


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Exact counts; `active` counts lm_head (tied or not) but not the embedding, which is a look-up."""
    axes = config.axes
    mlp = ("mlp",) if config.dense else ("router", "routed_experts", "shared_experts")
    breakdown = dict.fromkeys(("embedding", "lm_head", "attention", "delta_net", *mlp, "norms"), 0)
    idle = 0
    for tensor, _ in tensors_of(config):
        count = math.prod(tensor.shape(axes))
        breakdown[_part(tensor)] += count
        if tensor.is_routed:
            idle += count // axes.E * (axes.E - axes.K)
    total = sum(breakdown.values())
    active = total - idle - (0 if config.tie_word_embeddings else breakdown["embedding"])
    return ParameterCount(total, active, _mtp_parameters(config), _vision_parameters(config.vision), breakdown)


def _part(tensor: Tensor) -> str:
    """The part of the breakdown that a tensor counts towards."""
    if tensor.role in ("embed", "lm_head", "router"):
        return {"embed": "embedding"}.get(tensor.role, tensor.role)
    if tensor.place is Place.MOE:
        return "routed_experts" if tensor.is_routed else "shared_experts"
    return {Place.ATTENTION: "attention", Place.DELTA: "delta_net", Place.DENSE: "mlp"}.get(tensor.place, "norms")


def _mtp_parameters(config: ModelConfig) -> int:
    """Of the MTP module: its layers, and once what joins embedding and hidden state."""
    if not config.mtp_layers:
        return 0
    return sum(
        math.prod(tensor.shape(config.axes)) * (1 if tensor.place is Place.MTP else config.mtp_layers)
        for tensor, _ in mtp_tensors(config)
    )


def _vision_parameters(vision: dict[str, Any] | None) -> int:
    """Weights of the vision tower that config.json describes; 0 if any of its sizes is missing."""
    names = (
        "depth",
        "hidden_size",
        "intermediate_size",
        "in_channels",
        "patch_size",
        "temporal_patch_size",
        "spatial_merge_size",
        "num_position_embeddings",
        "out_hidden_size",
    )
    sizes = [n for n in map((vision or {}).get, names) if type(n) is int and 0 < n <= MAX_SIZE]
    if len(sizes) < len(names):
        return 0
    depth, D, F, channels, patch, frames, merge, positions, out = sizes
    block = 4 * D + 3 * D * D + 3 * D + D * D + D + 2 * D * F + F + D
    merged = D * merge * merge
    merger = 2 * D + merged * merged + merged + merged * out + out
    return D * channels * frames * patch * patch + D + positions * D + depth * block + merger
