"""Reads GGUF files, version 2 and 3: metadata and tensors, through a memory map, after everything was checked.

Layout, little-endian: magic, version, two counts, key-value pairs, tensor infos (name, sizes fastest first, type,
offset), then the data at a multiple of `general.alignment`. Trusts nothing in the file and knows no models. Enter at
`GgufFile`. Source: the format's specification (ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import FileFormatError, TensorError
from a3b.files import open_regular
from a3b.formats.ggml_blocks import BLOCKS, TYPES
from a3b.formats.mapped import map_file, release_pages

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_PAIRS, MAX_TENSORS, MAX_DIMS = 65_536, 1 << 20, 4
MAX_NAME_BYTES, MAX_ARRAY = 65_535, 1 << 24
ARRAY_DEPTH = 2
STRING, ARRAY = 8, 9
SPLIT = re.compile(r"-(\d{5})-of-\d{5}\.gguf$", re.ASCII)
# projectors and importance matrices, which are not models
BESIDE = re.compile(r"mmproj.*|imatrix.*|.*imatrix\.gguf", re.IGNORECASE)
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def models_in(directory: Path) -> list[Path]:
    """The GGUF models of a directory, each by its first file if it is split."""
    try:
        names = sorted(file.name for file in directory.iterdir())
    except OSError:
        return []
    return [directory / name for name in names if is_model(name) and (not (m := SPLIT.search(name)) or int(m[1]) == 1)]


def is_model(name: str) -> bool:
    """Whether a file of this name is a model or a part of one."""
    return name.endswith(".gguf") and not BESIDE.fullmatch(name)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that is called *.gguf, or begins as GGUF files do: Ollama names files by checksums."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    try:
        with open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def listed(files: list[Path]) -> str:
    """The first few names, for an error."""
    return ", ".join(file.name for file in files[:5]) + (", ..." if len(files) > 5 else "")


@dataclass(frozen=True)
class GgufTensor:
    """Bytes [start, stop) of the file; `shape` has the slowest axis first, as everywhere in a3b."""

    name: str
    dtype: str  # a key of BLOCKS
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


class UnreadableTypes(TensorError):
    """A file has tensors of types that a3b does not read: `types` counts them by the name of the type."""

    def __init__(self, path: Path, metadata: dict[str, Any], types: Mapping[str, int]):
        listing = ", ".join(f"{name} ({count})" for name, count in sorted(types.items()))
        super().__init__(
            f"{path}: holds tensors of types that a3b does not read: {listing}; it reads {', '.join(BLOCKS)}: "
            "take a file whose name has Q4_K_M, Q4_K_S, Q5_K_M, Q5_K_S, Q6_K, Q8_0, BF16 or F16 in it"
        )
        self.path, self.metadata, self.types = path, metadata, types


class GgufFile:
    """A mapped file. `metadata` holds numbers, strings and lists; `tensors` maps names to places; `array` gives bytes.

    Raises FileFormatError for a file that is truncated or contradicts itself, TensorError for a tensor of a type that
    cannot be read, with a name that occurs twice, or with rows that are not whole blocks."""

    def __init__(self, path: str | Path, arrive: Callable[[int], None] = lambda stop: None):
        """arrive: called before bytes of the header up to `stop` are read, for a file that is still being fetched."""
        self.path, self._arrive = Path(path), arrive
        self._map = map_file(self.path, "GGUF", least=24)
        self.num_bytes = len(self._map)
        self._at = 0
        self.metadata, self.tensors = self._read()

    def array(self, name: str) -> np.ndarray:
        """Read-only uint8 [product of the outer axes, bytes of a row]: the blocks as stored."""
        info = self.tensors[name]
        rows = math.prod(info.shape[:-1])
        return np.frombuffer(self._map, np.uint8, info.num_bytes, info.start).reshape(rows, -1 if rows else 0)

    @property
    def mapped(self) -> np.ndarray:
        """The whole file, uint8, read-only."""
        return np.frombuffer(self._map, np.uint8)

    def release(self, name: str) -> None:
        """Let the system drop the pages of a tensor; views stay valid and are read again."""
        info = self.tensors[name]
        release_pages(self._map, info.start, info.stop)

    def _read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if self._bytes(4) != MAGIC:
            raise FileFormatError(f"{self.path}: does not begin with GGUF; expected a GGUF file")
        version = self._number("<I")
        if version not in VERSIONS:
            raise FileFormatError(f"{self.path}: GGUF version {version}; expected {' or '.join(map(str, VERSIONS))}")
        num_tensors, num_pairs = self._number("<Q"), self._number("<Q")
        if num_tensors > MAX_TENSORS or num_pairs > MAX_PAIRS:
            raise FileFormatError(
                f"{self.path}: {num_tensors} tensors and {num_pairs} keys; "
                f"expected at most {MAX_TENSORS} and {MAX_PAIRS}"
            )
        metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self._text(MAX_NAME_BYTES)
            if key in metadata:
                raise FileFormatError(f"{self.path}: key {key[:200]!r} occurs twice")
            metadata[key] = self._value(self._number("<I"), ARRAY_DEPTH)
        infos = [self._info() for _ in range(num_tensors)]
        self.header_bytes: int = self._at
        unreadable = Counter(dtype for _, dtype, *_ in infos if dtype not in BLOCKS)
        if unreadable:
            raise UnreadableTypes(self.path, metadata, unreadable)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise FileFormatError(f"{self.path}: general.alignment is {str(alignment)[:40]}; expected a power of two")
        base = -(-self._at // alignment) * alignment
        return metadata, self._placed(infos, base, alignment)

    def _info(self) -> tuple[str, str, tuple[int, ...], int]:
        name = self._text(MAX_NAME_BYTES)
        where = f"{self.path}: tensor {name[:200]!r}"
        num_dims = self._number("<I")
        if not 1 <= num_dims <= MAX_DIMS:
            raise FileFormatError(f"{where}: {num_dims} axes; expected 1 to {MAX_DIMS}")
        shape = tuple(self._number("<Q") for _ in range(num_dims))[::-1]
        code, offset = self._number("<I"), self._number("<Q")
        return name, TYPES.get(code, f"number {code}"), shape, offset

    def _placed(
        self, infos: list[tuple[str, str, tuple[int, ...], int]], base: int, alignment: int
    ) -> dict[str, GgufTensor]:
        tensors: dict[str, GgufTensor] = {}
        at = base
        for name, dtype, shape, offset in sorted(infos, key=lambda info: info[3]):
            where = f"{self.path}: tensor {name[:200]!r}"
            if name in tensors:
                raise TensorError(f"{where} occurs twice")
            block = BLOCKS[dtype]
            if shape[-1] % block.num_values:
                raise TensorError(f"{where}: rows of {shape[-1]}; {dtype} has blocks of {block.num_values}")
            size = math.prod(shape) // block.num_values * block.num_bytes
            start = base + offset
            if offset % alignment or start < at:
                what = f"is not at a multiple of {alignment}" if offset % alignment else "overlaps the one before it"
                raise FileFormatError(f"{where} at offset {offset} {what}")
            if start + size > self.num_bytes:
                raise FileFormatError(
                    f"{where}: ends at byte {start + size}, the file at {self.num_bytes}: "
                    "it is truncated; download it again"
                )
            tensors[name] = GgufTensor(name, dtype, shape, start, start + size)
            at = start + size
        return {name: tensors[name] for name, *_ in infos}

    def _value(self, kind: int, depth: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._text(self.num_bytes)
        if kind != ARRAY or not depth:
            raise FileFormatError(
                f"{self.path}: a value of type {kind} at byte {self._at}; expected a number, text or flat array"
            )
        item, count = self._number("<I"), self._number("<Q")
        if count > MAX_ARRAY:
            raise FileFormatError(f"{self.path}: an array of {count} values; expected at most {MAX_ARRAY}")
        if item in SCALARS:
            size = struct.calcsize(SCALARS[item])
            return [value for (value,) in struct.iter_unpack(SCALARS[item], self._bytes(size * count))]
        return [self._value(item, depth - 1) for _ in range(count)]

    def _text(self, most: int) -> str:
        size = self._number("<Q")
        if size > most:
            raise FileFormatError(f"{self.path}: a text of {size} bytes at byte {self._at}; expected at most {most}")
        try:
            return self._bytes(size).decode("utf-8")
        except UnicodeDecodeError:
            raise FileFormatError(f"{self.path}: the text that ends at byte {self._at} is not UTF-8") from None

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._bytes(struct.calcsize(code)))[0]

    def _bytes(self, size: int) -> bytes:
        if size > self.num_bytes - self._at:
            raise FileFormatError(
                f"{self.path}: the header continues past byte {self.num_bytes}, the "
                "end of the file: it is truncated; download it again"
            )
        self._at += size
        self._arrive(self._at)
        return self._map[self._at - size : self._at]
