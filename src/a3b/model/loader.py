"""Reads a checkpoint into the typed fields a model is bound to: Hugging Face files, FP8, GPTQ, or a packed directory.

Everything expected is checked by name, shape and dtype before any data is touched, and all complaints are raised at
once. A number that is not finite is refused when it is decoded: on loading if it becomes float32, at each use if it
stays mapped. Scales of tiles are not checked here: the packer and `a3b verify` check them, and kernels turn whatever
depends on a bad one into NaN. Matrices come as float32 arrays (decoded one by one, their source pages given back), as
views that decode where they are used, or as the tiles of a packed directory (`residency`): there is never a second copy
of the model. Names of tensors come from `a3b.model.tensor_names`. Enter at `load_weights`."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from a3b.errors import TensorError
from a3b.formats import gptq
from a3b.formats.checkpoint import Checkpoint
from a3b.formats.gptq import GptqMatrix
from a3b.formats.packed import F32, Manifest
from a3b.formats.quant import FLOATS, to_f32
from a3b.formats.safetensors import SafetensorsFile, TensorInfo
from a3b.formats.tiles import FORMATS, Tiles
from a3b.kernels import GateUp, Matrix
from a3b.machine import Machine
from a3b.model.config import ModelConfig
from a3b.model.matrices import Decodable, StackedMatrix, StoredExperts, StoredMatrix, checked_finite, names_of
from a3b.model.parameters import count_parameters
from a3b.model.tensor_names import (
    BY_ROLE,
    GATE_UP,
    TEXT,
    WRAPPED_TEXT,
    Shape,
    Tensor,
    is_mtp,
    layer_name,
    mtp_fault,
    mtp_tensors,
    num_mtp_layers,
    tensors_of,
)
from a3b.model.weights import Floats, ModelWeights, assemble

VISION = ("model.visual.", "visual.")
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)
SCALE = "_scale_inv"
FP8 = "F8_E4M3"
MAX_COMPLAINTS = 5
EXPAND_SHARE = 0.5  # of the free memory: what float32 weights may take by default


def load_weights(
    checkpoint: Checkpoint,
    config: ModelConfig,
    expand: bool | None = None,
    mtp: bool | None = None,
    deferred: list[str] | None = None,
    late: bool = False,
) -> ModelWeights:
    """Check and load all weights.

    expand: decode to float32 (True), leave mapped (False), or decide by the free memory (None); packed weights stay
    packed. mtp: load that module if there is one (True), only check its tensors
    (None), or pass over them (False). deferred: if given, only the headers are here: with expand False no number is
    read, vectors are zeros, and the names of tensors to be read later are appended. late: with expand False, scales and
    orders of matrices are checked at use, as they are then. Raises TensorError for a tensor
    that is missing, misshapen, of an unreadable dtype, or unknown.
    """
    extra = check_tensors(checkpoint, config, mtp is not False)
    loads = mtp is True and has_mtp(checkpoint, config)
    if loads:
        del extra["mtp"]
    if manifest := checkpoint.manifest:
        source = _PackedTensors(checkpoint, manifest, config)
        return assemble(config, source, "packed", extra, manifest.tiled_v_heads, loads)
    if expand is None:
        expand = 4 * count_parameters(config).total <= EXPAND_SHARE * Machine.read().memory_bytes
    stored = _StoredTensors(checkpoint, config, expand, deferred, late or deferred is not None)
    return assemble(config, stored, "float32" if expand else "mapped", extra, mtp=loads)


def has_mtp(checkpoint: Checkpoint, config: ModelConfig) -> bool:
    """Whether there is an MTP module of the kind that can be loaded."""
    return any(map(is_mtp, checkpoint.tensors)) and why_no_mtp(checkpoint, config) is None


def as_stored(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """The config with as many MTP layers as the files have: a fine-tune's often names one that was left out."""
    return replace(config, mtp_layers=num_mtp_layers(checkpoint.tensors))


def files_of_text(checkpoint: Checkpoint) -> list[SafetensorsFile]:
    """The files of a checkpoint that hold more than its MTP module."""
    return [file for file in checkpoint.files if not all(map(is_mtp, file.tensors))]


def why_no_mtp(checkpoint: Checkpoint, config: ModelConfig) -> str | None:
    """What keeps the MTP module of a checkpoint from being loaded, as the end of a sentence; None: nothing."""
    names = [name for name in checkpoint.tensors if is_mtp(name)]
    return mtp_fault(max(num_mtp_layers(names), config.mtp_layers), names) if names else None


def check_tensors(checkpoint: Checkpoint, config: ModelConfig, mtp: bool = True) -> dict[str, int]:
    """Check every tensor against the config; the counts of weights beside the text model, by kind.

    mtp: check also an MTP module that can be loaded."""
    if checkpoint.manifest:
        return _check_packed(checkpoint, checkpoint.manifest, config)
    tensors, module = checkpoint.tensors, mtp and has_mtp(checkpoint, config)
    expected = {wanted.name: wanted for wanted in _expected(config, _text_prefix(checkpoint, config), tensors, module)}
    complaints: list[str] = []
    modules: set[str] = set()
    for name, wanted in expected.items():
        complaints += _complaints(wanted, tensors, config)
        if gptq.is_gptq(name, tensors):
            modules.update(gptq.names_of_module(name))
    extra = {"mtp": _mtp_count(config) if module else 0, "vision": 0}
    for name, info in tensors.items():
        if name.startswith(VISION) or (is_mtp(name) and not module):
            kind = "mtp" if is_mtp(name) else "vision"
            extra[kind] += math.prod(info.shape) if not name.endswith(SCALE) else 0
        elif name.removesuffix(SCALE) not in expected and name not in modules and not name.endswith(IGNORED_SUFFIXES):
            complaints.append(f"{name[:200]!r} is unknown; a {config.model_type} has no such tensor")
    _complain(checkpoint, complaints)
    return {kind: count for kind, count in extra.items() if count}


def _mtp_count(config: ModelConfig) -> int:
    return sum(math.prod(tensor.shape(config.axes)) for tensor, _ in mtp_tensors(config))


class _Wanted(NamedTuple):
    """A tensor that the files must hold, and the line of the list that it belongs to."""

    name: str
    shape: Shape
    tensor: Tensor


def _text_prefix(checkpoint: Checkpoint, config: ModelConfig) -> str:
    """What the names of the text model begin with."""
    usual = (WRAPPED_TEXT, TEXT) if config.wrapped else (TEXT, WRAPPED_TEXT)
    return next((text for text in usual if BY_ROLE["embed"].full_name(None, text) in checkpoint.tensors), usual[0])


def _expected(config: ModelConfig, text: str, present: Container[str], mtp: bool) -> Iterator[_Wanted]:
    """The text model, and the MTP module; experts fused or one by one, whichever the checkpoint has."""
    axes = config.axes
    for tensor, layer in chain(tensors_of(config), mtp_tensors(config) if mtp else ()):
        name, shape = tensor.full_name(layer, text), tensor.shape(axes)
        if layer is None or not tensor.is_routed:
            yield _Wanted(name, shape, tensor)
        elif (fused := layer_name(GATE_UP, layer, text)) not in present:
            yield from (_Wanted(tensor.expert_name(layer, e, text), shape[1:], tensor) for e in range(axes.E))
        elif tensor.half is None:
            yield _Wanted(name, shape, tensor)
        elif tensor.half == 0:
            yield _Wanted(fused, (shape[0], 2 * shape[1], shape[2]), tensor)


def _check_packed(checkpoint: Checkpoint, manifest: Manifest, config: ModelConfig) -> dict[str, int]:
    tensors, complaints, mtp = manifest.tensors, [], any(map(is_mtp, manifest.tensors))
    listed = chain(tensors_of(config), mtp_tensors(config) if mtp else ())
    expected = {tensor.full_name(layer): tensor for tensor, layer in listed}
    for name, tensor in expected.items():
        shape = tensor.shape(config.axes)
        if name not in tensors:
            complaints.append(f"tensor {name!r} is missing")
        elif tensors[name].shape != shape:
            complaints.append(f"tensor {name!r} has shape {list(tensors[name].shape)}, expected {list(shape)}")
        elif tensors[name].format != F32 and tensor.kind is None:
            complaints.append(f"tensor {name!r} is {tensors[name].format}, expected {F32}")
    complaints += [
        f"{name[:200]!r} is unknown; a {config.model_type} has no such tensor"
        for name in tensors.keys() - expected.keys()
    ]
    _complain(checkpoint, complaints)
    return {"mtp": _mtp_count(config)} if mtp else {}


def _complain(checkpoint: Checkpoint, complaints: list[str]) -> None:
    if complaints:
        more = f" (and {len(complaints) - MAX_COMPLAINTS} more)" if len(complaints) > MAX_COMPLAINTS else ""
        raise TensorError(f"{checkpoint.directory}: " + "; ".join(complaints[:MAX_COMPLAINTS]) + more)


def _complaints(wanted: _Wanted, tensors: Mapping[str, TensorInfo], config: ModelConfig) -> Iterator[str]:
    name, shape, tensor = wanted
    if gptq.is_gptq(name, tensors):
        yield from gptq.complaints(name, shape, tensors, config.gptq.group if config.gptq else None)
        return
    info = tensors.get(name)
    if info is None:
        yield f"tensor {name!r} is missing"
        return
    if info.shape != shape:
        yield f"tensor {name!r} has shape {list(info.shape)}, expected {list(shape)}"
    scale = tensors.get(name + SCALE)
    if info.dtype == FP8:
        yield from _fp8_complaints(wanted, scale, config)
    elif info.dtype not in FLOATS:
        yield f"tensor {name!r} is {info.dtype}; expected {', '.join((*FLOATS, FP8))}"
    elif scale is not None:
        yield f"tensor {name + SCALE!r} belongs to a tensor that is not {FP8}"


def _fp8_complaints(wanted: _Wanted, scale: TensorInfo | None, config: ModelConfig) -> Iterator[str]:
    name, shape, tensor = wanted
    if config.fp8 is None:
        yield f"tensor {name!r} is {FP8}, but config.json has no quantization_config"
        return
    if tensor.is_vector:
        yield f"tensor {name!r} is {FP8}; expected {', '.join(FLOATS)}: only a matrix may be {FP8}"
        return
    rows, columns = config.fp8.block
    blocks = (*shape[:-2], -(-shape[-2] // rows), -(-shape[-1] // columns))
    if scale is None:
        yield f"tensor {name + SCALE!r} is missing"
    elif scale.shape != blocks or scale.dtype not in FLOATS:
        yield (
            f"tensor {name + SCALE!r} is {scale.dtype} {list(scale.shape)}, "
            f"expected {list(blocks)} of {', '.join(FLOATS)}"
        )


class _StoredTensors:
    """What `assemble` asks a checkpoint for: Hugging Face names, numbers in floats, FP8 or GPTQ."""

    def __init__(
        self, checkpoint: Checkpoint, config: ModelConfig, expand: bool, deferred: list[str] | None, late: bool
    ):
        self.checkpoint, self.config, self.expand = checkpoint, config, expand
        self.deferred, self.late = deferred, late
        self.text = _text_prefix(checkpoint, config)

    def vector(self, tensor: Tensor, layer: int | None) -> Floats:
        name = tensor.full_name(layer, self.text)
        if self.deferred is not None:
            self.deferred.append(name)
            return np.zeros(tensor.memory_shape(self.config.axes), np.float32)
        values = np.array(to_f32(self.checkpoint.array(name), self.checkpoint.tensors[name].dtype), np.float32)
        return checked_finite(name, values).reshape(tensor.memory_shape(self.config.axes))

    def matrix(self, tensor: Tensor, layer: int | None) -> Matrix:
        if layer is None or not tensor.is_routed or self._is_fused(layer):
            return self._placed(self._stored(tensor.full_name(layer, self.text)))
        experts = tuple(self._stored(tensor.expert_name(layer, e, self.text)) for e in range(self.config.num_experts))
        return self._placed(StoredExperts(tensor.full_name(layer, self.text), experts))

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> Matrix:
        name = gate.full_name(layer, self.text)
        if not gate.is_routed:
            return self._placed(self._stacked(name, up.full_name(layer, self.text)))
        if self._is_fused(layer):
            return self._placed(self._stored(layer_name(GATE_UP, layer, self.text)))
        experts = (
            self._stacked(gate.expert_name(layer, e, self.text), up.expert_name(layer, e, self.text))
            for e in range(self.config.num_experts)
        )
        return self._placed(StoredExperts(name, tuple(experts)))

    def _is_fused(self, layer: int) -> bool:
        return layer_name(GATE_UP, layer, self.text) in self.checkpoint.tensors

    def _stacked(self, gate: str, up: str) -> StackedMatrix:
        return StackedMatrix(gate, (self._stored(gate), self._stored(up)))

    def _stored(self, name: str) -> StoredMatrix | GptqMatrix:
        tensors, fp8 = self.checkpoint.tensors, self.config.fp8
        if self.config.gptq and gptq.is_gptq(name, tensors):
            group, zero_offset = self.config.gptq.group, self.config.gptq.zero_offset
            return gptq.load(self.checkpoint, name, group, zero_offset, self.late)
        dtype, stored = tensors[name].dtype, self.checkpoint.array(name)
        if dtype != FP8 or fp8 is None:
            return StoredMatrix(name, dtype, stored)
        scale, scale_dtype = self.checkpoint.array(name + SCALE), tensors[name + SCALE].dtype
        if not self.late:
            checked_finite(name + SCALE, to_f32(scale, scale_dtype))
        return StoredMatrix(name, dtype, stored, scale, fp8.block, scale_dtype)

    def _placed(self, matrix: Decodable) -> Matrix:
        """Decoded to float32 with its pages given back, or left where it is."""
        if not self.expand:
            return matrix
        values = np.array(matrix.f32(), np.float32, order="C")
        for name in names_of(matrix):
            self.checkpoint.release(name)
        values.flags.writeable = False
        return values


class _PackedTensors:
    """What `assemble` asks a packed directory for; only small tensors are read."""

    def __init__(self, checkpoint: Checkpoint, manifest: Manifest, config: ModelConfig):
        self.checkpoint, self.manifest, self.config = checkpoint, manifest, config

    def vector(self, tensor: Tensor, layer: int | None) -> Floats:
        return self._read(tensor.full_name(layer)).reshape(tensor.memory_shape(self.config.axes))

    def matrix(self, tensor: Tensor, layer: int | None) -> np.ndarray | Tiles:
        name = tensor.full_name(layer)
        if tensor.kind is None:
            return self._read(name)
        packed, data = self.manifest.tensors[name], self.checkpoint.array(name)
        if packed.format == F32:
            return checked_finite(name, data)
        return Tiles(name, FORMATS[packed.format], packed.shape, data)

    def gate_up(self, gate: Tensor, up: Tensor, layer: int) -> GateUp:
        first, second = self.matrix(gate, layer), self.matrix(up, layer)
        if gate.is_routed and isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
            return np.concatenate((first, second), axis=1)
        return first, second

    def _read(self, name: str) -> Floats:
        return checked_finite(name, np.array(self.checkpoint.array(name), np.float32))
