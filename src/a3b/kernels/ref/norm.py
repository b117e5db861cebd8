"""Twins of rms_norm and gated_rms_norm."""

from __future__ import annotations

import numpy as np

from a3b.kernels.ref.activation import silu


class RmsNorm:
    """x·rsqrt(mean(x²) + eps)·scale over the last axis, written x·(scale·√n) / √(Σx² + n·eps): no division by n."""

    def __init__(self, scale: np.ndarray, eps: float):
        n = scale.shape[-1]
        with np.errstate(over="ignore"):  # a weight near the end of float32 makes its products infinite or NaN
            self.scale = (scale.astype(np.float64) * n**0.5).astype(np.float32)
        self.eps = np.float32(n * eps)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        root = np.einsum("...i,...i->...", x, x)
        root += self.eps
        np.sqrt(root, out=root)
        root[np.isinf(root)] = np.nan  # squares overflowed: dividing by them would give tidy zeros
        y: np.ndarray = np.divide(x, root[..., None])
        np.multiply(y, self.scale, out=y)
        return y


class GatedRmsNorm:
    """The same, then ·silu(z)."""

    def __init__(self, scale: np.ndarray, eps: float):
        self.norm = RmsNorm(scale, eps)

    def __call__(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        y = self.norm(x)
        np.multiply(y, silu(z), out=y)
        return y
