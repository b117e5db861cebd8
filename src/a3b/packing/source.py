"""Where a model to be packed comes from: one object whether it lies in safetensors, in GPTQ integers or in a GGUF file.

Enter at `open_source`. Weights stay mapped; `release` gives their pages back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from a3b.config import PACKED, ModelConfig
from a3b.errors import UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.packing.plan import Half
from a3b.weights import ModelWeights, load_weights, names_of

SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "generation_config.json",
              "preprocessor_config.json", "video_preprocessor_config.json")  # fmt: skip


@dataclass(frozen=True)
class Source:
    kind: str  # for people
    path: Path
    config: ModelConfig
    weights: ModelWeights
    files: dict[str, bytes | Path]  # everything of the packed directory but weights and manifest
    fingerprint: Any  # JSON value that changes when the files do
    keeps_types: bool  # has integers of its own, so that presets say nothing
    release: Callable[[Any], None]
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_source(path: Path, tokenizer: Path | None = None) -> Source:
    """Raises CheckpointError for files that cannot be read, UsageError for a path that is none of the kinds.

    tokenizer: a directory to take tokenizer and template from."""
    if path.is_dir():
        return _directory(path, tokenizer)
    raise UsageError(f"{path}: neither a directory nor a .gguf file; give a model to pack")


def _directory(path: Path, tokenizer: Path | None) -> Source:
    config = ModelConfig.read(path)
    checkpoint = Checkpoint.open(path)
    if checkpoint.manifest:
        raise UsageError(f"{path}: is packed already; give the model that it was packed from")
    weights = load_weights(checkpoint, config, expand=False)
    files, notes = side_files(tokenizer or path)
    files["config.json"] = packed_config(json.loads((path / "config.json").read_text(encoding="utf-8")))

    def release(matrix: Any) -> None:
        matrix = matrix.whole if isinstance(matrix, Half) else matrix
        for name in [] if isinstance(matrix, np.ndarray) else names_of(matrix):
            checkpoint.release(name)

    return Source("safetensors", path, config, weights, files, fingerprint([file.path for file in checkpoint.files]), False, release,
                  weights.extra, notes)  # fmt: skip


def side_files(directory: Path) -> tuple[dict[str, bytes | Path], tuple[str, ...]]:
    """Tokenizer, template and settings of a directory, and what it lacks."""
    found: dict[str, bytes | Path] = {name: directory / name for name in SIDE_FILES if (directory / name).is_file()}
    missing = () if "tokenizer.json" in found else (f"{directory} has no tokenizer.json: add one to chat",)
    return found, missing


def packed_config(value: dict) -> bytes:
    """config.json with its quantisation replaced by ours."""
    value = {key: v for key, v in value.items() if key != "quantization_config"} | {"quantization_config": {"quant_method": PACKED}}
    if isinstance(value.get("text_config"), dict):
        value["text_config"] = {key: v for key, v in value["text_config"].items() if key != "quantization_config"}
    return (json.dumps(value, indent=2) + "\n").encode()


def fingerprint(files: list[Path]) -> list:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
