"""Twins of embed, linear and lm_head, over float32 weights or over mapped ones that are decoded block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from a3b.kernels import Matrix

ROWS = 128  # rows of a mapped matrix decoded at a time: an FP8 block high, and still in the cache for the product


class FloatEmbed:
    """ids [T] -> rows [T, n] of the table."""

    def __init__(self, table: Matrix):
        self.table = table

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        if isinstance(self.table, np.ndarray):
            rows: np.ndarray = self.table[ids]
            return rows
        return np.concatenate([self.table.f32_rows(i, i + 1) for i in ids.tolist()])


class FloatLinear:
    """x [T, in] -> [T, sum of out]. Float32 weights are joined into one product; mapped ones stay where they are."""

    def __init__(self, weights: Sequence[Matrix]):
        floats = [w for w in weights if isinstance(w, np.ndarray)]
        self.transposed: np.ndarray | None = None
        self.mapped: tuple[Matrix, ...] = ()
        if len(floats) == len(weights):
            self.transposed = (floats[0] if len(floats) == 1 else np.concatenate(floats)).T
        else:
            self.mapped = tuple(weights)
        self.num_out = sum(w.shape[0] for w in weights)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.transposed is not None:
            product: np.ndarray = x.dot(self.transposed)
            return product
        out = np.empty((len(x), self.num_out), np.float32)
        column = 0
        for weight in self.mapped:
            num = weight.shape[0]
            for start in range(0, num, ROWS):
                stop = min(start + ROWS, num)
                out[:, column + start : column + stop] = x.dot(_rows(weight, start, stop).T)
            column += num
        return out


def _rows(weight: Matrix, start: int, stop: int) -> np.ndarray:
    return weight[start:stop] if isinstance(weight, np.ndarray) else weight.f32_rows(start, stop)
