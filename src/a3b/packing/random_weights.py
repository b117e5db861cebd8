"""Random weights of any shape as a packed directory: the true size and the true layout, for measuring speed.

Tiles are random integers and scales, not quantised numbers; their spread is a gain over the root of the inputs, as in
trained weights, so that activations and logits stay ordinary. Bytes come from one pool per format and are reused from
other offsets; a pool is an odd number of units, so no two rows or experts are alike. The same arguments give the same
bytes. Enter at `random_source`. Types of the mixes: llama.cpp's src/llama-quant.cpp, for rows that are whole
blocks."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import UsageError
from a3b.formats.quant import bf16_to_f32, f32_to_bf16
from a3b.formats.tiles import FORMATS, SUPER, TILE_ROWS, Format, Parts, pack
from a3b.kernels import GateUp
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict
from a3b.model.known_shapes import SHAPES
from a3b.model.tensor_names import MTP_LAYER, Tensor, layer_name
from a3b.model.weights import Floats, assemble
from a3b.packing.plan import Plan, make_plan
from a3b.packing.presets import PRESETS
from a3b.packing.source import Source, packed_config

VERSION = 1  # of the numbers; counts up when the same arguments give other bytes
MIXES = ("Q4_0", "Q4_K_M")  # types of GGUF files, in addition to the presets
POOL_BYTES = 16 << 20
PIECE_BYTES = 1 << 20  # written at once
GAINS = {  # spread of a matrix, times the root of its inputs; of the embedding the spread is 1
    "lm_head": 3.0,
    "q_proj": 1.0,
    "k_proj": 1.0,
    "v_proj": 1.0,
    "o_proj": 0.6,
    "in_proj_qkv": 1.0,
    "in_proj_z": 1.0,
    "in_proj_b": 1.0,
    "in_proj_a": 1.0,
    "out_proj": 0.15,
    "gate": 1.0,
    "up": 1.0,
    "down": 0.35,
    "router": 2.0,
    "shared_gate": 2.0,
    "shared.gate": 1.0,
    "shared.up": 1.0,
    "shared.down": 0.35,
    "experts.gate": 1.0,
    "experts.up": 1.0,
    "experts.down": 0.5,
    "mtp.fc": 1.0,
}
VECTORS = {  # mean and spread
    "input_norm": (0, 0.3),
    "post_norm": (0, 0.3),
    "norm": (0, 0.3),
    "mtp.embedding_norm": (0, 0.3),
    "mtp.hidden_norm": (0, 0.3),
    "mtp.norm": (0, 0.3),
    "q_norm": (0.7, 0.3),
    "k_norm": (0, 0.3),
    "delta_norm": (1, 0.3),
    "conv1d": (0, 0.5),
    "dt_bias": (-2, 1),
}
WIDE = ("v_proj", "in_proj_qkv", "down", "experts.down", "shared.down")  # in some layers of a mix
SHARED = 0.75  # of the columns of a query row of the delta rule are its key row's too: queries find what keys stored


@dataclass
class Pools:
    """Units of tiles, made at first use: of spread 1 for each format, and copies with scaled scales."""

    seed: int
    most_bytes: int
    units: dict[tuple[str, float], np.ndarray] = field(default_factory=dict)  # uint8 [odd number, unit_bytes]

    def get(self, format: Format, spread: float) -> np.ndarray:
        key = format.name, spread
        if key not in self.units:
            self.units[key] = self._first(format) if spread == 1 else scaled(format, self.get(format, 1.0), spread)
        return self.units[key]

    def _first(self, format: Format) -> np.ndarray:
        rng = np.random.Generator(np.random.PCG64([self.seed, format.code]))
        num = self.most_bytes // format.unit_bytes | 1
        units: np.ndarray = pack(format, random_parts(format, TILE_ROWS, num * format.unit, rng))[0]
        return units


@dataclass(frozen=True)
class RandomMatrix:
    """A matrix [out, in], or experts [E, out, in], that exists only while it is written."""

    name: str
    shape: tuple[int, ...]
    spread: float
    pools: Pools
    format: Format | None = None  # its own type, in a mix
    alike: int = 0  # rows [alike, 2·alike) share most of their columns with rows [0, alike)

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        """float32 [stop - start, in], for a matrix that no format holds."""
        rng = generator(self.pools.seed, f"{self.name} {start}")
        values = rng.standard_normal((stop - start, self.shape[-1]), np.float32)
        return np.multiply(values, np.float32(self.spread), out=values)

    def f32_expert(self, e: int) -> np.ndarray:
        """float32 [out, in]."""
        return self.expert(e).f32_rows(0, self.shape[1])

    def expert(self, e: int) -> RandomMatrix:
        return RandomMatrix(f"{self.name}[{e}]", self.shape[1:], self.spread, self.pools, self.format)

    def packed(self, format: Format | None) -> Iterator[memoryview]:
        """Its bytes, piece by piece."""
        *experts, rows, n = self.shape
        if format is None:
            for e in range(math.prod(experts)):
                yield (self.expert(e) if experts else self).f32_rows(0, rows).reshape(-1).view(np.uint8).data
        elif rows % TILE_ROWS or n % format.unit:
            rng = generator(self.pools.seed, self.name)
            for _ in range(math.prod(experts)):
                yield pack(format, random_parts(format, rows, n, rng, self.spread)).reshape(-1).data
        elif self.alike % TILE_ROWS == 0 and self.alike:
            yield self._with_alike(format).data
        else:
            yield from self._units(format)

    def _units(self, format: Format) -> Iterator[memoryview]:
        """Units of the pool from a random offset on, wrapping around."""
        pool = self.pools.get(format, self.spread).reshape(-1)
        rng, size = generator(self.pools.seed, self.name), format.unit_bytes
        *experts, rows, n = self.shape
        at, left = int(rng.integers(len(pool) // size)) * size, math.prod(experts) * format.num_bytes(rows, n)
        while left:
            piece = pool[at : at + min(left, PIECE_BYTES)]
            yield piece.data
            at, left = (at + len(piece)) % len(pool), left - len(piece)

    def _with_alike(self, format: Format) -> np.ndarray:
        rows, n = self.shape
        tiles = np.concatenate(list(self._units(format))).reshape(
            rows // TILE_ROWS, n // format.unit, format.unit_bytes
        )
        num, same = self.alike // TILE_ROWS, int(SHARED * (n // format.unit))
        tiles[num : 2 * num, :same] = tiles[:num, :same]
        return tiles.reshape(-1)


def generator(seed: int, name: str) -> np.random.Generator:
    """The stream of one tensor, independent of all others."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def random_parts(format: Format, rows: int, n: int, rng: np.random.Generator, spread: float = 1.0) -> Parts:
    """Stored numbers [rows, n] around 0, of about that spread."""
    highest = 31 if format.name == "w6k32" else (1 << format.bits) - 1  # Q5_K has 5 bits
    middle = format.zero or highest / 2
    width = highest / 5
    q = rng.standard_normal((rows, n), np.float32)
    q *= np.float32(width)
    q += np.float32(middle)
    q = np.clip(np.rint(q, out=q), 0, highest, out=q).astype(np.uint8)
    groups = n // format.group
    sizes = rng.uniform(0.75, 1.25, (rows, n // SUPER if format.is_super else groups)) * (spread / width)
    if not format.is_super:
        scale = sizes.astype(np.float16)
        return Parts(q, scale, (-middle * scale.astype(np.float32)).astype(np.float16) if format.has_minimum else None)
    if format.signed_codes:
        codes = rng.integers(48, 128, (rows, groups), np.int8) * rng.choice(np.array([-1, 1], np.int8), (rows, groups))
        return Parts(q, codes, None, (sizes / 90).astype(np.float16), None)
    codes = rng.integers(24, 64, (rows, groups), np.uint8)
    minimums = np.clip(codes + rng.integers(-3, 4, (rows, groups), np.int8), 0, 63).astype(np.uint8)
    top = (sizes / 44).astype(np.float16)
    return Parts(q, codes, minimums, top, (-middle * top.astype(np.float32)).astype(np.float16))


def scaled(format: Format, units: np.ndarray, times: float) -> np.ndarray:
    """A copy of units [num, unit_bytes] with their half-precision scales and minimums multiplied."""
    units = units.copy()
    num = 4 * TILE_ROWS if format.is_super else format.header_bytes
    halves = np.ascontiguousarray(units[:, :num]).view("<f2")
    units[:, :num] = (halves.astype(np.float32) * np.float32(times)).astype("<f2").view(np.uint8)
    return units


def random_source(
    shape: str, value: dict[str, Any], preset: str, seed: int = 0, pool_bytes: int = POOL_BYTES
) -> tuple[Source, Plan]:
    """Source and plan for `writer.write`.

    shape: a name for people. value: its config.json. preset: one of PRESETS or MIXES. pool_bytes: random bytes per
    format; fewer are written sooner."""
    if preset not in (*PRESETS, *MIXES):
        raise UsageError(f"preset: {preset!r}; expected one of {', '.join((*PRESETS, *MIXES))}")
    config = config_from_dict(value, shape)
    pools = "" if pool_bytes == POOL_BYTES else f", pools of {pool_bytes} bytes"
    identity = f"{shape}, {config.num_layers} layers, {preset}, seed {seed}, version {VERSION}{pools}"
    tensors = _RandomTensors(config, preset if preset in MIXES else None, Pools(seed, pool_bytes))
    weights = assemble(config, tensors, "random", mtp=config.mtp_layers == 1)
    source = Source(
        "random weights",
        Path(identity),
        config,
        weights,
        {"config.json": packed_config(value)},
        identity,
        preset in MIXES,
        lambda value: None,
    )
    return source, make_plan(config, weights, None if preset in MIXES else preset)


def shape_config(shape: str, num_layers: int | None = None, mtp: bool = False) -> dict[str, Any]:
    """config.json of a shape, or of its first layers only. mtp: with the MTP module, if the shape has one; nothing
    that is measured reads it."""
    if shape not in SHAPES:
        raise UsageError(f"shape: {shape!r} is unknown; known: {', '.join(SHAPES)}")
    value, every = SHAPES[shape], SHAPES[shape]["full_attention_interval"]
    if not mtp:
        value = {key: v for key, v in value.items() if key != "mtp_num_hidden_layers"}
    if num_layers is None:
        return dict(value)
    if not 0 < num_layers <= value["num_hidden_layers"] or num_layers % every:
        raise UsageError(
            f"layers: {num_layers}; expected a multiple of {every}, at most {value['num_hidden_layers']} for {shape}"
        )
    return {**value, "num_hidden_layers": num_layers}


class _RandomTensors:
    """What `assemble` asks for: weights that are in memory only where they are small; those are BF16 numbers, as in
    checkpoints."""

    def __init__(self, config: ModelConfig, mix: str | None, pools: Pools):
        self.config, self.mix, self.pools = config, mix, pools

    def vector(self, tensor: Tensor, layer: int | None) -> Floats:
        name, shape = self.name(tensor, layer), tensor.memory_shape(self.config.axes)
        if tensor.role == "A_log":
            return np.log(generator(self.pools.seed, name).uniform(0.02, 2.0, shape)).astype(np.float32)
        mean, spread = VECTORS[tensor.role]
        return self.normal(name, mean, spread, shape)

    def matrix(self, tensor: Tensor, layer: int | None) -> RandomMatrix | Floats:
        axes, name = self.config.axes, self.name(tensor, layer)
        shape = tensor.shape(axes)
        gain = shape[-1] ** 0.5 if tensor.role == "embed" else GAINS[tensor.role]
        spread = gain * shape[-1] ** -0.5
        if tensor.kind is None:
            return self.normal(name, 0, spread, shape)
        alike = axes.Hk * axes.Dk if tensor.role == "in_proj_qkv" else 0
        return RandomMatrix(name, shape, spread, self.pools, self.own_format(tensor, layer, shape[-1]), alike)

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> GateUp:
        return self.matrix(gate, layer), self.matrix(up, layer)

    def own_format(self, tensor: Tensor, layer: int | None, columns: int) -> Format | None:
        """The type that a mix gives a matrix: more bits for lm_head, and in Q4_K_M for some others of some layers."""
        if not self.mix:
            return None
        format = FORMATS["w4s32"] if self.mix == "Q4_0" else FORMATS["w4k32"]
        if tensor.role == "lm_head" or (self.mix == "Q4_K_M" and tensor.role in WIDE and self.more_bits(layer)):
            format = FORMATS["w6k16"]
        # as a packed GGUF has what no block divides
        return FORMATS["w8s32"] if columns % format.unit else format

    def more_bits(self, layer: int | None) -> bool:
        """The first and last eighth of the layers, and every third of those between, have wider values and down."""
        layers = self.config.num_layers
        eighth = layers // 8
        if layer == MTP_LAYER:  # the last of a GGUF file
            return True
        return layer is not None and (layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2)

    def normal(self, name: str, mean: float, spread: float, shape: tuple[int, ...]) -> Floats:
        values = mean + spread * generator(self.pools.seed, name).standard_normal(shape, np.float32)
        return bf16_to_f32(f32_to_bf16(values.astype(np.float32)))

    @staticmethod
    def name(tensor: Tensor, layer: int | None) -> str:
        """What seeds the numbers of a tensor: VERSION is incremented if it changes."""
        if layer is None:
            return tensor.full_name(None).removesuffix(".weight")
        return layer_name(tensor.role.removeprefix("delta_"), layer)
