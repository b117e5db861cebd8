"""Twin of causal_conv."""

from __future__ import annotations

import numpy as np

from a3b.kernels.ref.activation import silu


class CausalConv:
    """The convolution of `ops.bind_causal_conv`."""

    def __init__(self, weight: np.ndarray):
        self.taps = np.ascontiguousarray(weight.T)  # [conv_len, C], the last tap meets the current token

    def __call__(self, x: np.ndarray, state: np.ndarray) -> np.ndarray:
        num, taps = len(x), self.taps
        padded = np.concatenate((state, x))  # [conv_len - 1 + T, C]
        state[:] = padded[num:]
        if num == 1:  # the same products and the same order of sums in fewer calls
            return silu(np.add.reduce(padded * taps, axis=0, keepdims=True))
        y = padded[:num] * taps[0]
        for j in range(1, len(taps)):
            y += padded[j : j + num] * taps[j]
        return silu(y)
