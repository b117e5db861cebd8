"""Packed files that were damaged, cut or forged, and what `verify` says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from a3b.cli import main
from a3b.errors import CheckpointError, TensorError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, Manifest, verify
from a3b.model.config_reader import read_config
from a3b.model.loader import check_tensors
from tests.support.packing_files import packed, write_source

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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
