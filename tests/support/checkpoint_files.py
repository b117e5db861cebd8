"""Checkpoint directories as they exist, written from the random models: layouts, dtypes, shards, tensors outside the
text model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from a3b.formats.quant import bf16_to_f32, f32_to_bf16, f32_to_fp8, fp8_to_f32
from a3b.formats.safetensors import write_safetensors
from tests.support.random_model import SEEDS, SIZES, YARN, config_dict, random_tensors

BLOCK = (16, 16)  # of FP8; smaller than any matrix, so that last blocks are cut in both directions
KEPT = (
    "embed_tokens",
    "lm_head",
    "norm",
    "gate.weight",
    "shared_expert_gate",
    "in_proj_a",
    "in_proj_b",
    "conv1d",
    "dt_bias",
    "A_log",
    "mtp.fc",
)
Stored = dict[str, tuple[str, np.ndarray]]


def config_of(name: str, *, wrapped: bool = False, fp8: bool = False, mtp: bool = False) -> dict:
    config = config_dict(SIZES[name], YARN.get(name)) | ({"mtp_num_hidden_layers": 1} if mtp else {})
    if wrapped:
        config = {
            "model_type": config["model_type"].removesuffix("_text"),
            "text_config": config,
            "tie_word_embeddings": False,
        }
    if fp8:
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": list(BLOCK),
            "modules_to_not_convert": ["lm_head"],
        }
    return config


def one_by_one(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fused experts as the separate matrices that other files have."""
    out = {}
    for name, value in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for e, expert in enumerate(value):
                gate, up = np.split(expert, 2)
                out[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate
                out[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for e, expert in enumerate(value):
                out[name.replace("down_proj", f"{e}.down_proj.weight")] = expert
        else:
            out[name] = value
    return out


def stored(name: str, value: np.ndarray, dtype: str, A_log: str) -> tuple[Stored, np.ndarray]:
    """A tensor as the file holds it, with its scales, and the float32 numbers that a reader must get."""
    dtype = A_log if name.endswith("A_log") else dtype
    if dtype == "FP8" and not any(kept in name for kept in KEPT):
        bits, scale = f32_to_fp8(value, BLOCK)
        out = {name: ("F8_E4M3", bits), name + "_scale_inv": ("BF16", scale)}
        return out, fp8_to_f32(bits, bf16_to_f32(scale), BLOCK)
    if dtype == "F32":
        return {name: ("F32", value)}, value
    if dtype == "F16":
        return {name: ("F16", value.astype(np.float16))}, value.astype(np.float16).astype(np.float32)
    return {name: ("BF16", f32_to_bf16(value))}, bf16_to_f32(f32_to_bf16(value))


def write_checkpoint(
    directory: Path,
    name: str = "one",
    *,
    dtype: str = "BF16",
    fused: bool = True,
    wrapped: bool = False,
    num_shards: int = 1,
    extras: bool = False,
    A_log: str = "F32",
) -> dict[str, np.ndarray]:
    """Write config.json and weights; the float32 tensors that a reader must get, under the names of
    `random_tensors`. extras: an MTP module, and a tensor of a vision tower."""
    directory.mkdir(parents=True, exist_ok=True)
    config = config_of(name, wrapped=wrapped, fp8=dtype == "FP8", mtp=extras)
    (directory / "config.json").write_text(json.dumps(config))
    original = random_tensors(SIZES[name], SEEDS[name], extras)
    entries: Stored = {}
    exact: dict[str, np.ndarray] = {}
    for key, value in (original if fused else one_by_one(original)).items():
        written = key.replace("model.", "model.language_model.", 1) if wrapped else key
        parts, exact[key] = stored(written, value, dtype, A_log)
        entries |= parts
    if extras:
        entries["model.visual.patch_embed.proj.bias"] = ("F32", np.zeros(5, np.float32))
    write_shards(directory, entries, num_shards)
    for key in original.keys() - exact.keys():  # put the experts together again
        parts = [exact[k] for k in one_by_one({key: original[key]})]
        if key.endswith("gate_up_proj"):
            parts = [np.concatenate(pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        exact[key] = np.stack(parts)
    return exact


def write_shards(directory: Path, entries: Stored, num_shards: int) -> None:
    if num_shards == 1:
        write_safetensors(directory / "model.safetensors", entries)
        return
    names, weight_map = list(entries), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = names[shard::num_shards]
        write_safetensors(directory / file, {n: entries[n] for n in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(array.nbytes for _, array in entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
