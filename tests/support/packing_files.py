"""A small random model whose matrices fill whole groups, as checkpoint files to be packed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from a3b.formats.quant import bf16_to_f32, f32_to_bf16, f32_to_fp8, fp8_to_f32
from a3b.formats.safetensors import write_safetensors
from a3b.kernels import open_kernels
from a3b.model.config import ModelConfig
from a3b.model.forward import Model
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import write
from tests.support.checkpoint_files import KEPT, one_by_one
from tests.support.random_model import AXES, config_dict, model_weights, random_tensors

SIZES = dict(zip(AXES, (160, 64, 4, 4, 4, 2, 32, 8, 2, 4, 16, 32, 6, 2, 64, 128), strict=True))
BLOCK = (64, 64)
SHARD = 100_000  # bytes: several shards
TOKENIZER, TEMPLATE = b'{"not": "read here"}', b"{{ messages }}"


def config_json(sizes: dict = SIZES, fp8: bool = False, mtp: bool = False) -> dict:
    value = config_dict(sizes) | ({"mtp_num_hidden_layers": 1} if mtp else {})
    if fp8:
        value["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(BLOCK)}
    return value


def write_source(
    directory: Path, sizes: dict = SIZES, fp8: bool = False, seed: int = 5, mtp: bool = False
) -> dict[str, np.ndarray]:
    """config.json, weights, tokenizer and template; the float32 numbers in the file under the names of
    `random_tensors`."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config_json(sizes, fp8, mtp)))
    (directory / "tokenizer.json").write_bytes(TOKENIZER)
    (directory / "chat_template.jinja").write_bytes(TEMPLATE)
    entries, exact = {}, {}
    original = random_tensors(sizes, seed, mtp)
    for name, value in (one_by_one(original) if fp8 else original).items():
        if fp8 and not any(kept in name for kept in KEPT):
            bits, scale = f32_to_fp8(value, BLOCK)
            entries[name], entries[name + "_scale_inv"] = ("F8_E4M3", bits), ("BF16", scale)
            exact[name] = fp8_to_f32(bits, bf16_to_f32(scale), BLOCK)
        else:
            entries[name] = ("BF16", f32_to_bf16(value))
            exact[name] = bf16_to_f32(entries[name][1])
    write_safetensors(directory / "model.safetensors", entries)
    for key in original.keys() - exact.keys():
        parts = [exact[k] for k in one_by_one({key: original[key]})]
        if key.endswith("gate_up_proj"):
            parts = [np.concatenate(pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        exact[key] = np.stack(parts)
    return exact


def packed(
    tmp_path: Path, preset: str = "balanced", fp8: bool = False, sizes: dict = SIZES, **options
) -> tuple[Path, dict]:
    """A packed directory and the float32 tensors it was packed from."""
    exact = write_source(tmp_path / "source", sizes, fp8)
    source = open_source(tmp_path / "source")
    write(
        source,
        make_plan(source.config, source.weights, preset),
        tmp_path / "packed",
        **{"shard_bytes": SHARD, **options},
    )
    return tmp_path / "packed", exact


def ids_for(sizes: dict, num: int = 70) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(3)).integers(0, sizes["V"], num)


def logits_of(config: ModelConfig, tensors: dict[str, np.ndarray], sizes: dict = SIZES) -> np.ndarray:
    """Of a model given by its float32 tensors."""
    model = Model(config, model_weights(config, tensors), open_kernels("reference"), "f32")
    return model.forward(ids_for(sizes), model.new_state(), logits="all")
