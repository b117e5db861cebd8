"""A small GPTQ directory: experts and shared experts in 4-bit integers, the rest BF16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from a3b.formats.quant import f32_to_bf16
from a3b.formats.safetensors import write_safetensors
from tests.support.checkpoint_files import one_by_one
from tests.support.packing_files import config_json
from tests.support.random_model import AXES, random_tensors

SIZES = dict(zip(AXES, (160, 128, 4, 4, 4, 2, 32, 8, 2, 4, 16, 32, 6, 2, 128, 128), strict=True))


def gptq(
    value: np.ndarray, group: int, symmetric: bool, offset: int
) -> tuple[dict[str, tuple[str, np.ndarray]], np.ndarray]:
    """float32 [out, in] -> the tensors of a module and the numbers they stand for."""
    out, inner = value.shape
    group = inner if group == -1 else group
    groups = value.reshape(out, -1, group)
    low, high = groups.min(-1), groups.max(-1)
    scale = (np.abs(groups).max(-1) / 7 if symmetric else (high - low) / 15).astype(np.float16).astype(np.float32)
    zero = np.full_like(scale, 8) if symmetric else np.clip(np.rint(-low / scale), offset, 15 + offset)
    q = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], 0, 15)
    exact = ((q - zero[..., None]) * scale[..., None]).reshape(out, inner)

    def words(nibbles: np.ndarray) -> np.ndarray:
        """[8n, m] -> int32 [n, m], the first in the lowest bits."""
        parts = nibbles.astype(np.uint32).reshape(-1, 8, nibbles.shape[1])
        return np.bitwise_or.reduce(parts << (4 * np.arange(8, dtype=np.uint32))[:, None], axis=1).view(np.int32)

    tensors = {
        "qweight": ("I32", words(q.reshape(out, inner).T)),
        "scales": ("F16", np.ascontiguousarray(scale.T, np.float16)),
        "qzeros": ("I32", np.ascontiguousarray(words(zero - offset).T)),
        "g_idx": ("I32", (np.arange(inner) // group).astype(np.int32)),
    }
    return tensors, exact.astype(np.float32)


def write_source(
    directory: Path, group: int = 128, symmetric: bool = True, form: str = "gptq", change=lambda entries, q: None
):
    """Experts and shared experts in integers, the rest BF16; the float32 tensors that it stands for."""
    directory.mkdir()
    original, entries, exact = random_tensors(SIZES, 5), {}, {}
    for name, value in one_by_one(original).items():
        if "expert" in name and name.endswith("_proj.weight"):
            tensors, exact[name] = gptq(value, group, symmetric, 1 if form == "gptq" else 0)
            entries |= {name.removesuffix("weight") + suffix: tensor for suffix, tensor in tensors.items()}
        else:
            entries[name] = ("BF16", f32_to_bf16(value))
            exact[name] = (entries[name][1].astype(np.uint32) << 16).view(np.float32)
    quantisation = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "sym": symmetric,
        "desc_act": False,
        "checkpoint_format": form,
    }
    change(entries, quantisation)
    (directory / "config.json").write_text(json.dumps(config_json(SIZES) | {"quantization_config": quantisation}))
    write_safetensors(directory / "model.safetensors", entries)
    for key in original.keys() - exact.keys():
        parts = [exact[k] for k in one_by_one({key: original[key]})]
        if key.endswith("gate_up_proj"):
            parts = [np.concatenate(pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        exact[key] = np.stack(parts)
    return exact
