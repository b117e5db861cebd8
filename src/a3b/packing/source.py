"""A model to be packed: one object, whether it comes from safetensors, GPTQ integers or a GGUF file.

Enter at `open_source.open_source`. Weights stay mapped; `release` gives their pages back to the system.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.formats.gguf import GgufFile
from a3b.formats.safetensors import SafetensorsFile
from a3b.model.config import PACKED, ModelConfig
from a3b.model.weights import ModelWeights

SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)


@dataclass(frozen=True)
class Source:
    kind: str  # for people
    path: Path
    config: ModelConfig
    weights: ModelWeights
    files: dict[str, bytes | Path]  # everything of the packed directory but weights and manifest
    fingerprint: Any  # JSON value that changes when the files do
    keeps_types: bool  # is already in integers, so presets do not apply
    release: Callable[[Any], None]
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    containers: tuple[SafetensorsFile | GgufFile, ...] = ()  # the mapped files


def side_files(directory: Path) -> tuple[dict[str, bytes | Path], tuple[str, ...]]:
    """Tokenizer, template and settings of a directory, and notes on what is missing."""
    found: dict[str, bytes | Path] = {name: directory / name for name in SIDE_FILES if (directory / name).is_file()}
    missing = () if "tokenizer.json" in found else (f"{directory} has no tokenizer.json: add one to chat",)
    return found, missing


def mtp_notes(weights: ModelWeights, why_not: str | None) -> tuple[str, ...]:
    """What to tell of an MTP module that is not packed. why_not: as the end of a sentence; None: there is none."""
    if weights.mtp is not None:
        return ()
    if why_not:
        return (f"its MTP module is left out, so it will run without drafts of its own: {why_not}",)
    return (
        "it has no MTP tensors, so it will run without drafts of its own; "
        "add those of the original model later: a3b pack --add-mtp SRC DIR",
    )


def packed_config(value: dict[str, Any]) -> bytes:
    """A config.json that says that the directory is packed."""
    value = {key: v for key, v in value.items() if key != "quantization_config"} | {
        "quantization_config": {"quant_method": PACKED}
    }
    if isinstance(value.get("text_config"), dict):
        value["text_config"] = {key: v for key, v in value["text_config"].items() if key != "quantization_config"}
    return (json.dumps(value, indent=2) + "\n").encode()


def fingerprint(files: list[Path]) -> list[Any]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
