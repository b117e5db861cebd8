"""Reads safetensors files through a memory map, after checking the header, and writes them under a temporary name.

Layout: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}}, then the data.
Trusts nothing in the header and knows no models. Enter at `SafetensorsFile`.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import FileFormatError, TensorError
from a3b.formats.mapped import map_file, release_pages

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
MAX_DIMS = 8
DTYPES: dict[str, np.dtype] = {  # BF16 and FP8 have no NumPy type: their bits
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "BF16": "<u2",
        "F8_E4M3": "u1",
        "F8_E5M2": "u1",
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "i1",
        "U64": "<u8",
        "U32": "<u4",
        "U16": "<u2",
        "U8": "u1",
        "BOOL": "?",
    }.items()
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: bytes [start, stop) of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


class SafetensorsFile:
    """A mapped file; `array` gives views into it, which keep the map alive.

    Raises FileFormatError for a truncated file or a header that does not describe it, TensorError for a tensor of an
    unknown dtype or of a size that its shape does not have."""

    def __init__(self, path: str | Path, arrive: Callable[[int], None] = lambda stop: None):
        """arrive: called before bytes of the header up to `stop` are read, for a file that is still being fetched."""
        self.path = Path(path)
        self._map = map_file(self.path, "safetensors", least=8)
        self.num_bytes = len(self._map)
        self.metadata, self.tensors = self._header(arrive)

    def array(self, name: str) -> np.ndarray:
        """A read-only view, shape as stored; BF16 comes as uint16, FP8 as uint8."""
        info = self.tensors[name]
        flat = np.frombuffer(self._map, DTYPES[info.dtype], math.prod(info.shape), info.start)
        return flat.reshape(info.shape)

    @property
    def mapped(self) -> np.ndarray:
        """The whole file, uint8, read-only."""
        return np.frombuffer(self._map, np.uint8)

    def release(self, name: str) -> None:
        """Let the system drop the pages of a tensor; views stay valid and are read again."""
        info = self.tensors[name]
        release_pages(self._map, info.start, info.stop)

    def _header(self, arrive: Callable[[int], None]) -> tuple[dict[str, str], dict[str, TensorInfo]]:
        arrive(8)
        length = struct.unpack("<Q", self._map[:8])[0]
        if length > min(self.num_bytes - 8, MAX_HEADER_BYTES):
            raise FileFormatError(
                f"{self.path}: header of {length} bytes; the file has {self.num_bytes}, "
                f"a header at most {MAX_HEADER_BYTES}: "
                "it is truncated or not a safetensors file; download it again"
            )
        arrive(8 + length)
        self.header_bytes: int = 8 + length
        try:
            header = json.loads(bytes(self._map[8 : 8 + length]).decode("utf-8"), object_pairs_hook=self._unique)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise FileFormatError(f"{self.path}: header is not JSON: {error}") from None
        if not isinstance(header, dict):
            raise FileFormatError(f"{self.path}: header is {type(header).__name__}; expected a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise FileFormatError(f"{self.path}: __metadata__ is not a map of strings")
        tensors = {name: self._tensor(name, value, 8 + length) for name, value in header.items()}
        self._check_cover(tensors, 8 + length)
        return metadata, tensors

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise TensorError(f"{self.path}: {twice[:200]!r} occurs twice in the header")
        return value

    def _tensor(self, name: str, value: Any, base: int) -> TensorInfo:
        where = f"{self.path}: tensor {name[:200]!r}"
        if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
            raise FileFormatError(f"{where}: expected an object of dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise TensorError(f"{where}: dtype {str(dtype)[:40]!r} is unknown; expected one of {', '.join(DTYPES)}")
        if not _sizes(shape) or len(shape) > MAX_DIMS:
            raise FileFormatError(f"{where}: shape {str(shape)[:80]}; expected up to {MAX_DIMS} whole numbers")
        if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise FileFormatError(f"{where}: data_offsets {str(offsets)[:80]}; expected [start, stop]")
        size, expected = offsets[1] - offsets[0], math.prod(shape) * DTYPES[dtype].itemsize
        if size != expected:
            raise FileFormatError(f"{where}: {size} bytes; {dtype} {shape} has {expected}")
        if base + offsets[1] > self.num_bytes:
            raise FileFormatError(
                f"{where}: ends at byte {base + offsets[1]}, the file at "
                f"{self.num_bytes}: it is truncated; download it again"
            )
        return TensorInfo(name, dtype, tuple(shape), base + offsets[0], base + offsets[1])

    def _check_cover(self, tensors: Mapping[str, TensorInfo], base: int) -> None:
        """Check that tensors cover the file from the header to its end, without overlap or gap."""
        at = base
        for info in sorted(tensors.values(), key=lambda t: (t.start, t.stop)):
            if info.start != at:
                what = (
                    "overlaps the one before it"
                    if info.start < at
                    else f"leaves a gap of {info.start - at} bytes before it"
                )
                raise FileFormatError(f"{self.path}: tensor {info.name[:200]!r} {what}")
            at = info.stop
        if at != self.num_bytes:
            raise FileFormatError(f"{self.path}: {self.num_bytes} bytes; the header describes {at}")


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write {name: (dtype, array of the matching NumPy type)}; the file gets its name only when it is complete."""
    path, at = Path(path), 0
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    for name, (dtype, array) in tensors.items():
        if array.dtype != DTYPES[dtype]:
            raise TensorError(f"tensor {name!r}: array of {array.dtype}; {dtype} is stored as {DTYPES[dtype]}")
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, array in tensors.values():
                file.write(np.ascontiguousarray(array).data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
