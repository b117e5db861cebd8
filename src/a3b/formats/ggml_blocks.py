"""Block formats of GGUF files as integers with a scale and a minimum per group: value = scale·q + minimum, with no loss.

q·scale has at most 24 significant bits in every format here, so float32 holds it exactly; only the formats with minimums of their own
(Q4_1, Q4_K, Q5_K) round, once, in the sum. Knows no files. Enter at `unpack`, or `decode` for float32.
Source: block layouts of ggml-quants (ggml-org/ggml).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from a3b.errors import TensorError
from a3b.formats.quant import bf16_to_f32


@dataclass(frozen=True)
class Block:
    """`num_values` numbers in `num_bytes` bytes, `group` of them to a scale; group 0: plain floats."""

    num_values: int
    num_bytes: int
    group: int


BLOCKS = {
    "F32": Block(1, 4, 0), "F16": Block(1, 2, 0), "BF16": Block(1, 2, 0), "Q4_0": Block(32, 18, 32), "Q4_1": Block(32, 20, 32),
    "Q8_0": Block(32, 34, 32), "Q4_K": Block(256, 144, 32), "Q5_K": Block(256, 176, 32), "Q6_K": Block(256, 210, 16),
}  # fmt: skip
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16"}


@dataclass(frozen=True)
class Groups:
    """q uint8 [rows, n]; scale, minimum float32 [rows, n / group]."""

    q: np.ndarray
    scale: np.ndarray
    minimum: np.ndarray
    group: int

    def f32(self) -> np.ndarray:
        """float32 [rows, n]: scale·q + minimum."""
        rows, n = self.q.shape
        values = self.q.reshape(rows, -1, self.group).astype(np.float32)
        values *= self.scale[..., None]
        values += self.minimum[..., None]
        return values.reshape(rows, n)


def decode(dtype: str, rows: np.ndarray) -> np.ndarray:
    """uint8 [rows, bytes of a row] -> float32 [rows, n]."""
    if dtype == "F32":
        return rows.view("<f4")
    if dtype == "F16":
        return rows.view("<f2").astype(np.float32)
    if dtype == "BF16":
        return bf16_to_f32(rows.view("<u2"))
    return unpack(dtype, rows).f32()


def unpack(dtype: str, rows: np.ndarray) -> Groups:
    """uint8 [rows, bytes of a row] of a quantised format -> Groups. Raises TensorError for a format without groups."""
    block = BLOCKS.get(dtype)
    if block is None or not block.group:
        raise TensorError(f"{dtype}: no quantised block format; expected one of {', '.join(n for n, b in BLOCKS.items() if b.group)}")
    num_rows = len(rows)
    q, scale, minimum = _UNPACK[dtype](rows.reshape(-1, block.num_bytes))
    return Groups(*(part.reshape(num_rows, -1) for part in (q, scale, minimum)), block.group)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The half-precision number at byte `at` of every block: float32 [N, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 [N, ..., b] -> [N, ..., 2b]: all low halves, then all high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _q4_0(blocks: np.ndarray):
    scale = _half(blocks, 0)
    return _nibbles(blocks[:, 2:]), scale, -8 * scale


def _q4_1(blocks: np.ndarray):
    return _nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: np.ndarray):
    scale = _half(blocks, 0)
    return blocks[:, 2:] ^ 128, scale, -128 * scale  # two's complement to offset binary


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and minimums of Q4_K and Q5_K: eight 6-bit pairs in 12 bytes times two halves -> float32 [N, 8] each."""
    low, high, rest = (blocks[:, 4 + 4 * i : 8 + 4 * i] for i in range(3))
    scale = np.concatenate((low & 63, (rest & 15) | (low >> 6 << 4)), axis=1)
    minimum = np.concatenate((high & 63, (rest >> 4) | (high >> 6 << 4)), axis=1)
    return _half(blocks, 0) * scale, -_half(blocks, 2) * minimum


def _q4_k(blocks: np.ndarray):
    q = _nibbles(blocks[:, 16:].reshape(-1, 4, 32))
    return q, *_k_scales(blocks)


def _q5_k(blocks: np.ndarray):
    bits = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # [N, 8 groups, 32]
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return q | bits << 4, *_k_scales(blocks)


def _q6_k(blocks: np.ndarray):
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    scale = _half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return low | high << 4, scale, -32 * scale


_UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}
