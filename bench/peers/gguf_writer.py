"""Writes GGUF files, version 3: metadata and tensors whose bytes come piece by piece.

Owns the container, knows no models. The file has a temporary name until it is whole. Enter at `write_gguf`.
Source: the format's specification (ggml-org/ggml, docs/gguf.md); `a3b.formats.gguf` is the reader.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.formats.ggml_blocks import BLOCKS, TYPES

ALIGNMENT = 32
SPARE_BYTES = 1 << 29  # that must stay free on the disk
CODES = {name: code for code, name in TYPES.items()}
SCALARS = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
ITEMS = {**SCALARS, int: (5, "<i")}  # whole numbers in arrays are signed
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """`shape` has the slowest axis first; its last is a whole number of blocks of `dtype`, a key of BLOCKS."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        block = BLOCKS[self.dtype]
        return math.prod(self.shape[:-1]) * (self.shape[-1] // block.num_values) * block.num_bytes


def write_gguf(
    path: Path,
    metadata: dict[str, Any],
    tensors: list[Tensor],
    data: Callable[[Tensor], Iterable],
    done: Callable[[int], None],
) -> int:
    """Write `path`, calling data(tensor) for buffers that are together tensor.num_bytes long, and done(bytes so far).

    Returns the size of the file. Raises UsageError if the disk is too full or a tensor has not the bytes it should."""
    first = header(metadata, tensors)
    total = len(first) + data_bytes(tensors)
    free = shutil.disk_usage(path.parent).free
    if free < total + SPARE_BYTES:
        raise UsageError(
            f"{path.parent}: {free / 1e9:.1f} GB free, the file takes "
            f"{total / 1e9:.1f} GB; make room or choose another place"
        )
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            at = file.write(first)
            for tensor in tensors:
                start = at
                for piece in data(tensor):
                    at += file.write(piece)
                    done(at)
                if at - start != tensor.num_bytes:
                    raise UsageError(f"tensor {tensor.name!r}: {at - start} bytes; expected {tensor.num_bytes}")
                at += file.write(bytes(-at % ALIGNMENT))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return total


def header(metadata: dict[str, Any], tensors: list[Tensor]) -> bytes:
    """Everything before the data."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        out += _text(key), _value(value)
    at = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]
        out += _text(tensor.name), struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, CODES[tensor.dtype], at)
        at += -(-tensor.num_bytes // ALIGNMENT) * ALIGNMENT
    size = sum(map(len, out))
    return b"".join((*out, bytes(-size % ALIGNMENT)))


def data_bytes(tensors: list[Tensor]) -> int:
    """Of all tensors, with what fills up between them."""
    return sum(-(-t.num_bytes // ALIGNMENT) * ALIGNMENT for t in tensors)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """Its type and its bytes: whole numbers uint32 (in lists int32), floats float32."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if not isinstance(value, list):
        code, form = SCALARS[type(value)]
        return struct.pack("<I", code) + struct.pack(form, value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    code, form = ITEMS[type(value[0])]
    return struct.pack("<IIQ", ARRAY, code, len(value)) + b"".join(struct.pack(form, item) for item in value)
