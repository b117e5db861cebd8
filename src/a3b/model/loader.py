"""Checkpoint names to the typed fields a model is bound to: the only place that knows what tensors are called.

Everything expected is checked by name, shape and dtype before any data is touched, and all complaints are raised at once.
A number that is not finite is refused when it is decoded: at load what becomes float32, at each use what stays mapped. Scales of
tiles are not read for that; the packer has looked at them, `a3b verify` looks again, and the kernels turn what meets one into NaN.
Matrices then come as float32 arrays (decoded one by one, their source pages given back), as views that decode where they
are used, or as the tiles of a packed directory (`residency`): there is never a second copy of the model. Enter at `load_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from a3b.errors import TensorError
from a3b.formats import gptq
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.gptq import GptqMatrix
from a3b.formats.packed import F32
from a3b.formats.quant import FLOATS, all_finite, fp8_to_f32, to_f32
from a3b.formats.safetensors import TensorInfo
from a3b.formats.tiles import FORMATS, Tiles
from a3b.machine import Machine
from a3b.model.config import ATTENTION, ModelConfig

PREFIXES = ("model.language_model.", "model.")  # of the text model: inside the wrapper, alone
EXTRAS = {"mtp": ("mtp.",), "vision": ("model.visual.", "visual.")}
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
SCALE = "_scale_inv"
FP8 = "F8_E4M3"
KEPT_FLOAT = ("norm.weight", "conv1d.weight", "dt_bias", "A_log", "gate.weight", "in_proj_b.weight", "in_proj_a.weight")  # in packed ones
MAX_COMPLAINTS = 5
EXPAND_SHARE = 0.5  # of the memory that is free: what float32 weights may take if nobody says otherwise


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix [out, in], or experts [E, out, in], left in its file; every call decodes to float32 anew."""

    name: str
    dtype: str
    stored: np.ndarray
    scale: np.ndarray | None = None  # float32, one per block of the last two axes
    block: tuple[int, int] = (1, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def f32(self) -> np.ndarray:
        """float32 of the whole shape."""
        if self.stored.ndim == 3:
            return np.stack([self.f32_expert(e) for e in range(self.shape[0])])
        return self.f32_rows(0, self.shape[0])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a matrix: float32 [stop - start, in]."""
        return self._decode(self.stored, self.scale, start, stop)

    def f32_expert(self, e: int) -> np.ndarray:
        """Expert e: float32 [out, in]."""
        return self.expert(e).f32_rows(0, self.shape[1])

    def expert(self, e: int) -> StoredMatrix:
        """Expert e as a matrix: a view."""
        scale = None if self.scale is None else self.scale[e]
        return StoredMatrix(f"{self.name}[{e}]", self.dtype, self.stored[e], scale, self.block)

    def _decode(self, bits: np.ndarray, scale: np.ndarray | None, start: int, stop: int) -> np.ndarray:
        if scale is None:
            return checked_finite(self.name, to_f32(bits[start:stop], self.dtype))
        first = start // self.block[0]  # whole blocks, then the rows asked for
        base = first * self.block[0]
        decoded = fp8_to_f32(bits[base:stop], scale[first : -(-stop // self.block[0])], self.block)
        return checked_finite(self.name, decoded[start - base :])


def checked_finite(name: str, values: np.ndarray) -> np.ndarray:
    """The values. Raises TensorError if one is NaN or infinite."""
    if not all_finite(values):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise TensorError(f"tensor {name!r} holds {values[place]} at {list(place)}; expected finite numbers: "
                          "the file is damaged, download it again")  # fmt: skip
    return values


@dataclass(frozen=True)
class StackedMatrix:
    """Matrices of equal width, one below the other, as one [sum of out, in]."""

    name: str
    parts: tuple[StoredMatrix, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(p.shape[0] for p in self.parts), self.parts[0].shape[1]

    def f32(self) -> np.ndarray:
        return np.concatenate([p.f32() for p in self.parts])

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        rows, base = [], 0
        for part in self.parts:
            low, high = max(start - base, 0), min(stop - base, part.shape[0])
            if low < high:
                rows.append(part.f32_rows(low, high))
            base += part.shape[0]
        return np.concatenate(rows)


@dataclass(frozen=True)
class StoredExperts:
    """Experts stored one by one, as one [E, out, in]."""

    name: str
    experts: tuple[StoredMatrix | StackedMatrix, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.experts), *self.experts[0].shape

    def f32(self) -> np.ndarray:
        out = np.empty(self.shape, np.float32)
        for e, expert in enumerate(self.experts):
            out[e] = expert.f32()
        return out

    def f32_expert(self, e: int) -> np.ndarray:
        return self.experts[e].f32()

    def expert(self, e: int) -> StoredMatrix | StackedMatrix:
        return self.experts[e]


Matrix = np.ndarray | StoredMatrix | StackedMatrix | GptqMatrix | Tiles
Experts = np.ndarray | StoredMatrix | StoredExperts | Tiles


@dataclass(frozen=True)
class DeltaNetWeights:
    in_proj_qkv: Matrix  # [2·Hk·Dk + Hv·Dv, D]
    in_proj_z: Matrix  # [Hv·Dv, D]
    in_proj_b: Matrix  # [Hv, D]
    in_proj_a: Matrix  # [Hv, D]
    conv1d: np.ndarray  # float32 [2·Hk·Dk + Hv·Dv, conv_len]
    dt_bias: np.ndarray  # float32 [Hv]
    A_log: np.ndarray  # float32 [Hv]
    norm: np.ndarray  # float32 [Dv], around 1
    out_proj: Matrix  # [D, Hv·Dv]


@dataclass(frozen=True)
class AttentionWeights:
    q_proj: Matrix  # [Hq·2·Dh, D], per head query then gate
    k_proj: Matrix  # [Hkv·Dh, D]
    v_proj: Matrix  # [Hkv·Dh, D]
    o_proj: Matrix  # [D, Hq·Dh]
    q_norm: np.ndarray  # float32 [Dh], around 0
    k_norm: np.ndarray  # float32 [Dh], around 0


@dataclass(frozen=True)
class MoEWeights:
    router: Matrix  # [E, D]
    gate_up: Experts | tuple[Experts, Experts]  # [E, 2F, D], gate rows first; or gate and up, each [E, F, D]
    down: Experts  # [E, D, F]
    shared_gate_up: Matrix | tuple[Matrix, Matrix]  # [2Fs, D]; or gate and up, each [Fs, D]
    shared_down: Matrix  # [D, Fs]
    shared_expert_gate: Matrix  # [1, D]


@dataclass(frozen=True)
class DenseWeights:
    gate_up: Matrix | tuple[Matrix, Matrix]  # [2F, D], gate rows first; or gate and up, each [F, D]
    down: Matrix  # [D, F]


@dataclass(frozen=True)
class LayerWeights:
    input_norm: np.ndarray  # float32 [D], around 0
    mixer: DeltaNetWeights | AttentionWeights
    post_norm: np.ndarray  # float32 [D], around 0
    moe: MoEWeights | DenseWeights


@dataclass(frozen=True)
class ModelWeights:
    embed: Matrix  # [V, D]
    layers: tuple[LayerWeights, ...]
    norm: np.ndarray  # float32 [D], around 0
    lm_head: Matrix  # [V, D]; the same object as embed if tied
    residency: str  # "float32": decoded into memory; "mapped": in the file, decoded at each use; "packed": tiles in the file
    extra: dict[str, int] = field(default_factory=dict)  # numbers counted and kept for later: mtp, vision
    tiled_v_heads: bool = False  # value heads in the order of GGUF files: head h uses key head h % Hk, not h // (Hv / Hk)


def load_weights(checkpoint: Checkpoint, config: ModelConfig, expand: bool | None = None) -> ModelWeights:
    """Check and load. expand: decode to float32 (True), leave mapped (False), or decide by the free memory (None); what is
    packed stays packed.

    Raises TensorError for anything missing, misshapen, of a dtype that cannot be read, or unknown."""
    extra = check_tensors(checkpoint, config)
    if checkpoint.manifest:
        return _PackedLoader(checkpoint, config, expand=False).model(extra)
    if expand is None:
        expand = 4 * config.count_parameters().total <= EXPAND_SHARE * Machine.read().memory_bytes
    return _Loader(checkpoint, config, expand).model(extra)


def check_tensors(checkpoint: Checkpoint, config: ModelConfig) -> dict[str, int]:
    """Every tensor against what the config asks for; how many numbers lie beside the text model, by kind."""
    if checkpoint.manifest:
        _check_packed(checkpoint, config)
        return {}
    tensors = checkpoint.tensors
    prefix = prefix_of(checkpoint, config)
    expected = dict(_expected(config, prefix, tensors))
    complaints, modules = [], set()
    for name, shape in expected.items():
        complaints += _complaints(name, shape, tensors, config)
        if gptq.is_gptq(name, tensors):
            modules.update(gptq.names_of_module(name))
    extra = dict.fromkeys(EXTRAS, 0)
    for name, info in tensors.items():
        kind = next((k for k, starts in EXTRAS.items() if name.startswith(starts)), None)
        if kind:
            extra[kind] += math.prod(info.shape) if not name.endswith(SCALE) else 0
        elif name.removesuffix(SCALE) not in expected and name not in modules and not name.endswith(IGNORED_SUFFIXES):
            complaints.append(f"{name[:200]!r} is unknown; a {config.model_type} has no such tensor")
    _complain(checkpoint, complaints)
    return {kind: count for kind, count in extra.items() if count}


def _check_packed(checkpoint: Checkpoint, config: ModelConfig) -> None:
    tensors, expected, complaints = checkpoint.manifest.tensors, dict(packed_tensors(config)), []
    for name, shape in expected.items():
        if name not in tensors:
            complaints.append(f"tensor {name!r} is missing")
        elif tensors[name].shape != shape:
            complaints.append(f"tensor {name!r} has shape {list(tensors[name].shape)}, expected {list(shape)}")
        elif tensors[name].format != F32 and name.endswith(KEPT_FLOAT):
            complaints.append(f"tensor {name!r} is {tensors[name].format}, expected {F32}")
    complaints += [f"{name[:200]!r} is unknown; a {config.model_type} has no such tensor" for name in tensors.keys() - expected.keys()]
    _complain(checkpoint, complaints)


def _complain(checkpoint: Checkpoint, complaints: list[str]) -> None:
    if complaints:
        more = f" (and {len(complaints) - MAX_COMPLAINTS} more)" if len(complaints) > MAX_COMPLAINTS else ""
        raise TensorError(f"{checkpoint.directory}: " + "; ".join(complaints[:MAX_COMPLAINTS]) + more)


def _complaints(name: str, shape: tuple[int, ...], tensors: dict[str, TensorInfo], config: ModelConfig) -> Iterator[str]:
    if gptq.is_gptq(name, tensors):
        yield from gptq.complaints(name, shape, tensors, config.gptq and config.gptq.group)
        return
    info = tensors.get(name)
    if info is None:
        yield f"tensor {name!r} is missing"
        return
    if info.shape != shape:
        yield f"tensor {name!r} has shape {list(info.shape)}, expected {list(shape)}"
    scale = tensors.get(name + SCALE)
    if info.dtype == FP8 and config.fp8 is None:
        yield f"tensor {name!r} is {FP8}, but config.json has no quantization_config"
    elif info.dtype == FP8 and (len(shape) == 1 or name.endswith("conv1d.weight")):
        yield f"tensor {name!r} is {FP8}; expected {', '.join(FLOATS)}: only a matrix may be {FP8}"
    elif info.dtype == FP8:
        block = config.fp8.block
        wanted = (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
        if scale is None:
            yield f"tensor {name + SCALE!r} is missing"
        elif scale.shape != wanted or scale.dtype not in FLOATS:
            yield (f"tensor {name + SCALE!r} is {scale.dtype} {list(scale.shape)}, "
                   f"expected {list(wanted)} of {', '.join(FLOATS)}")  # fmt: skip
    elif info.dtype not in FLOATS:
        yield f"tensor {name!r} is {info.dtype}; expected {', '.join((*FLOATS, FP8))}"
    elif scale is not None:
        yield f"tensor {name + SCALE!r} belongs to a tensor that is not {FP8}"


def prefix_of(checkpoint: Checkpoint, config: ModelConfig) -> str:
    """What the names of the text model begin with."""
    usual = PREFIXES if config.wrapped else PREFIXES[::-1]
    return next((p for p in usual if p + "embed_tokens.weight" in checkpoint.tensors), usual[0])


def _expected(config: ModelConfig, prefix: str, tensors: Container[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the text model; experts fused or one by one, whichever the checkpoint has."""
    c = config
    yield prefix + "embed_tokens.weight", (c.V, c.D)
    yield prefix + "norm.weight", (c.D,)
    if not c.tie_word_embeddings:
        yield "lm_head.weight", (c.V, c.D)
    channels = 2 * c.Hk * c.Dk + c.Hv * c.Dv
    for i, kind in enumerate(c.layer_types):
        p = f"{prefix}layers.{i}."
        yield p + "input_layernorm.weight", (c.D,)
        yield p + "post_attention_layernorm.weight", (c.D,)
        if kind == ATTENTION:
            p += "self_attn."
            yield p + "q_proj.weight", (c.Hq * 2 * c.Dh, c.D)
            yield p + "k_proj.weight", (c.Hkv * c.Dh, c.D)
            yield p + "v_proj.weight", (c.Hkv * c.Dh, c.D)
            yield p + "o_proj.weight", (c.D, c.Hq * c.Dh)
            yield p + "q_norm.weight", (c.Dh,)
            yield p + "k_norm.weight", (c.Dh,)
        else:
            p += "linear_attn."
            yield p + "in_proj_qkv.weight", (channels, c.D)
            yield p + "in_proj_z.weight", (c.Hv * c.Dv, c.D)
            yield p + "in_proj_b.weight", (c.Hv, c.D)
            yield p + "in_proj_a.weight", (c.Hv, c.D)
            yield p + "conv1d.weight", (channels, 1, c.conv_len)
            yield p + "dt_bias", (c.Hv,)
            yield p + "A_log", (c.Hv,)
            yield p + "norm.weight", (c.Dv,)
            yield p + "out_proj.weight", (c.D, c.Hv * c.Dv)
        p = f"{prefix}layers.{i}.mlp."
        if c.dense:
            yield from _mlp(p, c.D, c.F)
            continue
        yield p + "gate.weight", (c.E, c.D)
        yield p + "shared_expert_gate.weight", (1, c.D)
        yield from _mlp(p + "shared_expert.", c.D, c.Fs)
        if p + "experts.gate_up_proj" in tensors:
            yield p + "experts.gate_up_proj", (c.E, 2 * c.F, c.D)
            yield p + "experts.down_proj", (c.E, c.D, c.F)
        else:
            for e in range(c.E):
                yield from _mlp(f"{p}experts.{e}.", c.D, c.F)


def _mlp(p: str, D: int, F: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield p + "gate_proj.weight", (F, D)
    yield p + "up_proj.weight", (F, D)
    yield p + "down_proj.weight", (D, F)


def packed_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in a packed directory: as in a text-only checkpoint with fused experts, gate and up apart."""
    c, fused = config, {f"model.layers.{i}.mlp.experts.gate_up_proj" for i in range(config.num_layers)}
    for name, shape in _expected(c, "model.", fused):
        if name in fused:
            p = name.removesuffix("gate_up_proj")
            yield p + "gate_proj", (c.E, c.F, c.D)
            yield p + "up_proj", (c.E, c.F, c.D)
        else:
            yield name, shape


class _Loader:
    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, expand: bool):
        self.checkpoint, self.config, self.expand = checkpoint, config, expand
        self.prefix = prefix_of(checkpoint, config)

    def model(self, extra: dict[str, int]) -> ModelWeights:
        p = self.prefix
        embed = self.matrix(p + "embed_tokens.weight")
        lm_head = embed if self.config.tie_word_embeddings else self.matrix("lm_head.weight")
        layers = tuple(self.layer(f"{p}layers.{i}.", kind) for i, kind in enumerate(self.config.layer_types))
        residency = "float32" if self.expand else "mapped"
        return ModelWeights(embed, layers, self.vector(p + "norm.weight"), lm_head, residency, extra)

    def layer(self, p: str, kind: str) -> LayerWeights:
        mixer = self.attention(p + "self_attn.") if kind == ATTENTION else self.delta_net(p + "linear_attn.")
        norms = (self.vector(p + "input_layernorm.weight"), self.vector(p + "post_attention_layernorm.weight"))
        return LayerWeights(norms[0], mixer, norms[1], self.mlp(p + "mlp."))

    def delta_net(self, p: str) -> DeltaNetWeights:
        names = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
        return DeltaNetWeights(
            **{name: self.matrix(f"{p}{name}.weight") for name in names},
            conv1d=self.vector(p + "conv1d.weight")[:, 0],
            dt_bias=self.vector(p + "dt_bias"),
            A_log=self.vector(p + "A_log"),
            norm=self.vector(p + "norm.weight"),
        )

    def attention(self, p: str) -> AttentionWeights:
        matrices = {name: self.matrix(f"{p}{name}.weight") for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        return AttentionWeights(**matrices, q_norm=self.vector(p + "q_norm.weight"), k_norm=self.vector(p + "k_norm.weight"))

    def mlp(self, p: str) -> MoEWeights | DenseWeights:
        if self.config.dense:
            return DenseWeights(gate_up=self.placed(self.gate_up(p)), down=self.matrix(p + "down_proj.weight"))
        return self.moe(p)

    def moe(self, p: str) -> MoEWeights:
        if p + "experts.gate_up_proj" in self.checkpoint.tensors:
            gate_up, down = (self.placed(self.stored(p + "experts." + n)) for n in ("gate_up_proj", "down_proj"))
        else:
            experts = [f"{p}experts.{e}." for e in range(self.config.E)]
            gate_up = self.placed(StoredExperts(p + "experts.gate_up", tuple(self.gate_up(q) for q in experts)))
            down = self.placed(
                StoredExperts(p + "experts.down", tuple(self.stored(q + "down_proj.weight") for q in experts))
            )
        return MoEWeights(
            router=self.matrix(p + "gate.weight"),
            gate_up=gate_up,
            down=down,
            shared_gate_up=self.placed(self.gate_up(p + "shared_expert.")),
            shared_down=self.matrix(p + "shared_expert.down_proj.weight"),
            shared_expert_gate=self.matrix(p + "shared_expert_gate.weight"),
        )

    def gate_up(self, p: str) -> StackedMatrix:
        return StackedMatrix(p + "gate_up", (self.stored(p + "gate_proj.weight"), self.stored(p + "up_proj.weight")))

    def stored(self, name: str) -> StoredMatrix | GptqMatrix:
        if gptq.is_gptq(name, self.checkpoint.tensors):
            return gptq.load(self.checkpoint, name, self.config.gptq.group, self.config.gptq.zero_offset)
        info = self.checkpoint.tensors[name]
        if info.dtype != FP8:
            return StoredMatrix(name, info.dtype, self.checkpoint.array(name))
        scale_name = name + SCALE
        scale = checked_finite(scale_name, to_f32(self.checkpoint.array(scale_name), self.checkpoint.tensors[scale_name].dtype))
        return StoredMatrix(name, info.dtype, self.checkpoint.array(name), scale, self.config.fp8.block)

    def matrix(self, name: str) -> Matrix:
        return self.placed(self.stored(name))

    def placed(self, matrix):
        """Decoded to float32 with its pages given back, or left where it is."""
        if not self.expand:
            return matrix
        values = np.array(matrix.f32(), np.float32, order="C")
        for name in names_of(matrix):
            self.checkpoint.release(name)
        values.flags.writeable = False
        return values

    def vector(self, name: str) -> np.ndarray:
        """A small tensor, decoded whatever happens to the matrices."""
        stored = self.stored(name)
        return checked_finite(name, np.array(to_f32(stored.stored, stored.dtype), np.float32))


class _PackedLoader(_Loader):
    """The same fields out of a packed directory; only small tensors are read."""

    def model(self, extra: dict[str, int]) -> ModelWeights:
        manifest = self.checkpoint.manifest
        return replace(super().model(extra), residency="packed", tiled_v_heads=manifest.tiled_v_heads)

    def matrix(self, name: str) -> Matrix:
        tensor = self.checkpoint.manifest.tensors[name]
        if name.endswith(KEPT_FLOAT):
            return self.vector(name)
        data = self.checkpoint.array(name)
        return checked_finite(name, data) if tensor.format == F32 else Tiles(name, FORMATS[tensor.format], tensor.shape, data)

    def mlp(self, p: str) -> MoEWeights | DenseWeights:
        if self.config.dense:
            gate_up = (self.matrix(p + "gate_proj.weight"), self.matrix(p + "up_proj.weight"))
            return DenseWeights(gate_up, down=self.matrix(p + "down_proj.weight"))
        return self.moe(p)

    def moe(self, p: str) -> MoEWeights:
        shared = p + "shared_expert."
        gate_up = (self.matrix(p + "experts.gate_proj"), self.matrix(p + "experts.up_proj"))
        return MoEWeights(
            router=self.matrix(p + "gate.weight"),
            gate_up=gate_up if any(isinstance(part, Tiles) for part in gate_up) else np.concatenate(gate_up, axis=1),
            down=self.matrix(p + "experts.down_proj"),
            shared_gate_up=(self.matrix(shared + "gate_proj.weight"), self.matrix(shared + "up_proj.weight")),
            shared_down=self.matrix(shared + "down_proj.weight"),
            shared_expert_gate=self.matrix(p + "shared_expert_gate.weight"),
        )


def names_of(matrix: StoredMatrix | StackedMatrix | StoredExperts) -> list[str]:
    """The tensors of the file that a matrix is made of."""
    if isinstance(matrix, StoredMatrix):
        return [matrix.name]
    if isinstance(matrix, GptqMatrix):
        return list(gptq.names_of_module(matrix.name)[:3])
    return [name for part in (matrix.parts if isinstance(matrix, StackedMatrix) else matrix.experts) for name in names_of(part)]
