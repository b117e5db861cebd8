"""Random packed directories: whole, the same every time, and with numbers as ordinary as those of a trained model."""

from __future__ import annotations

import numpy as np
import pytest

from a3b.errors import UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import Manifest, verify
from a3b.formats.tiles import FORMATS, Tiles, pack
from a3b.kernels import open_kernels
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.forward import Model
from a3b.model.known_shapes import SHAPES
from a3b.model.loader import load_weights
from a3b.packing import random_weights as rw
from a3b.packing.presets import PRESETS
from a3b.packing.writer import write
from tests.support.random_model import AXES, config_dict

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

TINY = dict(zip(AXES, (320, 256, 4, 4, 4, 2, 64, 16, 2, 4, 32, 64, 6, 2, 256, 256), strict=True))
# dense; no whole tiles and units
ODD = dict(zip(AXES, (211, 192, 4, 2, 6, 2, 32, 8, 3, 6, 32, 32, 0, 0, 160, 0), strict=True))
EVERY = [*PRESETS, *rw.MIXES]


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(rw, "POOL_BYTES", 200_000)
    monkeypatch.setattr(rw, "PIECE_BYTES", 50_000)


def written(path, sizes: dict = TINY, preset: str = "balanced", seed: int = 0):
    source, plan = rw.random_source("tiny", config_dict(sizes), preset, seed)
    write(source, plan, path, shard_bytes=1_000_000)
    return path


@pytest.mark.parametrize("preset", EVERY)
@pytest.mark.parametrize("sizes", [TINY, ODD], ids=["tiny", "odd"])
def test_a_random_directory_is_whole_and_its_numbers_are_ordinary(tmp_path, sizes, preset):
    directory = written(tmp_path / "random", sizes, preset)
    assert verify(directory) == []
    config = read_config(directory)
    model = Model(config, load_weights(Checkpoint.open(directory), config), open_kernels("reference"), "f32")
    logits = model.forward(np.random.default_rng(0).integers(0, config.vocab_size, 40), model.new_state(), logits="all")
    assert np.isfinite(logits).all()
    assert 1 < logits.std() < 10
    assert len(set(logits.argmax(axis=1))) > 10  # depends on the tokens


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path):
    first, again, other = (written(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert Manifest.read(first).checksums == Manifest.read(again).checksums
    changed = [
        name for name, found in Manifest.read(other).checksums.items() if found != Manifest.read(first).checksums[name]
    ]
    assert len(changed) == len(Manifest.read(first).tensors)


def test_a_mix_has_the_types_of_the_file_it_is_named_after(tmp_path):
    tensors = Manifest.read(written(tmp_path / "random", preset="Q4_K_M")).tensors
    assert tensors["lm_head.weight"].format == "w6k16"
    assert {tensors[f"model.layers.{i}.mlp.experts.down_proj"].format for i in range(4)} == {"w4k32", "w6k16"}
    assert tensors["model.layers.0.mlp.experts.gate_proj"].format == "w4k32"
    assert {t.format for t in Manifest.read(written(tmp_path / "other", preset="Q4_0")).tensors.values()} == {
        "w4s32",
        "w6k16",
        "f32",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_of_every_format_have_the_spread_asked_for(name):
    format, pools = FORMATS[name], rw.Pools(0, 100_000)
    units = pools.get(format, 0.01)
    assert len(units) % 2 == 1
    tiles = Tiles("pool", format, (16, len(units) * format.unit), units.reshape(-1)).f32_rows(0, 16)
    assert abs(tiles.mean()) < 0.0005 and 0.009 < tiles.std() < 0.011
    parts = rw.random_parts(format, 85, 512, np.random.default_rng(0), 0.02)
    assert 0.018 < Tiles("parts", format, (85, 512), pack(format, parts).reshape(-1)).f32_rows(0, 85).std() < 0.022


def test_a_shape_can_be_cut_to_its_first_layers():
    value = rw.shape_config("35b-a3b", 8)
    assert config_from_dict(value).layer_types == config_from_dict(SHAPES["35b-a3b"]).layer_types[:8]
    for layers in (0, 3, 44):
        with pytest.raises(UsageError, match="a multiple of 4, at most 40"):
            rw.shape_config("35b-a3b", layers)
    with pytest.raises(UsageError, match="known: 35b-a3b, 27b, 3b-dense, 31b-dense"):
        rw.shape_config("70b")
    with pytest.raises(UsageError, match="expected one of fast, balanced, faithful, Q4_0, Q4_K_M"):
        rw.random_source("35b-a3b", SHAPES["35b-a3b"], "q2")
