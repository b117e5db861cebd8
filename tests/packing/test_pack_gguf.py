"""GGUF files as sources: every stored integer is kept, every transform of the converter undone, the tokenizer taken
along."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from a3b.cli import main
from a3b.errors import CheckpointError, UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import Manifest, verify
from a3b.kernels import open_kernels
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.packing.dequantised import dequantised
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import write
from a3b.prompt.segments import Control, Text
from a3b.prompt.tokenizer import Tokenizer
from tests.support.gguf_files import DENSE, END, SIZES, TOKENS, TYPE_OF, write_gguf
from tests.support.packing_files import ids_for, logits_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

gguf = pytest.importorskip("gguf", reason="the format's own library writes the files")


def packed(tmp_path: Path, preset: str | None = None, **options) -> tuple[Path, dict[str, np.ndarray]]:
    exact = write_gguf(tmp_path / "model.gguf", gguf, **options)
    source = open_source(tmp_path / "model.gguf")
    assert source.keeps_types == (preset is None)
    write(source, make_plan(source.config, source.weights, preset), tmp_path / "packed", shard_bytes=1_000_000)
    return tmp_path / "packed", exact


def test_a_packed_gguf_computes_as_the_same_model_from_hugging_face(tmp_path):
    """Every type but BF16, which is quantised; the next test but one has that."""
    directory, exact = packed(tmp_path, types={**TYPE_OF, "attn_v": "Q8_0"})
    config = read_config(directory)
    weights = load_weights(Checkpoint.open(directory), config)
    assert weights.tiled_v_heads
    model = Model(config, dequantised(config, weights), open_kernels("reference"), "f32")
    found, expected = model.forward(ids_for(SIZES), model.new_state(), logits="all"), logits_of(config, exact, SIZES)
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()  # A_log and norms went through one more rounding
    assert verify(directory) == []


def test_a_dense_file_computes_as_the_same_model_from_hugging_face(tmp_path):
    directory, exact = packed(tmp_path, sizes=DENSE, types={**TYPE_OF, "attn_v": "Q8_0"})
    config = read_config(directory)
    assert config.dense and config.model_type == "qwen3_5_text"
    weights = load_weights(Checkpoint.open(directory), config)
    model = Model(config, dequantised(config, weights), open_kernels("reference"), "f32")
    found, expected = model.forward(ids_for(DENSE), model.new_state(), logits="all"), logits_of(config, exact, DENSE)
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()


def as_ollama_writes(kv, tensors):
    """Heads listed layer by layer, three sections, a bias without its suffix, the other parts in the same file."""
    kv["qwen35moe.attention.head_count_kv"] = [0, 0, 0, SIZES["Hkv"]]
    kv["qwen35moe.rope.dimension_sections"] = kv["qwen35moe.rope.dimension_sections"][:3]
    for i in range(SIZES["layers"]):
        if (dt := tensors.pop(f"blk.{i}.ssm_dt.bias", None)) is not None:
            tensors[f"blk.{i}.ssm_dt"] = dt
    tensors["v.blk.0.attn_qkv.weight"] = tensors["mm.0.weight"] = (np.zeros((3, 2), np.float32), None)
    tensors["mtp.fc.weight"] = (np.zeros((4, 8), np.float32), None)


def test_a_file_as_ollama_writes_it_is_the_same_model_whatever_it_is_called(tmp_path):
    one, _ = packed(tmp_path)
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / f"sha256-{'0' * 64}"
    write_gguf(blob, gguf, change=as_ollama_writes)
    source = open_source(blob)
    other = write(source, make_plan(source.config, source.weights, None), tmp_path / "other", shard_bytes=1_000_000)
    assert other.checksums == Manifest.read(one).checksums
    assert other.skipped == {"vision": 12, "mtp": 32}


@pytest.mark.parametrize("is_tiled", [True, False])
def test_a_file_that_says_how_its_heads_are_ordered_is_believed(tmp_path, is_tiled):
    write_gguf(tmp_path / "x.gguf", gguf, change=lambda kv, t: kv.update({"qwen35moe.ssm.v_head_reordered": is_tiled}))
    source = open_source(tmp_path / "x.gguf")
    assert source.weights.tiled_v_heads == is_tiled and not any("order" in note for note in source.notes)


def test_kernels_on_tiles_know_the_order_of_the_heads(tmp_path):
    directory, exact = packed(tmp_path)
    config = read_config(directory)
    model = Model(config, load_weights(Checkpoint.open(directory), config), open_kernels("reference"))
    found, expected = (
        model.forward(ids_for(SIZES, 20), model.new_state(), logits="all"),
        logits_of(config, exact, SIZES)[:20],
    )
    # int8 activations; another order is off by the spread itself
    assert np.abs(found - expected).mean() < 0.1 * expected.std()


def test_matrices_keep_their_types(tmp_path):
    manifest = Manifest.read(packed(tmp_path)[0])
    formats = {name: tensor.format for name, tensor in manifest.tensors.items()}
    assert manifest.preset is None
    for name, format in {
        "model.embed_tokens.weight": "w8s32",
        "lm_head.weight": "w6k16",
        "model.layers.0.linear_attn.in_proj_qkv.weight": "w6k32",
        "model.layers.0.linear_attn.in_proj_z.weight": "w4k32",
        "model.layers.0.linear_attn.out_proj.weight": "w6k16",
        "model.layers.3.self_attn.q_proj.weight": "w4s32",
        "model.layers.3.self_attn.o_proj.weight": "w4m32",
        "model.layers.3.self_attn.v_proj.weight": "w8s32",
        "model.layers.0.mlp.experts.gate_proj": "w4k32",
        "model.layers.0.mlp.gate.weight": "f32",
        "model.layers.0.linear_attn.A_log": "f32",
    }.items():
        assert formats[name] == format, name


def test_wide_matrices_hold_the_numbers_of_the_file(tmp_path):
    directory, _ = packed(tmp_path)
    weights = load_weights(Checkpoint.open(directory), read_config(directory))
    file = gguf.GGUFReader(tmp_path / "model.gguf")
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in file.tensors}
    for name, matrix in (
        ("blk.1.ssm_out", weights.layers[1].mixer.out_proj),
        ("blk.1.attn_qkv", weights.layers[1].mixer.in_proj_qkv),
    ):
        assert np.array_equal(matrix.f32_rows(0, matrix.shape[0]), stored[name + ".weight"])
    up = weights.layers[2].mlp.gate_up[1]
    assert np.array_equal(up.f32_expert(4), stored["blk.2.ffn_up_exps.weight"][4])


def test_fused_gate_and_up_are_taken_apart(tmp_path):
    def fuse(kv, tensors):
        for i in range(SIZES["layers"]):
            gate, up = (tensors.pop(f"blk.{i}.ffn_{name}_exps.weight")[0] for name in ("gate", "up"))
            tensors[f"blk.{i}.ffn_gate_up_exps.weight"] = (np.concatenate((gate, up), axis=1), "Q4_K")

    one, _ = packed(tmp_path)
    (tmp_path / "fused").mkdir()
    other, _ = packed(tmp_path / "fused", change=fuse)
    checksums = [Manifest.read(directory).checksums for directory in (one, other)]
    assert checksums[0] == checksums[1]


def test_floats_are_quantised_by_a_preset(tmp_path):
    directory, _ = packed(tmp_path, "fast", types=dict.fromkeys(TYPE_OF, "BF16"))
    assert Manifest.read(directory).tensors["model.layers.0.mlp.experts.up_proj"].format == "w4k32"


def test_the_tokenizer_comes_out_of_the_file(tmp_path):
    directory, _ = packed(tmp_path)
    tokenizer = Tokenizer.read(directory)
    ids = tokenizer.encode([Control("<|im_start|>"), Text("hello <|im_end|>"), Control("<|im_end|>")])
    assert [TOKENS[i] for i in ids[:4]] == ["<|im_start|>", "hell", "o", "Ġ"] and ids[-1] == END and ids.count(END) == 1
    assert tokenizer.decode(ids) == "<|im_start|>hello <|im_end|><|im_end|>"
    assert END in read_config(directory).eos_token_ids
    assert (directory / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def drop(kv, tensors):
    del tensors["blk.2.ssm_a"], kv["tokenizer.chat_template"]


CHANGES = {
    "another architecture": (lambda kv, t: kv.update({"general.architecture": "llama"}), "expected 'qwen35moe'"),
    "a missing key": (lambda kv, t: kv.pop("qwen35moe.ssm.state_size"), "key qwen35moe.ssm.state_size is missing"),
    "a missing tensor": (drop, r"tensor 'blk\.2\.ssm_a' is missing"),
    "an unknown tensor": (
        lambda kv, t: t.update({"blk.0.new.weight": t["output_norm.weight"]}),
        "'blk.0.new.weight' is unknown",
    ),
    "other sizes": (lambda kv, t: kv.update({"qwen35moe.expert_count": 6}), r"has shape \[5, 256\]; expected \[6, 256"),
    "several numbers of heads": (
        lambda kv, t: kv.update({"qwen35moe.attention.head_count_kv": [0, 1, 2, 3]}),
        "expected one number, or zero",
    ),
    "scaled positions": (
        lambda kv, t: kv.update({"qwen35moe.rope.scaling.type": "yarn"}),
        "rope.scaling.type is 'yarn'",
    ),
    "a decay that grows": (
        lambda kv, t: t["blk.0.ssm_a"][0].__setitem__(1, 0.5),
        r"'blk\.0\.ssm_a' holds a number that cannot be",
    ),
    "another pre-tokenizer": (lambda kv, t: kv.update({"tokenizer.ggml.pre": "llama-bpe"}), "--tokenizer DIR"),
    "a merge of three": (lambda kv, t: kv.update({"tokenizer.ggml.merges": ["a b c"]}), "expected two tokens"),
    "uneven heads": (lambda kv, t: kv.update({"qwen35moe.ssm.inner_size": 769}), "do not fit together"),
    "one of several files": (lambda kv, t: kv.update({"split.count": 2}), "is one of 2 files"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_does_not_fit_is_refused(tmp_path, name):
    change, told = CHANGES[name]
    write_gguf(tmp_path / "model.gguf", gguf, change=change)
    with pytest.raises(CheckpointError, match=told):
        open_source(tmp_path / "model.gguf")


def test_a_preset_for_integers_is_refused(tmp_path, capsys):
    write_gguf(tmp_path / "model.gguf", gguf, types={**TYPE_OF, "attn_v": "Q8_0"})
    assert main(["pack", str(tmp_path / "model.gguf"), str(tmp_path / "out"), "--preset", "fast"]) == 2
    assert "quantised already and is kept; leave it out" in capsys.readouterr().err
    with pytest.raises(UsageError, match="neither a directory nor"):
        open_source(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("command", [["run"], ["chat"]])
def test_commands_say_that_a_gguf_is_packed_first(tmp_path, capsys, command):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    words = [*command, str(tmp_path / "x.gguf"), *(["hello"] if command == ["run"] else [])]
    assert main(words) == 2
    assert "pack it first: a3b pack" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run"], ["chat"]])
def test_a_directory_that_holds_only_a_gguf_is_told_what_to_do(tmp_path, capsys, command):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for beside in ("mmproj-x.gguf", "imatrix.gguf", "x.imatrix.gguf"):
        (tmp_path / beside).write_bytes(b"GGUF")
    words = [*command, str(tmp_path), *(["hello"] if command == ["run"] else [])]
    assert main(words) == 2
    assert (
        f"holds the GGUF file x.gguf and no config.json; pack it first: a3b pack {tmp_path}/x.gguf DIR"
        in capsys.readouterr().err
    )
    (tmp_path / "x-imatrix-Q4_K_M.gguf").write_bytes(b"GGUF")  # a model quantised by an importance matrix
    assert main(words) == 2
    assert "holds 2 GGUF models and no config.json" in capsys.readouterr().err


def test_info_and_plan_describe_a_gguf_by_its_file_and_by_its_directory(tmp_path, capsys):
    write_gguf(tmp_path / "x.gguf", gguf)
    for model in (tmp_path, tmp_path / "x.gguf"):
        assert main(["info", str(model), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["path"] == str(tmp_path / "x.gguf") and facts["experts"]["routed"] == SIZES["E"]
        assert (
            facts["weights"]["bytes"] == (tmp_path / "x.gguf").stat().st_size and "Q4_K" in facts["weights"]["dtypes"]
        )
        assert facts["next_step"] == f"pack it before it runs: a3b pack {tmp_path}/x.gguf DIR"
        assert main(["plan", str(model), "--json", "--bandwidth", "10", "--operations", "100"]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == {
            k: facts["parameters"][k] for k in ("total", "active")
        }


def test_a_directory_with_one_gguf_is_packed_and_with_two_is_asked_about(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "x.gguf", gguf)
    assert main(["pack", str(tmp_path / "model"), str(tmp_path / "packed")]) == 0
    assert verify(tmp_path / "packed") == []
    (tmp_path / "model" / "y.gguf").write_bytes(b"GGUF")
    capsys.readouterr()
    assert main(["pack", str(tmp_path / "model"), str(tmp_path / "other")]) == 2
    assert "holds 2 GGUF models; give one of its files: x.gguf, y.gguf" in capsys.readouterr().err
