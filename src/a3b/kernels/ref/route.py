"""Twin of route."""

from __future__ import annotations

import numpy as np


def route(logits: np.ndarray, K: int) -> tuple[np.ndarray, np.ndarray]:
    left = logits.copy()
    T = len(left)
    ids = np.empty((T, K), np.int64)
    chosen = np.empty((T, K), np.float32)
    rows = np.arange(T)
    for rank in range(K):  # argmax takes the lowest id among equals
        best = left.argmax(-1)
        ids[:, rank] = best
        chosen[:, rank] = left[rows, best]
        left[rows, best] = -np.inf
    chosen -= chosen[:, :1]
    np.exp(chosen, out=chosen)
    chosen /= chosen.sum(-1, keepdims=True)
    return ids, chosen
