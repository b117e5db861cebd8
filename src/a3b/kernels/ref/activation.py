"""Twins of sigmoid and swiglu, and the SiLU that other twins gate with."""

from __future__ import annotations

import numpy as np

EXP_LIMIT = np.float32(88.0)  # e^88 is finite in float32; beyond it both functions are as good as zero
ONE = np.float32(1.0)


def one_plus_exp_neg(x: np.ndarray) -> np.ndarray:
    """1 + e^-x without overflow, a new float32 array shaped like x."""
    y: np.ndarray = np.negative(x)
    np.minimum(y, EXP_LIMIT, out=y)
    np.exp(y, out=y)
    np.add(y, ONE, out=y)
    return y


def sigmoid(x: np.ndarray) -> np.ndarray:
    y = one_plus_exp_neg(x)
    np.divide(ONE, y, out=y)
    return y


def silu(x: np.ndarray) -> np.ndarray:
    y = one_plus_exp_neg(x)
    np.divide(x, y, out=y)
    return y


def swiglu(hidden: np.ndarray) -> np.ndarray:
    """silu(gate)·up of [..., gate | up], contiguous."""
    F = hidden.shape[-1] // 2
    y = silu(hidden[..., :F])
    np.multiply(y, hidden[..., F:], out=y)
    return y
