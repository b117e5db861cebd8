"""A directory of safetensors files as one set of tensors: a single file, to which one with the MTP module may have been
added, shards with an index, or packed shards with a manifest.

Knows names and places, not what a tensor means. A shard may be a symbolic link, as in download caches; its name may not
leave the directory. Enter at `Checkpoint.open`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import CheckpointError, FileFormatError, TensorError
from a3b.files import read_text
from a3b.formats.packed import F32, LINE, MANIFEST, Manifest
from a3b.formats.safetensors import SafetensorsFile, TensorInfo

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADDED = "mtp.safetensors"  # beside a single file that was there first; an index names it like any other
MAX_INDEX_BYTES = 200_000_000
MAX_SHARDS = 10_000


def has_weights(directory: str | Path) -> bool:
    """Whether the directory has weights that `Checkpoint.open` can read."""
    return any((Path(directory) / name).exists() for name in (SINGLE, INDEX, MANIFEST))


class Checkpoint:
    """Tensors by name, whichever file they are in. Opening reads and checks headers; only `array` reads data."""

    def __init__(self, directory: Path, files: list[SafetensorsFile], manifest: Manifest | None = None):
        self.directory, self.files = directory, files
        self.manifest = manifest  # of a packed directory
        self._owner: dict[str, SafetensorsFile] = {}
        for file in files:
            for name in file.tensors:
                if name in self._owner:
                    raise TensorError(
                        f"tensor {name[:200]!r} is in {self._owner[name].path.name} and in {file.path.name}"
                    )
                self._owner[name] = file
        self.tensors: Mapping[str, TensorInfo] = {name: file.tensors[name] for name, file in self._owner.items()}

    @classmethod
    def open(cls, directory: str | Path) -> Checkpoint:
        """Open the weights of a directory.

        Raises CheckpointError if there are none, FileFormatError or TensorError if a file or the index is wrong.
        """
        directory = Path(directory)
        if (directory / MANIFEST).exists():
            return cls._open_packed(directory)
        single, index = directory / SINGLE, directory / INDEX
        if single.exists() and index.exists():
            raise CheckpointError(f"{directory}: both {SINGLE} and {INDEX}; remove one of them")
        if single.exists():
            return cls(directory, [SafetensorsFile(p) for p in (single, directory / ADDED) if p.exists()])
        if not index.exists():
            raise CheckpointError(f"{directory}: no weights ({SINGLE} or {INDEX}); download the complete model")
        return cls._open_shards(directory, index)

    @classmethod
    def _open_shards(cls, directory: Path, index: Path) -> Checkpoint:
        weight_map, total = _read_index(index)
        shards = dict.fromkeys(weight_map.values())
        for shard in shards:
            if not (directory / shard).is_file():
                raise CheckpointError(f"{directory / shard}: missing, though {INDEX} names it; download it again")
        checkpoint = cls(directory, [SafetensorsFile(directory / shard) for shard in shards])
        for name, shard in weight_map.items():
            owner = checkpoint._owner.get(name)
            if owner is None or owner.path.name != shard:
                found = f"it is in {owner.path.name}" if owner else "no file has it"
                raise TensorError(f"{index}: tensor {name[:200]!r} should be in {shard}; {found}")
        for name, owner in checkpoint._owner.items():
            if name not in weight_map:
                raise TensorError(f"{owner.path}: tensor {name[:200]!r} is not in {INDEX}")
        size = sum(info.num_bytes for info in checkpoint.tensors.values())
        if total is not None and total != size:
            raise FileFormatError(f"{index}: total_size is {total}; the files hold {size} bytes of tensors")
        return checkpoint

    @classmethod
    def _open_packed(cls, directory: Path) -> Checkpoint:
        """Check names, sizes and alignment against the manifest; `a3b verify` checks the bytes."""
        manifest = Manifest.read(directory)
        for shard in manifest.shards:
            if not (directory / shard).is_file():
                raise CheckpointError(f"{directory / shard}: missing, though {MANIFEST} names it; pack the model again")
        checkpoint = cls(directory, [SafetensorsFile(directory / shard) for shard in manifest.shards], manifest)
        for name, tensor in manifest.tensors.items():
            owner = checkpoint._owner.get(name)
            where = f"{directory / manifest.file_of[name]}: tensor {name[:200]!r}"
            if owner is None or owner.path.name != manifest.file_of[name]:
                raise TensorError(f"{where} is not there, though {MANIFEST} names it; pack the model again")
            found = owner.tensors[name]
            expected = ("F32", tensor.shape) if tensor.format == F32 else ("U8", (tensor.num_bytes,))
            if (found.dtype, found.shape) != expected:
                raise TensorError(
                    f"{where} is {found.dtype} {list(found.shape)}; expected {expected[0]} {list(expected[1])} "
                    f"for {list(tensor.shape)} as {tensor.format}"
                )
            multiple = LINE if tensor.format != F32 else 4
            if found.start % multiple:
                raise TensorError(f"{where} begins at byte {found.start}; expected a multiple of {multiple}")
        if unknown := checkpoint._owner.keys() - manifest.tensors.keys():
            raise TensorError(f"{directory}: tensor {min(unknown)[:200]!r} is not in {MANIFEST}")
        return checkpoint

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def num_files(self) -> int:
        return len(self.files)

    @property
    def dtypes(self) -> dict[str, int]:
        """Bytes of each dtype, or of each format of a packed directory."""
        sizes: dict[str, int] = {}
        for name, info in self.tensors.items():
            dtype = self.manifest.tensors[name].format if self.manifest else info.dtype
            sizes[dtype] = sizes.get(dtype, 0) + info.num_bytes
        return sizes

    def array(self, name: str) -> np.ndarray:
        """A read-only view of a tensor's stored numbers."""
        return self._owner[name].array(name)

    def release(self, name: str) -> None:
        """Drop the pages of a tensor that was copied elsewhere."""
        self._owner[name].release(name)


def shards_in(directory: Path) -> list[str]:
    """The files that the index of a directory names; none without one. Raises CheckpointError, FileFormatError."""
    index = directory / INDEX
    return list(dict.fromkeys(_read_index(index)[0].values())) if index.exists() else []


def _read_index(index: Path) -> tuple[dict[str, str], int | None]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a name occurs twice in one object")
        return value

    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise FileFormatError(f"{index}: {index.stat().st_size} bytes; expected at most {MAX_INDEX_BYTES}")
        value = json.loads(read_text(index), object_pairs_hook=unique)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{index}: not readable as JSON: {getattr(error, 'strerror', None) or error}") from None
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileFormatError(f"{index}: expected an object weight_map of tensor names to file names")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _plain_name(shard):
            raise FileFormatError(
                f"{index}: tensor {name[:200]!r} points to {str(shard)[:200]!r}; expected a file in this directory"
            )
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise FileFormatError(f"{index}: more than {MAX_SHARDS} files")
    metadata = value.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if total is not None and (type(total) not in (int, float) or total != total or total < 0):
        raise FileFormatError(f"{index}: total_size is {str(total)[:80]}; expected a number of bytes")
    return weight_map, total


def _plain_name(name: str) -> bool:
    """Whether a name is that of a safetensors file in the same directory."""
    return (
        name.endswith(".safetensors") and not set(name) & set("/\\\0") and not name.startswith(".") and len(name) < 256
    )
