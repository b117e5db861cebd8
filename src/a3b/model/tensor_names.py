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
    c, a = config, config.axes
    yield prefix + "embed_tokens.weight", (a.V, a.D)
    yield prefix + "norm.weight", (a.D,)
    if not c.tie_word_embeddings:
        yield "lm_head.weight", (a.V, a.D)
    for i, kind in enumerate(c.layer_types):
        p = f"{prefix}layers.{i}."
        yield p + "input_layernorm.weight", (a.D,)
        yield p + "post_attention_layernorm.weight", (a.D,)
        if kind == ATTENTION:
            p += "self_attn."
            yield p + "q_proj.weight", (a.Hq * 2 * a.Dh, a.D)
            yield p + "k_proj.weight", (a.Hkv * a.Dh, a.D)
            yield p + "v_proj.weight", (a.Hkv * a.Dh, a.D)
            yield p + "o_proj.weight", (a.D, a.Hq * a.Dh)
            yield p + "q_norm.weight", (a.Dh,)
            yield p + "k_norm.weight", (a.Dh,)
        else:
            p += "linear_attn."
            yield p + "in_proj_qkv.weight", (a.C, a.D)
            yield p + "in_proj_z.weight", (a.Hv * a.Dv, a.D)
            yield p + "in_proj_b.weight", (a.Hv, a.D)
            yield p + "in_proj_a.weight", (a.Hv, a.D)
            yield p + "conv1d.weight", (a.C, 1, a.conv_len)
            yield p + "dt_bias", (a.Hv,)
            yield p + "A_log", (a.Hv,)
            yield p + "norm.weight", (a.Dv,)
            yield p + "out_proj.weight", (a.D, a.Hv * a.Dv)
        p = f"{prefix}layers.{i}.mlp."
        if c.dense:
            yield from _mlp(p, a.D, a.F)
            continue
        yield p + "gate.weight", (a.E, a.D)
        yield p + "shared_expert_gate.weight", (1, a.D)
        yield from _mlp(p + "shared_expert.", a.D, a.Fs)
        if p + "experts.gate_up_proj" in tensors:
            yield p + "experts.gate_up_proj", (a.E, 2 * a.F, a.D)
            yield p + "experts.down_proj", (a.E, a.D, a.F)
        else:
            for e in range(a.E):
                yield from _mlp(f"{p}experts.{e}.", a.D, a.F)


def _mlp(p: str, D: int, F: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield p + "gate_proj.weight", (F, D)
    yield p + "up_proj.weight", (F, D)
    yield p + "down_proj.weight", (D, F)


def packed_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in a packed directory: as in a text-only checkpoint with fused experts, gate and up apart."""
    a, fused = config.axes, {f"model.layers.{i}.mlp.experts.gate_up_proj" for i in range(config.num_layers)}
    for name, shape in _expected(config, "model.", fused):
        if name in fused:
            p = name.removesuffix("gate_up_proj")
            yield p + "gate_proj", (a.E, a.F, a.D)
            yield p + "up_proj", (a.E, a.F, a.D)
        else:
            yield name, shape
