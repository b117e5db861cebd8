"""Packing that is stopped, killed, out of disk space or begun with other options."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from a3b.errors import CheckpointError, TensorError, UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import plan_shards, verify
from a3b.packing import writer
from a3b.packing.open_source import open_source
from a3b.packing.plan import Plan, make_plan
from a3b.packing.source import Source
from a3b.packing.writer import write
from tests.support.packing_files import SHARD, SIZES, write_source

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


KILLED = """
import os, signal, sys
from pathlib import Path
from a3b.packing.plan import make_plan
from a3b.packing.dequantised import dequantised
from a3b.formats.checkpoint import Checkpoint
from a3b.packing.open_source import open_source
from a3b.packing import writer
source = open_source(Path(sys.argv[1]))
total = 0
def done(count):
    global total
    total += count
    if total > 150_000:
        os.kill(os.getpid(), signal.SIGKILL)
plan = make_plan(source.config, source.weights, "balanced")
writer.write(source, plan, Path(sys.argv[2]), shard_bytes=100_000, done=done)
"""


@pytest.fixture
def killed(tmp_path) -> Path:
    """A packing stopped by SIGKILL in the middle of a shard; the directory it was to become."""
    write_source(tmp_path / "source")
    target = tmp_path / "packed"
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "source"), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL and not target.exists()
    return target


def resume(target: Path, preset: str = "balanced") -> list[str]:
    """Resume; returns the shards that were written now."""
    source = open_source(target.with_name("source"))
    before = {file.name: file.stat().st_mtime_ns for file in target.with_name("packed.part").glob("*.safetensors")}
    write(source, make_plan(source.config, source.weights, preset), target, shard_bytes=SHARD)
    return [
        file.name for file in sorted(target.glob("*.safetensors")) if before.get(file.name) != file.stat().st_mtime_ns
    ]


def test_a_killed_packing_goes_on_where_it_stopped(killed, tmp_path):
    finished = len(list(killed.with_name("packed.part").glob("*.safetensors")))
    written = resume(killed)
    assert finished > 0 and len(written) == len(list(killed.glob("*.safetensors"))) - finished
    assert verify(killed) == [] and not killed.with_name("packed.part").exists()
    source = open_source(tmp_path / "source")
    write(source, make_plan(source.config, source.weights, "balanced"), tmp_path / "again", shard_bytes=SHARD)
    for file in (tmp_path / "again").iterdir():
        assert file.read_bytes() == (killed / file.name).read_bytes(), file.name


def test_a_finished_shard_that_was_damaged_is_written_again(killed):
    shard = min(killed.with_name("packed.part").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert shard.name in resume(killed)
    assert verify(killed) == []


def test_a_packing_with_other_options_does_not_go_on(killed):
    with pytest.raises(UsageError, match="started from another source or with other options; remove it"):
        resume(killed, "fast")


def test_a_packing_of_another_source_does_not_go_on(killed):
    """Its config and its tensors have the same names and sizes, so only the fingerprint of the files tells them
    apart."""
    shutil.rmtree(killed.with_name("source"))
    write_source(killed.with_name("source"), seed=6)
    with pytest.raises(UsageError, match="started from another source"):
        resume(killed)


def test_a_packing_with_another_importance_does_not_go_on(tmp_path):
    write_source(tmp_path / "source")
    source = open_source(tmp_path / "source")
    plan, name = make_plan(source.config, source.weights, "balanced"), "model.layers.3.self_attn.o_proj.weight"

    def importance(size: float) -> dict[str, np.ndarray]:
        values = np.ones(
            (1, next(item.tensor.shape[-1] for item in plan.items if item.tensor.name == name)), np.float32
        )
        values[0, 0] = size
        return {name: values}

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(source, plan, tmp_path / "packed", shard_bytes=SHARD, importance=importance(2), done=stop)
    for other in (importance(3), {}, None):
        with pytest.raises(UsageError, match="with other options"):
            write(source, plan, tmp_path / "packed", shard_bytes=SHARD, importance=other)
    write(source, plan, tmp_path / "packed", shard_bytes=SHARD, importance=importance(2))


def begun(tmp_path: Path, **options) -> tuple[Source, Plan]:
    """A packing stopped after its first shard."""

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    write_source(tmp_path / "source")
    source = open_source(tmp_path / "source")
    plan = make_plan(source.config, source.weights, "balanced")
    with pytest.raises(KeyboardInterrupt):
        write(source, plan, tmp_path / "packed", done=stop, **{"shard_bytes": SHARD, **options})
    return source, plan


@pytest.mark.parametrize("name", ["VERSION", "LAYOUT"])
def test_a_packing_begun_in_another_layout_does_not_go_on(name, tmp_path, monkeypatch):
    source, plan = begun(tmp_path)
    monkeypatch.setattr(writer, name, getattr(writer, name) + 1)
    with pytest.raises(UsageError, match="with other options"):
        write(source, plan, tmp_path / "packed", shard_bytes=SHARD)


def test_a_packing_with_other_shards_does_not_go_on(tmp_path):
    source, plan = begun(tmp_path)
    with pytest.raises(UsageError, match="with other options"):
        write(source, plan, tmp_path / "packed", shard_bytes=2 * SHARD)


def test_a_packing_under_another_name_does_not_go_on(tmp_path):
    """Even where both presets choose the same formats: the manifest would name the wrong one."""
    source, plan = begun(tmp_path)
    with pytest.raises(UsageError, match="with other options"):
        write(source, replace(plan, preset="fast"), tmp_path / "packed", shard_bytes=SHARD)


def test_the_importance_of_another_matrix_is_another_importance(tmp_path):
    names = [f"model.layers.3.self_attn.{name}_proj.weight" for name in "qk"]
    values = np.ones((1, SIZES["D"]), np.float32)
    source, plan = begun(tmp_path, importance={names[0]: values})
    with pytest.raises(UsageError, match="with other options"):
        write(source, plan, tmp_path / "packed", shard_bytes=SHARD, importance={names[1]: values})


def test_half_a_shard_of_a_stopped_run_takes_no_room(tmp_path):
    source, plan = begun(tmp_path)
    half = tmp_path / "packed.part" / "of-an-earlier-plan.safetensors.part"
    half.write_bytes(b"half")
    write(source, plan, tmp_path / "packed", shard_bytes=SHARD)
    assert not (tmp_path / "packed" / half.name).exists()


def test_what_is_finished_needs_no_room_again(killed, monkeypatch):
    part = killed.with_name("packed.part")
    source = open_source(killed.with_name("source"))
    shards = plan_shards((item.tensor for item in make_plan(source.config, source.weights, "balanced").items), SHARD)
    left = sum(shard.num_bytes for shard in shards if not (part / shard.file).exists())
    assert 0 < left < sum(shard.num_bytes for shard in shards)
    usage = shutil.disk_usage(part)._replace(free=left + writer.SPARE_BYTES - 1)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="free; packing writes"):
        resume(killed)
    usage = usage._replace(free=left + writer.SPARE_BYTES)
    assert resume(killed)


def test_two_processes_do_not_pack_into_one_directory(killed):
    with writer.locked(killed.with_name("packed.part") / writer.LOCK):
        with pytest.raises(UsageError, match="another process is packing"):
            resume(killed)


def test_a_taken_directory_is_left_alone(tmp_path):
    write_source(tmp_path / "source")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine").write_text("x")
    with pytest.raises(UsageError, match="exists; give a new directory"):
        resume(tmp_path / "packed")


def test_too_little_disk_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    write_source(tmp_path / "source")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(CheckpointError, match=r"0\.00 GB free; packing writes 0\.06 GB"):
        resume(tmp_path / "packed")
    assert not list((tmp_path / "packed.part").glob("*.safetensors*"))


def test_a_disk_that_fills_up_leaves_what_was_finished(tmp_path, monkeypatch):
    write_source(tmp_path / "source")
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) > 9:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; make room, then run the same command again"):
        resume(tmp_path / "packed")
    monkeypatch.undo()
    finished = json.loads((tmp_path / "packed.part" / writer.PROGRESS).read_text())["shards"]
    assert finished and not (tmp_path / "packed").exists()
    assert len(resume(tmp_path / "packed")) == len(list((tmp_path / "packed").glob("*.safetensors"))) - len(finished)


def test_weights_that_are_not_finite_are_named(tmp_path):
    write_source(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    place = Checkpoint.open(file.parent).tensors["model.layers.1.mlp.experts.down_proj"].start
    content = bytearray(file.read_bytes())
    content[place + 1000 : place + 1002] = (0x7FC0).to_bytes(2, "little")
    file.write_bytes(content)
    with pytest.raises(TensorError, match=r"layers\.1\.mlp\.experts\.down_proj\[0\]' holds nan at \[7, 52\]"):
        resume(tmp_path / "packed")
