"""The MTP module is packed with the model it belongs to, in files of its own, and changes nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from a3b.cache.identity import cache_identity
from a3b.cli import main
from a3b.commands import info, plan
from a3b.commands.sizes import sizes as predicted_sizes
from a3b.errors import CheckpointError, TensorError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, Manifest, verify
from a3b.formats.quant import f32_to_bf16
from a3b.formats.safetensors import write_safetensors
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.loader import check_tensors, files_of_text, load_weights
from a3b.model.parameters import count_parameters
from a3b.model.tensor_names import is_mtp, mtp_tensors
from a3b.packing import random_weights
from a3b.packing.open_source import open_source
from a3b.packing.plan import bytes_per_token, make_plan
from a3b.packing.presets import PRESETS, format_for
from a3b.packing.quantise import quantise
from a3b.packing.writer import write
from tests.support import gptq_files
from tests.support.checkpoint_files import one_by_one
from tests.support.gguf_files import DENSE as GGUF_DENSE
from tests.support.gguf_files import SIZES as GGUF_SIZES
from tests.support.gguf_files import write_gguf
from tests.support.mtp_files import change_manifest, change_tensors, loaded, numbers_of, written
from tests.support.packing_files import SIZES, config_json, write_source
from tests.support.random_model import config_dict, random_tensors

pytestmark = pytest.mark.slow  # packs many small models

DENSE = {**SIZES, "E": 0, "K": 0, "F": 192, "Fs": 0}
SHARD = 100_000  # bytes: several shards


def packed(source: Path, target: Path, preset: str | None = "balanced", mtp: bool = True) -> Path:
    opened = open_source(source, mtp=mtp)
    write(opened, make_plan(opened.config, opened.weights, preset), target, shard_bytes=SHARD)
    return target


def quantised(exact: dict[str, np.ndarray], sizes: dict, preset: str) -> dict[str, np.ndarray]:
    """The module as a preset must hold it."""
    kinds = {t.full_name(layer): t.kind for t, layer in mtp_tensors(config_from_dict(config_dict(sizes)))}
    out = written(exact)
    for name, value in out.items():
        if kind := kinds[name]:
            format = format_for(PRESETS[preset], kind, value.shape[-1])
            out[name] = quantise(format, value.reshape(-1, value.shape[-1])).f32(format).reshape(value.shape)
    return out


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].reshape(value.shape), value, err_msg=name)


@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize("sizes", [SIZES, DENSE], ids=["experts", "dense"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_module_is_packed_as_the_preset_quantises_its_kinds(tmp_path, preset, sizes, fp8):
    exact = write_source(tmp_path / "source", sizes, fp8, mtp=True)
    directory = packed(tmp_path / "source", tmp_path / "packed", preset)
    assert verify(directory) == []
    config, weights = loaded(directory)
    assert weights.residency == "packed" and weights.extra == {}
    assert_equal(numbers_of(config, weights), quantised(exact, sizes, preset))


def test_all_other_files_are_the_same_with_and_without_the_module(tmp_path):
    write_source(tmp_path / "with", mtp=True)
    write_source(tmp_path / "without")
    one = packed(tmp_path / "with", tmp_path / "one")
    for other in (
        packed(tmp_path / "without", tmp_path / "two"),
        packed(tmp_path / "with", tmp_path / "three", mtp=False),
    ):
        names = {file.name for file in other.iterdir()}
        added = {file.name for file in one.iterdir()} - names
        assert added and all(name.startswith("mtp-") for name in added)
        for name in names - {"config.json", MANIFEST}:
            assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_model_is_loaded_without_the_module_unless_it_is_wanted(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    for directory in (tmp_path / "source", packed(tmp_path / "source", tmp_path / "packed")):
        checkpoint = Checkpoint.open(directory)
        weights = load_weights(checkpoint, read_config(directory), expand=True)
        assert weights.mtp is None and set(weights.extra) == {"mtp"}


def test_what_the_files_lack_or_have_is_counted_whatever_the_config_says(tmp_path):
    for name, tensors, said in (("lacks", False, True), ("has", True, False)):
        write_source(tmp_path / name, mtp=tensors)
        (tmp_path / name / "config.json").write_text(json.dumps(config_json(mtp=said)))
        config, _ = plan.find(str(tmp_path / name))
        counted = info.describe(str(tmp_path / name), None)["beside_the_text_model"]["mtp"]
        assert (counted > 0, config.mtp_layers) == (tensors, int(tensors)), name


def test_a_module_of_a_model_in_float32_is_in_memory_too(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    weights = load_weights(Checkpoint.open(tmp_path / "source"), read_config(tmp_path / "source"), True, mtp=True)
    assert all(
        isinstance(w, np.ndarray) for w in (weights.layers[0].mlp.down, weights.mtp.layer.mlp.down, weights.mtp.fc)
    )


def test_no_file_of_the_module_is_among_those_that_are_brought_into_memory(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    checkpoint = Checkpoint.open(packed(tmp_path / "source", tmp_path / "packed"))
    names = [name for file in files_of_text(checkpoint) for name in file.tensors]
    assert not any(map(is_mtp, names)) and len(names) == sum(not is_mtp(name) for name in checkpoint.tensors)


def test_a_token_reads_nothing_of_the_module(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    plans = [
        make_plan(source.config, source.weights, "fast")
        for source in (open_source(tmp_path / "source", mtp=mtp) for mtp in (True, False))
    ]
    config = read_config(tmp_path / "source")
    assert plans[0].num_bytes > plans[1].num_bytes
    assert bytes_per_token(config, plans[0].tensors) == bytes_per_token(config, plans[1].tensors)


@pytest.mark.parametrize("sizes", [SIZES, DENSE], ids=["experts", "dense"])
def test_the_sizes_of_a_plan_are_those_of_the_files(tmp_path, sizes):
    write_source(tmp_path / "source", sizes, mtp=True)
    source = open_source(tmp_path / "source")
    planned = predicted_sizes(source.config, PRESETS["balanced"])
    plan = make_plan(source.config, source.weights, "balanced")
    assert planned.stored_bytes == plan.num_bytes
    mtp_bytes = sum(tensor.num_bytes for tensor in plan.tensors if is_mtp(tensor.name))
    assert planned.total_bytes == plan.num_bytes - mtp_bytes


def test_info_counts_the_module_beside_the_model(tmp_path, capsys):
    write_source(tmp_path / "source", mtp=True)
    directory = packed(tmp_path / "source", tmp_path / "packed")
    module = count_parameters(read_config(directory)).mtp
    for name in ("source", "packed"):
        assert main(["info", "--json", str(tmp_path / name)]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["beside_the_text_model"]["mtp"] == module == facts["weights"]["kept_for_later"]["mtp"]
        assert facts["parameters"]["total"] == count_parameters(read_config(directory)).total
    assert main(["info", str(directory)]) == 0
    assert "MTP module stored, " in capsys.readouterr().out


def test_sessions_do_not_depend_on_the_module(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    config = read_config(tmp_path / "source")
    one, two = (packed(tmp_path / "source", tmp_path / name, mtp=name == "with") for name in ("with", "without"))
    assert cache_identity(config, one, "q8", "x") == cache_identity(config, two, "q8", "x")


def test_a_module_in_a_file_of_its_own_is_found_by_the_index(tmp_path):
    exact = write_source(tmp_path / "source", mtp=True)
    held = Checkpoint.open(tmp_path / "source")
    weight_map = {}
    for file, mtp in (("model-00001-of-00001.safetensors", False), ("mtp.safetensors", True)):
        part = {n: (i.dtype, held.array(n).copy()) for n, i in held.tensors.items() if is_mtp(n) is mtp}
        write_safetensors(tmp_path / "source" / file, part)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "source" / "model.safetensors").unlink()
    (tmp_path / "source" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_equal(numbers_of(*loaded(tmp_path / "source")), written(exact))


FAULTS = {
    "missing": (lambda t: t.pop("mtp.norm.weight"), "tensor 'mtp.norm.weight' is missing"),
    "misshapen": (
        lambda t: t.update({"mtp.fc.weight": ("BF16", np.zeros((128, 64), np.uint16))}),
        r"tensor 'mtp.fc.weight' has shape \[128, 64\], expected \[64, 128\]",
    ),
    "no layer": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("mtp.layers.")],
        "tensor 'mtp.layers.0.input_layernorm.weight' is missing",
    ),
    "only a layer": (
        lambda t: [t.pop(name) for name in list(t) if name.startswith("mtp.") and "layers" not in name],
        "tensor 'mtp.fc.weight' is missing",
    ),
    "unknown": (
        lambda t: t.update({"mtp.layers.0.surprise": ("F32", np.zeros(2, np.float32))}),
        "'mtp.layers.0.surprise' is unknown",
    ),
    "integers": (
        lambda t: t.update({"mtp.norm.weight": ("I32", np.zeros(64, np.int32))}),
        "'mtp.norm.weight' is I32",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_module_that_is_not_whole_is_refused_by_name_and_can_be_left_out(tmp_path, fault):
    write_source(tmp_path / "source", mtp=True)
    change, told = FAULTS[fault]
    change_tensors(tmp_path / "source", change)
    with pytest.raises(TensorError, match=told):
        open_source(tmp_path / "source")
    assert open_source(tmp_path / "source", mtp=False).weights.mtp is None


def two_layers(tensors):
    tensors |= {n.replace("layers.0", "layers.1"): t for n, t in tensors.items() if n.startswith("mtp.layers.")}


def own_embedding(tensors):
    tensors["mtp.embed_tokens.weight"] = ("BF16", np.zeros((160, 64), np.uint16))


@pytest.mark.parametrize(
    ("change", "told"), [(two_layers, "it has 2 layers; a3b uses one"), (own_embedding, "has an embedding or a head")]
)
def test_a_module_of_another_kind_is_counted_and_left_out_with_its_reason(tmp_path, change, told, capsys):
    write_source(tmp_path / "source", mtp=True)
    change_tensors(tmp_path / "source", change)
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "packed")]) == 0
    said = capsys.readouterr().err
    assert told in said and "M parameters are left out" in said
    manifest = Manifest.read(tmp_path / "packed")
    assert manifest.skipped["mtp"] > 0 and not any(map(is_mtp, manifest.tensors))


def test_a_config_that_claims_several_layers_leaves_the_module_out(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    del config["mtp_num_hidden_layers"]
    (tmp_path / "source" / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 3}))
    source = open_source(tmp_path / "source")
    assert source.weights.mtp is None and "it has 3 layers" in source.notes[0]


def test_a_checkpoint_that_lost_the_module_is_packed_with_one_note(tmp_path, capsys):
    write_source(tmp_path / "source", mtp=True)
    change_tensors(tmp_path / "source", lambda t: [t.pop(name) for name in list(t) if name.startswith("mtp.")])
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "packed")]) == 0
    said = capsys.readouterr().err
    assert said.count("drafts") == 1 and "a3b pack --add-mtp SRC DIR" in said
    assert loaded(tmp_path / "packed")[1].mtp is None


def test_packing_says_what_the_module_takes_and_can_leave_it_out(tmp_path, capsys):
    write_source(tmp_path / "source", mtp=True)
    assert main(["pack", str(tmp_path / "source"), str(tmp_path / "with")]) == 0
    assert "M parameters are packed for drafts" in capsys.readouterr().err
    assert main(["pack", "--no-mtp", str(tmp_path / "source"), str(tmp_path / "without")]) == 0
    said = capsys.readouterr().err
    assert "for drafts" not in said and "mtp: 0.1 M parameters are left out" in said
    assert not any(map(is_mtp, Manifest.read(tmp_path / "without").tensors))


def test_a_packed_directory_whose_module_is_not_whole_is_refused(tmp_path):
    write_source(tmp_path / "source", mtp=True)
    directory = packed(tmp_path / "source", tmp_path / "packed")
    change_manifest(directory, lambda value: value["tensors"]["mtp.fc.weight"].update(shape=[128, 64]))
    with pytest.raises(TensorError, match="'mtp.fc.weight'"):
        check_tensors(Checkpoint.open(directory), read_config(directory))


def test_random_weights_have_the_module_where_their_config_has_it(tmp_path):
    value = config_dict(SIZES) | {"mtp_num_hidden_layers": 1}
    for preset in ("balanced", "Q4_K_M"):
        source, plan = random_weights.random_source("tiny", value, preset, pool_bytes=50_000)
        write(source, plan, tmp_path / preset, shard_bytes=1_000_000)
        assert verify(tmp_path / preset) == []
        config, weights = loaded(tmp_path / preset)
        assert all(np.isfinite(value).all() for value in numbers_of(config, weights).values())


def test_a_module_in_gptq_integers_keeps_them(tmp_path):
    module = {n: value for n, value in random_tensors(gptq_files.SIZES, 5, mtp=True).items() if is_mtp(n)}

    def add(entries, quantisation):
        for name, value in one_by_one(module).items():
            if "expert" in name and name.endswith("_proj.weight"):
                tensors, module[name] = gptq_files.gptq(value, 128, True, 1)
                entries |= {name.removesuffix("weight") + suffix: tensor for suffix, tensor in tensors.items()}
            else:
                entries[name] = ("BF16", f32_to_bf16(value))

    gptq_files.write_source(tmp_path / "source", change=add)
    directory = packed(tmp_path / "source", tmp_path / "packed", None)
    down = "mtp.layers.0.mlp.experts.down_proj"
    assert Manifest.read(directory).tensors[down].format == "w4m64"
    expected = [module[f"mtp.layers.0.mlp.experts.{e}.down_proj.weight"] for e in range(gptq_files.SIZES["E"])]
    np.testing.assert_array_equal(numbers_of(*loaded(directory))[down], np.stack(expected))


def test_a_module_in_floats_beside_gptq_gets_eight_bits(tmp_path):
    exact = random_tensors(gptq_files.SIZES, 5, mtp=True)
    module = {name: value for name, value in exact.items() if is_mtp(name)}

    def add(entries, quantisation):
        entries |= {name: ("BF16", f32_to_bf16(value)) for name, value in one_by_one(module).items()}

    gptq_files.write_source(tmp_path / "source", change=add)
    directory = packed(tmp_path / "source", tmp_path / "packed", None)
    assert verify(directory) == []
    formats = {name: t.format for name, t in Manifest.read(directory).tensors.items() if is_mtp(name)}
    assert set(formats.values()) == {"w8s32", "f32"} and formats["mtp.layers.0.mlp.experts.down_proj"] == "w8s32"
    found, expected = numbers_of(*loaded(directory)), written(module)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name].reshape(value.shape) - value).max() < 0.01 * np.abs(value).max(), name


def test_a_gguf_of_the_module_alone_is_refused_as_what_it_is(tmp_path):
    def change(kv, tensors):
        for name in [name for name in tensors if name.startswith("blk.") and not name.startswith(LAST)]:
            del tensors[name]

    with pytest.raises(CheckpointError, match="holds only the MTP module of a model"):
        open_source(gguf_with(tmp_path, change))


@pytest.mark.parametrize("sizes", [GGUF_SIZES, GGUF_DENSE], ids=["experts", "dense"])
def test_the_layer_after_the_last_of_a_gguf_is_its_module(tmp_path, sizes):
    gguf = pytest.importorskip("gguf", reason="the format's own library writes the file")
    exact = write_gguf(tmp_path / "model.gguf", gguf, sizes, mtp=True)
    directory = packed(tmp_path / "model.gguf", tmp_path / "packed", None)
    formats = {name: tensor.format for name, tensor in Manifest.read(directory).tensors.items()}
    assert formats["mtp.fc.weight"] == "w8s32" and formats["mtp.layers.0.self_attn.o_proj.weight"] == "w4m32"
    assert read_config(directory).mtp_layers == 1
    found, expected = numbers_of(*loaded(directory)), written(exact)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if formats[name] == "f32":  # a norm went through one more rounding
            assert np.abs(found[name].reshape(value.shape) - value).max() < 1e-6, name
        elif "v_proj" not in name:  # BF16, which is quantised
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def gguf_with(tmp_path: Path, change) -> Path:
    gguf = pytest.importorskip("gguf", reason="the format's own library writes the file")
    write_gguf(tmp_path / "model.gguf", gguf, mtp=True, change=change)
    return tmp_path / "model.gguf"


LAST = f"blk.{GGUF_SIZES['layers']}."


@pytest.mark.parametrize("name", ["nextn.hnorm.weight", "attn_q.weight", "ffn_down_exps.weight"])
def test_a_gguf_whose_module_is_not_whole_is_refused_by_name(tmp_path, name):
    path = gguf_with(tmp_path, lambda kv, tensors: tensors.pop(LAST + name))
    with pytest.raises(TensorError, match=f"'{LAST}{name}' is missing"):
        open_source(path)
    assert open_source(path, mtp=False).skipped["mtp"] > 0


GGUF_LEFT_OUT = {
    "two": (lambda kv, t: kv.update({"qwen35moe.block_count": 6, "qwen35moe.nextn_predict_layers": 2}), "2 layers"),
    "own": (lambda kv, t: t.update({LAST + "nextn.embed_tokens.weight": t["token_embd.weight"]}), "an embedding"),
    "Ollama": (lambda kv, t: t.update({"mtp.fc.weight": t["output_norm.weight"]}), "the names of Ollama"),
    "unnamed": (
        lambda kv, t: kv.update({"qwen35moe.block_count": 4, "qwen35moe.nextn_predict_layers": 0}),
        "does not name it",
    ),
}


@pytest.mark.parametrize("kind", GGUF_LEFT_OUT)
def test_a_gguf_with_a_module_of_another_kind_is_packed_without_it(tmp_path, kind):
    change, told = GGUF_LEFT_OUT[kind]
    source = open_source(gguf_with(tmp_path, change))
    assert source.weights.mtp is None and source.skipped["mtp"] > 0
    assert any(told in note for note in source.notes)


def test_a_gguf_that_only_names_the_module_is_packed_without_it(tmp_path):
    def change(kv, tensors):
        for name in [name for name in tensors if name.startswith(LAST)]:
            del tensors[name]

    path = gguf_with(tmp_path, change)
    source = open_source(path)
    assert source.weights.mtp is None and any("has no MTP tensors" in note for note in source.notes)
    assert info.describe(str(path), None)["beside_the_text_model"]["mtp"] == plan.find(str(path))[0].mtp_layers == 0
