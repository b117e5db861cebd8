"""GPTQ directories: integers and scales are kept, minimums within their stated bound, the rest is quantised by a
preset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from a3b.errors import CheckpointError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import Manifest
from a3b.formats.quant import f32_to_bf16
from a3b.formats.safetensors import write_safetensors
from a3b.kernels import open_kernels
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.packing.dequantised import dequantised
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import write
from tests.support.checkpoint_files import one_by_one
from tests.support.packing_files import config_json, ids_for, logits_of
from tests.support.random_model import AXES, random_tensors

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

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


@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "with zeros"])
@pytest.mark.parametrize(("group", "format"), [(32, "w4m32"), (64, "w4m64"), (128, "w4m64"), (-1, "w4m64")])
def test_integers_are_kept_within_the_stated_bound(tmp_path, group, format, symmetric, form):
    exact = write_source(tmp_path / "source", group, symmetric, form)
    source = open_source(tmp_path / "source")
    assert source.kind == "gptq" and source.keeps_types
    write(source, make_plan(source.config, source.weights, None), tmp_path / "packed")
    formats = {name: tensor.format for name, tensor in Manifest.read(tmp_path / "packed").tensors.items()}
    assert (
        formats["model.layers.0.mlp.experts.gate_proj"]
        == format
        == formats["model.layers.1.mlp.shared_expert.down_proj.weight"]
    )
    assert formats["model.embed_tokens.weight"] == "w8s32"
    weights = load_weights(Checkpoint.open(tmp_path / "packed"), read_config(tmp_path / "packed"))
    up = weights.layers[1].mlp.gate_up[1]
    expected = exact["model.layers.1.mlp.experts.gate_up_proj"][4, SIZES["F"] :]
    scale = up.expert(4).parts(0, SIZES["F"]).scale.astype(np.float32)
    bound = np.zeros_like(scale) if symmetric else 16 * scale / 2048
    wrong = np.abs(up.f32_expert(4) - expected).reshape(*scale.shape, -1).max(-1)
    assert (wrong <= bound * 1.001).all() and (symmetric or wrong.any())


def test_the_unpacked_directory_computes_with_the_same_numbers(tmp_path):
    exact = write_source(tmp_path / "source", symmetric=False)
    config = read_config(tmp_path / "source")
    expected = logits_of(config, exact, SIZES)
    for expand in (True, False):
        model = Model(
            config,
            load_weights(Checkpoint.open(tmp_path / "source"), config, expand=expand),
            open_kernels("reference"),
            "f32",
        )
        found = model.forward(ids_for(SIZES), model.new_state(), logits="all")
        assert np.abs(found - expected).max() <= 1e-5 * expected.std()


def test_a_preset_decides_about_what_is_float(tmp_path):
    exact = write_source(tmp_path / "source")
    source = open_source(tmp_path / "source")
    write(source, make_plan(source.config, source.weights, "faithful"), tmp_path / "packed")
    formats = {name: tensor.format for name, tensor in Manifest.read(tmp_path / "packed").tensors.items()}
    assert formats["model.layers.0.mlp.experts.gate_proj"] == "w4m64" and formats["lm_head.weight"] == "w8s32"
    config = read_config(tmp_path / "packed")
    weights = dequantised(config, load_weights(Checkpoint.open(tmp_path / "packed"), config))
    model = Model(config, weights, open_kernels("reference"), "f32")
    found, expected = model.forward(ids_for(SIZES), model.new_state(), logits="all"), logits_of(config, exact, SIZES)
    assert np.abs(found - expected).mean() < 0.05 * expected.std()  # 8 bits of the rest


NAME = "model.layers.0.mlp.experts.3.up_proj."
REFUSED = {
    "columns in another order": (
        lambda t, q: t[NAME + "g_idx"][1].__setitem__(slice(0, 2), [1, 0]),
        r"g_idx'.*desc_act",
    ),
    "missing zeros": (lambda t, q: t.pop(NAME + "qzeros"), "up_proj.qzeros' is missing"),
    "misshapen scales": (
        lambda t, q: t.update({NAME + "scales": ("F16", np.ones((2, 128), np.float16))}),
        r"scales' is F16 \[2, 128\]",
    ),
    "other widths": (lambda t, q: q.update(bits=3), "bits is 3; expected 4"),
    "an odd group": (lambda t, q: q.update(group_size=48), "groups of 48; expected groups of a multiple of 32"),
    "another form": (lambda t, q: q.update(checkpoint_format="marlin"), "checkpoint_format"),
    "another method": (lambda t, q: q.update(quant_method="awq"), '"fp8", the official block-scaled form, or "gptq"'),
    "no config": (
        lambda t, q: q.update(quant_method="fp8", weight_block_size=[64, 64]),
        "is GPTQ, but config.json has no such",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(tmp_path, name):
    def changed(entries, quantisation):
        REFUSED[name][0](entries, quantisation)

    write_source(tmp_path / "source", group=64 if "columns" in name else 128, change=changed)
    with pytest.raises(CheckpointError, match=REFUSED[name][1]):
        open_source(tmp_path / "source")
