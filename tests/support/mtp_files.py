"""The numbers of an MTP module, loaded or written by a test, by the names that packed directories use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, _text_checksum
from a3b.formats.safetensors import write_safetensors
from a3b.model.config import ModelConfig
from a3b.model.config_reader import read_config
from a3b.model.loader import load_weights
from a3b.model.tensor_names import GATE_UP, MTP_LAYER, is_mtp, layer_name, mtp_tensors
from a3b.model.weights import ModelWeights, by_role
from a3b.packing.plan import halves

ONE_EXPERT = re.compile(r"\.experts\.\d")


def loaded(directory: Path) -> tuple[ModelConfig, ModelWeights]:
    """A directory with its MTP module."""
    config = read_config(directory)
    return config, load_weights(Checkpoint.open(directory), config, mtp=True)


def numbers_of(config: ModelConfig, weights: ModelWeights) -> dict[str, np.ndarray]:
    """float32 of every tensor of the module."""
    found, values = {}, by_role(weights, MTP_LAYER)
    for tensor, layer in mtp_tensors(config):
        value = values[tensor.role]
        if tensor.half is not None:
            value = np.split(value, 2, axis=-2) if isinstance(value, np.ndarray) else halves(value)
            value = value[tensor.half]
        found[tensor.full_name(layer)] = decoded(value)
    return found


def decoded(value) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if len(value.shape) == 3:
        return np.stack([value.expert(e).f32_rows(0, value.shape[1]) for e in range(value.shape[0])])
    return value.f32_rows(0, value.shape[0])


def written(exact: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The module among the tensors of `random_tensors`, gate and up apart."""
    out = {name: value for name, value in exact.items() if name.startswith("mtp.") and not ONE_EXPERT.search(name)}
    if (fused := out.pop(layer_name(GATE_UP, MTP_LAYER), None)) is not None:
        out |= {
            layer_name(f"mlp.experts.{part}_proj", MTP_LAYER): half
            for part, half in zip(("gate", "up"), np.split(fused, 2, axis=1), strict=True)
        }
    return out


def change_manifest(directory: Path, change) -> None:
    """Write a manifest again after `change` was made to its value, with a right checksum."""
    value = json.loads((directory / MANIFEST).read_text())
    del value["checksum"]
    change(value)
    (directory / MANIFEST).write_text(json.dumps({**value, "checksum": _text_checksum(value)}))


def change_tensors(directory: Path, change) -> None:
    """Write the one file of a checkpoint again after `change` was made to its tensors, (dtype, array) by name."""
    held = Checkpoint.open(directory)
    entries = {name: (info.dtype, held.array(name).copy()) for name, info in held.tensors.items()}
    change(entries)
    write_safetensors(directory / "model.safetensors", entries)


def set_apart(directory: Path) -> None:
    """Move the module out of the one file of a checkpoint into a file beside it."""
    held = Checkpoint.open(directory)
    entries = {name: (info.dtype, held.array(name).copy()) for name, info in held.tensors.items()}
    write_safetensors(directory / "mtp.safetensors", {name: e for name, e in entries.items() if is_mtp(name)})
    write_safetensors(directory / "model.safetensors", {name: e for name, e in entries.items() if not is_mtp(name)})
