"""The tensors of a checkpoint: names and shapes. Enter at `packed_tensors`."""

from __future__ import annotations

from collections.abc import Container, Iterator

from a3b.formats.checkpoint import Checkpoint
from a3b.model.config import ATTENTION, ModelConfig

PREFIXES = ("model.language_model.", "model.")  # of the text model: inside the wrapper, alone


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
