"""The packed container: safetensors shards whose matrices are tiles, described by a manifest, `a3b.json`.

Owns the manifest, the order of tensors in a shard, and the checksums. A tensor in tiles is stored as U8 [bytes], any
other as F32. Data begins at a multiple of 4096 and every matrix in tiles at a multiple of 64, in files that any
safetensors library reads. Trusts nothing in a manifest and knows no models. Enter at `Manifest.read`, `plan_shards` and
`verify`."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from a3b.errors import CheckpointError, FileFormatError, TensorError
from a3b.files import open_regular, read_text
from a3b.formats.quant import all_finite
from a3b.formats.tiles import FORMATS, scales_are_finite

MANIFEST = "a3b.json"
KIND, VERSION = "a3b-packed", 1
LAYOUT = 1  # of tiles; counts up when the meaning of their bytes changes
F32 = "f32"
PAGE, LINE = 4096, 64
MAX_MANIFEST_BYTES, MAX_TENSORS, MAX_SHARDS, MAX_DIMS = 64_000_000, 100_000, 10_000, 3
SHARD_BYTES = 2_000_000_000  # the most work that a kill can cost, and well below the limit of old file systems
READ = 1 << 24  # bytes hashed at a time


@dataclass(frozen=True)
class PackedTensor:
    """A tensor of the container. format: a name of FORMATS, or "f32"."""

    name: str
    format: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        if self.format == F32:
            return 4 * math.prod(self.shape)
        *experts, rows, n = self.shape
        return math.prod(experts) * FORMATS[self.format].num_bytes(rows, n)

    @property
    def unit_bytes(self) -> int:
        """Bytes of the smallest part that can be read alone."""
        return 4 if self.format == F32 else FORMATS[self.format].unit_bytes

    def is_finite(self, data: bytes) -> bool:
        """Whether the numbers or scales in whole units of its bytes are finite; a last, incomplete unit is ignored."""
        whole = np.frombuffer(data, np.uint8, len(data) // self.unit_bytes * self.unit_bytes)
        return all_finite(whole.view("<f4")) if self.format == F32 else scales_are_finite(FORMATS[self.format], whole)


@dataclass(frozen=True)
class Manifest:
    """What a packed directory holds. `files` holds (bytes, checksum): of a shard's header, of other files whole."""

    preset: str | None
    source: dict[str, Any]  # kind, path and sizes of what was packed, for people
    tiled_v_heads: bool
    tensors: dict[str, PackedTensor]
    file_of: dict[str, str]  # tensor -> shard
    checksums: dict[str, str]  # tensor -> checksum
    files: dict[str, tuple[int, str]]
    skipped: dict[str, int] = field(default_factory=dict)  # counts of weights that were left out: mtp, vision

    @property
    def shards(self) -> list[str]:
        return list(dict.fromkeys(self.file_of.values()))

    def to_json(self) -> str:
        value = {
            "format": KIND,
            "version": VERSION,
            "layout": LAYOUT,
            "preset": self.preset,
            "source": self.source,
            "tiled_v_heads": self.tiled_v_heads,
            "skipped": self.skipped,
            "files": {name: {"bytes": size, "checksum": checksum} for name, (size, checksum) in self.files.items()},
            "tensors": {
                t.name: {
                    "format": t.format,
                    "shape": list(t.shape),
                    "file": self.file_of[t.name],
                    "checksum": self.checksums[t.name],
                }
                for t in self.tensors.values()
            },
        }
        value["checksum"] = _text_checksum(value)
        return json.dumps(value, indent=1) + "\n"

    @classmethod
    def read(cls, directory: str | Path) -> Manifest:
        """Read the manifest of a directory.

        Raises FileFormatError if it is damaged or of another version, TensorError for a tensor in it.
        """
        path = Path(directory) / MANIFEST
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise FileFormatError(f"{path}: {path.stat().st_size} bytes; expected at most {MAX_MANIFEST_BYTES}")
            value = json.loads(read_text(path))
        except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or error
            raise FileFormatError(f"{path}: not readable as JSON: {why}; pack the model again") from None
        return _Reader(path, value).manifest()


class _Reader:
    """Checks a manifest key by key."""

    def __init__(self, path: Path, value: Any):
        self.path = path
        if not isinstance(value, dict) or value.get("format") != KIND:
            raise FileFormatError(f"{path}: expected an object whose format is {KIND!r}")
        for key, known in (("version", VERSION), ("layout", LAYOUT)):
            if value.get(key) != known:
                raise FileFormatError(
                    f"{path}: {key} {str(value.get(key))[:40]}; this a3b reads {known}: pack the model again"
                )
        self.value = value

    def manifest(self) -> Manifest:
        claimed = self.value.pop("checksum", None)
        if claimed != _text_checksum(self.value):
            raise FileFormatError(f"{self.path}: was changed after it was written; pack the model again")
        preset, tiled = self.value.get("preset"), self.value.get("tiled_v_heads")
        if not (preset is None or isinstance(preset, str)) or not isinstance(tiled, bool):
            raise FileFormatError(
                f"{self.path}: preset {str(preset)[:40]!r}, tiled_v_heads {str(tiled)[:40]}; "
                "expected a name and a truth value"
            )
        files = {name: self._file(name, entry) for name, entry in self._object("files", MAX_SHARDS).items()}
        tensors, file_of, checksums = {}, {}, {}
        for name, entry in self._object("tensors", MAX_TENSORS).items():
            tensors[name], file_of[name], checksums[name] = self._tensor(name, entry, files)
        skipped = self._object("skipped", 10)
        if not all(type(n) is int and n >= 0 for n in skipped.values()):
            raise FileFormatError(f"{self.path}: skipped is {str(skipped)[:80]}; expected counts")
        return Manifest(preset, self._object("source", 20), tiled, tensors, file_of, checksums, files, skipped)

    def _object(self, key: str, most: int) -> dict[str, Any]:
        found = self.value.get(key)
        if not isinstance(found, dict) or len(found) > most:
            raise FileFormatError(f"{self.path}: {key}: expected an object of at most {most} entries")
        return found

    def _file(self, name: str, entry: Any) -> tuple[int, str]:
        if not _plain(name):
            raise FileFormatError(f"{self.path}: file {name[:200]!r}; expected a name in this directory")
        entry = entry if isinstance(entry, dict) else {}
        size, checksum = entry.get("bytes"), entry.get("checksum")
        if type(size) is not int or size < 0 or not isinstance(checksum, str) or not _is_checksum(checksum):
            raise FileFormatError(f"{self.path}: file {name!r}: expected bytes and a checksum")
        return size, checksum

    def _tensor(self, name: str, entry: Any, files: Mapping[str, Any]) -> tuple[PackedTensor, str, str]:
        where = f"{self.path}: tensor {name[:200]!r}"
        if not isinstance(entry, dict) or not _is_checksum(entry.get("checksum")):
            raise FileFormatError(f"{where}: expected an object of format, shape, file and checksum")
        format, shape, file = entry.get("format"), entry.get("shape"), entry.get("file")
        if not isinstance(format, str) or format not in (F32, *FORMATS):
            raise TensorError(
                f"{where}: format {str(format)[:40]!r} is unknown; expected one of {', '.join((F32, *FORMATS))}"
            )
        least = 1 if format == F32 else 2
        if not _are_sizes(shape) or not least <= len(shape) <= MAX_DIMS:
            raise TensorError(
                f"{where}: shape {str(shape)[:80]}; expected {least} to {MAX_DIMS} positive whole numbers"
            )
        if format != F32 and shape[-1] % FORMATS[format].group:
            raise TensorError(
                f"{where}: {shape[-1]} columns; expected a multiple of {FORMATS[format].group} for {format}"
            )
        if not isinstance(file, str) or file not in files or not file.endswith(".safetensors"):
            raise FileFormatError(f"{where}: file {str(file)[:200]!r}; expected a shard that files names")
        return PackedTensor(name, format, tuple(shape)), file, entry["checksum"]


@dataclass(frozen=True)
class Shard:
    """A file to be written: its header, then the tensors in order."""

    file: str
    tensors: tuple[PackedTensor, ...]

    @property
    def header(self) -> bytes:
        """Length and JSON, padded with spaces to whole pages."""
        value: dict[str, Any] = {"__metadata__": {"format": "pt", "packed_by": "a3b"}}
        at = 0
        for t in self.tensors:
            dtype, shape = ("F32", list(t.shape)) if t.format == F32 else ("U8", [t.num_bytes])
            value[t.name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + t.num_bytes]}
            at += t.num_bytes
        text = json.dumps(value, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % PAGE)
        return struct.pack("<Q", len(text)) + text

    @property
    def num_bytes(self) -> int:
        return len(self.header) + sum(t.num_bytes for t in self.tensors)


def plan_shards(tensors: Iterable[PackedTensor], most: int = SHARD_BYTES, stem: str = "model") -> list[Shard]:
    """Tensors cut into files of at most `most` bytes (or one tensor), those in tiles first: they are whole cache
    lines. stem: what the names of the files begin with."""
    cuts: list[list[PackedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if cuts[-1] and size + tensor.num_bytes > most:
            cuts.append([])
            size = 0
        cuts[-1].append(tensor)
        size += tensor.num_bytes
    return [
        Shard(f"{stem}-{i:05}-of-{len(cuts):05}.safetensors", tuple(sorted(cut, key=lambda t: t.format == F32)))
        for i, cut in enumerate(cuts, 1)
    ]


def new_checksum() -> hashlib.blake2b:
    """A hash object; `hexdigest` is what manifests hold."""
    return hashlib.blake2b(digest_size=16)


def file_checksum(path: Path) -> tuple[int, str]:
    """(bytes, checksum) of a whole file."""
    total, size = new_checksum(), 0
    with open_regular(path) as file:
        while piece := file.read(READ):
            total.update(piece)
            size += len(piece)
    return size, total.hexdigest()


def shard_damage(
    path: Path, shard: Shard, checksums: Mapping[str, str], done: Callable[[int], None] = lambda n: None
) -> Iterator[str]:
    """What is wrong with a written shard, one sentence each. done: called with the number of bytes read."""
    header, length = shard.header, f"{path.stat().st_size} bytes; expected {shard.num_bytes}"
    with open_regular(path) as file:
        if file.read(len(header)) != header:
            yield "its header is not the one that was written"
            return
        for tensor in shard.tensors:
            total, left, is_finite = new_checksum(), tensor.num_bytes, True
            step = READ // tensor.unit_bytes * tensor.unit_bytes
            while left and (piece := file.read(min(step, left))):
                total.update(piece)
                is_finite = is_finite and tensor.is_finite(piece)
                left -= len(piece)
                done(len(piece))
            if left:
                yield length
                return
            if total.hexdigest() != checksums.get(tensor.name):
                yield f"tensor {tensor.name}: its bytes are not those that were written"
            elif not is_finite:
                yield f"tensor {tensor.name}: holds a number or a scale that is NaN or infinite"
        if file.read(1):
            yield length


def verify(directory: str | Path, done: Callable[[int], None] = lambda n: None) -> list[str]:
    """Check every byte of a packed directory against its manifest, and every number and scale for NaN.

    Returns what is wrong, one sentence each. done: called with the number of bytes read."""
    directory = Path(directory)
    if not (directory / MANIFEST).exists():
        raise CheckpointError(f"{directory}: no {MANIFEST}, so it is not a packed model; pack one with 'a3b pack'")
    manifest, found = Manifest.read(directory), []
    for name, (size, checksum) in manifest.files.items():
        path = directory / name
        if not path.is_file():
            found.append(f"{name}: missing")
            continue
        tensors = [t for t in manifest.tensors.values() if manifest.file_of[t.name] == name]
        if not tensors:
            if file_checksum(path) != (size, checksum):
                found.append(f"{name}: its bytes are not those that were written")
            continue
        shard = Shard(name, tuple(tensors))
        found += [f"{name}: {what}" for what in shard_damage(path, shard, manifest.checksums, done)]
    return found


def _text_checksum(value: dict[str, Any]) -> str:
    total = new_checksum()
    total.update(json.dumps(value, sort_keys=True).encode())
    return total.hexdigest()


def _are_sizes(shape: Any) -> TypeGuard[list[int]]:
    return isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 40 for n in shape)


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 32 and not set(value) - set("0123456789abcdef")


def _plain(name: str) -> bool:
    """Whether a name is that of a file in the same directory."""
    return bool(name) and not set(name) & set("/\\\0") and not name.startswith(".") and len(name) < 256
