"""What a model takes: bytes stored, bytes read per token, memory and operations, from its config and a preset.

Enter at `sizes`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from a3b.kernels.kv import PAGE_LEN, page_bytes
from a3b.model.config import ATTENTION, Axes, ModelConfig
from a3b.model.parameters import count_parameters
from a3b.model.tensor_names import Tensor, mtp_tensors, tensors_of
from a3b.packing.presets import format_for

WORK_BYTES = 1 << 30  # interpreter, tokenizer, buffers of a chunk; an allowance


@dataclass(frozen=True)
class Sizes:
    """Bytes of a packed model: of the text model, what one token reads of that, and all that is stored and in memory
    when it runs: with the MTP module, which drafts read."""

    total_bytes: int
    token_bytes: int
    stored_bytes: int


def sizes(config: ModelConfig, kinds: dict[str, str]) -> Sizes:
    """kinds: format name of each kind of matrix, as in PRESETS. Matrices without a kind are float32."""
    axes = config.axes
    total = token = 0
    for tensor, _ in tensors_of(config):
        num_bytes = _num_bytes(tensor, axes, kinds)
        total += num_bytes
        if tensor.is_routed:
            token += num_bytes // axes.E * axes.K
        elif tensor.role != "embed" or config.tie_word_embeddings:  # untied, a token reads one row of it
            token += num_bytes
    drafts = sum(_num_bytes(tensor, axes, kinds) for tensor, _ in mtp_tensors(config)) if config.mtp_layers == 1 else 0
    return Sizes(total, token, total + drafts)


def _num_bytes(tensor: Tensor, axes: Axes, kinds: dict[str, str]) -> int:
    *experts, rows, n = (1, *tensor.shape(axes))
    format = format_for(kinds, tensor.kind, n) if tensor.kind else None
    return math.prod(experts) * (format.num_bytes(rows, n) if format else 4 * rows * n)


def kv_bytes_per_token(config: ModelConfig, kv: str = "q8") -> int:
    """Keys and values, with their scales; also those of an MTP module."""
    return (
        (config.layer_types.count(ATTENTION) + (config.mtp_layers == 1))
        * config.num_key_value_heads
        * sum(page_bytes(kv, config.head_dim))
        // PAGE_LEN
    )


def state_bytes(config: ModelConfig) -> int:
    """Float32 matrices and windows of the delta-net layers; they do not grow with the context."""
    c, a = config, config.axes
    return 4 * (c.num_layers - c.layer_types.count(ATTENTION)) * (a.Hv * a.Dk * a.Dv + (a.conv_len - 1) * a.C)


def memory_bytes(config: ModelConfig, found: Sizes, context: int, kv: str = "q8") -> int:
    """Resident bytes of one conversation of `context` tokens."""
    return found.stored_bytes + state_bytes(config) + context * kv_bytes_per_token(config, kv) + WORK_BYTES


def longest_context(config: ModelConfig, found: Sizes, memory: int, most: int | None = None, kv: str = "q8") -> int:
    """Tokens that fit into `memory`, at most `most` or the native context; 0 if none fits."""
    left, most = memory - memory_bytes(config, found, 0), most or config.max_context
    each = kv_bytes_per_token(config, kv)
    return max(0, min(most, left // each)) if each else most


def operations(config: ModelConfig) -> int:
    """Integer multiplications and additions of a prompt token; lm_head computes for the last one only."""
    return 2 * (count_parameters(config).active - config.vocab_size * config.hidden_size)


def attention_operations(config: ModelConfig, num_tokens: int, start: int = 0) -> int:
    """Multiplications and additions of attention over keys and values, for `num_tokens` after `start` others: each
    meets all before it and itself."""
    met = num_tokens * start + num_tokens * (num_tokens + 1) // 2
    return 4 * config.layer_types.count(ATTENTION) * config.num_attention_heads * config.head_dim * met


def gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
