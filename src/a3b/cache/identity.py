"""What stored states depend on, as a digest: two runs may share a state only if their digests agree.

Does not know where states are stored. Enter at `cache_identity`; `root_id` and `path_hash` give the ids of nodes in the
prefix tree below such an identity."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from a3b.errors import CheckpointError
from a3b.files import open_regular
from a3b.formats.checkpoint import ADDED
from a3b.formats.packed import MANIFEST, Manifest
from a3b.kernels.kv import PAGE_LEN
from a3b.model.config import ModelConfig
from a3b.model.state import SEGMENT_PAGES
from a3b.model.tensor_names import is_mtp

ARITHMETIC_VERSION = 2  # incremented when a kernel or the forward pass produces different bits
NUM_SAMPLES, SAMPLE_BYTES = 64, 4096  # samples hashed of a large weight file
ID_BYTES = 16
TOKENS = np.dtype("<i4")  # token ids, in memory and on disk
PathHash: TypeAlias = hashlib.blake2b


def cache_identity(
    config: ModelConfig,
    directory: str | Path,
    kv: str,
    isa: str,
    arithmetic: int = ARITHMETIC_VERSION,
    mtp: bool = False,
) -> bytes:
    """16 bytes that change with the model and its RoPE scaling, the weights, the KV type and the arithmetic.

    mtp: whether states hold what an MTP module needs; without, its weights make no difference.
    Of a packed directory the checksums stand for the weights; of other files their sizes, headers and samples, so that
    hashing 70 GB does not take a minute. Raises CheckpointError if the directory holds no weights."""
    facts = {
        "config": config.identity(),
        "kv": kv,
        "isa": isa,
        "arithmetic": arithmetic,
        "layout": [PAGE_LEN, SEGMENT_PAGES],
        **({"mtp": True} if mtp else {}),
    }
    return _joined([json.dumps(facts, sort_keys=True).encode(), *_weights(Path(directory), mtp)])


def root_id(identity: bytes, namespace: str) -> bytes:
    """The id of the root of a namespace's tree; no node below it has the id of one below another root."""
    return _joined([identity, namespace.encode()])


def path_hash(root: bytes) -> PathHash:
    """A hash object: `update` it with all tokens from the root on, as TOKENS; its `digest` is the id of that node."""
    return hashlib.blake2b(root, digest_size=ID_BYTES)


def _joined(parts: Iterable[bytes]) -> bytes:
    """A digest of the parts and of where each of them ends."""
    total = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()


def _weights(directory: Path, mtp: bool) -> list[bytes]:
    if (directory / MANIFEST).exists():
        manifest = Manifest.read(directory)
        used = [t for t in manifest.tensors.values() if mtp or not is_mtp(t.name)]
        tensors = {t.name: [t.format, t.shape, manifest.checksums[t.name]] for t in used}
        return [json.dumps({"tensors": tensors, "tiled_v_heads": manifest.tiled_v_heads}, sort_keys=True).encode()]
    found = sorted(path for pattern in ("*.safetensors", "*.gguf") for path in directory.glob(pattern))
    files = [path for path in found if mtp or path.name != ADDED]
    if not files:
        raise CheckpointError(f"{directory}: no weights (*.safetensors); download the complete model")
    try:
        return [part for path in files for part in (path.name.encode(), _file_digest(path))]
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _file_digest(path: Path) -> bytes:
    """A digest of a small file's bytes; of a large one's size, header and evenly spaced samples up to its end."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= 2 * NUM_SAMPLES * SAMPLE_BYTES:
            return _joined([file.read()])
        head = file.read(8)
        header = file.read(min(int.from_bytes(head, "little"), size, 100_000_000))  # safetensors: a length, then JSON
        parts = [size.to_bytes(8, "little"), head, header]
        for i in range(NUM_SAMPLES):
            file.seek((size - SAMPLE_BYTES) * i // (NUM_SAMPLES - 1))
            parts.append(file.read(SAMPLE_BYTES))
        return _joined(parts)
