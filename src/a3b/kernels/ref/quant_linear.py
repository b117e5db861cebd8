"""Twin of the product with tiles: activations as int8 with a scale per group, exact integer sums over a group.

In formats with super-blocks activations share a scale per super-block, and the codes of its scales and minimums are
part of the exact sum. Sums are added in ascending order, in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from a3b.formats.tiles import SUPER, Tiles


def quantise_rows(x: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [T, n] -> integers in [-127, 127] as int32 [T, n], scales float32 [T, n / group].

    n is a multiple of the group.
    """
    groups = x.reshape(len(x), -1, group)
    size = np.abs(groups).max(-1)
    inverse = np.divide(np.float32(127), size, out=np.zeros_like(size), where=size > 0)
    with np.errstate(invalid="ignore"):  # meaningless integers, under a scale that is not finite either
        q = np.rint(groups * inverse[..., None]).astype(np.int32)
    return q.reshape(x.shape), size / np.float32(127)


class QuantLinear:
    """x float32 [T, in] -> [T, out]; every integer sum is exact, all else is float32."""

    def __init__(self, tiles: Tiles):
        format = tiles.format
        parts = tiles.parts(0, tiles.shape[0])
        self.num_out, self.group = tiles.shape[0], format.group
        # columns of one integer sum, whose activations share a scale
        self.block = SUPER if format.is_super else format.group
        self.q = parts.q.astype(np.int32)
        if not format.has_minimum:
            self.q -= format.zero
        if format.is_super:
            scale, minimum = _given(parts.super_scale), parts.super_minimum
            self.codes, self.minimum_codes = _columns_last(parts.scale), _columns_last(parts.minimum)
        else:
            scale, minimum = parts.scale, parts.minimum
            self.codes = self.minimum_codes = None
        self.scale = scale.T.astype(np.float32)
        self.minimum = None if minimum is None else minimum.T.astype(np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        padding = -x.shape[1] % self.block
        xq, x_scale = quantise_rows(np.pad(x, ((0, 0), (0, padding))), self.block)
        out = np.zeros((len(x), self.num_out), np.float32)
        for block in range(x_scale.shape[1]):
            scale = x_scale[:, block, None]
            starts = range(block * self.block, min((block + 1) * self.block, self.q.shape[1]), self.group)
            groups = [(start // self.group, slice(start, start + self.group)) for start in starts]
            total = _sum((xq[:, columns] @ self.q[:, columns].T) * _code(self.codes, g) for g, columns in groups)
            out += total.astype(np.float32) * (self.scale[block] * scale)
            if self.minimum is not None:
                total = _sum(
                    xq[:, columns].sum(1, dtype=np.int32, keepdims=True) * _code(self.minimum_codes, g)
                    for g, columns in groups
                )
                if self.codes is None:
                    out += self.minimum[block] * (scale * total.astype(np.float32))
                else:
                    out += total.astype(np.float32) * (self.minimum[block] * scale)
        return out


def _sum(terms: Iterable[np.ndarray]) -> np.ndarray:
    total: np.ndarray = functools.reduce(np.add, terms)
    return total


def _columns_last(codes: np.ndarray | None) -> np.ndarray | None:
    """Codes [rows, groups] as int32 [groups, rows]."""
    return None if codes is None else codes.T.astype(np.int32)


def _code(codes: np.ndarray | None, group: int) -> np.ndarray | int:
    if codes is None:
        return 1
    code: np.ndarray = codes[group]
    return code


def _given(part: np.ndarray | None) -> np.ndarray:
    """A part that every matrix of its format has."""
    assert part is not None
    return part
