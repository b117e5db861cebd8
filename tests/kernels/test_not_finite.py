"""A number that is not finite never becomes plausible text: loading and `verify` refuse it, and kernels make NaN of
what meets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from a3b.errors import TensorError
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.packed import MANIFEST, Manifest, file_checksum, verify
from a3b.formats.tiles import FORMATS, TILE_ROWS, Tiles
from a3b.kernels import KV_TYPES, _native, open_kernels
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict, read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.model.weights import ModelWeights
from a3b.packing.open_source import open_source
from a3b.packing.plan import make_plan
from a3b.packing.writer import write
from tests.support.checkpoint_files import write_checkpoint
from tests.support.packing_files import write_source
from tests.support.random_model import SEEDS, SIZES, config_dict, model_weights, random_ids, random_tensors
from tests.support.random_tiles import SIZES as TILED_SIZES
from tests.support.random_tiles import random_tiles, tiled_weights

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

ISAS = _native.isas()
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
SMALL = ("norm", "conv1d", "A_log", "dt_bias")  # fields that binding refuses


def spoil_scale(tiles: Tiles, row: int, value: float, which: int = 0, expert: int = 0) -> Tiles:
    """The same tiles with a half-precision scale of one row replaced; which: its place in the header of the row's first
    unit."""
    *_, rows, n = tiles.shape
    data = tiles.data.copy()
    tile = expert * tiles.format.num_bytes(rows, n) + row // TILE_ROWS * tiles.format.num_bytes(TILE_ROWS, n)
    at = tile + 2 * (which * TILE_ROWS + row % TILE_ROWS)
    data[at : at + 2] = np.array([value], "<f2").view(np.uint8)
    return Tiles(tiles.name, tiles.format, tiles.shape, data)


def halves(format) -> int:
    """Half-precision numbers of a row in a unit."""
    if format.is_super:
        return 1 + format.has_minimum
    return format.groups * (1 + format.has_minimum)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_scale_that_is_not_finite_shows_in_its_row_alone(isa: str, name: str):
    format, k, rows, n, row = FORMATS[name], open_kernels(isa), 40, 512, 21
    tiles = random_tiles(format, rows, n)
    x = np.random.default_rng(1).normal(size=(9, n)).astype(np.float32)
    for num_tokens in (1, 9):
        right = k.bind_linear([("m", tiles)], n)(x[:num_tokens])
        for which in range(halves(format)):
            for value in BAD.values():
                out = k.bind_linear([("m", spoil_scale(tiles, row, value, which))], n)(x[:num_tokens])
                assert np.isnan(out[:, row]).all(), (num_tokens, which, value)
                np.testing.assert_array_equal(np.delete(out, row, 1), np.delete(right, row, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [*FORMATS, "f32", "bf16"])
def test_an_activation_that_is_not_finite_shows_in_its_token_alone(isa: str, name: str):
    k, rows, n = open_kernels(isa), 40, 512
    rng = np.random.default_rng(2)
    matrix: Any = (
        rng.normal(size=(rows, n)).astype(np.float32) if name not in FORMATS else random_tiles(FORMATS[name], rows, n)
    )
    if name == "bf16":
        matrix = (matrix.view(np.uint32) & 0xFFFF0000).view(np.float32)
    op, x = k.bind_linear([("m", matrix)], n), rng.normal(size=(9, n)).astype(np.float32)
    right = op(x)
    for column in (0, 100, n - 1):
        for value in BAD.values():
            bad = x.copy()
            bad[4, column] = value
            out = op(bad)
            assert np.isnan(out[4]).all()
            assert np.isnan(op(bad[4:5])).all()
            np.testing.assert_array_equal(np.delete(out, 4, 0), np.delete(right, 4, 0))


@pytest.mark.parametrize("isa", [*ISAS, "reference"])
def test_a_norm_does_not_hide_what_overflows(isa: str):
    """Squares of 1e20 are infinite in float32: divided by their root, everything would be a tidy zero."""
    op = open_kernels(isa).bind_linear([("m", np.eye(32, dtype=np.float32))], 32, np.zeros(32, np.float32), 1e-6)
    assert np.isnan(op(np.full((1, 32), 1e20, np.float32))).all()


@cache
def float_model(name: str) -> tuple[ModelConfig, ModelWeights]:
    config = config_from_dict(config_dict(SIZES[name]), where=name)
    return config, model_weights(config, random_tensors(SIZES[name], SEEDS[name]))


@cache
def tiled() -> tuple[ModelConfig, ModelWeights]:
    config = config_from_dict(config_dict(TILED_SIZES), where="tiled")
    return config, tiled_weights(config, random_tensors(TILED_SIZES, seed=5))


def places(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, matrix or vector) of all weights."""
    if isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from places(part, f"{path}.{i}")
    elif is_dataclass(value) and not isinstance(value, Tiles):
        for f in fields(value):
            yield from places(getattr(value, f.name), f"{path}.{f.name}")
    elif isinstance(value, np.ndarray | Tiles):
        yield path, value


def spoiled(value: Any, target: str, number: float, path: str = "") -> Any:
    """The same weights with one number of `target` (of each expert) replaced: a float, or a scale of tiles."""
    if isinstance(value, tuple):
        return tuple(spoiled(part, target, number, f"{path}.{i}") for i, part in enumerate(value))
    if is_dataclass(value) and not isinstance(value, Tiles):
        changed = {f.name: spoiled(getattr(value, f.name), target, number, f"{path}.{f.name}") for f in fields(value)}
        return type(value)(**changed)
    if path != target:
        return value
    if isinstance(value, Tiles):
        for e in range(value.shape[0] if len(value.shape) == 3 else 1):
            value = spoil_scale(value, value.shape[-2] // 2, number, expert=e)
        return value
    value = value.copy()
    value[(..., *(size // 2 for size in value.shape[-2:]))] = number
    return value


def model_cases() -> list[tuple[str, str]]:
    kinds = {"one": float_model("one")[1], "dense": float_model("dense")[1], "tiled": tiled()[1]}
    layers = {"one": (0, 3), "dense": (0, 2), "tiled": (0, 3)}  # of each kind
    found = [(kind, path) for kind, weights in kinds.items() for path, _ in places(weights)]
    return [
        (kind, path)
        for kind, path in found
        if not path.startswith(".layers") or int(path.split(".")[2]) in layers[kind]
    ]


@pytest.mark.parametrize("isa", [*ISAS, "reference"])
@pytest.mark.parametrize(("kind", "path"), model_cases(), ids=lambda value: value.strip("."))
def test_one_bad_number_of_a_matrix_is_refused_or_makes_nan_of_every_logit_it_reaches(isa: str, kind: str, path: str):
    config, weights = tiled() if kind == "tiled" else float_model(kind)
    k, field = open_kernels(isa, 2), path.split(".")[-1]
    ids = np.random.default_rng(7).integers(0, TILED_SIZES["V"], 20) if kind == "tiled" else random_ids(kind, 20)
    is_tiles = isinstance(dict(places(weights))[path], Tiles)
    for number in BAD.values() if is_tiles else [np.nan]:
        bad = spoiled(weights, path, number)
        if field == "embed":
            ids[:] = config.vocab_size // 2

        def logits_of(bad: ModelWeights = bad) -> np.ndarray:
            model = Model(config, bad, k, "q8")
            state = model.new_state()
            return np.concatenate(
                [model.forward(ids[:19], state, logits="all"), model.forward(ids[19:], state, logits="all")]
            )

        if any(small in field for small in SMALL) or (isa == "reference" and is_tiles):
            with pytest.raises(TensorError, match="NaN or infinite"):
                logits_of()
            continue
        logits = logits_of()
        if field == "lm_head":
            assert not np.isfinite(logits[:, config.vocab_size // 2]).any()
        else:
            assert np.isnan(logits).any(-1).all(), np.nonzero(~np.isnan(logits).any(-1))[0][:5]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("part", ["query", "key", "value", "gate"])
def test_attention_lets_nan_reach_every_later_token_and_no_earlier_one(isa: str, kv: str, part: str):
    Hq, Hkv, Dh, T, at = 4, 2, 32, 150, 70
    op = open_kernels(isa, 2).bind_attention(
        np.zeros(Dh, np.float32), np.zeros(Dh, np.float32), 1e-6, Hq, Hkv, Dh, 4, kv
    )
    projected = np.random.default_rng(3).normal(size=(T, (2 * Hq + 2 * Hkv) * Dh)).astype(np.float32)
    column = {"query": 0, "gate": Dh, "key": 2 * Hq * Dh, "value": (2 * Hq + Hkv) * Dh}[part] + 5
    payload = np.array([0x7FFFFFFF], np.uint32).view(np.float32)[0]  # a NaN that rounding to BF16 carries over to zero
    cos, sin = np.ones((T, 4), np.float32), np.zeros((T, 4), np.float32)

    def run(x: np.ndarray) -> np.ndarray:
        pages = [
            tuple(np.zeros((2, Hkv, size), np.uint8) for size in _native.kv_page_bytes(KV_TYPES[kv], Dh))
            for _ in range(2)
        ]
        first = op(x[: T - 1], cos[1:], sin[1:], pages, 0)
        return np.concatenate((first, op(x[T - 1 :], cos[:1], sin[:1], pages, T - 1)))

    right = run(projected)
    projected[at, column] = payload
    out = run(projected)
    np.testing.assert_array_equal(out[:at], right[:at])
    hit = np.isnan(out[at:]).any(-1)
    assert hit.all() if part in ("key", "value") else hit.tolist() == [True] + [False] * (T - at - 1)


@pytest.mark.parametrize("expand", [True, False], ids=["decoded", "mapped"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "FP8"])
def test_a_checkpoint_with_one_bad_number_is_refused_by_the_name_of_its_tensor(tmp_path, dtype: str, expand: bool):
    write_checkpoint(tmp_path, "one", dtype=dtype, fused=dtype != "FP8")
    config, file = read_config(tmp_path), tmp_path / "model.safetensors"
    whole, tensors = file.read_bytes(), Checkpoint.open(tmp_path).tensors
    bits = {"BF16": b"\x80\x7f", "F16": b"\x00\xfc", "F32": b"\x00\x00\xc0\x7f", "F8_E4M3": b"\x7f"}
    chosen = [name for name in tensors if "layers" not in name or "layers.0." in name or "layers.3." in name]
    if expand:
        chosen = chosen[::3]
    ids = np.arange(30)
    for name in chosen:
        info = tensors[name]
        at = info.start + info.num_bytes // 2 // len(bits[info.dtype]) * len(bits[info.dtype])
        with open(file, "r+b") as out:
            out.seek(at)
            out.write(bits[info.dtype])
        with pytest.raises(TensorError, match=f"{name.removesuffix('.weight')}.* holds .* expected finite numbers"):
            weights = load_weights(Checkpoint.open(tmp_path), config, expand=expand)
            model = Model(config, weights, open_kernels("reference"), "f32")
            row = (at - info.start) // info.shape[-1] // len(bits[info.dtype]) if "embed" in name else 0
            model.forward(np.append(ids, row), model.new_state(), logits="all")
            assert ".experts." not in name, "an expert that no token chose"
            raise AssertionError(name)
        with open(file, "r+b") as out:
            out.seek(at)
            out.write(whole[at : at + len(bits[info.dtype])])
    load_weights(Checkpoint.open(tmp_path), config, expand=expand)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    write_source(root / "source")
    source = open_source(root / "source")
    write(source, make_plan(source.config, source.weights, "balanced"), root / "packed")
    return root / "packed"


def reseal(directory) -> None:
    """Checksums of the shards as they are now, as a packer without checks would have written them."""
    manifest = Manifest.read(directory)
    checkpoint = Checkpoint.open(directory)
    from a3b.formats.packed import new_checksum

    for name in manifest.tensors:
        total = new_checksum()
        total.update(np.ascontiguousarray(checkpoint.array(name)).view(np.uint8))
        manifest.checksums[name] = total.hexdigest()
    (directory / MANIFEST).write_text(manifest.to_json())


def test_verify_names_each_tensor_of_a_packed_model_that_holds_what_is_not_finite(packed):
    assert verify(packed) == []
    manifest, kept = Manifest.read(packed), (packed / MANIFEST).read_text()
    for name, tensor in manifest.tensors.items():
        info, file = Checkpoint.open(packed).tensors[name], packed / manifest.file_of[name]
        before, bad = file.read_bytes(), b"\x00\x00\x80\x7f" if tensor.format == "f32" else b"\x00\x7e"
        at = info.stop - tensor.unit_bytes  # the last scale, or the last number
        file.write_bytes(before[:at] + bad + before[at + len(bad) :])
        reseal(packed)
        assert verify(packed) == [f"{file.name}: tensor {name}: holds a number or a scale that is NaN or infinite"]
        file.write_bytes(before)
        (packed / MANIFEST).write_text(kept)
    assert file_checksum(packed / MANIFEST)


def test_loading_a_packed_model_refuses_small_tensors_that_are_not_finite(packed):
    manifest, config = Manifest.read(packed), read_config(packed)
    small = [name for name, tensor in manifest.tensors.items() if tensor.format == "f32"]
    assert len(small) > 30
    for name in small:
        info, file = Checkpoint.open(packed).tensors[name], packed / manifest.file_of[name]
        with open(file, "r+b") as out:
            out.seek(info.stop - 4)
            before = out.read(4)
            out.seek(info.stop - 4)
            out.write(b"\x00\x00\xc0\x7f")
        with pytest.raises(TensorError, match=f"{name}' holds nan .* expected finite numbers"):
            load_weights(Checkpoint.open(packed), config)
        with open(file, "r+b") as out:
            out.seek(info.stop - 4)
            out.write(before)


@pytest.mark.parametrize(
    ("preset", "bad"), [("fast", b"\xc0\x7f"), ("balanced", b"\x80\x7f"), ("faithful", b"\x80\xff")]
)
def test_packing_refuses_every_tensor_that_is_not_finite(tmp_path, preset: str, bad: bytes):
    write_source(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    for name, info in list(Checkpoint.open(tmp_path / "source").tensors.items())[::4]:
        at = info.start + info.num_bytes // 4 * 2
        with open(file, "r+b") as out:
            out.seek(at)
            before = out.read(2)
            out.seek(at)
            out.write(bad)
        with pytest.raises(TensorError, match="finite"):
            source = open_source(tmp_path / "source")
            write(source, make_plan(source.config, source.weights, preset), tmp_path / name)
        with open(file, "r+b") as out:
            out.seek(at)
            out.write(before)
