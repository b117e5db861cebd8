"""What a model is: its sizes and constants, checked against each other.

Fields have the names of config.json; shapes are written with the letters of `ModelConfig.axes`. Knows no files. Enter
at `ModelConfig`; `a3b.model.config_reader` reads one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from a3b.errors import UsageError

MAX_CHOSEN, MAX_CONV = 64, 16  # experts of a token and taps of a convolution, as in the kernels (csrc/ops.h)
ATTENTION, DELTA = "full_attention", "linear_attention"
MAX_SIZE = 1 << 24  # no axis of a model is longer
MODEL_TYPES = {  # name -> wraps a text_config
    "qwen3_5_moe": True,
    "qwen3_5_moe_text": False,
    "qwen3_5": True,
    "qwen3_5_text": False,
}
PACKED = "a3b"  # quant_method of a packed directory; its manifest has the formats
YARN_FACTORS = (2.0, 4.0)


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: `rotary_dim` of Dh dimensions rotate. The fields from `factor` on are for type "yarn"."""

    type: str  # "default" or "yarn"
    theta: float
    rotary_dim: int
    mrope_section: tuple[int, int, int]
    factor: float = 1.0
    original_context: int = 0  # tokens the frequencies were trained for
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0  # multiplies cos and sin

    @property
    def scaling(self) -> str:
        """How positions are read, in words."""
        return "native positions" if self.type == "default" else f"YaRN factor {self.factor:g}"


@dataclass(frozen=True)
class Fp8Config:
    """Official block-scaled FP8: the block [rows, columns] of one scale, and the modules that are not converted."""

    block: tuple[int, int]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class GptqConfig:
    """GPTQ integers of 4 bits: columns of a group (-1: all), and 1 if zeros are stored one too small (version 1)."""

    group: int
    zero_offset: int


class Axes(NamedTuple):
    """Sizes of a model by the letters that name the axes of arrays: V ids, D hidden, Hq Hkv Dh attention heads, Hk Hv
    Dk Dv heads of the delta net, E experts, K chosen, F expert width, Fs shared width."""

    V: int
    D: int
    Hq: int
    Hkv: int
    Dh: int
    Hk: int
    Hv: int
    Dk: int
    Dv: int
    conv_len: int
    E: int
    K: int
    F: int
    Fs: int

    @property
    def C(self) -> int:
        """Channels of the convolution: queries, keys and values of the delta net."""
        return 2 * self.Hk * self.Dk + self.Hv * self.Dv


FIELD_OF = {  # letter of an axis -> field of ModelConfig
    "V": "vocab_size",
    "D": "hidden_size",
    "Hq": "num_attention_heads",
    "Hkv": "num_key_value_heads",
    "Dh": "head_dim",
    "Hk": "linear_num_key_heads",
    "Hv": "linear_num_value_heads",
    "Dk": "linear_key_head_dim",
    "Dv": "linear_value_head_dim",
    "conv_len": "linear_conv_kernel_dim",
    "E": "num_experts",
    "K": "num_experts_per_tok",
    "F": "intermediate_size",
    "Fs": "shared_expert_intermediate_size",
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a model, checked against each other."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    layer_types: tuple[str, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    num_experts: int  # 0 in a dense model, as the next one and the shared expert's width are
    num_experts_per_tok: int
    intermediate_size: int  # of each expert; of the one MLP of a layer in a dense model
    shared_expert_intermediate_size: int
    norm_eps: float
    max_context: int  # tokens, native
    tie_word_embeddings: bool
    rope: RopeConfig
    eos_token_ids: tuple[int, ...]
    mtp_layers: int = 0
    vision: dict[str, Any] | None = field(default=None, compare=False)
    fp8: Fp8Config | None = None
    gptq: GptqConfig | None = None

    @property
    def wrapped(self) -> bool:
        """Whether the checkpoint is the conditional-generation wrapper."""
        return MODEL_TYPES[self.model_type]

    @property
    def dense(self) -> bool:
        """Whether each layer has one MLP instead of experts."""
        return self.num_experts == 0

    @property
    def axes(self) -> Axes:
        """The sizes under the letters of shapes and kernels."""
        return Axes(*(getattr(self, FIELD_OF[axis]) for axis in Axes._fields))

    def identity(self) -> dict[str, Any]:
        """Everything that determines what the model computes, as JSON values.

        Stored states are found by a digest of it, so its keys stay as they were when the first stores were written:
        letters for the axes."""
        words = FIELD_OF.values()
        facts = {name: value for name, value in asdict(self).items() if name not in words and name != "vision"}
        return facts | self.axes._asdict()


def with_context(config: ModelConfig, num_tokens: int) -> tuple[ModelConfig, str | None]:
    """The config for a context of `num_tokens`, and a note for the user if positions are scaled for it.

    Up to the native length nothing changes; beyond it, YaRN uses the smaller sufficient factor of 2 and 4. Scaling in
    config.json takes precedence. Raises UsageError beyond four times the native length.
    """
    if num_tokens < 1:
        raise UsageError(f"context: {num_tokens}; expected a positive number of tokens")
    rope, native = config.rope, config.max_context
    if rope.type == "yarn":
        most = max(native, math.floor(rope.factor * rope.original_context))
        if num_tokens > most:
            raise UsageError(f"context: {num_tokens} tokens; config.json scales RoPE for at most {most}")
        return config, f"context {num_tokens:,}: positions are read with {rope.scaling}, as config.json says"
    if num_tokens <= native:
        return config, None
    for factor in YARN_FACTORS:
        if num_tokens <= factor * native:
            scaled = replace(
                rope, type="yarn", factor=factor, original_context=native, attention_factor=0.1 * math.log(factor) + 1
            )
            note = (
                f"context {num_tokens:,} is beyond the native {native:,}: positions are read with {scaled.scaling}, "
                "those of short prompts too, which can lose quality by it; sessions are kept apart from native ones"
            )
            return replace(config, rope=scaled), note
    raise UsageError(
        f"context: {num_tokens} tokens; at most {int(YARN_FACTORS[-1] * native)}, "
        f"4 times the native {native}, are possible"
    )
