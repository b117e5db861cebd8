"""Rotary positions: frequencies (default or YaRN) and the cosines and sines of positions.

Angles are position·frequency in float64, rounded once when their cosine and sine become float32. The reference
multiplies in float32, which at position 1,000,000 is off by a few hundredths of a radian for the fast frequencies; over
the first few hundred positions both agree to 2e-5 rad. Enter at `Rope(config.rope)`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from a3b.model.config import RopeConfig


def inverse_frequencies(rope: RopeConfig) -> npt.NDArray[np.float64]:
    """Radians per position, float64 [rotary_dim / 2]. Source for YaRN: Peng et al. 2023, as in transformers."""
    exponent = np.arange(0, rope.rotary_dim, 2) / rope.rotary_dim
    plain: npt.NDArray[np.float64] = float(rope.theta) ** -exponent
    if rope.type == "default":
        return plain
    low, high = yarn_range(rope)
    ramp = np.clip((np.arange(len(plain)) - low) / (high - low), 0.0, 1.0)
    blended: npt.NDArray[np.float64] = plain * (1 - ramp) + plain / rope.factor * ramp
    return blended


def yarn_range(rope: RopeConfig) -> tuple[float, float]:
    """The index up to which frequencies stay, and the index from which they are divided by the factor."""

    def index_of(turns: float) -> float:  # of the frequency that makes `turns` turns in the original context
        d, log_base = rope.rotary_dim, math.log(rope.theta)
        return d * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * log_base)

    low = max(math.floor(index_of(rope.beta_fast)), 0)
    high = min(math.ceil(index_of(rope.beta_slow)), rope.rotary_dim - 1)
    return low, high + 0.001 if high == low else high


def mrope_axis(rope: RopeConfig) -> np.ndarray:
    """Which axis of a position (0 time, 1 height, 2 width) each frequency follows: int [rotary_dim / 2].

    Interleaved: frequency i follows axis i mod 3 until that axis has used up its section, then time.
    """
    axis = np.zeros(rope.rotary_dim // 2, np.int64)
    for which in (1, 2):
        axis[which : 3 * rope.mrope_section[which] : 3] = which
    return axis


class Rope:
    """Cosines and sines of positions for one model. Immutable."""

    def __init__(self, rope: RopeConfig):
        self.frequencies = inverse_frequencies(rope)
        self.axis = mrope_axis(rope)
        self.factor = rope.attention_factor

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions int [T] (text) or [3, T] (time, height, width) -> cos, sin: float32 [T, rotary_dim / 2].

        Both carry the attention factor of YaRN.
        """
        if positions.ndim == 2:
            positions = positions[self.axis].T  # [T, rotary_dim / 2]
        else:
            positions = positions[:, None]
        angles = positions * self.frequencies
        return (np.cos(angles) * self.factor).astype(np.float32), (np.sin(angles) * self.factor).astype(np.float32)
