"""The bench commands on tiny shapes: what they count and what they say. No test looks at a time."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from a3b.cli import main
from a3b.commands import plan
from a3b.commands.benchmarks import plots, random_model, sparsity, speed
from a3b.engine.engine import nano_directory
from a3b.formats.packed import Manifest, verify
from a3b.kernels import open_kernels, probe
from a3b.model.known_shapes import SHAPES, shape
from a3b.packing import random_weights
from a3b.packing.plan import bytes_per_token
from a3b.packing.presets import PRESETS
from bench.peers import engines
from tests.packing.test_random_weights import TINY
from tests.support.random_model import config_dict

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

LONG = {"max_position_embeddings": 4096, "full_attention_interval": 4, "layer_types": None}
KEYS = (
    "read_bandwidth_fraction",
    "vnni_peak_fraction",
    "decode_tokens_per_s",
    "prefill_tokens_per_s",
    "peak_rss_bytes",
    "start_s",
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(random_weights, "POOL_BYTES", 200_000)
    monkeypatch.setattr(probe, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(speed, "PROBE_S", 0.02)
    monkeypatch.setitem(SHAPES, "tiny", {**config_dict({**TINY, "layers": 8}), **LONG})
    monkeypatch.setitem(SHAPES, "tiny-dense", {**config_dict({**TINY, "layers": 8, "E": 0, "K": 0, "Fs": 0}), **LONG})


def loaded(tmp_path, name: str = "tiny", preset: str = "balanced") -> speed.Loaded:
    return speed.load(random_model.random_directory(tmp_path, name, preset), open_kernels(None, 2), "q8")


def test_a_random_model_is_written_once_and_whole(tmp_path, capsys, monkeypatch):
    directory = random_model.random_directory(tmp_path, "tiny", "fast", 4)
    assert directory == tmp_path / "tiny-fast-4-layers" and verify(directory) == []
    assert "written in" in capsys.readouterr().err
    assert random_model.random_directory(tmp_path, "tiny", "fast", 4) == directory
    assert capsys.readouterr().err == ""
    with pytest.raises(speed.UsageError, match="seed 0.*expected.*seed 1.*remove it"):
        random_model.random_directory(tmp_path, "tiny", "fast", 4, seed=1)
    monkeypatch.setitem(PRESETS, "fast", PRESETS["fast"] | {"lm_head": "w8s32"})
    with pytest.raises(speed.UsageError, match="other formats than 'fast' has now: remove it"):
        random_model.random_directory(tmp_path, "tiny", "fast", 4)


def test_speed_says_everything_it_promises(tmp_path, capsys):
    argv = [
        "bench",
        "speed",
        "--shape",
        "tiny",
        "--dir",
        str(tmp_path),
        "--quick",
        "--prefill",
        "7,70",
        "--depths",
        "0,1500",
    ]
    argv += ["--threads", "2"]
    assert main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert all(facts[key] > 0 for key in KEYS)
    assert set(facts["prefill"]) == {"7", "70"} and set(facts["decode"]) == {"0", "1500"}
    assert facts["decode_tokens_per_s"] == facts["decode"]["0"]["tokens_per_s"]
    assert facts["prefill_tokens_per_s"] == facts["prefill"]["7"]["tokens_per_s"]
    assert facts["vnni_peak_fraction"] == facts["prefill"]["70"]["peak_fraction"]
    assert (facts["layers"], facts["preset"], facts["threads"]) == (8, "balanced", 2)
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "1,500" in out and "random numbers, not read from a prompt" in out


@pytest.mark.parametrize(("share", "told"), [(0.34, 1), (0.0, 0), (None, 0)])
def test_others_that_work_beside_a_benchmark_are_told(share, told, tmp_path, four, monkeypatch, capsys):
    monkeypatch.setattr(speed, "start", lambda *_: {"seconds": 1.0})
    for module in (speed, sparsity):
        monkeypatch.setattr(module, "OtherWork", lambda: SimpleNamespace(share=lambda: share))
    measure = ["--dir", str(tmp_path), "--quick", "--prefill", "5", "--tokens", "2", "--layers", "4", "--threads", "1"]
    line = "others used 34% of the processors meanwhile"
    assert main(["bench", "speed", "--shape", "tiny", *measure]) == 0
    assert capsys.readouterr().out.count(line) == told
    assert main(["bench", "sparsity", *measure]) == 0
    assert capsys.readouterr().out.count(line) == told * len(sparsity.COMPARED)
    assert main(["bench", "speed", "--shape", "tiny", *measure, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["others_share"] == share


def test_the_comparison_of_engines_reads_what_speed_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "start", lambda *_: {"seconds": 1.0})
    directory = random_model.random_directory(tmp_path, "tiny", "Q4_0", 4)
    _, *argv = engines.a3b("a3b", directory).command(directory, (engines.PREFILL, engines.DECODE), 2)
    assert main(argv) == 0
    rates = engines.read_a3b(capsys.readouterr().out)
    assert {kind: len(runs) for kind, runs in rates.items()} == {engines.PREFILL: 2, engines.DECODE: 2}


def test_speed_takes_a_model_and_the_embedded_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "start", lambda *_: {"seconds": 1.0})
    argv = ["bench", "speed", "--quick", "--prefill", "5", "--tokens", "2", "--threads", "1", "--json", "--model"]
    assert main([*argv, str(random_model.random_directory(tmp_path, "tiny-dense", "Q4_K_M"))]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] is None
    assert main([*argv, str(nano_directory())]) == 0
    assert json.loads(capsys.readouterr().out)["weights_read_bytes_per_s"] is None


@pytest.mark.parametrize(
    "options", [["--prefill", "0"], ["--depths", "4090"], ["--shape", "other"], ["--layers", "3"], ["--preset", "q2"]]
)
def test_speed_refuses_what_cannot_be_measured(tmp_path, options, capsys):
    assert main(["bench", "speed", "--shape", "tiny", "--dir", str(tmp_path), "--quick", *options]) == 2
    told = capsys.readouterr().err
    assert "expected" in told or "known: 35b-a3b" in told


def test_the_reference_has_no_limits_to_be_held_against(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("A3B_ISA", "reference")
    assert main(["bench", "speed", "--shape", "tiny", "--dir", str(tmp_path), "--quick"]) == 2
    assert "have no probes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny", "tiny-dense"])
def test_bytes_of_a_token_are_those_of_the_manifest_but_for_halved_floats(tmp_path, name):
    found, c = loaded(tmp_path, name), shape(name)
    a = c.axes
    manifest = Manifest.read(tmp_path / f"{name}-balanced")
    floats = 6 * 2 * a.Hv * a.D + (8 * (a.E + 1) * a.D if a.E else 0)  # b and a of six layers, router and gate of all
    assert found.token_bytes == bytes_per_token(c, manifest.tensors.values()) - 2 * floats
    assert speed.decode_bytes(found, 100)["state"] == 2 * plan.state_bytes(c)
    assert speed.decode_bytes(found, 100)["kv"] == 100 * plan.kv_bytes_per_token(c)


@pytest.mark.parametrize("depth", [0, 1, 64, 65, 1024, 1100, 2500])
def test_a_state_at_a_depth_is_ready_for_the_next_token(tmp_path, depth):
    found = loaded(tmp_path)
    state, again = speed.state_at(found, depth), speed.state_at(found, depth)
    assert state.num_tokens == depth
    logits = found.model.forward(np.array([5]), state)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits, found.model.forward(np.array([5]), again))
    if depth > 1024:
        keys, _ = state.segments(0)[-1]
        assert keys[-(-(depth + 1) // 64) - 1 - 1024 // 64 * (len(state.segments(0)) - 1)].any()


def test_a_share_is_that_of_the_limit_around_each_piece_of_work():
    limits = iter([10.0, 30.0, 50.0, 5.0])
    beside = speed.Beside(lambda: next(limits), 5.0)
    for num, seconds in ((4, 1.0), (8, 2.0), (11, 5.0)):
        beside.add(num, seconds)
    assert beside.share == pytest.approx(0.5)  # of 1, 0.5 and 0.4


def test_decoding_tells_of_its_parts_and_their_times_are_its_own(tmp_path):
    parts = []
    times = speed.decode(loaded(tmp_path), 0, 2 * speed.SLICE + 3, 2, lambda num, seconds: parts.append((num, seconds)))
    assert [num for num, _ in parts] == 2 * [speed.SLICE, speed.SLICE, 3]
    assert times == [pytest.approx(sum(seconds for _, seconds in half)) for half in (parts[:3], parts[3:])]


def test_probes_measure_with_the_kernels_they_are_given():
    for threads in (1, 2):
        kernels = open_kernels("scalar", threads)
        for rate in (probe.read_bandwidth(kernels, 0.01), probe.int8_operations(kernels, 0.01)):
            assert 0 < rate.lowest <= rate.median <= rate.highest and rate.num_runs >= probe.LEAST_RUNS


@pytest.mark.parametrize(("asking", "alone"), [(1, 2), (2, 1)])
def test_how_weights_are_read_is_what_one_thread_did_faster(monkeypatch, asking, alone):
    monkeypatch.setattr(probe, "_prefetch_pays", {})
    monkeypatch.setattr(probe, "TUNED_BYTES", 1 << 20)
    opened, asked = [], []

    def opening(isa, num_threads):
        opened.append(open_kernels(isa, num_threads))
        return opened[-1]

    def timed(work):
        asked.append(opened[-1].runtime.prefetches_stream)
        return work(), asking if asked[-1] else alone

    monkeypatch.setattr(probe, "open_kernels", opening)
    monkeypatch.setattr(probe, "_timed", timed)
    first, second = open_kernels("scalar", 2), open_kernels("scalar", 1)
    second.runtime.prefetches_stream = asking > alone
    for kernels in (first, second):
        probe.tune(kernels)
        assert kernels.runtime.prefetches_stream == (asking < alone)
    assert [k.num_threads for k in opened] == [1] and asked == [True, False] * probe.TUNED_PAIRS


@pytest.fixture
def four(monkeypatch):
    """The shapes of the claim, tiny."""
    for name in sparsity.COMPARED:
        monkeypatch.setitem(SHAPES, name, SHAPES["tiny" if name == sparsity.SPARSE else "tiny-dense"])


def test_sparsity_compares_four_shapes_and_cleans_up(tmp_path, four, capsys):
    kept = random_model.random_directory(tmp_path, "3b-dense", "balanced", 4)
    argv = [
        "bench",
        "sparsity",
        "--dir",
        str(tmp_path),
        "--quick",
        "--prefill",
        "6",
        "--tokens",
        "2",
        "--layers",
        "4",
        "--threads",
        "1",
    ]
    assert main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["shape"] for row in facts["shapes"]] == list(sparsity.COMPARED)
    assert all((row["layers_run"], row["layers"]) == (4, 8) for row in facts["shapes"])
    sparse, small, large = (facts["shapes"][i] for i in (0, 1, 3))
    for other, name in ((small, "small"), (large, "large")):
        assert facts[f"decode_to_{name}"] == pytest.approx(
            sparse["decode"]["tokens_per_s"] / other["decode"]["tokens_per_s"]
        )
        share, size = (
            sparse["decode"]["bandwidth_fraction"] / other["decode"]["bandwidth_fraction"],
            sum(sparse["bytes_per_token"].values()) / sum(other["bytes_per_token"].values()),
        )
        assert facts[f"decode_to_{name}_at_one_bandwidth"] == pytest.approx(share / size)
    assert list(tmp_path.iterdir()) == [kept]
    lines = sparsity.lines(facts)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "their time was multiplied" in lines[-1]


def test_what_is_scaled_from_some_layers_is_what_all_of_them_read(tmp_path, four):
    schedule = speed.Schedule((5,), (0,), 1, 1, 0.01)
    some, whole = (
        sparsity.compare(open_kernels(None, 1), tmp_path, "27b", "balanced", n, schedule, False) for n in (4, 8)
    )
    assert some["bytes_per_token"]["state"] == whole["bytes_per_token"]["state"]
    norm = 4 * shape("27b").hidden_size  # the last norm is scaled with the layers
    assert abs(some["bytes_per_token"]["weights"] - whole["bytes_per_token"]["weights"]) <= norm
    step, head = some["step_s"], some["head_s"]
    assert some["decode"]["tokens_per_s"] == pytest.approx(1 / (head + 2 * (step - head)))


def test_as_many_layers_are_run_as_fit(tmp_path, four, monkeypatch):
    monkeypatch.setattr(sparsity, "SPARE_BYTES", 0)
    size = random_weights.random_source("tiny", SHAPES["tiny"], "fast")[1].num_bytes
    assert sparsity.layers_that_fit(tmp_path, "35b-a3b", "fast", size) == 8
    assert sparsity.layers_that_fit(tmp_path, "35b-a3b", "fast", size - 1) == 4
    with pytest.raises(speed.UsageError, match="4 layers take"):
        sparsity.layers_that_fit(tmp_path, "35b-a3b", "fast", size // 4)


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for kind in ("speed", "sparsity"):
        assert main(["bench", kind, "--dir", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 2
        assert "pip install 'a3b[bench]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the pictures")
    rate = {"median": 8e10}
    rows = [
        {
            "shape": name,
            "parameters": total,
            "active": active,
            "decode": {"tokens_per_s": 7e10 / active},
            "measured": {"read_bytes_per_s": rate},
            "bytes_per_token": {"weights": active},
        }
        for name, total, active in (
            ("35b-a3b", 35e9, 2.95e9),
            ("3b-dense", 3.4e9, 2.9e9),
            ("27b", 27e9, 26e9),
            ("31b-dense", 31e9, 30e9),
        )
    ]
    plots.draw_sparsity({"shapes": rows}, tmp_path / "sparsity.png")
    plots.draw_roofline(
        {
            "measured": {"read_bytes_per_s": rate, "int8_operations_per_s": {"median": 2e12}},
            "weight_bytes": 2e10,
            "parameters": {"active": 3e9},
            "decode": {
                str(n): {
                    "bytes_per_token": {"weights": 2e9 + 1e4 * n},
                    "tokens_per_s": 30,
                    "bytes_per_s": 6e10,
                    "bandwidth_fraction": 0.7,
                }
                for n in (0, 4096, 16384)
            },
            "prefill": {n: {"tokens_per_s": 200, "operations_per_s": 1e12} for n in ("512", "2048")},
        },
        tmp_path / "roofline.png",
    )
    for name in ("sparsity", "roofline"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_without_a_template_starts_and_says_what_was_not_counted(tmp_path, capsys):
    """As packed from a GGUF file that has none: a bench asks nothing in words."""
    directory = random_model.random_directory(tmp_path, "tiny", "fast", 4)
    (directory / "tokenizer.json").write_bytes((nano_directory() / "tokenizer.json").read_bytes())
    capsys.readouterr()
    assert main(["bench", "start", "--model", str(directory)]) == 0
    out, err = capsys.readouterr()
    assert out.strip().isdigit() and "no chat template" in err and "not counted in the start" in err
