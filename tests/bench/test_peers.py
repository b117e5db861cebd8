"""Files that the comparison with other engines runs on: the full shape to the byte, random blocks of ordinary size,
honest failures.

What needs a build of llama.cpp is not here: `python -m bench.peers.parity --llama DIR`."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from a3b.cli import main
from a3b.engine.engine import nano_directory
from a3b.errors import UsageError
from a3b.formats.ggml_blocks import decode
from a3b.formats.gguf import GgufFile
from a3b.formats.packed import Manifest
from a3b.model.tensor_names import is_mtp
from bench.peers import engines, gguf_writer, shapes
from bench.peers.__main__ import compare, table
from bench.peers.engines import EngineError, a3b, llama_cpp, pack, rest
from bench.peers.gguf_writer import Tensor, write_gguf
from bench.peers.oracle import f32_model, kl, ratio_range
from bench.peers.parity import gguf_tensors, sizes_of, write_known
from bench.peers.random_gguf import random_blocks, write_random
from bench.peers.shapes import SHAPES
from tests.support.random_model import random_tensors

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SMALL = replace(SHAPES["tiny"], V=301, layers=3, E=4, first_control=270)


@pytest.mark.parametrize(("mix", "num_bytes"), [("Q4_K_M", 21_155_768_832), ("Q4_0", 19_704_064_512)])
def test_the_full_shape_has_every_parameter_and_the_size_of_its_mix(mix, num_bytes):
    listed = shapes.tensors(SHAPES["35b-a3b"], mix)
    assert len(listed) == 733
    assert sum(math.prod(t.shape) for t in listed) == 34_660_610_688
    assert sum(t.num_bytes for t in listed) == num_bytes


def test_half_of_the_layers_keep_more_bits_in_what_is_sensitive():
    dtypes = {t.name: t.dtype for t in shapes.tensors(SHAPES["35b-a3b"], "Q4_K_M")}
    better = [i for i in range(40) if dtypes[f"blk.{i}.ffn_down_exps.weight"] == "Q6_K"]
    assert better == [*range(5), *range(7, 35, 3), *range(35, 40)]
    assert all(dtypes[f"blk.{i}.attn_{'v' if i % 4 == 3 else 'qkv'}.weight"] == "Q6_K" for i in better)
    assert dtypes["output.weight"] == "Q6_K" and dtypes["token_embd.weight"] == dtypes["blk.0.ssm_out.weight"] == "Q4_K"


@pytest.mark.parametrize("dtype", ["F32", "Q4_0", "Q4_K", "Q6_K"])
def test_random_blocks_are_centred_and_have_the_spread_asked_for(dtype):
    blocks = random_blocks(dtype, 4001 if dtype != "F32" else 256_000, 0.02, np.random.default_rng(3))
    values = decode(dtype, blocks)
    assert values.std() == pytest.approx(0.02, rel=0.03)
    assert abs(values.mean()) < 0.02 * 0.02  # a 50th of the spread; 4001 blocks of one sign would give more


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q4_0"])
def test_a_small_file_is_read_by_our_reader_and_by_the_format_s_own(tmp_path, mix):
    gguf = pytest.importorskip("gguf", reason="the reference reader comes from the package gguf")
    path = tmp_path / "small.gguf"
    assert write_random(path, SMALL, mix) == path.stat().st_size
    ours, theirs = GgufFile(path), gguf.GGUFReader(path)
    assert list(ours.tensors) == [t.name for t in theirs.tensors] == [t.name for t in shapes.tensors(SMALL, mix)]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.dtype, list(info.shape[::-1])) == (tensor.tensor_type.name, tensor.shape.tolist()), tensor.name
        values = decode(info.dtype, ours.array(tensor.name))
        assert np.isfinite(values).all() and values.std() > 0, tensor.name
    assert len(ours.metadata["tokenizer.ggml.tokens"]) == len(set(ours.metadata["tokenizer.ggml.tokens"])) == SMALL.V
    assert ours.metadata["tokenizer.ggml.tokens"][ours.metadata["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_a_file_with_an_mtp_module_has_a_layer_more_which_our_reader_packs(tmp_path, capsys):
    listed = shapes.tensors(SHAPES["35b-a3b"], "Q4_K_M", mtp=True)
    assert len(listed) == 753 and sum(math.prod(t.shape) for t in listed) == 34_660_610_688 + 844_640_768
    write_random(tmp_path / "small.gguf", SMALL, "Q4_K_M", mtp=True)
    packed = tmp_path / "packed"
    assert main(["pack", str(tmp_path / "small.gguf"), str(packed), "--tokenizer", str(nano_directory())]) == 0
    assert "mtp: 5.8 M parameters" in capsys.readouterr().err
    assert sum(map(is_mtp, Manifest.read(packed).tensors)) == len(listed) - 733


def test_no_two_rows_of_the_experts_are_equal(tmp_path):
    write_random(tmp_path / "small.gguf", SMALL, "Q4_K_M")
    file = GgufFile(tmp_path / "small.gguf")
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_down_exps.weight"):
        rows = file.array(name)
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_seed_alone_decides_the_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random(tmp_path / name, SMALL, "Q4_0", seed)
    first, again, other = ((GgufFile(tmp_path / name)).array("blk.1.ffn_up_exps.weight") for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_writer, "SPARE_BYTES", 1 << 60)
    with pytest.raises(UsageError, match="GB free"):
        write_random(tmp_path / "small.gguf", SMALL, "Q4_0")
    assert not list(tmp_path.iterdir())


def test_a_tensor_of_the_wrong_length_leaves_no_file(tmp_path):
    with pytest.raises(UsageError, match="'a': 8 bytes; expected 12"):
        write_gguf(tmp_path / "short.gguf", {"k": 1}, [Tensor("a", "F32", (3,))], lambda _: [bytes(8)], lambda _: None)
    assert not list(tmp_path.iterdir())


def test_known_numbers_fill_every_tensor_of_the_shape():
    values = gguf_tensors(random_tensors(sizes_of(SMALL), seed=1), SMALL)
    assert {name: value.shape for name, value in values.items()} == {
        t.name: t.shape for t in shapes.tensors(SMALL, "F32")
    }
    assert (values["blk.0.ssm_a"] < 0).all()


def fake(path, body: str):
    """A program in place of an engine; `body` is Python."""
    path.write_text(f"#!{sys.executable}\nimport json, sys\nargs = sys.argv[1:]\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


FAKE_BENCH = """
value = lambda name: args[args.index(name) + 1]
print("a line of chatter")
speed = 2.0 if value("--repack") == "1" else 3.0
tests = []
if value("-p") != "0":
    tests.append({"n_prompt": 512, "n_gen": 0, "samples_ts": [10 / speed] * int(value("-r"))})
if value("-n") != "0":
    tests.append({"n_prompt": 0, "n_gen": 64, "samples_ts": [speed] * int(value("-r"))})
print(json.dumps(tests, indent=1))
"""
FAKE_A3B = """
if args[0] == "pack":
    sys.exit(open(args[2], "w").close() if args[1].endswith(".gguf") else "no GGUF file")
assert args[:3] == ["bench", "speed", "--model"] and args[3].endswith("-packed") and args[-1] == "--json"
runs = int(args[args.index("--runs") + 1])
print(json.dumps({"prefill": {"512": {"runs": [20.0] * runs}}, "decode": {"0": {"runs": [6.0] * runs}}}))
"""


@pytest.fixture
def rests(monkeypatch) -> list[list[str]]:
    """The names of the files given back before each measurement, without waiting."""
    found = []
    monkeypatch.setattr("bench.peers.__main__.rest", lambda files, say: found.append([file.name for file in files]))
    return found


def test_engines_are_compared_at_the_best_setting_for_each_kind(tmp_path, rests):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    program = str(fake(tmp_path / "a3b", FAKE_A3B))
    both = [llama_cpp(fake(tmp_path / "llama-bench", FAKE_BENCH), [2]), a3b(program, pack(program, model, None))]
    result = compare(model, both, rounds=2, runs=3, say=lambda _: None)
    llama = result["engines"]["llama.cpp"]
    assert (llama["prefill"]["tokens_per_s"], llama["prefill"]["setting"]) == (5.0, "mmap, repack, -t 2")
    assert (llama["decode"]["tokens_per_s"], llama["decode"]["setting"], llama["decode"]["runs"]) == (
        3.0,
        "mmap, -t 2",
        6,
    )
    assert len(llama["tried"]) == 5
    assert result["ratios"] == {"llama.cpp": {"prefill": 4.0, "decode": 2.0}}
    assert "| llama.cpp | decode | 3.00 | 3.00 – 3.00 (6) | 2.00× | mmap, -t 2 |" in table(result)
    # a3b in two rounds; five trials, two settings
    assert rests.count(["model.gguf"]) == 2 and rests.count(["model-packed"]) == 5 + 2 * 2


def test_an_engine_starts_when_the_processors_have_nothing_to_do(tmp_path, monkeypatch):
    busy = [0.9, 0.5, 0.01, 0.02]
    monkeypatch.setattr(engines, "_busy", lambda seconds: busy.pop(0))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "part").write_bytes(b"kept")
    rest([tmp_path / "packed", tmp_path / "packed" / "part"])
    assert busy == [0.02] and (tmp_path / "packed" / "part").read_bytes() == b"kept"
    monkeypatch.setattr(engines, "LONGEST_REST_S", -1)
    monkeypatch.setattr(engines, "_busy", lambda seconds: 0.5)
    said = []
    rest([], said.append)
    assert said == ["the machine does not come to rest: 50 % of the processors are busy with something else"]


def test_what_a_process_does_keeps_the_processors_busy():
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert engines._busy(0.3) > 0.5 / os.cpu_count()
    finally:
        spin.kill()
        spin.wait()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('no such command')", "exit status 1: no such command"),
        ("print('hello')", "cannot be read"),
        ("print('{}')", "KeyError('prefill')"),
    ],
)
def test_an_engine_that_fails_is_named_with_the_reason(tmp_path, rests, body, reason):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    result = compare(model, [a3b(str(fake(tmp_path / "a3b", body)), tmp_path)], rounds=1, runs=1, say=lambda _: None)
    assert reason in result["engines"]["a3b"]["failures"][0]
    assert "| a3b | decode | failed |" in table(result)
    absent = compare(model, [a3b(str(tmp_path / "absent"), tmp_path)], rounds=1, runs=1, say=lambda _: None)
    assert "No such file" in absent["engines"]["a3b"]["failures"][0]


def test_the_oracle_reads_back_what_was_transformed(tmp_path):
    """Value heads, decay rates and norms: the file's logits are those of the numbers before they were written."""
    model = write_known(tmp_path / "known.gguf", SMALL, seed=5)
    oracle = f32_model(tmp_path / "known.gguf")
    ids = np.arange(7) * 37 % SMALL.V
    expected = model.forward(ids, model.new_state(), logits="all")
    found = oracle.forward(ids, oracle.new_state(), logits="all")
    # exp and log, and adding and taking away 1, round: some 2^-23 of each number, a hundredth of the bound
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_the_oracle_decodes_quantised_files(tmp_path):
    write_random(tmp_path / "small.gguf", SMALL, "Q4_K_M")
    oracle = f32_model(tmp_path / "small.gguf")
    logits = oracle.forward(np.arange(5), oracle.new_state(), logits="all")
    assert np.isfinite(logits).all() and 1 < logits.std() < 6


def test_kl_is_that_of_the_definition():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    assert kl(np.log(p) + 3, np.log(q) - 1) == pytest.approx(0.25 * np.log(2))
    assert kl(np.log(p), np.log(p) + 100) == pytest.approx(0, abs=1e-12)


def test_a_file_that_cannot_be_packed_is_named(tmp_path):
    with pytest.raises(EngineError, match="packing .*model.bin failed"):
        pack(str(fake(tmp_path / "a3b", FAKE_A3B)), tmp_path / "model.bin", None)


def test_the_range_of_a_ratio_says_when_one_position_decides():
    even, spiked = np.full(64, 1.0), np.append(np.full(63, 0.1), 64.0)
    assert ratio_range(2 * even, even) == (2.0, 2.0)
    low, high = ratio_range(spiked, even)
    assert low < 0.2 and high > 2
