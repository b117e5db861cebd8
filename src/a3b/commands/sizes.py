"""What a model takes: bytes stored and read for a token, memory, operations; sums over a config and the formats of a
preset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from a3b.kernels.kv import PAGE_LEN, page_bytes
from a3b.model.config import ATTENTION, ModelConfig
from a3b.packing.presets import format_for

WORK_BYTES = 1 << 30  # interpreter, tokenizer, buffers of a chunk; an allowance


@dataclass(frozen=True)
class Sizes:
    """Bytes of a packed model: all of it, and what one token reads of it."""

    total_bytes: int
    token_bytes: int


def sizes(config: ModelConfig, kinds: dict[str, str]) -> Sizes:
    """kinds: format name of each kind of matrix, as in PRESETS. Matrices without a kind are float32."""
    total = token = 0.0
    for kind, count, rows, n, share in tensors(config):
        format = format_for(kinds, kind, n) if kind else None
        num_bytes = count * (format.num_bytes(rows, n) if format else 4 * rows * n)
        total += num_bytes
        token += num_bytes * share
    return Sizes(round(total), round(token))


def tensors(config: ModelConfig) -> Iterator[tuple[str | None, int, int, int, float]]:
    """(kind, how many, rows, columns, share that a token reads) of all tensors of the text model."""
    c, a = config, config.axes
    num_full = c.layer_types.count(ATTENTION)
    num_delta = c.num_layers - num_full
    yield "embed", 1, a.V, a.D, float(c.tie_word_embeddings)  # untied, a token reads one row
    if not c.tie_word_embeddings:
        yield "lm_head", 1, a.V, a.D, 1.0
    for rows in (2 * a.Hq * a.Dh, a.Hkv * a.Dh, a.Hkv * a.Dh):
        yield "attention_in", num_full, rows, a.D, 1.0
    yield "attention_out", num_full, a.D, a.Hq * a.Dh, 1.0
    yield None, num_full, 2, a.Dh, 1.0  # q_norm, k_norm
    for rows in (a.C, a.Hv * a.Dv):
        yield "delta_in", num_delta, rows, a.D, 1.0
    yield "delta_out", num_delta, a.D, a.Hv * a.Dv, 1.0
    yield None, num_delta, 2 * a.Hv, a.D, 1.0  # b, a
    yield None, num_delta, a.C, a.conv_len, 1.0
    yield None, num_delta, 1, 2 * a.Hv + a.Dv, 1.0  # dt_bias, A_log, norm
    if c.dense:
        yield "experts", 2 * c.num_layers, a.F, a.D, 1.0
        yield "down", c.num_layers, a.D, a.F, 1.0
    else:
        yield None, c.num_layers, a.E + 1, a.D, 1.0  # router, gate of the shared expert
        yield "experts", 2 * c.num_layers * a.E, a.F, a.D, a.K / a.E
        yield "down", c.num_layers * a.E, a.D, a.F, a.K / a.E
        yield "shared", 2 * c.num_layers, a.Fs, a.D, 1.0
        yield "shared", c.num_layers, a.D, a.Fs, 1.0
    yield None, 2 * c.num_layers + 1, 1, a.D, 1.0


def kv_bytes_per_token(config: ModelConfig, kv: str = "q8") -> int:
    """Keys and values, with their scales."""
    return (
        config.layer_types.count(ATTENTION)
        * config.num_key_value_heads
        * sum(page_bytes(kv, config.head_dim))
        // PAGE_LEN
    )


def state_bytes(config: ModelConfig) -> int:
    """Float32 matrices and windows of the delta-net layers; they do not grow with the context."""
    c, a = config, config.axes
    return 4 * (c.num_layers - c.layer_types.count(ATTENTION)) * (a.Hv * a.Dk * a.Dv + (a.conv_len - 1) * a.C)


def memory_bytes(config: ModelConfig, found: Sizes, context: int) -> int:
    """What one conversation of `context` tokens keeps resident."""
    return found.total_bytes + state_bytes(config) + context * kv_bytes_per_token(config) + WORK_BYTES


def longest_context(config: ModelConfig, found: Sizes, memory: int) -> int:
    """Tokens that fit into `memory`, at most what the model knows natively; 0 if not even one does."""
    left = memory - memory_bytes(config, found, 0)
    return (
        max(0, min(config.max_context, left // kv_bytes_per_token(config)))
        if kv_bytes_per_token(config)
        else config.max_context
    )


def operations(config: ModelConfig) -> int:
    """Integer multiplications and additions of a prompt token; lm_head computes for the last one only."""
    return 2 * (config.count_parameters().active - config.vocab_size * config.hidden_size)


def gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
