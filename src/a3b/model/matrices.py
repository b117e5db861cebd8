"""Weights as a checkpoint stores them, decoded to float32 where they are used. Enter at `Decodable`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from a3b.errors import TensorError
from a3b.formats import gptq
from a3b.formats.gptq import GptqMatrix
from a3b.formats.quant import all_finite, fp8_to_f32, to_f32


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix [out, in], or experts [E, out, in], left in its file; every call decodes it again."""

    name: str
    dtype: str
    stored: np.ndarray
    scale: np.ndarray | None = None  # as stored, one per block of the last two axes
    block: tuple[int, int] = (1, 1)
    scale_dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def f32(self) -> np.ndarray:
        """float32 of the whole shape."""
        if self.stored.ndim == 3:
            return np.stack([self.f32_expert(e) for e in range(self.shape[0])])
        return self.f32_rows(0, self.shape[0])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a matrix: float32 [stop - start, in]."""
        return self._decode(self.stored, self.scale, start, stop)

    def f32_expert(self, e: int) -> np.ndarray:
        """Expert e: float32 [out, in]."""
        return self.expert(e).f32_rows(0, self.shape[1])

    def expert(self, e: int) -> StoredMatrix:
        """Expert e as a matrix: a view."""
        scale = None if self.scale is None else self.scale[e]
        return StoredMatrix(f"{self.name}[{e}]", self.dtype, self.stored[e], scale, self.block, self.scale_dtype)

    def _decode(self, bits: np.ndarray, scale: np.ndarray | None, start: int, stop: int) -> np.ndarray:
        if scale is None:
            return checked_finite(self.name, to_f32(bits[start:stop], self.dtype))
        first = start // self.block[0]  # whole blocks, then the rows asked for
        base = first * self.block[0]
        scales = to_f32(scale[first : -(-stop // self.block[0])], self.scale_dtype)
        decoded = fp8_to_f32(bits[base:stop], scales, self.block)
        return checked_finite(self.name, decoded[start - base :])


def checked_finite(name: str, values: np.ndarray) -> np.ndarray:
    """The values themselves. Raises TensorError if one is NaN or infinite."""
    if not all_finite(values):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise TensorError(
            f"tensor {name!r} holds {values[place]} at {list(place)}; expected finite numbers: "
            "the file is damaged, download it again"
        )
    return values


@dataclass(frozen=True)
class StackedMatrix:
    """Matrices of equal width, stacked to one [sum of out, in]."""

    name: str
    parts: tuple[StoredMatrix | GptqMatrix, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(p.shape[0] for p in self.parts), self.parts[0].shape[1]

    def f32(self) -> np.ndarray:
        return np.concatenate([p.f32() for p in self.parts])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        rows, base = [], 0
        for part in self.parts:
            low, high = max(start - base, 0), min(stop - base, part.shape[0])
            if low < high:
                rows.append(part.f32_rows(low, high))
            base += part.shape[0]
        return np.concatenate(rows)

    def f32_expert(self, e: int) -> NoReturn:
        raise TypeError(f"{self.name}: is one matrix, not experts")


@dataclass(frozen=True)
class StoredExperts:
    """Experts stored one by one, as one [E, out, in]."""

    name: str
    experts: tuple[StoredMatrix | StackedMatrix | GptqMatrix, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.experts), *self.experts[0].shape

    def f32(self) -> np.ndarray:
        out = np.empty(self.shape, np.float32)
        for e, expert in enumerate(self.experts):
            out[e] = expert.f32()
        return out

    def f32_expert(self, e: int) -> np.ndarray:
        return self.experts[e].f32()

    def f32_rows(self, start: int, stop: int) -> NoReturn:
        raise TypeError(f"{self.name}: is experts, not one matrix")

    def expert(self, e: int) -> StoredMatrix | StackedMatrix | GptqMatrix:
        return self.experts[e]


Decodable = StoredMatrix | StackedMatrix | StoredExperts | GptqMatrix


def names_of(matrix: Decodable) -> list[str]:
    """The names of the tensors that a matrix is made of."""
    if isinstance(matrix, StoredMatrix):
        return [matrix.name]
    if isinstance(matrix, GptqMatrix):
        return list(gptq.names_of_module(matrix.name)[:3])
    return [
        name
        for part in (matrix.parts if isinstance(matrix, StackedMatrix) else matrix.experts)
        for name in names_of(part)
    ]
