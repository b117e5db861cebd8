"""Packing from a Hugging Face directory: what is written is what the quantiser says, survives a kill, and is
checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from a3b.cli import main
from a3b.errors import UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import Manifest, verify
from a3b.formats.tiles import Tiles
from a3b.kernels import _native, open_kernels
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.model.tensor_names import tensors_of
from a3b.packing.dequantised import dequantised
from a3b.packing.open_source import open_source
from a3b.packing.plan import bytes_per_token, make_plan, tensor_values
from a3b.packing.presets import PRESETS, format_for
from a3b.packing.quantise import quantise
from a3b.packing.writer import write
from tests.support.packing_files import SIZES, TEMPLATE, TOKENIZER, ids_for, logits_of, packed, write_source
from tests.support.random_model import SIZES as ODD_SIZES

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def quantised(exact: dict[str, np.ndarray], kinds: dict[str, str]) -> dict[str, np.ndarray]:
    """The tensors as a preset must hold them."""
    kind_of = {
        "mlp.gate_proj": "experts",
        "mlp.up_proj": "experts",
        "mlp.down_proj": "down",
        "embed_tokens": "embed",
        "lm_head": "lm_head",
        "gate_up_proj": "experts",
        "experts.down_proj": "down",
        "shared_expert.": "shared",
        "in_proj_qkv": "delta_in",
        "in_proj_z": "delta_in",
        "out_proj": "delta_out",
        "o_proj": "attention_out",
        "q_proj": "attention_in",
        "k_proj": "attention_in",
        "v_proj": "attention_in",
    }
    out = {}
    for name, value in exact.items():
        kind = next((kind for part, kind in kind_of.items() if part in name), None)
        if kind is None:
            out[name] = value
        else:
            format = format_for(kinds, kind, value.shape[-1])
            out[name] = quantise(format, value.reshape(-1, value.shape[-1])).f32(format).reshape(value.shape)
    return out


def logits(directory: Path, sizes: dict = SIZES) -> np.ndarray:
    config = read_config(directory)
    weights = load_weights(Checkpoint.open(directory), config)
    assert weights.residency == "packed"
    model = Model(config, dequantised(config, weights), open_kernels("reference"), "f32")
    return model.forward(ids_for(sizes), model.new_state(), logits="all")


@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_packed_model_computes_with_the_quantised_weights(tmp_path, preset, fp8):
    directory, exact = packed(tmp_path, preset, fp8, threads=2)
    expected = logits_of(read_config(directory), quantised(exact, PRESETS[preset]))
    assert np.abs(logits(directory) - expected).max() <= 1e-5 * expected.std()  # other orders of summation


def test_a_dense_model_is_packed_too(tmp_path):
    dense = {**SIZES, "E": 0, "K": 0, "F": 192, "Fs": 0}
    directory, exact = packed(tmp_path, "faithful", sizes=dense)
    expected = logits_of(read_config(directory), quantised(exact, PRESETS["faithful"]), dense)
    assert np.abs(logits(directory, dense) - expected).max() <= 1e-5 * expected.std()
    weights = load_weights(Checkpoint.open(directory), read_config(directory))
    assert [m.shape for m in weights.layers[0].mlp.gate_up] == [(192, 64)] * 2


FORMS = {
    "floats": ("f32", "f32"),
    "gate in tiles": ("w4m64", "f32"),
    "up in tiles": ("f32", "w4m64"),
    "two formats": ("w4m32", "w6s32"),
}


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", ["experts", "dense"])
def test_gate_and_up_may_have_different_forms(tmp_path, kind, forms):
    """A file may hold one half of a pair in integers and the other in floats, of routed and of shared experts and of a
    plain MLP."""
    sizes = SIZES | ({"E": 0, "K": 0, "Fs": 0} if kind == "dense" else {})
    form = dict(zip(("gate_proj", "up_proj"), FORMS[forms], strict=True))
    write_source(tmp_path / "source", sizes)
    source = open_source(tmp_path / "source")
    plan = make_plan(source.config, source.weights, "faithful")
    chosen = [
        next((form[part] for part in form if part in item.tensor.name), item.tensor.format) for item in plan.items
    ]
    items = [
        replace(item, tensor=replace(item.tensor, format=format))
        for item, format in zip(plan.items, chosen, strict=True)
    ]
    write(source, replace(plan, items=tuple(items)), tmp_path / "packed")
    assert verify(tmp_path / "packed") == []
    config = read_config(tmp_path / "packed")
    weights = load_weights(Checkpoint.open(tmp_path / "packed"), config)
    expected = logits(tmp_path / "packed", sizes)[:20]
    for isa in (*_native.isas(), "reference"):
        model = Model(config, weights, open_kernels(isa))
        found = model.forward(ids_for(sizes, 20), model.new_state(), logits="all")
        # int8 activations; mixed up halves are off by the spread
        assert np.abs(found - expected).mean() < 0.1 * expected.std(), isa


def test_what_is_loaded_has_the_promised_types(tmp_path):
    directory, _ = packed(tmp_path)
    weights = load_weights(Checkpoint.open(directory), read_config(directory))
    moe, mixer = weights.layers[0].mlp, weights.layers[0].mixer
    for matrix in (
        weights.embed,
        weights.lm_head,
        mixer.in_proj_qkv,
        mixer.out_proj,
        *moe.gate_up,
        *moe.shared_gate_up,
        moe.down,
    ):
        assert isinstance(matrix, Tiles) and not matrix.data.flags.owndata
        assert matrix.data.ctypes.data % 64 == 0
    assert [m.shape for m in moe.gate_up] == [(6, 64, 64)] * 2
    small = (
        moe.router,
        moe.shared_expert_gate,
        mixer.in_proj_b,
        mixer.in_proj_a,
        mixer.conv1d,
        mixer.delta_norm,
        mixer.A_log,
        weights.norm,
    )
    for array in small:
        assert array.dtype == np.float32
    assert not weights.tiled_v_heads


def test_the_plan_names_what_the_loader_expects(tmp_path):
    write_source(tmp_path / "source")
    source = open_source(tmp_path / "source")
    found = {t.full_name(layer): tuple(value.shape) for t, layer, value in tensor_values(source.config, source.weights)}
    assert found == {t.full_name(layer): t.shape(source.config.axes) for t, layer in tensors_of(source.config)}


def test_files_are_plain_safetensors_with_aligned_data(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the format's own library judges the files")
    directory, _ = packed(tmp_path)
    shards = sorted(directory.glob("*.safetensors"))
    assert len(shards) > 3
    for shard in shards:
        tensors = library.load_file(shard)
        start = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
        assert start % 4096 == 0 and tensors
    assert (directory / "tokenizer.json").read_bytes() == TOKENIZER
    assert (directory / "chat_template.jinja").read_bytes() == TEMPLATE


def test_matrices_whose_columns_no_group_divides_stay_float32(tmp_path):
    directory, exact = packed(tmp_path, "fast", sizes=ODD_SIZES["one"])
    manifest = Manifest.read(directory)
    assert manifest.tensors["model.embed_tokens.weight"].format == "f32"
    source = open_source(tmp_path / "source")
    assert "stay float32" in make_plan(source.config, source.weights, "fast").notes[0]
    expected = logits_of(read_config(directory), exact, ODD_SIZES["one"])
    assert np.abs(logits(directory, ODD_SIZES["one"]) - expected).max() <= 1e-5 * expected.std()


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        ("w4m64", 64, "w4m64"),
        ("w4m64", 96, "w4m32"),
        ("w4k32", 512, "w4k32"),
        ("w4k32", 320, "w4m64"),
        ("w4s32", 96, "w4s32"),
        ("w6k32", 64, "w6s32"),
        ("w8s32", 48, None),
    ],
)
def test_the_nearest_format_of_the_width_is_taken(wanted, columns, found):
    format = format_for({"down": wanted}, "down", columns)
    assert (format and format.name) == found


def test_bytes_per_token_count_chosen_experts_and_no_embedding(tmp_path):
    write_source(tmp_path / "source")
    source = open_source(tmp_path / "source")
    plan = make_plan(source.config, source.weights, "fast")
    sizes = {item.tensor.name: item.tensor.num_bytes for item in plan.items}
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    expected = sum(sizes.values()) - sizes["model.embed_tokens.weight"] - experts + experts * SIZES["K"] // SIZES["E"]
    assert abs(bytes_per_token(source.config, plan.tensors) - expected) < 12  # each tensor's share is rounded down


def test_packing_refuses_a_packed_directory(tmp_path):
    with pytest.raises(UsageError, match="is packed already"):
        open_source(packed(tmp_path / "x")[0])


def test_the_command_packs_and_says_what_it_costs(tmp_path, capsys):
    write_source(tmp_path / "source")
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "packed"), "--preset", "fast"]) == 0
    assert "of weights read per decoded token" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "packed")]) == 0
    out = capsys.readouterr().out
    assert "w4m64" in out and "fast, from source; a decoded token reads" in out
