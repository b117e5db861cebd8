"""Unpacks the block formats of GGUF files into the stored numbers of `tiles`: the same integers and halves, unrounded.

q·scale has at most 24 significant bits in every format here, so float32 holds it exactly; only the formats with
minimums of their own (Q4_1, Q4_K, Q5_K) round, once, in the sum. Knows no files. Enter at `unpack`, or `decode` for
float32. Source: block layouts of ggml-quants (ggml-org/ggml)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from a3b.errors import TensorError
from a3b.formats.quant import bf16_to_f32
from a3b.formats.tiles import FORMATS, Format, Parts


@dataclass(frozen=True)
class Block:
    """The size of a block: `num_values` numbers in `num_bytes` bytes."""

    num_values: int
    num_bytes: int


BLOCKS = {
    "F32": Block(1, 4),
    "F16": Block(1, 2),
    "BF16": Block(1, 2),
    "Q4_0": Block(32, 18),
    "Q4_1": Block(32, 20),
    "Q8_0": Block(32, 34),
    "Q4_K": Block(256, 144),
    "Q5_K": Block(256, 176),
    "Q6_K": Block(256, 210),
}
FORMAT_OF: dict[str, Format] = {
    dtype: FORMATS[name]
    for dtype, name in {
        "Q4_0": "w4s32",
        "Q4_1": "w4m32",
        "Q4_K": "w4k32",
        "Q5_K": "w6k32",
        "Q6_K": "w6k16",
        "Q8_0": "w8s32",
    }.items()
}
TYPES = {  # their numbers in files; those without a name were given up
    number: name
    for number, name in enumerate(
        "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL "
        "IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4 NVFP4 Q1_0".split()
    )
    if name != "-"
}


def decode(dtype: str, rows: np.ndarray) -> np.ndarray:
    """uint8 [rows, bytes of a row] -> float32 [rows, n]."""
    if dtype == "F32":
        return rows.view("<f4")
    if dtype == "F16":
        return rows.view("<f2").astype(np.float32)
    if dtype == "BF16":
        return bf16_to_f32(rows.view("<u2"))
    return unpack(dtype, rows).f32(FORMAT_OF[dtype])


def unpack(dtype: str, rows: np.ndarray) -> Parts:
    """uint8 [rows, bytes of a row] of a quantised format -> Parts for FORMAT_OF[dtype].

    Raises TensorError for a format without groups and for scales that are not finite."""
    if dtype not in FORMAT_OF:
        raise TensorError(f"{dtype}: not a quantised block format; expected one of {', '.join(FORMAT_OF)}")
    found = _UNPACK[dtype](rows.reshape(-1, BLOCKS[dtype].num_bytes))
    parts = found.reshape(len(rows))
    if not all(np.isfinite(halves).all() for halves in parts.halves):
        raise TensorError(f"{dtype}: a block has a scale that is not finite")
    return parts


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The half-precision number at byte `at` of every block: float16 [N, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 [N, ..., b] -> [N, ..., 2b]: all low halves, then all high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _q4_0(blocks: np.ndarray) -> Parts:
    return Parts(_nibbles(blocks[:, 2:]), _half(blocks, 0))


def _q4_1(blocks: np.ndarray) -> Parts:
    return Parts(_nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: np.ndarray) -> Parts:
    return Parts(blocks[:, 2:] ^ 128, _half(blocks, 0))  # two's complement to offset binary


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scales and minimums of Q4_K and Q5_K: eight 6-bit pairs in 12 bytes, uint8 [N, 8] each, then their factors.

    These formats subtract minimums, so the sign of the second factor changes."""
    low, high, rest = (blocks[:, 4 + 4 * i : 8 + 4 * i] for i in range(3))
    scale = np.concatenate((low & 63, (rest & 15) | (low >> 6 << 4)), axis=1)
    minimum = np.concatenate((high & 63, (rest >> 4) | (high >> 6 << 4)), axis=1)
    return scale, minimum, _half(blocks, 0), -_half(blocks, 2)


def _q4_k(blocks: np.ndarray) -> Parts:
    return Parts(_nibbles(blocks[:, 16:].reshape(-1, 4, 32)), *_k_scales(blocks))


def _q5_k(blocks: np.ndarray) -> Parts:
    bits = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # [N, 8 groups, 32]
    q = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return Parts(q | bits << 4, *_k_scales(blocks))


def _q6_k(blocks: np.ndarray) -> Parts:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    codes = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return Parts(low | high << 4, codes, None, _half(blocks, 208))


_UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}
