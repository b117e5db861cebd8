"""GPTQ directories: integers and scales are kept, minimums within their stated bound, the rest is quantised by a
preset."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import CheckpointError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import Manifest
from a3b.kernels import open_kernels
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.packing.dequantised import dequantised
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import write
from tests.support.gptq_files import SIZES, write_source
from tests.support.packing_files import ids_for, logits_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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
