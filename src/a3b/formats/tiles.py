"""The layout that kernels read: matrices of 4, 6 or 8-bit integers in tiles of 16 rows, a stream of bytes per tile.

value = scale·q + minimum, q unsigned, one scale per row and group of columns. A format without minimums has minimum =
-zero·scale. Scales are half precision, or, in the formats with super-blocks, a small integer per group times a
half-precision number per 256 columns. Enter at `pack` and `Tiles`.

A tile holds rows 16i .. 16i + 15 and is a run of units, left to right; a unit covers `unit` columns, and its bytes are
    half scales:  scale f16 [groups, 16], minimum f16 [groups, 16] if there is one, q
    super-blocks: scale f16 [16], minimum f16 [16] (zero if there is none), scale codes [groups, 16] (8 bits, signed in
                  w6k16), minimum codes u8 [groups, 16] if there are minimums, q
q is stored in steps of 4 columns; a vector of 64 bytes has row r, column j of a step at 4r + j and holds
    8 bits:  one step
    4 bits:  two steps, the first in the low halves of the bytes
    6 bits:  in three vectors four steps: the low 4 bits of steps 0 and 1, of 2 and 3, then the high 2 bits, step s at
             bit 2s
so that one broadcast of 4 activations meets 16 rows, and no sum crosses a vector. Rows are padded to 16 and columns to
a unit, with scale 0 (half formats: q = zero). Every unit is a multiple of 64 bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from a3b.errors import TensorError

TILE_ROWS = 16
MOVED_ROWS = 1024  # copied at once where a matrix is made of rows of another
SUPER = 256  # columns of a super-block


@dataclass(frozen=True)
class Format:
    """How a matrix of integers is stored."""

    name: str
    code: int  # its number in the kernels
    bits: int
    group: int  # columns that share a scale
    unit: int  # columns of one run of bytes
    has_minimum: bool
    zero: int  # the q that stands for 0, if there is no minimum
    signed_codes: bool = False

    @property
    def is_super(self) -> bool:
        return self.unit == SUPER

    @property
    def groups(self) -> int:
        """Groups of a unit."""
        return self.unit // self.group

    @property
    def header_bytes(self) -> int:
        """Bytes of scales and minimums in a unit."""
        if self.is_super:
            return TILE_ROWS * (4 + self.groups * (1 + self.has_minimum))
        return TILE_ROWS * 2 * self.groups * (1 + self.has_minimum)

    @property
    def header_pieces(self) -> list[tuple[int, int, int]]:
        """(start, stop, bytes of a row's entry) of what the header of a unit consists of."""
        codes = self.groups * (1 + self.has_minimum)
        entries = [2, 2, *[1] * codes] if self.is_super else [2] * codes
        stops = np.cumsum(entries) * TILE_ROWS
        return [(int(stop) - size * TILE_ROWS, int(stop), size) for stop, size in zip(stops, entries, strict=True)]

    @property
    def unit_bytes(self) -> int:
        return self.header_bytes + TILE_ROWS * self.unit * self.bits // 8

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.unit_bytes / (TILE_ROWS * self.unit)

    def num_bytes(self, rows: int, n: int) -> int:
        """Of a matrix [rows, n], padding included."""
        return -(-rows // TILE_ROWS) * -(-n // self.unit) * self.unit_bytes


FORMATS = {
    f.name: f
    for f in (
        Format("w4s32", 0, 4, 32, 64, False, 8),  # GGUF Q4_0
        Format("w4m32", 1, 4, 32, 64, True, 0),  # GGUF Q4_1
        Format("w4m64", 2, 4, 64, 64, True, 0),  # ours; GPTQ
        Format("w4k32", 3, 4, 32, SUPER, True, 0),  # GGUF Q4_K
        Format("w6s32", 4, 6, 32, 64, False, 32),  # ours
        Format("w6k16", 5, 6, 16, SUPER, False, 32, signed_codes=True),  # GGUF Q6_K
        Format("w6k32", 6, 6, 32, SUPER, True, 0),  # GGUF Q5_K
        Format("w8s32", 7, 8, 32, 64, False, 128),  # GGUF Q8_0; ours
    )
}


@dataclass(frozen=True)
class Parts:
    """A matrix [rows, n] as stored numbers, n a multiple of the group (of 256 with super-blocks).

    half scales: scale, minimum float16 [rows, n / group]. super-blocks: scale uint8 or int8, minimum uint8 [rows, n /
    group]; super_scale, super_minimum float16 [rows, n / 256]."""

    q: np.ndarray  # uint8 [rows, n]
    scale: np.ndarray
    minimum: np.ndarray | None = None
    super_scale: np.ndarray | None = None
    super_minimum: np.ndarray | None = None

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> Parts:
        """The same parts, each changed."""
        optional = (self.minimum, self.super_scale, self.super_minimum)
        return Parts(change(self.q), change(self.scale), *(None if part is None else change(part) for part in optional))

    def reshape(self, rows: int) -> Parts:
        """The same numbers in so many rows."""
        return self.map(lambda part: part.reshape(rows, -1))

    @classmethod
    def concatenate(cls, pieces: Sequence[Parts]) -> Parts:
        """Rows of pieces of one format, one after the other."""

        def joined(parts: list[np.ndarray | None]) -> np.ndarray | None:
            found = [part for part in parts if part is not None]
            return np.concatenate(found) if found else None

        return cls(
            np.concatenate([piece.q for piece in pieces]),
            np.concatenate([piece.scale for piece in pieces]),
            joined([piece.minimum for piece in pieces]),
            joined([piece.super_scale for piece in pieces]),
            joined([piece.super_minimum for piece in pieces]),
        )

    @property
    def halves(self) -> list[np.ndarray]:
        """The parts in half precision."""
        optional = (self.scale, self.minimum, self.super_scale, self.super_minimum)
        return [part for part in optional if part is not None and part.dtype == np.float16]

    def scales(self, format: Format) -> tuple[np.ndarray, np.ndarray]:
        """(scale, minimum) float32 [rows, n / group]; each is exact."""
        scale = self.scale.astype(np.float32)
        if format.is_super:
            scale *= np.repeat(_given(self.super_scale).astype(np.float32), SUPER // format.group, axis=1)
        if not format.has_minimum:
            return scale, np.float32(-format.zero) * scale
        minimum = _given(self.minimum).astype(np.float32)
        if format.is_super:
            minimum *= np.repeat(_given(self.super_minimum).astype(np.float32), SUPER // format.group, axis=1)
        return scale, minimum

    def f32(self, format: Format) -> np.ndarray:
        """float32 [rows, n]: scale·q + minimum."""
        scale, minimum = self.scales(format)
        values = self.q.reshape(len(self.q), -1, format.group).astype(np.float32)
        values *= scale[..., None]
        values += minimum[..., None]
        return values.reshape(self.q.shape)


def pack(format: Format, parts: Parts) -> np.ndarray:
    """Parts of [rows, n] -> uint8 [tiles, units, unit_bytes]."""
    rows, n = parts.q.shape
    tiles, units = -(-rows // TILE_ROWS), -(-n // format.unit)
    out = np.empty((tiles, units, format.unit_bytes), np.uint8)
    groups = units * format.groups
    pieces = []
    if format.is_super:
        pieces += [
            _by_unit(part, tiles, units, 0)
            for part in (_given(parts.super_scale), _or_zero(parts.super_minimum, _given(parts.super_scale)))
        ]
    pieces.append(_by_unit(_padded(parts.scale, groups), tiles, units, format.groups))
    if format.has_minimum:
        pieces.append(_by_unit(_padded(_given(parts.minimum), groups), tiles, units, format.groups))
    q = np.full((tiles * TILE_ROWS, units * format.unit), format.zero, np.uint8)
    q[:rows, :n] = parts.q
    # [tiles, units, steps, 16, 4]
    steps = q.reshape(tiles, TILE_ROWS, units, format.unit // 4, 4).transpose(0, 2, 3, 1, 4)
    pieces.append(_PACK[format.bits](steps).reshape(tiles, units, -1))
    np.concatenate(pieces, axis=2, out=out)
    return out


def unpack(format: Format, data: np.ndarray, rows: int, n: int) -> Parts:
    """The inverse of `pack`; n a multiple of the format's group. data uint8 of that many bytes, any shape."""
    tiles, units = -(-rows // TILE_ROWS), -(-n // format.unit)
    data = np.ascontiguousarray(data).reshape(tiles, units, format.unit_bytes)
    at = 0

    def take(dtype: npt.DTypeLike, groups: int) -> np.ndarray:
        nonlocal at
        size = np.dtype(dtype).itemsize * TILE_ROWS * groups
        piece = np.ascontiguousarray(data[:, :, at : at + size]).view(dtype).reshape(tiles, units, groups, TILE_ROWS)
        at += size
        stored: np.ndarray = piece.transpose(0, 3, 1, 2).reshape(tiles * TILE_ROWS, units * groups)
        return stored[:rows, : -(-n // (format.unit // groups))]

    code = np.int8 if format.signed_codes else np.uint8
    tops = (take("<f2", 1), take("<f2", 1)) if format.is_super else (None, None)
    scale = take(code if format.is_super else "<f2", format.groups)
    minimum = take(np.uint8 if format.is_super else "<f2", format.groups) if format.has_minimum else None
    steps = _UNPACK[format.bits](data[:, :, at:].reshape(tiles, units, -1, TILE_ROWS, 4))
    q = steps.transpose(0, 3, 1, 2, 4).reshape(tiles * TILE_ROWS, units * format.unit)[:rows, :n]
    return Parts(q, scale, minimum, tops[0], tops[1] if format.has_minimum else None)


def scales_are_finite(format: Format, data: np.ndarray) -> bool:
    """Whether no half-precision scale or minimum in whole units, uint8 [bytes], is NaN or infinite."""
    num = 4 * TILE_ROWS if format.is_super else format.header_bytes
    halves = np.ascontiguousarray(data.reshape(-1, format.unit_bytes)[:, :num]).view("<u2")
    return not bool(((halves & 0x7C00) == 0x7C00).any())


@dataclass(frozen=True)
class Tiles:
    """A matrix [out, in], or experts [E, out, in], as the kernels read it."""

    name: str
    format: Format
    shape: tuple[int, ...]
    data: np.ndarray  # uint8 [bytes], 64-byte aligned where it matters for speed; experts one after the other

    def __post_init__(self) -> None:
        *experts, rows, n = self.shape
        expected = self.format.num_bytes(rows, n) * (experts[0] if experts else 1)
        if self.data.dtype != np.uint8 or self.data.ndim != 1 or self.data.size != expected:
            raise TensorError(
                f"{self.name}: found {self.data.dtype} {list(self.data.shape)}; expected uint8 [{expected}] "
                f"for {list(self.shape)} as {self.format.name}"
            )
        if n % self.format.group:
            raise TensorError(
                f"{self.name}: {n} columns; expected a multiple of {self.format.group} for {self.format.name}"
            )

    def parts(self, start: int, stop: int) -> Parts:
        """Rows [start, stop) of a matrix. Raises TensorError if a scale near them is not finite."""
        first, last = start // TILE_ROWS, -(-stop // TILE_ROWS)
        tile_bytes = self.format.num_bytes(TILE_ROWS, self.shape[-1])
        data = self.data[first * tile_bytes : last * tile_bytes]
        if not scales_are_finite(self.format, data):
            raise TensorError(f"{self.name}: holds a scale that is NaN or infinite; expected finite numbers")
        parts = unpack(self.format, data, (last - first) * TILE_ROWS, self.shape[-1])
        rows = slice(start - first * TILE_ROWS, stop - first * TILE_ROWS)
        return parts.map(lambda part: part[rows])

    def rows(self, ids: np.ndarray) -> Tiles:
        """The rows `ids` of a matrix, in that order: the same numbers in tiles of their own."""
        n, num = self.shape[-1], len(ids)
        tiles, units, header = -(-num // TILE_ROWS), -(-n // self.format.unit), self.format.header_bytes
        data = self.data.reshape(-1, units, self.format.unit_bytes)
        padded = np.zeros(tiles * TILE_ROWS, np.int64)  # row 0 stands for what is padding
        padded[:num] = ids
        out = np.empty((tiles, units, self.format.unit_bytes), np.uint8)
        for first in range(0, tiles, MOVED_ROWS // TILE_ROWS):
            some = slice(first, first + MOVED_ROWS // TILE_ROWS)
            tile, row = np.divmod(padded[some.start * TILE_ROWS : some.stop * TILE_ROWS], TILE_ROWS)
            for start, stop, size in (*self.format.header_pieces, (header, self.format.unit_bytes, 4)):
                piece = data[:, :, start:stop].reshape(-1, units, (stop - start) // (TILE_ROWS * size), TILE_ROWS, size)
                rows = piece[tile, :, :, row]  # [rows, units, pieces, size]
                moved = rows.reshape(-1, TILE_ROWS, units, rows.shape[2], size).transpose(0, 2, 3, 1, 4)
                out[some, :, start:stop] = moved.reshape(len(moved), units, -1)
        return Tiles(f"{self.name}[{num} rows]", self.format, (num, n), out.reshape(-1))

    def expert(self, e: int) -> Tiles:
        """Expert e as a matrix: a view."""
        size = self.format.num_bytes(*self.shape[1:])
        return Tiles(f"{self.name}[{e}]", self.format, self.shape[1:], self.data[e * size : (e + 1) * size])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, in]."""
        return self.parts(start, stop).f32(self.format)

    def f32_expert(self, e: int) -> np.ndarray:
        """float32 [out, in]."""
        return self.expert(e).f32_rows(0, self.shape[1])


def _given(part: np.ndarray | None) -> np.ndarray:
    """A part that the format has."""
    if part is None:
        raise TypeError("a part of the format is missing")
    return part


def _or_zero(part: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if part is None else part


def _padded(part: np.ndarray, columns: int) -> np.ndarray:
    return part if part.shape[1] == columns else np.pad(part, ((0, 0), (0, columns - part.shape[1])))


def _by_unit(part: np.ndarray, tiles: int, units: int, groups: int) -> np.ndarray:
    """[rows, units·groups] -> bytes uint8 [tiles, units, ...], rows innermost."""
    rows = np.pad(part, ((0, tiles * TILE_ROWS - len(part)), (0, 0)))
    moved = rows.reshape(tiles, TILE_ROWS, units, max(groups, 1)).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(moved).view(np.uint8).reshape(tiles, units, -1)


def _pack4(steps: np.ndarray) -> np.ndarray:
    both: np.ndarray = steps[:, :, 0::2] | steps[:, :, 1::2] << 4
    return both


def _pack6(steps: np.ndarray) -> np.ndarray:
    low, high = steps & 15, steps >> 4
    top = high[:, :, 0::4] | high[:, :, 1::4] << 2 | high[:, :, 2::4] << 4 | high[:, :, 3::4] << 6
    return np.stack((low[:, :, 0::4] | low[:, :, 1::4] << 4, low[:, :, 2::4] | low[:, :, 3::4] << 4, top), axis=3)


def _unpack4(vectors: np.ndarray) -> np.ndarray:
    return np.stack((vectors & 15, vectors >> 4), axis=3).reshape(*vectors.shape[:2], -1, TILE_ROWS, 4)


def _unpack6(vectors: np.ndarray) -> np.ndarray:
    low01, low23, top = (vectors[:, :, i::3] for i in range(3))
    low = (low01 & 15, low01 >> 4, low23 & 15, low23 >> 4)
    steps = [part | (top >> 2 * s & 3) << 4 for s, part in enumerate(low)]
    return np.stack(steps, axis=3).reshape(*vectors.shape[:2], -1, TILE_ROWS, 4)


def _same(steps: np.ndarray) -> np.ndarray:
    return steps


_PACK = {4: _pack4, 6: _pack6, 8: _same}
_UNPACK = {4: _unpack4, 6: _unpack6, 8: _same}
