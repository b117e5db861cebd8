"""Measuring long contexts, on a tiny shape: it finishes, goes on where it was stopped, and notices what is wrong."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from a3b.kernels import probe
from a3b.model.config_reader import config_from_dict
from a3b.model.known_shapes import SHAPES
from a3b.packing import random_weights
from a3b.packing.random_weights import shape_config
from bench import long_context
from tests.support.packing_files import SIZES as TINY
from tests.support.random_model import config_dict

pytestmark = pytest.mark.slow  # computes for seconds

NATIVE = 1024


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """35b-a3b with tiny layers and a native context of 1,024; pieces to match."""
    long = {"max_position_embeddings": NATIVE, "full_attention_interval": 4, "layer_types": None}
    monkeypatch.setitem(SHAPES, "35b-a3b", {**config_dict({**TINY, "layers": 8}), **long})
    monkeypatch.setattr(random_weights, "POOL_BYTES", 200_000)
    monkeypatch.setattr(probe, "BUFFER_BYTES", 1 << 20)
    sizes = {"PIECE": 256, "LAST": 64, "CUTS": (1, 40), "READ": 96, "DECODED": 8}
    for name, value in sizes.items():
        monkeypatch.setattr(long_context, name, value)


def run(tmp_path, monkeypatch, *options: str) -> dict:
    """The steps after a run."""
    monkeypatch.setattr(sys, "argv", ["long_context", str(tmp_path), "--threads", "2", *options])
    long_context.main()
    return long_context.Log(tmp_path / "results.jsonl").steps


def test_positions_are_read_and_a_stopped_run_goes_on_from_its_last_snapshot(tmp_path, monkeypatch):
    add, kept = long_context.Log.add, []

    def stop_at_the_second(self, name, **facts):
        add(self, name, **facts)
        kept.append(name)
        if " to 512" in name:
            raise KeyboardInterrupt

    monkeypatch.setattr(long_context.Log, "add", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, monkeypatch, "--only", "read", "--read", str(NATIVE))
    monkeypatch.setattr(long_context.Log, "add", add)
    steps = run(tmp_path, monkeypatch, "--only", "read", "--read", str(NATIVE))
    assert [name for name in kept if " to " in name] == ["read 1024 q8 to 256", "read 1024 q8 to 512"]
    assert steps["read 1024 q8 to 1024"]["tokens"] == 64
    assert steps["read 1024 q8 restored"]["digest"] == steps["read 1024 q8 again"]["digest"]
    before = (tmp_path / "results.jsonl").read_text().count("restored")
    run(tmp_path, monkeypatch, "--only", "read", "--read", str(NATIVE))
    assert (tmp_path / "results.jsonl").read_text().count("restored") == before == 1


@pytest.mark.parametrize("kv", ["q8", "bf16", "f32"])
def test_keys_and_values_are_placed_read_behind_and_back_from_disk(tmp_path, monkeypatch, kv):
    steps = run(tmp_path, monkeypatch, "--only", "placed", "--placed", "2048,3000", "--kv", kv)
    for context, factor, placed in ((2048, 2.0, 2048 - 96 - 8), (3000, 4.0, 3000)):
        name = f"placed {context} {kv}"
        assert (steps[f"{name} placed"]["factor"], steps[f"{name} placed"]["tokens"]) == (factor, placed)
        assert (
            steps[f"{name} attention"]["planted"][0] == 64 and steps[f"{name} attention"]["planted"][-1] == placed - 1
        )
        assert steps[f"{name} restored"]["kv_bytes"] > 0
    lines = long_context.table(
        long_context.Log(tmp_path / "results.jsonl"), config_from_dict(shape_config("35b-a3b", 4), "35b-a3b")
    )
    assert sum(line.startswith("| read after placed ones") for line in lines) == 2
    assert not list(tmp_path.glob("placed-*"))


def test_a_wrong_bit_ends_the_run(tmp_path, monkeypatch):
    plant = long_context.plant

    def wrong(model, state, queries, rng):
        found = plant(model, state, queries, rng)
        found[0]["value"] = found[0]["value"] + np.float32(1)
        return found

    monkeypatch.setattr(long_context, "plant", wrong)
    with pytest.raises(SystemExit, match="WRONG: attention near its twin"):
        run(tmp_path, monkeypatch, "--only", "placed", "--placed", "2048", "--kv", "q8")


def test_a_line_that_a_kill_cut_is_no_step(tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps({"step": "a", "x": 1}) + '\n{"step": "b')
    assert list(long_context.Log(tmp_path / "results.jsonl").steps) == ["a"]
