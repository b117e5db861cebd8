"""Twin of rope_apply."""

from __future__ import annotations

import numpy as np


def rope_apply(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, second = x[..., :half], x[..., half : 2 * half]
    turned = first * sin
    turned += second * cos
    first *= cos
    first -= second * sin
    second[...] = turned
