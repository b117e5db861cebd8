"""Opens a path as a source, whatever its layout. Enter at `open_source`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import UsageError
from a3b.files import read_text
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.gguf import is_gguf, listed, models_in
from a3b.model.config_reader import read_config
from a3b.model.known_models import how_to_get, known_shape
from a3b.model.loader import load_weights, why_no_mtp
from a3b.model.matrices import names_of
from a3b.packing.gguf_source import open_gguf
from a3b.packing.plan import Half
from a3b.packing.source import Source, fingerprint, mtp_notes, packed_config, side_files


def open_source(
    path: Path, tokenizer: Path | None = None, mtp: bool = True, deferred: list[str] | None = None, late: bool = False
) -> Source:
    """Open a directory or a GGUF file to be packed.

    tokenizer: a directory to take tokenizer and template from. mtp: with the MTP module, if it has one. deferred: for
    files of which only the headers are here; no number is read then, vectors are zeros, and the names of tensors to be
    read later are appended. late: look at the numbers of a matrix when it is used, not now. Raises
    CheckpointError for files that cannot be read, UsageError for a path that is no source."""
    if path.is_dir():
        files = [] if (path / "config.json").exists() else models_in(path)
        if len(files) > 1:
            raise UsageError(f"{path}: holds {len(files)} GGUF models; give one of its files: {listed(files)}")
        return (
            open_gguf(files[0], tokenizer, mtp, deferred) if files else _directory(path, tokenizer, mtp, deferred, late)
        )
    if is_gguf(path):
        return open_gguf(path, tokenizer, mtp, deferred)
    if not path.exists() and known_shape(str(path)):
        raise UsageError(how_to_get(str(path)))
    raise UsageError(f"{path}: neither a directory nor a .gguf file; give a model to pack")


def _directory(path: Path, tokenizer: Path | None, mtp: bool, deferred: list[str] | None, late: bool) -> Source:
    config = read_config(path)
    checkpoint = Checkpoint.open(path)
    if checkpoint.manifest:
        raise UsageError(f"{path}: is packed already; give the model that it was packed from")
    weights = load_weights(checkpoint, config, expand=False, mtp=mtp, deferred=deferred, late=late)
    files, notes = side_files(tokenizer or path)
    notes += mtp_notes(weights, why_no_mtp(checkpoint, config)) if mtp else ()
    files["config.json"] = packed_config(json.loads(read_text(path / "config.json")))

    def release(matrix: Any) -> None:
        matrix = matrix.whole if isinstance(matrix, Half) else matrix
        for name in [] if isinstance(matrix, np.ndarray) else names_of(matrix):
            checkpoint.release(name)

    kind = "gptq" if config.gptq else "fp8" if config.fp8 else "safetensors"
    return Source(
        kind,
        path,
        config,
        weights,
        files,
        fingerprint([file.path for file in checkpoint.files]),
        bool(config.gptq),
        release,
        weights.extra,
        notes,
        tuple(checkpoint.files),
    )
