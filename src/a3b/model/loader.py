"""Checkpoint names to the typed fields a model is bound to: the only place that knows what tensors are called.

Everything expected is checked by name, shape and dtype before any data is touched, and all complaints are raised at
once. A number that is not finite is refused when it is decoded: at load what becomes float32, at each use what stays
mapped. Scales of tiles are not read for that; the packer has looked at them, `a3b verify` looks again, and the kernels
turn what meets one into NaN. Matrices then come as float32 arrays (decoded one by one, their source pages given back),
as views that decode where they are used, or as the tiles of a packed directory (`residency`): there is never a second
copy of the model. Enter at `load_weights`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from a3b.errors import TensorError
from a3b.formats import gptq
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.gptq import GptqMatrix
from a3b.formats.packed import F32
from a3b.formats.quant import FLOATS, to_f32
from a3b.formats.safetensors import TensorInfo
from a3b.formats.tiles import FORMATS, Tiles
from a3b.machine import Machine
from a3b.model.config import ATTENTION, ModelConfig
from a3b.model.matrices import Matrix, StackedMatrix, StoredExperts, StoredMatrix, checked_finite, names_of
from a3b.model.tensor_names import _expected, packed_tensors, prefix_of
from a3b.model.weights import AttentionWeights, DeltaNetWeights, DenseWeights, LayerWeights, ModelWeights, MoEWeights

EXTRAS = {"mtp": ("mtp.",), "vision": ("model.visual.", "visual.")}
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
SCALE = "_scale_inv"
FP8 = "F8_E4M3"
# in packed ones
KEPT_FLOAT = ("norm.weight", "conv1d.weight", "dt_bias", "A_log", "gate.weight", "in_proj_b.weight", "in_proj_a.weight")
MAX_COMPLAINTS = 5
EXPAND_SHARE = 0.5  # of the memory that is free: what float32 weights may take if nobody says otherwise


def load_weights(checkpoint: Checkpoint, config: ModelConfig, expand: bool | None = None) -> ModelWeights:
    """Check and load. expand: decode to float32 (True), leave mapped (False), or decide by the free memory (None); what
    is packed stays packed.

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
    complaints += [
        f"{name[:200]!r} is unknown; a {config.model_type} has no such tensor"
        for name in tensors.keys() - expected.keys()
    ]
    _complain(checkpoint, complaints)


def _complain(checkpoint: Checkpoint, complaints: list[str]) -> None:
    if complaints:
        more = f" (and {len(complaints) - MAX_COMPLAINTS} more)" if len(complaints) > MAX_COMPLAINTS else ""
        raise TensorError(f"{checkpoint.directory}: " + "; ".join(complaints[:MAX_COMPLAINTS]) + more)


def _complaints(
    name: str, shape: tuple[int, ...], tensors: dict[str, TensorInfo], config: ModelConfig
) -> Iterator[str]:
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
            yield (
                f"tensor {name + SCALE!r} is {scale.dtype} {list(scale.shape)}, "
                f"expected {list(wanted)} of {', '.join(FLOATS)}"
            )
    elif info.dtype not in FLOATS:
        yield f"tensor {name!r} is {info.dtype}; expected {', '.join((*FLOATS, FP8))}"
    elif scale is not None:
        yield f"tensor {name + SCALE!r} belongs to a tensor that is not {FP8}"


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
        return AttentionWeights(
            **matrices, q_norm=self.vector(p + "q_norm.weight"), k_norm=self.vector(p + "k_norm.weight")
        )

    def mlp(self, p: str) -> MoEWeights | DenseWeights:
        if self.config.dense:
            return DenseWeights(gate_up=self.placed(self.gate_up(p)), down=self.matrix(p + "down_proj.weight"))
        return self.moe(p)

    def moe(self, p: str) -> MoEWeights:
        if p + "experts.gate_up_proj" in self.checkpoint.tensors:
            gate_up, down = (self.placed(self.stored(p + "experts." + n)) for n in ("gate_up_proj", "down_proj"))
        else:
            experts = [f"{p}experts.{e}." for e in range(self.config.num_experts)]
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
        scale = checked_finite(
            scale_name, to_f32(self.checkpoint.array(scale_name), self.checkpoint.tensors[scale_name].dtype)
        )
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
        return (
            checked_finite(name, data)
            if tensor.format == F32
            else Tiles(name, FORMATS[tensor.format], tensor.shape, data)
        )

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
