"""Twin of moe: one token walks its experts, many tokens are sorted by expert; both add in rank order."""

from __future__ import annotations

import numpy as np

from a3b.formats.tiles import Tiles
from a3b.kernels import Mapped, Matrix
from a3b.kernels.ref.activation import swiglu


class FloatExperts:
    """The experts of `ops.bind_moe`: floats, or mapped matrices that are decoded when an expert is used."""

    def __init__(self, gate_up: Matrix, down: Matrix):
        self.F = down.shape[2]
        self.gate_up, self.down = _transposed(gate_up), _transposed(down)
        self.E, self.D = down.shape[0], down.shape[1]

    def __call__(self, x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return self._one(x, ids, weights) if len(x) == 1 else self._many(x, ids, weights)

    def _one(self, x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        experts = ids[0].tolist()
        hidden = np.empty((len(experts), 1, 2 * self.F), np.float32)
        for rank, e in enumerate(experts):
            np.dot(x, self.gate_up[e], out=hidden[rank])
        active = swiglu(hidden)
        out = np.empty((len(experts), 1, self.D), np.float32)
        for rank, e in enumerate(experts):
            np.dot(active[rank], self.down[e], out=out[rank])
        out *= weights[0, :, None, None]
        total: np.ndarray = np.add.reduce(out, axis=0)  # rank 0 first
        return total

    def _many(self, x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
        T, K = ids.shape
        flat = ids.ravel()
        order = np.argsort(flat, kind="stable")  # rows of one expert together, tokens ascending
        ends = np.cumsum(np.bincount(flat, minlength=self.E)).tolist()
        spans = [(e, a, b) for e, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if a < b]
        sorted_x = x[order // K]
        hidden = np.empty((T * K, 2 * self.F), np.float32)
        for e, a, b in spans:
            np.dot(sorted_x[a:b], self.gate_up[e], out=hidden[a:b])
        active = swiglu(hidden)
        sorted_out = np.empty((T * K, self.D), np.float32)
        for e, a, b in spans:
            np.dot(active[a:b], self.down[e], out=sorted_out[a:b])
        sorted_out *= weights.ravel()[order, None]
        by_rank = np.empty((T * K, self.D), np.float32)
        by_rank[order] = sorted_out
        by_rank = by_rank.reshape(T, K, self.D)
        out = by_rank[:, 0]
        for rank in range(1, K):
            out = out + by_rank[:, rank]
        return out


def _transposed(matrix: Matrix) -> list[np.ndarray] | _DecodedExperts:
    """Experts as float32 [in, out]."""
    if isinstance(matrix, np.ndarray):
        return [w.T for w in matrix]  # views, made once
    if isinstance(matrix, Tiles):
        raise TypeError("experts in tiles; expected floats or a mapped matrix")
    return _DecodedExperts(matrix)


class _DecodedExperts:
    """Experts of a mapped matrix, decoded to float32 [in, out] at each use."""

    def __init__(self, stored: Mapped):
        self.stored = stored

    def __getitem__(self, e: int) -> np.ndarray:
        return self.stored.f32_expert(e).T
