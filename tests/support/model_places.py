"""Directories as other programs keep their models in, with files of a few bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_hub_cache(root: Path, repo: str, files: dict[str, bytes]) -> Path:
    """models--OWNER--NAME with blobs and links to them; returns the snapshot."""
    folder = root / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + name.count("/"))) / "blobs" / blob.name)
    return snapshot


def in_ollama(root: Path, name: str, content: bytes, digest: str | None = None) -> Path:
    """A manifest for HOST/OWNER/NAME/TAG and its blob, which is returned."""
    digest = digest or f"sha256:{hashlib.sha256(content).hexdigest()}"
    manifest = root / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'1' * 64}", "size": 3},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": len(content)},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    blob = root / "blobs" / digest.replace(":", "-")
    (root / "blobs").mkdir(exist_ok=True)
    if "/" not in digest:
        blob.write_bytes(content)
    return blob


def checkpoint(shards: int = 2) -> dict[str, bytes]:
    """The files of a repository of safetensors."""
    names = [f"model-{i:05}-of-{shards:05}.safetensors" for i in range(1, shards + 1)]
    index = {"weight_map": {f"tensor.{i}": name for i, name in enumerate(names)}}
    return {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        **{name: name.encode() for name in names},
    }
