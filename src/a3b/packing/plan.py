"""What is packed, and in which format: the tensors of a loaded model under the names of the packed directory.

Knows no files. Enter at `make_plan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from a3b.formats.packed import F32, PackedTensor
from a3b.formats.tiles import FORMATS, Format, Parts
from a3b.model.config import ModelConfig
from a3b.model.matrices import StackedMatrix, StoredExperts
from a3b.model.tensor_names import BY_ROLE, ROUTED, Tensor, is_mtp, mtp_tensors, tensors_of
from a3b.model.weights import ModelWeights, by_role
from a3b.packing.presets import KEEP, PRESETS, format_for

EMBED = BY_ROLE["embed"].full_name(None)
EXPERTS = ("experts", "down")  # the kinds of the routed experts, or of a dense MLP


@dataclass(frozen=True)
class Half:
    """The gate rows or the up rows of a matrix [2F, D], or of experts [E, 2F, D]."""

    whole: Any
    second: bool

    @property
    def name(self) -> str:
        return str(self.whole.name)

    @property
    def shape(self) -> tuple[int, ...]:
        *experts, rows, n = self.whole.shape
        return (*experts, rows // 2, n)

    def expert(self, e: int) -> Half:
        return Half(self.whole.expert(e), self.second)

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        rows: np.ndarray = self.whole.f32_rows(self.base + start, self.base + stop)
        return rows

    @property
    def format(self) -> Format | None:
        return getattr(self.whole, "format", None)

    def parts(self, start: int, stop: int) -> Parts:
        parts: Parts = self.whole.parts(self.base + start, self.base + stop)
        return parts

    @property
    def base(self) -> int:
        """Its first row in the whole matrix."""
        return self.shape[-2] if self.second else 0


@dataclass(frozen=True)
class Item:
    """A tensor of the packed directory, and where its numbers come from."""

    tensor: PackedTensor
    kind: str | None  # of matrix; None: a small tensor, kept in float32
    # float32 array, or a matrix of a source: `shape`, `f32_rows`, `expert`; `format` and `parts` if it has integers,
    value: Any
    # `packed` if it has tiles

    @property
    def format(self) -> Format | None:
        return FORMATS.get(self.tensor.format)


@dataclass(frozen=True)
class Plan:
    items: tuple[Item, ...]
    preset: str | None
    notes: tuple[str, ...]  # where the plan differs from the preset
    num_chosen: int  # matrices whose format the preset chose

    @property
    def num_bytes(self) -> int:
        return sum(item.tensor.num_bytes for item in self.items)

    @property
    def tensors(self) -> tuple[PackedTensor, ...]:
        return tuple(item.tensor for item in self.items)


def bytes_per_token(config: ModelConfig, tensors: Iterable[PackedTensor]) -> int:
    """Bytes of weights that decoding one token reads: all except idle experts, the MTP module, and the embedding, of
    which it reads a row."""
    total = 0
    for tensor in tensors:
        if is_mtp(tensor.name):
            continue
        if ROUTED in tensor.name:
            total += tensor.num_bytes * config.num_experts_per_tok // config.num_experts
        elif tensor.name != EMBED or config.tie_word_embeddings:
            total += tensor.num_bytes
    return total


def num_weights(tensors: Iterable[PackedTensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def make_plan(config: ModelConfig, weights: ModelWeights, preset: str | None) -> Plan:
    """Choose formats: integers keep their own; matrices in floats get the preset's, or 8 bits without a preset."""
    kinds = KEEP if preset is None else PRESETS[preset]
    items, floats, num_chosen = [], [], 0
    for tensor, layer, value in tensor_values(config, weights):
        name, kind, format = tensor.full_name(layer), tensor.kind, None
        if kind is not None:
            own = own_format(value)
            # either all experts are in tiles, or none
            widths = (config.hidden_size, config.intermediate_size) if kind in EXPERTS else (value.shape[-1],)
            fits = all(format_for(kinds, kind, n) for n in widths)
            format = own if own is not None else format_for(kinds, kind, value.shape[-1]) if fits else None
            num_chosen += own is None
            if format is None:
                floats.append(name)
        items.append(Item(PackedTensor(name, format.name if format else F32, tuple(value.shape)), kind, value))
    notes = []
    if floats:
        notes.append(
            f"{len(floats)} matrices stay float32: no format's groups divide their columns (the first is {floats[0]})"
        )
    return Plan(tuple(items), preset, tuple(notes), num_chosen)


def tensor_values(config: ModelConfig, weights: ModelWeights) -> Iterator[tuple[Tensor, int | None, Any]]:
    """(tensor, its layer, its numbers in the shape of a packed directory), in the order of packed directories; the MTP
    module, if it is loaded, comes last."""
    axes, values, of = config.axes, by_role(weights, None), None
    for tensor, layer in chain(tensors_of(config), mtp_tensors(config) if weights.mtp else ()):
        if layer != of:
            values, of = by_role(weights, layer), layer
        value: Any = values[tensor.role]
        if tensor.is_vector:
            value = value.reshape(tensor.shape(axes))
        elif tensor.half is not None:
            value = halves(value)[tensor.half]
        yield tensor, layer, value


def halves(matrix: Any) -> tuple[Any, Any]:
    """Gate and up of a matrix, without a copy."""
    if isinstance(matrix, tuple):
        return matrix
    if isinstance(matrix, StackedMatrix):
        gate, up = matrix.parts
        return gate, up
    if isinstance(matrix, StoredExperts):
        gates, ups = zip(*map(halves, matrix.experts), strict=True)
        return StoredExperts(matrix.name, gates), StoredExperts(matrix.name, ups)
    return Half(matrix, False), Half(matrix, True)


def own_format(matrix: Any) -> Format | None:
    """The format of tiles that holds the integers of a matrix unchanged, if it has integers of one kind."""
    if isinstance(matrix, StoredExperts):
        found = {own_format(expert) for expert in matrix.experts}
        return found.pop() if len(found) == 1 else None
    return getattr(matrix, "format", None)
