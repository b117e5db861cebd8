"""Packing from a Hugging Face directory: what is written is what the quantiser says, survives a kill, and is
checked."""

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

from a3b.cli import main
from a3b.errors import CheckpointError, TensorError, UsageError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, Manifest, plan_shards, verify
from a3b.formats.tiles import Tiles
from a3b.kernels import _native, open_kernels
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import check_tensors, load_weights
from a3b.model.tensor_names import tensors_of
from a3b.packing import writer
from a3b.packing.dequantised import dequantised
from a3b.packing.open_source import open_source
from a3b.packing.plan import Plan, bytes_per_token, make_plan, tensor_values
from a3b.packing.presets import PRESETS, format_for
from a3b.packing.quantise import quantise
from a3b.packing.source import Source
from a3b.packing.writer import write
from tests.support.packing_files import SIZES, TEMPLATE, TOKENIZER, ids_for, logits_of, write_source
from tests.support.random_model import SIZES as ODD_SIZES

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

SHARD = 100_000  # bytes: several shards


def packed(
    tmp_path: Path, preset: str = "balanced", fp8: bool = False, sizes: dict = SIZES, **options
) -> tuple[Path, dict]:
    """A packed directory and the float32 tensors it was packed from."""
    exact = write_source(tmp_path / "source", sizes, fp8)
    source = open_source(tmp_path / "source")
    write(
        source,
        make_plan(source.config, source.weights, preset),
        tmp_path / "packed",
        **{"shard_bytes": SHARD, **options},
    )
    return tmp_path / "packed", exact


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


KILLED = """
import os, signal, sys
from pathlib import Path
from a3b.packing.plan import make_plan
from a3b.packing.dequantised import dequantised
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


@pytest.mark.parametrize(
    ("tile_shift", "float_shift", "refused"), [(64, 4, None), (8, 0, "w"), (32, 0, "w"), (0, 2, "f32")]
)
def test_tiles_that_lie_on_no_cache_line_and_floats_on_no_word_are_refused(tmp_path, tile_shift, float_shift, refused):
    directory, _ = packed(tmp_path, shard_bytes=1)  # a tensor a file
    manifest = Manifest.read(directory)
    for name, tensor in manifest.tensors.items():
        shift, file = float_shift if tensor.format == "f32" else tile_shift, directory / manifest.file_of[name]
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        file.write_bytes(
            (size + shift).to_bytes(8, "little") + content[8 : 8 + size] + b" " * shift + content[8 + size :]
        )
    if refused is None:
        Checkpoint.open(directory)
        return
    multiple = 4 if refused == "f32" else 64
    with pytest.raises(TensorError, match=f"begins at byte .*; expected a multiple of {multiple}"):
        Checkpoint.open(directory)


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


def test_verify_names_the_first_bad_tensor(tmp_path, capsys):
    directory, _ = packed(tmp_path)
    assert main(["verify", str(directory)]) == 0
    manifest = Manifest.read(directory)
    name = "model.layers.1.mlp.shared_expert.down_proj.weight"
    shard = directory / manifest.file_of[name]
    place = Checkpoint.open(directory).tensors[name].start
    content = bytearray(shard.read_bytes())
    content[place + 7] ^= 0x10
    shard.write_bytes(content)
    assert main(["verify", str(directory)]) == 1
    assert f"tensor {name}: its bytes are not those that were written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_verify_reads_the_small_files_too(tmp_path, name):
    directory, _ = packed(tmp_path)
    (directory / name).write_bytes((directory / name).read_bytes() + b" ")
    assert verify(directory) == [f"{name}: its bytes are not those that were written"]


def test_truncated_and_missing_files_are_named(tmp_path):
    directory, _ = packed(tmp_path)
    shard, other = sorted(directory.glob("*.safetensors"))[1:3]
    shard.write_bytes(shard.read_bytes()[:-100])
    other.unlink()
    found = verify(directory)
    assert (
        len(found) == 2 and shard.name in found[0] and "expected" in found[0] and found[1] == f"{other.name}: missing"
    )
    with pytest.raises(CheckpointError, match="missing, though a3b.json names it"):
        Checkpoint.open(directory)


def lies(directory: Path, change, sign: bool = True) -> str:
    """What is said when the manifest was changed; signed: with a checksum that fits."""
    from a3b.formats import packed as container

    value = json.loads((directory / MANIFEST).read_text())
    change(value)
    if sign:
        value.pop("checksum")
        value["checksum"] = container._text_checksum(value)
    (directory / MANIFEST).write_text(json.dumps(value))
    with pytest.raises(CheckpointError) as refusal:
        check_tensors(Checkpoint.open(directory), read_config(directory))
    return str(refusal.value)


HEAD = "lm_head.weight"
LIES = {
    "another format": (lambda v: v.update(format="x"), "expected an object whose format is 'a3b-packed'"),
    "a later version": (lambda v: v.update(version=2), "version 2; this a3b reads 1"),
    "another layout": (lambda v: v.update(layout=9), "layout 9; this a3b reads 1"),
    "an unknown format of a tensor": (lambda v: v["tensors"][HEAD].update(format="w3"), "format 'w3' is unknown"),
    "a list for a format": (lambda v: v["tensors"][HEAD].update(format=[]), "is unknown"),
    "another format of that width": (lambda v: v["tensors"][HEAD].update(format="w8s32"), "expected U8"),
    "a negative shape": (lambda v: v["tensors"][HEAD].update(shape=[-1, 64]), "expected 2 to 3 positive whole numbers"),
    "a huge shape": (lambda v: v["tensors"][HEAD].update(shape=[1 << 39, 64]), "expected U8"),
    "odd columns": (lambda v: v["tensors"][HEAD].update(shape=[64, 65]), "65 columns; expected a multiple of 64"),
    "a transposed shape of equal size": (
        lambda v: v["tensors"][HEAD].update(shape=[80, 128]),
        "has shape [80, 128], expected [160, 64]",
    ),
    "a file elsewhere": (
        lambda v: v["files"].update({"../x": {"bytes": 1, "checksum": "0" * 32}}),
        "expected a name in this directory",
    ),
    "an unnamed file": (
        lambda v: v["tensors"][HEAD].update(file="other.safetensors"),
        "expected a shard that files names",
    ),
    "a missing tensor": (lambda v: v["tensors"].pop(HEAD), "is not in a3b.json"),
    "no checksum": (lambda v: v["tensors"][HEAD].pop("checksum"), "expected an object of format"),
    "no tensors": (lambda v: v.update(tensors=[]), "tensors: expected an object"),
    "a head order that is no truth value": (lambda v: v.update(tiled_v_heads=1), "tiled_v_heads"),
    "negative counts": (lambda v: v.update(skipped={"mtp": -1}), "expected counts"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return packed(tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(tmp_path, whole, lie):
    shutil.copytree(whole, tmp_path / "copy")
    change, told = LIES[lie]
    assert told in lies(tmp_path / "copy", change)


def test_a_changed_manifest_is_noticed(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    assert "was changed after it was written" in lies(tmp_path / "copy", lambda v: v.update(preset="fast"), sign=False)


def test_flipped_bytes_of_a_manifest_or_a_header_never_escape_the_reader(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    rng = np.random.default_rng(0)
    for name in (MANIFEST, min(file.name for file in whole.glob("*.safetensors"))):
        path, content = tmp_path / "copy" / name, (whole / name).read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            for at in rng.integers(0, min(len(content), 3000), rng.integers(1, 6)):
                changed[at] = rng.integers(0, 256)
            path.write_bytes(changed)
            if bytes(changed) == content:
                continue
            try:
                check_tensors(Checkpoint.open(path.parent), read_config(path.parent))
            except CheckpointError:
                continue
            assert verify(path.parent), name  # what opens all the same is found by reading
        path.write_bytes(content)


def test_a_float_matrix_where_floats_are_needed(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "copy")
    name = "model.layers.0.mlp.gate.weight"
    told = lies(tmp_path / "copy", lambda v: v["tensors"][name].update(format="w8s32"))
    assert name in told


def test_verify_refuses_an_unpacked_directory(tmp_path, capsys):
    write_source(tmp_path / "source")
    assert main(["verify", str(tmp_path / "source")]) == 1
    assert "no a3b.json, so it is not a packed model" in capsys.readouterr().err


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
