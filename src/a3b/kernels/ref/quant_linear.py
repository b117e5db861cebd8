"""Twin of the product with tiles: activations as int8 with a scale per group, exact integer sums, groups added in ascending order."""

from __future__ import annotations

import numpy as np

from a3b.formats.tiles import Tiles

MIN_ACT_GROUP = 32  # activations that share a scale, unless the weights' group is longer


def quantise_rows(x: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [T, n], n a multiple of the group -> integers in [-127, 127] as int32 [T, n], scales float32 [T, n / group]."""
    groups = x.reshape(len(x), -1, group)
    size = np.abs(groups).max(-1)
    inverse = np.divide(np.float32(127), size, out=np.zeros_like(size), where=size > 0)
    q = np.rint(groups * inverse[..., None]).astype(np.int32)
    return q.reshape(x.shape), size / np.float32(127)


class QuantLinear:
    """x float32 [T, in] -> [T, out]; every group's integer sum is exact, all else is float32."""

    def __init__(self, tiles: Tiles):
        format = tiles.format
        parts = tiles.parts(0, tiles.shape[0])
        self.group = format.group
        self.act_group = max(format.group, MIN_ACT_GROUP)
        self.zero = 0 if format.has_minimum else format.zero
        self.q = parts.q.astype(np.int32) - self.zero
        scale, minimum = parts.scales(format)
        self.scale, self.minimum = scale.T, minimum.T if format.has_minimum else None
        self.num_out = tiles.shape[0]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        padding = -x.shape[1] % self.act_group
        xq, x_scale = quantise_rows(np.pad(x, ((0, 0), (0, padding))), self.act_group)
        out = np.zeros((len(x), self.num_out), np.float32)
        for g in range(self.q.shape[1] // self.group):
            columns = slice(g * self.group, (g + 1) * self.group)
            part = xq[:, columns]
            scale = x_scale[:, g * self.group // self.act_group, None]
            out += (part @ self.q[:, columns].T).astype(np.float32) * (self.scale[g] * scale)
            if self.minimum is not None:
                out += self.minimum[g] * (scale * part.sum(1, dtype=np.int32, keepdims=True).astype(np.float32))
        return out
