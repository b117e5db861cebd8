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
    c = config
    num_full = c.layer_types.count(ATTENTION)
    num_delta = c.num_layers - num_full
    yield "embed", 1, c.V, c.D, float(c.tie_word_embeddings)  # untied, a token reads one row
    if not c.tie_word_embeddings:
        yield "lm_head", 1, c.V, c.D, 1.0
    for rows in (2 * c.Hq * c.Dh, c.Hkv * c.Dh, c.Hkv * c.Dh):
        yield "attention_in", num_full, rows, c.D, 1.0
    yield "attention_out", num_full, c.D, c.Hq * c.Dh, 1.0
    yield None, num_full, 2, c.Dh, 1.0  # q_norm, k_norm
    channels = 2 * c.Hk * c.Dk + c.Hv * c.Dv
    for rows in (channels, c.Hv * c.Dv):
        yield "delta_in", num_delta, rows, c.D, 1.0
    yield "delta_out", num_delta, c.D, c.Hv * c.Dv, 1.0
    yield None, num_delta, 2 * c.Hv, c.D, 1.0  # b, a
    yield None, num_delta, channels, c.conv_len, 1.0
    yield None, num_delta, 1, 2 * c.Hv + c.Dv, 1.0  # dt_bias, A_log, norm
    if c.dense:
        yield "experts", 2 * c.num_layers, c.F, c.D, 1.0
        yield "down", c.num_layers, c.D, c.F, 1.0
    else:
        yield None, c.num_layers, c.E + 1, c.D, 1.0  # router, gate of the shared expert
        yield "experts", 2 * c.num_layers * c.E, c.F, c.D, c.K / c.E
        yield "down", c.num_layers * c.E, c.D, c.F, c.K / c.E
        yield "shared", 2 * c.num_layers, c.Fs, c.D, 1.0
        yield "shared", c.num_layers, c.D, c.Fs, 1.0
    yield None, 2 * c.num_layers + 1, 1, c.D, 1.0


def kv_bytes_per_token(config: ModelConfig, kv: str = "q8") -> int:
    """Keys and values, with their scales."""
    return config.layer_types.count(ATTENTION) * config.Hkv * sum(page_bytes(kv, config.Dh)) // PAGE_LEN


def state_bytes(config: ModelConfig) -> int:
    """Float32 matrices and windows of the delta-net layers; they do not grow with the context."""
    c = config
    channels = 2 * c.Hk * c.Dk + c.Hv * c.Dv
    return 4 * (c.num_layers - c.layer_types.count(ATTENTION)) * (c.Hv * c.Dk * c.Dv + (c.conv_len - 1) * channels)


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
    return 2 * (config.count_parameters().active - config.V * config.D)


def gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"
