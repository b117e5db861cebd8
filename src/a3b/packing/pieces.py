"""The pieces that a packed model is written in: where each goes, and which bytes of the source it is made of.

Everything is known from the headers, so pieces can be packed in any order, each once its bytes are here. Enter at
`plan_pieces`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from a3b.formats.gguf import GgufFile
from a3b.formats.gptq import GptqMatrix
from a3b.formats.packed import Shard
from a3b.formats.safetensors import SafetensorsFile
from a3b.model.matrices import StoredExperts, StoredMatrix
from a3b.packing.gguf_source import GgufMatrix
from a3b.packing.plan import Half, Item, Plan
from a3b.packing.writer import cuts

Read = tuple[int, int, int]  # index of a file, first byte, byte after the last


@dataclass(frozen=True, slots=True)
class PackedPiece:
    """Rows [start, stop) of a matrix, or of an expert of it; a tensor in float32 is one piece."""

    item: int  # index in the plan
    expert: int
    start: int
    stop: int
    file: str  # shard
    at: int  # its first byte there
    num_bytes: int
    reads: tuple[Read, ...]  # empty: its numbers are read when the source is opened


def plan_pieces(
    plan: Plan, shards: Sequence[Shard], containers: Sequence[SafetensorsFile | GgufFile]
) -> list[list[PackedPiece]]:
    """The pieces of each item of a plan, in the order of the packed tensor."""
    places, place = _places(shards), FilePlaces(containers)
    out = []
    for index, item in enumerate(plan.items):
        file, at = places[item.tensor.name]
        pieces = []
        for matrix, e, start, stop in cuts(item):
            if item.format is None:
                num_bytes, arrays = item.tensor.num_bytes, _all_arrays(item)
            else:
                num_bytes, arrays = (
                    item.format.num_bytes(stop - start, matrix.shape[-1]),
                    arrays_of(matrix, start, stop),
                )
            reads = tuple(dict.fromkeys(place.of(array) for array in arrays if array.size))
            pieces.append(PackedPiece(index, e, start, stop, file, at, num_bytes, reads))
            at += num_bytes
        out.append(pieces)
    return out


def arrays_of(matrix: Any, start: int, stop: int) -> list[np.ndarray]:
    """The views into mapped files that rows [start, stop) of a matrix are decoded from; none if it is in memory."""
    if isinstance(matrix, np.ndarray):
        return []
    if isinstance(matrix, Half):
        return arrays_of(matrix.whole, matrix.base + start, matrix.base + stop)
    if isinstance(matrix, GgufMatrix):
        return [matrix.rows[start:stop]]
    if isinstance(matrix, GptqMatrix):
        order = [] if matrix.order is None else [matrix.order]
        return [matrix.qweight, matrix.qzeros, matrix.scales, *order]
    if isinstance(matrix, StoredMatrix):
        if matrix.scale is None:
            return [matrix.stored[start:stop]]
        first = start // matrix.block[0]
        return [matrix.stored[first * matrix.block[0] : stop], matrix.scale[first : -(-stop // matrix.block[0])]]
    raise TypeError(f"{type(matrix).__name__}: no matrix of a mapped file")


def _all_arrays(item: Item) -> list[np.ndarray]:
    value, shape = item.value, item.tensor.shape
    if isinstance(value, np.ndarray) or len(shape) < 3:
        return arrays_of(value, 0, shape[0])
    if isinstance(value, StoredExperts):
        return [array for expert in value.experts for array in arrays_of(expert, 0, shape[1])]
    return [array for e in range(shape[0]) for array in arrays_of(value.expert(e), 0, shape[1])]


def _places(shards: Sequence[Shard]) -> dict[str, tuple[str, int]]:
    """(file, first byte) of each tensor."""
    found = {}
    for shard in shards:
        at = len(shard.header)
        for tensor in shard.tensors:
            found[tensor.name] = shard.file, at
            at += tensor.num_bytes
    return found


def places_in(containers: Sequence[SafetensorsFile | GgufFile], array: np.ndarray) -> Read:
    """The bytes of the files that an array shows."""
    return FilePlaces(containers).of(array)


class FilePlaces:
    """Finds the bytes of a file that an array shows, by their address."""

    def __init__(self, containers: Sequence[SafetensorsFile | GgufFile]):
        found = sorted((_address(file.mapped), i, file.num_bytes) for i, file in enumerate(containers))
        self.addresses, self.files = [entry[0] for entry in found], found

    def of(self, array: np.ndarray) -> Read:
        address = _address(array)
        base, file, num_bytes = self.files[max(bisect_right(self.addresses, address) - 1, 0)]
        start = address - base
        if not array.flags.c_contiguous or not 0 <= start <= num_bytes - array.nbytes:
            raise TypeError("an array is no run of bytes of a mapped file")
        return file, start, start + array.nbytes


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def kept_ranges(names: Sequence[str], containers: Sequence[SafetensorsFile | GgufFile]) -> Iterator[Read]:
    """The headers, and the bytes of tensors by name: what is read when a source is opened."""
    for i, file in enumerate(containers):
        yield i, 0, file.header_bytes
        for name in names:
            if name in file.tensors:
                yield i, file.tensors[name].start, file.tensors[name].stop
