"""The tensors of the model, each written once: its names in every kind of file, its shape, and what becomes of it.

The loader (Hugging Face, FP8, GPTQ and packed directories), the packer, the GGUF source, random weights and all counts
read `TENSORS`; no other module spells a tensor's name. To add a tensor, add a line here, and a field to
`a3b.model.weights` if the forward pass reads it. The MTP module, which drafts tokens, is a layer of attention with the
number `MTP_LAYER` and a few tensors of its own, `Place.MTP`. Enter at `tensors_of` and `mtp_tensors`. Source of the
names: Qwen3_5MoeModel of transformers and Qwen3_5MultiTokenPredictor of vLLM; for GGUF files gguf-py/gguf/constants.py
of llama.cpp."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby

import numpy as np
import numpy.typing as npt

from a3b.model.config import ATTENTION, Axes, ModelConfig

Shape = tuple[int, ...]
TEXT, WRAPPED_TEXT = "model.", "model.language_model."  # before the names of a text model: alone, inside the wrapper
ROUTED = ".experts."  # in the name of whatever belongs to the routed experts
GATE_UP = "mlp.experts.gate_up_proj"  # of a checkpoint: gate and up of all experts in one, [E, 2F, D], gate rows first
GGUF_GATE_UP = "ffn_gate_up_exps.weight"  # the same in a GGUF file
MTP = "mtp."  # before the names of the MTP module
MTP_LAYER = -1  # its one layer, wherever a layer has a number
SHARED_WITH_TEXT = ("embed_tokens", "lm_head", "shared_head_head")  # in names of an MTP module that has its own


class Place(Enum):
    """Where a tensor occurs."""

    HEAD = auto()  # once, outside the layers of the text model
    MODEL = auto()  # once, in the text model
    LAYER = auto()  # in every layer; below, in every layer that has such a part
    ATTENTION = auto()
    DELTA = auto()
    MOE = auto()
    DENSE = auto()
    MTP = auto()  # once, in the MTP module, beside its layer


def _sub_1(values: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """A norm's weights are around 1 in a GGUF file, around 0 here."""
    return values - np.float32(1)


def _log_neg(values: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """A GGUF file holds -exp(A_log)."""
    return np.log(-values.astype(np.float64))


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model; one for each layer, unless it occurs once."""

    role: str  # its name in the program
    place: Place
    name: str  # in checkpoints and packed directories, after what `full_name` adds
    axes: str  # products of axes of the shape there
    gguf: str | None  # name in a GGUF file; None: no such file has it
    kind: str | None = None  # of matrix, for which a preset chooses a format; None: stays float32
    memory: str | None = None  # axes in `ModelWeights`, if not as stored
    in_gguf: str | None = None  # axes in a GGUF file, if not as in a checkpoint
    undo: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating]] | None = None  # what a GGUF writer did to it

    def shape(self, axes: Axes) -> Shape:
        """Its shape in checkpoints and packed directories."""
        return _shape(self.axes, axes)

    def memory_shape(self, axes: Axes) -> Shape:
        """Its shape in `ModelWeights`."""
        return _shape(self.memory or self.axes, axes)

    def gguf_shape(self, axes: Axes) -> Shape:
        """Its shape in a GGUF file."""
        return _shape(self.in_gguf or self.axes, axes)

    @property
    def is_vector(self) -> bool:
        """Whether it is not a matrix: small, never in FP8, and decoded on loading."""
        return self.kind is None and self.axes.count(" ") != 1

    @property
    def is_routed(self) -> bool:
        """Whether it holds the routed experts, of which a token reads K of E."""
        return ROUTED in self.name

    @property
    def half(self) -> int | None:
        """0 for gate and 1 for up: the first and the second half of the rows where a model holds both as one."""
        return {"gate": 0, "up": 1}.get(self.role.rpartition(".")[2])

    def full_name(self, layer: int | None, text: str = TEXT) -> str:
        """Its name where names of the text model begin with `text`. layer: None if it occurs once."""
        if self.place in (Place.HEAD, Place.MTP):
            return self.name
        return text + self.name if layer is None else layer_name(self.name, layer, text)

    def expert_name(self, layer: int, expert: int, text: str = TEXT) -> str:
        """The name of one expert's matrix in a checkpoint that stores experts one by one."""
        head, _, tail = self.full_name(layer, text).rpartition(".")
        return f"{head}.{expert}.{tail}.weight"

    def gguf_name(self, layer: int | None) -> str:
        return str(self.gguf) if layer is None else gguf_layer_name(str(self.gguf), layer)


TENSORS = (  # in the order of packed directories
    Tensor("embed", Place.MODEL, "embed_tokens.weight", "V D", "token_embd.weight", "embed"),
    Tensor("input_norm", Place.LAYER, "input_layernorm.weight", "D", "attn_norm.weight", undo=_sub_1),
    # of each head the query, then the gate
    Tensor("q_proj", Place.ATTENTION, "self_attn.q_proj.weight", "2*Hq*Dh D", "attn_q.weight", "attention_in"),
    Tensor("k_proj", Place.ATTENTION, "self_attn.k_proj.weight", "Hkv*Dh D", "attn_k.weight", "attention_in"),
    Tensor("v_proj", Place.ATTENTION, "self_attn.v_proj.weight", "Hkv*Dh D", "attn_v.weight", "attention_in"),
    Tensor("o_proj", Place.ATTENTION, "self_attn.o_proj.weight", "D Hq*Dh", "attn_output.weight", "attention_out"),
    Tensor("q_norm", Place.ATTENTION, "self_attn.q_norm.weight", "Dh", "attn_q_norm.weight", undo=_sub_1),
    Tensor("k_norm", Place.ATTENTION, "self_attn.k_norm.weight", "Dh", "attn_k_norm.weight", undo=_sub_1),
    Tensor("in_proj_qkv", Place.DELTA, "linear_attn.in_proj_qkv.weight", "C D", "attn_qkv.weight", "delta_in"),
    Tensor("in_proj_z", Place.DELTA, "linear_attn.in_proj_z.weight", "Hv*Dv D", "attn_gate.weight", "delta_in"),
    Tensor("in_proj_b", Place.DELTA, "linear_attn.in_proj_b.weight", "Hv D", "ssm_beta.weight"),
    Tensor("in_proj_a", Place.DELTA, "linear_attn.in_proj_a.weight", "Hv D", "ssm_alpha.weight"),
    Tensor(
        "conv1d",
        Place.DELTA,
        "linear_attn.conv1d.weight",
        "C 1 conv_len",
        "ssm_conv1d.weight",
        memory="C conv_len",
        in_gguf="C conv_len",
    ),
    Tensor("dt_bias", Place.DELTA, "linear_attn.dt_bias", "Hv", "ssm_dt.bias"),
    Tensor("A_log", Place.DELTA, "linear_attn.A_log", "Hv", "ssm_a", undo=_log_neg),
    Tensor("delta_norm", Place.DELTA, "linear_attn.norm.weight", "Dv", "ssm_norm.weight"),  # around 1 everywhere
    Tensor("out_proj", Place.DELTA, "linear_attn.out_proj.weight", "D Hv*Dv", "ssm_out.weight", "delta_out"),
    Tensor("post_norm", Place.LAYER, "post_attention_layernorm.weight", "D", "post_attention_norm.weight", undo=_sub_1),
    Tensor("gate", Place.DENSE, "mlp.gate_proj.weight", "F D", "ffn_gate.weight", "experts"),
    Tensor("up", Place.DENSE, "mlp.up_proj.weight", "F D", "ffn_up.weight", "experts"),
    Tensor("down", Place.DENSE, "mlp.down_proj.weight", "D F", "ffn_down.weight", "down"),
    Tensor("router", Place.MOE, "mlp.gate.weight", "E D", "ffn_gate_inp.weight"),
    Tensor("shared_gate", Place.MOE, "mlp.shared_expert_gate.weight", "1 D", "ffn_gate_inp_shexp.weight", in_gguf="D"),
    Tensor("shared.gate", Place.MOE, "mlp.shared_expert.gate_proj.weight", "Fs D", "ffn_gate_shexp.weight", "shared"),
    Tensor("shared.up", Place.MOE, "mlp.shared_expert.up_proj.weight", "Fs D", "ffn_up_shexp.weight", "shared"),
    Tensor("experts.gate", Place.MOE, "mlp.experts.gate_proj", "E F D", "ffn_gate_exps.weight", "experts"),
    Tensor("experts.up", Place.MOE, "mlp.experts.up_proj", "E F D", "ffn_up_exps.weight", "experts"),
    Tensor("shared.down", Place.MOE, "mlp.shared_expert.down_proj.weight", "D Fs", "ffn_down_shexp.weight", "shared"),
    Tensor("experts.down", Place.MOE, "mlp.experts.down_proj", "E D F", "ffn_down_exps.weight", "down"),
    Tensor("norm", Place.MODEL, "norm.weight", "D", "output_norm.weight", undo=_sub_1),
    Tensor("lm_head", Place.HEAD, "lm_head.weight", "V D", "output.weight", "lm_head"),
    # columns for the next token's embedding, then for the hidden state
    Tensor("mtp.fc", Place.MTP, "mtp.fc.weight", "D 2*D", "nextn.eh_proj.weight", "attention_in"),
    Tensor(
        "mtp.embedding_norm",
        Place.MTP,
        "mtp.pre_fc_norm_embedding.weight",
        "D",
        "nextn.enorm.weight",
        undo=_sub_1,
    ),
    Tensor("mtp.hidden_norm", Place.MTP, "mtp.pre_fc_norm_hidden.weight", "D", "nextn.hnorm.weight", undo=_sub_1),
    Tensor("mtp.norm", Place.MTP, "mtp.norm.weight", "D", "nextn.shared_head_norm.weight", undo=_sub_1),
)
BY_ROLE = {tensor.role: tensor for tensor in TENSORS}


def tensors_of(config: ModelConfig) -> Iterator[tuple[Tensor, int | None]]:
    """Every tensor of a model with the index of its layer (None: it occurs once), in the order of a packed
    directory, without those of its MTP module."""
    listed = (tensor for tensor in TENSORS if tensor.place is not Place.MTP)
    for once, group in groupby(listed, lambda tensor: tensor.place in (Place.HEAD, Place.MODEL)):
        if once:
            yield from ((t, None) for t in group if t.role != "lm_head" or not config.tie_word_embeddings)
            continue
        per_layer = list(group)
        for layer in range(config.num_layers):
            places = places_of(config, layer)
            yield from ((tensor, layer) for tensor in per_layer if tensor.place in places)


def mtp_tensors(config: ModelConfig) -> Iterator[tuple[Tensor, int]]:
    """Every tensor of the MTP module of such a model, with `MTP_LAYER`."""
    places = places_of(config, MTP_LAYER)
    yield from ((tensor, MTP_LAYER) for tensor in TENSORS if tensor.place in places)


def places_of(config: ModelConfig, layer: int) -> tuple[Place, ...]:
    """The parts that a layer has."""
    mlp = Place.DENSE if config.dense else Place.MOE
    if layer == MTP_LAYER:
        return Place.LAYER, Place.ATTENTION, mlp, Place.MTP
    return Place.LAYER, Place.ATTENTION if config.layer_types[layer] == ATTENTION else Place.DELTA, mlp


def is_mtp(name: str) -> bool:
    """Whether a tensor of a checkpoint or a packed directory belongs to the MTP module."""
    return name.startswith(MTP)


def num_mtp_layers(names: Iterable[str]) -> int:
    """Layers of the MTP module by the names of a checkpoint's tensors; 0: none of them is of such a layer."""
    found = (re.match(r"mtp\.layers\.(\d{1,5})\.", name, re.ASCII) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def mtp_fault(num_layers: int, names: Iterable[str]) -> str | None:
    """Why an MTP module of so many layers cannot be used, as the end of a sentence. names: of its tensors."""
    if num_layers > 1:
        return f"it has {num_layers} layers; a3b uses one"
    own = next((name for name in names if any(part in name for part in SHARED_WITH_TEXT)), None)
    return f"it has an embedding or a head of its own ({own[:80]}); a3b shares the model's" if own else None


def layer_name(name: str, layer: int, text: str = TEXT) -> str:
    return f"{MTP}layers.0.{name}" if layer == MTP_LAYER else f"{text}layers.{layer}.{name}"


def gguf_layer_name(name: str, layer: int) -> str:
    return f"blk.{layer}.{name}"


def gguf_layer_of(name: str) -> int | None:
    """The layer that a tensor of a GGUF file belongs to by its name, which may be anything."""
    found = re.match(r"blk\.(\d{1,5})(?:\.|$)", name, re.ASCII)
    return int(found[1]) if found else None


def _shape(expression: str, axes: Axes) -> Shape:
    """What "2*Hq*Dh D" says for these axes."""

    def size(factor: str) -> int:
        return int(factor) if factor.isdigit() else int(getattr(axes, factor))

    return tuple(math.prod(map(size, product.split("*"))) for product in expression.split())
