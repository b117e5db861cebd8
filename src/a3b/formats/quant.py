"""Converts between float32 and the number formats of checkpoints: BF16, F16, F32 and block-scaled FP8 (E4M3).

Exact where the format allows. Bits are NumPy integers, because NumPy has neither BF16 nor FP8. Knows no files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FP8_MAX = 448.0  # largest finite E4M3 value
FLOATS = ("F32", "F16", "BF16")


def all_finite(values: np.ndarray) -> bool:
    """Whether an array holds neither NaN nor infinity. One pass: a finite sum has only finite terms."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(
            np.isfinite(values.sum(dtype=np.float32 if values.itemsize <= 4 else None)) or np.isfinite(values).all()
        )


def bf16_to_f32(bits: np.ndarray) -> npt.NDArray[np.float32]:
    """uint16 [...] -> float32 [...]. Exact."""
    wide = bits.astype(np.uint32)
    wide <<= 16  # in place: a second buffer would cost more than the shift
    return wide.view(np.float32)


def f32_to_bf16(values: np.ndarray) -> npt.NDArray[np.uint16]:
    """float32 [...] -> uint16 bits, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _e4m3_table() -> npt.NDArray[np.float32]:
    """Value of each byte: sign, 4 exponent bits with bias 7, 3 fraction bits; no infinities, S.1111.111 is NaN."""
    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, code & 7
    normal = (8 + fraction) * 2.0 ** (exponent - 10.0)
    table = np.where(exponent == 0, fraction * 2.0**-9, normal)
    table[(code & 127) == 127] = np.nan
    return np.where(code & 128, -table, table).astype(np.float32)


E4M3 = _e4m3_table()


def e4m3_to_f32(bits: np.ndarray) -> npt.NDArray[np.float32]:
    """uint8 [...] -> float32 [...]. Exact."""
    values: npt.NDArray[np.float32] = E4M3[bits]
    return values


def f32_to_e4m3(values: np.ndarray) -> npt.NDArray[np.uint8]:
    """float32 [...] -> uint8 bits, nearest value, ties to even, saturating at ±448; NaN stays NaN."""
    size = np.abs(values)
    grid = E4M3[:127].astype(np.float64)  # ascending, byte is index
    low = np.clip(np.searchsorted(grid, size, side="right") - 1, 0, 126)
    high = np.minimum(low + 1, 126)
    down, up = size - grid[low], grid[high] - size
    code = np.where((up < down) | ((up == down) & (low & 1 == 1)), high, low)
    code = np.where(np.isnan(values), 127, code) | (np.signbit(values) << 7)
    return np.asarray(code, np.uint8)


def to_f32(array: np.ndarray, dtype: str) -> npt.NDArray[np.float32]:
    """A stored array as float32; dtype is one of FLOATS. F32 gives a view."""
    if dtype == "BF16":
        return bf16_to_f32(array)
    return array.astype(np.float32, copy=False)


def fp8_to_f32(bits: np.ndarray, scale: np.ndarray, block: tuple[int, int]) -> npt.NDArray[np.float32]:
    """uint8 [out, in] and float32 scales [out/block up, in/block up] -> float32 [out, in]: value times its block's
    scale."""
    out, inner = bits.shape
    values = e4m3_to_f32(bits)
    with np.errstate(over="ignore"):  # a product may be infinite: the caller checks
        for i in range(scale.shape[0]):
            rows = values[i * block[0] : (i + 1) * block[0]]
            rows *= np.repeat(scale[i], block[1])[:inner]
    return values.reshape(out, inner)


def f32_to_fp8(matrix: np.ndarray, block: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """float32 [out, in] -> (uint8 [out, in], BF16 scale bits [out/block up, in/block up]).

    A block's scale is its largest magnitude over 448, rounded up to BF16 so that nothing saturates."""
    out, inner = matrix.shape
    rows, columns = -(-out // block[0]), -(-inner // block[1])
    padded = np.zeros((rows * block[0], columns * block[1]), np.float32)
    padded[:out, :inner] = matrix
    blocks = padded.reshape(rows, block[0], columns, block[1])
    wanted = np.maximum(np.abs(blocks).max((1, 3)) / np.float32(FP8_MAX), np.float32(1e-30))
    bits = f32_to_bf16(wanted)
    bits = np.where(bf16_to_f32(bits) < wanted, bits + 1, bits).astype(np.uint16)
    codes = f32_to_e4m3(blocks / bf16_to_f32(bits)[:, None, :, None])
    return codes.reshape(padded.shape)[:out, :inner], bits
