"""`a3b pack --add-mtp`: a packed directory gets the MTP module, whole or not at all, and nothing else changes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from a3b.cache.identity import cache_identity
from a3b.cli import main
from a3b.errors import CheckpointError, UsageError
from a3b.formats.packed import MANIFEST, Manifest, verify
from a3b.formats.quant import bf16_to_f32, f32_to_bf16
from a3b.model.config_reader import read_config
from a3b.model.tensor_names import is_mtp
from a3b.packing import writer
from a3b.packing.add_mtp import Target, add, planned
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import write
from tests.support import gguf_files
from tests.support.gguf_files import write_gguf
from tests.support.mtp_files import change_manifest, change_tensors, loaded, numbers_of
from tests.support.packing_files import SIZES, write_source
from tests.support.random_model import random_tensors

pytestmark = pytest.mark.slow  # starts commands

SHARD = 50_000  # bytes: several files


def packed(source: Path, target: Path, preset: str | None = "balanced", mtp: bool = False) -> Path:
    opened = open_source(source, mtp=mtp)
    write(opened, make_plan(opened.config, opened.weights, preset), target, shard_bytes=SHARD)
    return target


@pytest.fixture
def older(tmp_path) -> Path:
    """A directory that was packed without the module of its source."""
    write_source(tmp_path / "source", mtp=True)
    return packed(tmp_path / "source", tmp_path / "packed")


def added(source: Path, directory: Path) -> Manifest:
    target, opened = Target.open(directory), open_source(source)
    return add(target, opened, planned(target, opened), shard_bytes=SHARD)


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("preset", ["fast", "balanced", "faithful"])
def test_the_module_is_added_as_it_would_have_been_packed(tmp_path, preset):
    write_source(tmp_path / "source", mtp=True)
    directory = packed(tmp_path / "source", tmp_path / "packed", preset)
    before, whole = content(directory), content(packed(tmp_path / "source", tmp_path / "whole", preset, mtp=True))
    added(tmp_path / "source", directory)
    after = content(directory)
    assert after.keys() == whole.keys() and verify(directory) == []
    assert {name for name in after if after[name] != whole[name]} == {MANIFEST}  # it names the source of the module
    assert {name for name in before if before[name] != after[name]} == {MANIFEST}
    manifest = Manifest.read(directory)
    assert manifest.source["mtp"] == "source" and "mtp" not in manifest.skipped
    one, other = (Manifest.read(tmp_path / name).checksums for name in ("packed", "whole"))
    assert one == other


def test_sessions_stay_valid(older, tmp_path):
    config = read_config(older)
    before = cache_identity(config, older, "q8", "x")
    added(tmp_path / "source", older)
    assert cache_identity(read_config(older), older, "q8", "x") == before


def test_the_module_may_come_in_another_form(older, tmp_path):
    write_source(tmp_path / "fp8", fp8=True, mtp=True)
    added(tmp_path / "fp8", older)
    assert verify(older) == [] and loaded(older)[1].mtp is not None


@pytest.fixture
def gguf(monkeypatch):
    """The library, whose files are made from BF16 numbers as published ones are."""
    rounded = {}

    def tensors(*args):
        rounded.update({name: bf16_to_f32(f32_to_bf16(value)) for name, value in random_tensors(*args).items()})
        return rounded

    monkeypatch.setattr(gguf_files, "random_tensors", tensors)
    return pytest.importorskip("gguf", reason="the format's own library writes the file")


def test_the_module_of_a_gguf_fits_a_directory_packed_from_hugging_face_and_the_other_way_round(tmp_path, gguf):
    write_source(tmp_path / "source", gguf_files.SIZES, mtp=True)
    write_gguf(tmp_path / "model.gguf", gguf, mtp=True)
    one = packed(tmp_path / "source", tmp_path / "one")
    added(tmp_path / "model.gguf", one)
    other = packed(tmp_path / "model.gguf", tmp_path / "other", None)
    added(tmp_path / "source", other)
    formats = [{name: t.format for name, t in Manifest.read(d).tensors.items() if is_mtp(name)} for d in (one, other)]
    assert formats[0]["mtp.layers.0.self_attn.q_proj.weight"] == "w4s32"  # its own
    assert set(formats[1].values()) == {"f32", "w8s32"}  # as other floats beside integers
    for directory in (one, other):
        assert verify(directory) == []
        assert all(np.isfinite(values).all() for values in numbers_of(*loaded(directory)).values())


def test_a_module_is_not_added_twice(older, tmp_path):
    added(tmp_path / "source", older)
    with pytest.raises(UsageError, match="has an MTP module already"):
        added(tmp_path / "source", older)


def test_a_source_without_a_module_is_refused(older, tmp_path):
    write_source(tmp_path / "other")
    with pytest.raises(UsageError, match="nothing to add: it has no MTP tensors"):
        added(tmp_path / "other", older)


def other_sizes(source: Path) -> None:
    write_source(source, {**SIZES, "Fs": 64}, mtp=True)


def other_base(source: Path) -> None:
    write_source(source, mtp=True)
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 20000.0
    (source / "config.json").write_text(json.dumps(config))


def fine_tune(source: Path) -> None:
    """One small tensor moved by half a percent."""
    write_source(source, mtp=True)

    def change(tensors):
        dtype, bits = tensors["model.layers.3.mlp.gate.weight"]
        moved = bf16_to_f32(bits) * np.random.default_rng(0).normal(1, 0.005, bits.shape).astype(np.float32)
        tensors["model.layers.3.mlp.gate.weight"] = (dtype, f32_to_bf16(moved))

    change_tensors(source, change)


STRANGERS = {
    "sizes": (other_sizes, "is another model: its shared_expert_intermediate_size is 64, that of .* is 128"),
    "constants": (other_base, "is another model: its rope theta is 20000.0"),
    "weights": (lambda source: write_source(source, mtp=True, seed=6), "holds other weights than"),
    "a fine-tune": (fine_tune, r"model.layers.3.mlp.gate.weight differs by 0\.\d+%"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_the_module_of_another_model_is_refused(older, tmp_path, stranger):
    make, told = STRANGERS[stranger]
    make(tmp_path / "other")
    before = content(older)
    with pytest.raises(UsageError, match=told):
        added(tmp_path / "other", older)
    assert content(older) == before


def test_a_directory_that_is_not_packed_is_refused(older, tmp_path):
    for directory in (tmp_path / "source", tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match="so it is not a packed model"):
            Target.open(directory)


def test_a_manifest_that_would_be_broken_by_it_is_refused_before_anything_is_written(older, tmp_path):
    before = content(older)
    change_manifest(older, lambda value: value.update(preset="q2"))
    with pytest.raises(UsageError, match="its preset 'q2' is unknown"):
        added(tmp_path / "source", older)
    (older / MANIFEST).write_bytes(before[MANIFEST])
    target, source = Target.open(older), open_source(tmp_path / "source")
    names = [shard.file for shard in writer.shards_of(planned(target, source), SHARD)]
    change_manifest(older, lambda value: value["files"].update({names[0]: {"bytes": 1, "checksum": "0" * 32}}))
    (older / names[0]).write_bytes(b"x")
    with pytest.raises(UsageError, match=f"{MANIFEST} names a file {names[0]} already"):
        added(tmp_path / "source", older)
    assert (older / names[0]).read_bytes() == b"x"


def test_many_facts_about_the_source_leave_the_manifest_readable(older, tmp_path):
    change_manifest(older, lambda value: value["source"].update({f"fact {i}": i for i in range(18)}))
    added(tmp_path / "source", older)
    assert verify(older) == []


def test_a_file_that_a_stranger_left_in_the_place_of_a_temporary_one_is_not_written_through(older, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    target, source = Target.open(older), open_source(tmp_path / "source")
    for shard in writer.shards_of(planned(target, source), SHARD):
        (older / f"{shard.file}.part").symlink_to(victim)
    (older / f"{MANIFEST}.part").symlink_to(victim)
    added(tmp_path / "source", older)
    assert victim.read_text() == "mine" and verify(older) == []


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH], ids=["another that adds", "a server"])
def test_nothing_is_added_while_another_process_uses_the_directory(older, tmp_path, kind):
    before = content(older)
    with open(older / MANIFEST, "rb") as file:
        fcntl.flock(file, kind)
        with pytest.raises(UsageError, match="uses it; stop that first"):
            added(tmp_path / "source", older)
    assert content(older) == before


def test_a_directory_that_changed_meanwhile_is_left_alone(older, tmp_path):
    target, source = Target.open(older), open_source(tmp_path / "source")
    plan = planned(target, source)
    added(tmp_path / "source", older)
    before = content(older)
    with pytest.raises(UsageError, match="was changed meanwhile"):
        add(target, source, plan, shard_bytes=SHARD)
    assert content(older) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from a3b.packing import add_mtp, writer
from a3b.packing.open_source import open_source
place = sys.argv[3]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
replace = os.replace
def replacing(old, new):
    if place == "before the manifest" and str(new).endswith("a3b.json"):
        die()
    replace(old, new)
    if place == "after the first file" or (place == "after the manifest" and str(new).endswith("a3b.json")):
        die()
os.replace = replacing
target, source = add_mtp.Target.open(Path(sys.argv[2])), open_source(Path(sys.argv[1]))
plan = add_mtp.planned(target, source)
add_mtp.add(target, source, plan, shard_bytes=50_000, done=die if place == "in the first file" else lambda n: None)
"""


@pytest.mark.parametrize(
    "place", ["in the first file", "after the first file", "before the manifest", "after the manifest"]
)
def test_a_kill_leaves_a_directory_that_is_whole_with_or_without_the_module(older, tmp_path, place):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "source", older, place], check=False)
    assert done.returncode == -signal.SIGKILL
    assert verify(older) == []
    has_module = loaded(older)[1].mtp is not None
    assert has_module == (place == "after the manifest")
    if not has_module:
        added(tmp_path / "source", older)
        assert verify(older) == [] and not list(older.glob("*.part"))


def test_new_files_are_durable_before_the_manifest_names_them(older, tmp_path, monkeypatch):
    order, replace, sync = [], os.replace, os.fsync

    def replacing(old, new):
        order.append(Path(new).name)
        replace(old, new)

    def syncing(handle):
        order.append("directory" if os.path.samestat(os.fstat(handle), older.stat()) else "file")
        sync(handle)

    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(os, "fsync", syncing)
    added(tmp_path / "source", older)
    names = sorted(file.name for file in older.glob("mtp-*"))
    expected = [step for name in names for step in ("file", name)]
    assert order == [*expected, "directory", "file", MANIFEST, "directory"]


def test_a_full_disk_leaves_the_directory_as_it_was(older, tmp_path, monkeypatch):
    before = content(older)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="make room"):
        added(tmp_path / "source", older)
    assert content(older) == before


def test_the_command_adds_the_module_and_says_what_it_takes(older, tmp_path, capsys):
    assert main(["pack", "--add-mtp", str(tmp_path / "source"), str(older)]) == 0
    printed = capsys.readouterr()
    assert "MTP module added" in printed.out and "M parameters as balanced" in printed.err
    assert main(["info", str(older)]) == 0
    assert "MTP module stored" in capsys.readouterr().out
    assert main(["pack", "--add-mtp", str(tmp_path / "source"), str(older)]) == 2
    assert "has an MTP module already" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--preset", "fast"], ["--importance", "x"], ["--tokenizer", "x"], ["--no-mtp"]])
def test_options_of_a_whole_packing_are_refused_with_it(older, tmp_path, option, capsys):
    assert main(["pack", "--add-mtp", *option, str(tmp_path / "source"), str(older)]) == 2
    assert f"{option[0]}: has no meaning with --add-mtp" in capsys.readouterr().err
