"""Twin of moe: few tokens walk their experts, many tokens are sorted by expert; both add in rank order."""

from __future__ import annotations

import numpy as np

from a3b.kernels.ref.activation import swiglu


class Moe:
    def __init__(self, gate_up, down):
        self.F = down.shape[2]
        if isinstance(gate_up, np.ndarray):
            self.gate_up, self.down = [w.T for w in gate_up], [w.T for w in down]  # views, made once
        else:
            self.gate_up, self.down = _Decoded(gate_up), _Decoded(down)
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
        return np.add.reduce(out, axis=0)  # rank 0 first

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


class _Decoded:
    """Experts of a mapped matrix, decoded to float32 [in, out] when asked for."""

    def __init__(self, stored):
        self.stored = stored

    def __getitem__(self, e: int) -> np.ndarray:
        return self.stored.f32_expert(e).T
