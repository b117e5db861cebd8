"""What a model takes: bytes stored, bytes read per token, memory and operations, from its config and a preset.

Enter at `sizes`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from a3b.commands.draft_sizes import DraftSizes, draft_sizes
from a3b.formats.packed import PackedTensor
from a3b.formats.tiles import TILE_ROWS
from a3b.kernels.kv import PAGE_LEN, page_bytes
from a3b.model.config import ATTENTION, Axes, ModelConfig
from a3b.model.parameters import count_parameters
from a3b.model.tensor_names import BY_ROLE, Tensor, is_mtp, mtp_tensors, tensors_of
from a3b.packing.presets import format_for

WORK_BYTES = 768 << 20  # interpreter, tokenizer, buffers of a chunk: an allowance; 0.5 GB was found (docs/log.md)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a packed model: of the text model, what one token reads of that, and all that is stored and in memory
    when it runs: with the MTP module, which drafts read."""

    total_bytes: int
    token_bytes: int
    stored_bytes: int
    head_row_bytes: int = 0  # of lm_head, of which drafts copy rows


@dataclass(frozen=True)
class Use:
    """What a model is run for. answers: written at once; drafts: whether tokens are read ahead of them; kv: how keys
    and values are kept."""

    answers: int = 1
    drafts: bool = True
    kv: str = "q8"


def sizes(config: ModelConfig, kinds: dict[str, str]) -> Sizes:
    """kinds: format name of each kind of matrix, as in PRESETS. Matrices without a kind are float32."""
    axes = config.axes
    total = token = head = 0
    for tensor, _ in tensors_of(config):
        num_bytes = _num_bytes(tensor, axes, kinds)
        total += num_bytes
        if tensor.role == ("embed" if config.tie_word_embeddings else "lm_head"):
            head = _row_bytes(num_bytes, axes.V)
        if tensor.is_routed:
            token += num_bytes // axes.E * axes.K
        elif tensor.role != "embed" or config.tie_word_embeddings:  # untied, a token reads one row of it
            token += num_bytes
    drafts = sum(_num_bytes(tensor, axes, kinds) for tensor, _ in mtp_tensors(config)) if config.mtp_layers == 1 else 0
    return Sizes(total, token, total + drafts, head)


def as_packed(config: ModelConfig, tensors: Iterable[PackedTensor]) -> tuple[ModelConfig, Sizes]:
    """The config with an MTP module only if these tensors have one, and their sizes but for what a token reads."""
    head = BY_ROLE["embed" if config.tie_word_embeddings else "lm_head"].name
    text = module = head_row = 0
    for tensor in tensors:
        if is_mtp(tensor.name):
            module += tensor.num_bytes
            continue
        text += tensor.num_bytes
        if tensor.name.endswith(head):
            head_row = _row_bytes(tensor.num_bytes, config.vocab_size)
    return replace(config, mtp_layers=int(module > 0)), Sizes(text, 0, text + module, head_row)


def _row_bytes(num_bytes: int, num_rows: int) -> int:
    """Of a matrix in tiles, whose rows are padded to whole ones."""
    return num_bytes // (-(-num_rows // TILE_ROWS) * TILE_ROWS)


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


NO_DRAFTS = DraftSizes(fed=0, logits=0, trail=0, rare=0, frequent=0, moved=0, token=0)


def drafts_of(config: ModelConfig, found: Sizes, use: Use) -> DraftSizes:
    """What drafts add, beside the weights, keys and values of an MTP module."""
    return draft_sizes(config, found.head_row_bytes) if use.drafts else NO_DRAFTS


def memory_bytes(config: ModelConfig, found: Sizes, context: int, use: Use | None = None) -> int:
    """Resident bytes with `context` tokens in all answers together."""
    use = use or Use()
    fixed = use.answers * state_bytes(config) + drafts_of(config, found, use).of(use.answers) + WORK_BYTES
    weights = found.stored_bytes if use.drafts else found.total_bytes
    return weights + fixed + context * _each_token(config, found, use)


def longest_context(
    config: ModelConfig, found: Sizes, memory: int, most: int | None = None, use: Use | None = None
) -> int:
    """Tokens that fit into `memory`, at most `most` or the native context; 0 if none fits."""
    use, most = use or Use(), most or config.max_context
    left, each = memory - memory_bytes(config, found, 0, use), _each_token(config, found, use)
    return max(0, min(most, left // each)) if each else most


def _each_token(config: ModelConfig, found: Sizes, use: Use) -> int:
    own = config if use.drafts else replace(config, mtp_layers=0)
    return kv_bytes_per_token(own, use.kv) + drafts_of(config, found, use).token


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
