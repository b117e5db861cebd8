"""Checkpoint directories in every layout become the same model; whatever does not fit is refused by name before any
work."""

from __future__ import annotations

import json

import numpy as np
import pytest

from a3b.errors import CheckpointError, TensorError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.safetensors import write_safetensors
from a3b.kernels import open_kernels
from a3b.model.config import ModelConfig
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import check_tensors, load_weights
from a3b.model.parameters import count_parameters
from tests.support.checkpoint_files import write_checkpoint, write_shards
from tests.support.mtp_files import loaded, numbers_of, set_apart, written
from tests.support.random_model import model_weights, random_ids

LAYOUTS = {
    "bf16": {},
    "f16": {"dtype": "F16"},
    "f32": {"dtype": "F32"},
    "one_by_one": {"fused": False},
    "sharded": {"num_shards": 3, "wrapped": True},
    "a_log_bf16": {"A_log": "BF16", "wrapped": True, "fused": False},
    "extras": {"extras": True, "wrapped": True},
    "fp8": {"dtype": "FP8", "fused": False},
    "fp8_sharded": {"dtype": "FP8", "fused": False, "num_shards": 4, "wrapped": True, "extras": True},
}
ORDER = 1e-5  # of the spread of the logits: products of the same numbers in another order of summation


def logits_of(config: ModelConfig, weights, name: str) -> np.ndarray:
    model = Model(config, weights, open_kernels(), "f32")
    return model.forward(random_ids(name, 70), model.new_state(), logits="all")


@pytest.mark.parametrize("expand", [True, False], ids=["float32", "mapped"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["one", "two", "dense"])
def test_every_layout_gives_the_numbers_in_the_file(tmp_path, name, layout, expand):
    exact = write_checkpoint(tmp_path, name, **LAYOUTS[layout])
    config = read_config(tmp_path)
    weights = load_weights(Checkpoint.open(tmp_path), config, expand=expand)
    assert weights.residency == ("float32" if expand else "mapped")
    found, expected = logits_of(config, weights, name), logits_of(config, model_weights(config, exact), name)
    assert np.abs(found - expected).max() <= ORDER * expected.std()


def test_tensors_beside_the_text_model_are_counted(tmp_path):
    write_checkpoint(tmp_path, extras=True, wrapped=True)
    config = read_config(tmp_path)
    assert check_tensors(Checkpoint.open(tmp_path), config) == {"mtp": count_parameters(config).mtp, "vision": 5}


@pytest.mark.parametrize("layout", [name for name, options in LAYOUTS.items() if options.get("extras")])
@pytest.mark.parametrize("name", ["one", "two", "dense"])
def test_every_layout_gives_the_numbers_of_the_mtp_module(tmp_path, name, layout):
    exact = written(write_checkpoint(tmp_path, name, **LAYOUTS[layout]))
    found = numbers_of(*loaded(tmp_path))
    assert found.keys() == exact.keys()
    for key, value in exact.items():
        np.testing.assert_array_equal(found[key].reshape(value.shape), value, err_msg=key)


def test_a_module_in_a_file_beside_the_model_is_read_like_one_within(tmp_path):
    exact = write_checkpoint(tmp_path, dtype="FP8", fused=False, extras=True)
    set_apart(tmp_path)
    assert [file.path.name for file in Checkpoint.open(tmp_path).files] == ["model.safetensors", "mtp.safetensors"]
    found = numbers_of(*loaded(tmp_path))
    for key, value in written(exact).items():
        np.testing.assert_array_equal(found[key].reshape(value.shape), value, err_msg=key)


def test_a_module_within_the_model_and_beside_it_is_refused_by_name(tmp_path):
    write_checkpoint(tmp_path, extras=True)
    both = (tmp_path / "model.safetensors").read_bytes()
    set_apart(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(both)
    with pytest.raises(TensorError, match=r"'mtp\..*' is in model.safetensors and in mtp.safetensors"):
        Checkpoint.open(tmp_path)


def broken(tmp_path, change) -> str:
    """What the loader says of the model "one" after `change` was made to its tensors."""
    write_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    checkpoint = Checkpoint.open(tmp_path)
    entries = {n: (info.dtype, checkpoint.array(n).copy()) for n, info in checkpoint.tensors.items()}
    change(entries)
    write_safetensors(file, entries)
    with pytest.raises(TensorError) as refusal:
        load_weights(Checkpoint.open(tmp_path), read_config(tmp_path))
    return str(refusal.value)


def test_a_missing_tensor_is_named(tmp_path):
    assert "'model.layers.2.mlp.gate.weight' is missing" in broken(
        tmp_path, lambda t: t.pop("model.layers.2.mlp.gate.weight")
    )


def test_a_dense_model_has_no_experts(tmp_path):
    write_checkpoint(tmp_path, "dense")
    config = read_config(tmp_path)
    entries = {
        n: (i.dtype, Checkpoint.open(tmp_path).array(n).copy()) for n, i in Checkpoint.open(tmp_path).tensors.items()
    }
    entries["model.layers.1.mlp.gate.weight"] = entries.pop("model.layers.1.mlp.up_proj.weight")
    write_safetensors(tmp_path / "model.safetensors", entries)
    with pytest.raises(
        TensorError, match=r"layers.1.mlp.up_proj.weight' is missing; 'model.layers.1.mlp.gate.weight' is unknown"
    ):
        load_weights(Checkpoint.open(tmp_path), config)


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path):
    def change(entries):
        dtype, array = entries["lm_head.weight"]
        entries["lm_head.weight"] = (dtype, np.ascontiguousarray(array.T))

    told = broken(tmp_path, change)
    assert "'lm_head.weight'" in told and "[48, 211]" in told and "[211, 48]" in told


def test_an_unknown_tensor_is_named(tmp_path):
    told = broken(tmp_path, lambda t: t.update({"model.layers.0.surprise": ("F32", np.zeros(2, np.float32))}))
    assert "'model.layers.0.surprise' is unknown" in told


def test_integers_are_no_weights(tmp_path):
    told = broken(tmp_path, lambda t: t.update({"model.norm.weight": ("I32", np.zeros(48, np.int32))}))
    assert "'model.norm.weight' is I32" in told


def test_all_complaints_come_at_once(tmp_path):
    def change(entries):
        for name in ("model.norm.weight", "lm_head.weight"):
            entries.pop(name)

    told = broken(tmp_path, change)
    assert "model.norm.weight" in told and "lm_head.weight" in told


@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_fp8_scales_are_checked(tmp_path, damage):
    write_checkpoint(tmp_path, dtype="FP8", fused=False)
    checkpoint = Checkpoint.open(tmp_path)
    entries = {n: (info.dtype, checkpoint.array(n).copy()) for n, info in checkpoint.tensors.items()}
    name = "model.layers.0.mlp.experts.3.up_proj.weight_scale_inv"
    if damage == "missing":
        entries.pop(name)
    elif damage == "shape":
        entries[name] = ("BF16", entries[name][1][:, :1].copy())
    else:
        entries[name][1][0, 0] = 0x7FC0
    write_safetensors(tmp_path / "model.safetensors", entries)
    with pytest.raises(TensorError, match="experts.3.up_proj.weight_scale_inv"):
        load_weights(Checkpoint.open(tmp_path), read_config(tmp_path))


def test_fp8_without_a_quantization_config_is_refused(tmp_path):
    write_checkpoint(tmp_path, dtype="FP8", fused=False)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TensorError, match="no quantization_config"):
        load_weights(Checkpoint.open(tmp_path), read_config(tmp_path))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    write_checkpoint(tmp_path, num_shards=2)
    extra = {"lm_head.weight": ("F32", np.zeros(1, np.float32)), "model.norm.weight": ("F32", np.zeros(1, np.float32))}
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    held = Checkpoint.open(tmp_path)
    keep = {n: (held.tensors[n].dtype, held.array(n).copy()) for n in held.files[0].tensors}
    write_safetensors(shard, {**extra, **keep})
    with pytest.raises(TensorError, match="is in model-00001"):
        Checkpoint.open(tmp_path)


def index_refusal(tmp_path, change) -> str:
    write_checkpoint(tmp_path, num_shards=2)
    index = tmp_path / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    index.write_text(json.dumps(change(value) or value))
    with pytest.raises(CheckpointError) as refusal:
        Checkpoint.open(tmp_path)
    return str(refusal.value)


@pytest.mark.parametrize(
    "target", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "\0.safetensors", 7, None]
)
def test_an_index_may_not_leave_its_directory(tmp_path, target):
    told = index_refusal(tmp_path, lambda v: v["weight_map"].update({"lm_head.weight": target}))
    assert "expected a file in this directory" in told


def test_an_index_that_names_a_missing_shard_is_refused(tmp_path):
    told = index_refusal(
        tmp_path, lambda v: v["weight_map"].update({"lm_head.weight": "model-00009-of-00002.safetensors"})
    )
    assert "missing" in told


def test_an_index_that_forgets_a_tensor_is_refused(tmp_path):
    assert "'lm_head.weight' is not in" in index_refusal(
        tmp_path, lambda v: v["weight_map"].pop("lm_head.weight") and None
    )


def test_an_index_with_a_wrong_total_is_refused(tmp_path):
    assert "total_size is 1" in index_refusal(tmp_path, lambda v: v["metadata"].update(total_size=1))


def test_two_forms_of_weights_in_one_directory_are_refused(tmp_path):
    write_checkpoint(tmp_path)
    write_shards(tmp_path, {"lm_head.weight": ("F32", np.zeros(1, np.float32))}, 2)
    with pytest.raises(CheckpointError, match="both"):
        Checkpoint.open(tmp_path)
