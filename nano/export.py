"""Write a trained a3b-nano as a checkpoint directory in the official FP8 layout.

    python -m nano.export --state DIR/state.pt --out src/a3b/nano_model
    python -m nano.export --mtp DIR/state.pt --out src/a3b/nano_model     # the MTP module beside it, nothing else

Tokenizer and template must already be in the directory. A file is written under a temporary name, then renamed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nano.model import Attention, Layer, Nano, NanoShape
from nano.mtp import Mtp
from nano.quantise import FP8_NAMES, dequantise, quantise

NATIVE_CONTEXT = 8192  # tokens; positions seen in training are fewer, see the model card
SCALE = "_scale_inv"  # of an FP8 tensor, after its name
CONTROL = {"<|endoftext|>": 0, "<|im_end|>": 2}  # offsets after the ranks


Place = tuple[str, Tensor, bool]  # name of a tensor, a view of the parameter that it holds, whether it is stored as FP8


def places(model: Nano | Mtp) -> Iterator[Place]:
    """Every tensor of a checkpoint, or of its MTP module."""
    if isinstance(model, Mtp):
        yield "mtp.fc.weight", model.fc, False
        yield "mtp.pre_fc_norm_embedding.weight", model.embedding_norm, False
        yield "mtp.pre_fc_norm_hidden.weight", model.hidden_norm, False
        yield "mtp.norm.weight", model.norm, False
        yield from layer_places("mtp.layers.0.", model.layer)
        return
    yield "model.embed_tokens.weight", model.embed, False
    yield "model.norm.weight", model.norm, False
    yield "lm_head.weight", model.lm_head, False
    for i, layer in enumerate(model.layers):
        yield from layer_places(f"model.layers.{i}.", layer)


def layer_places(p: str, layer: Layer) -> Iterator[Place]:
    yield p + "input_layernorm.weight", layer.input_norm, False
    yield p + "post_attention_layernorm.weight", layer.post_norm, False
    kind = "self_attn." if isinstance(layer.mixer, Attention) else "linear_attn."
    for name, value in layer.mixer.named_parameters():
        suffix = "" if name in ("A_log", "dt_bias") else ".weight"
        yield p + kind + name + suffix, value.unsqueeze(1) if name == "conv1d" else value, name in FP8_NAMES
    moe = layer.moe
    yield p + "mlp.gate.weight", moe.router, False
    yield p + "mlp.shared_expert_gate.weight", moe.shared_expert_gate, False
    for prefix, gate_up, down in (
        ("mlp.shared_expert.", moe.shared_gate_up, moe.shared_down),
        *((f"mlp.experts.{e}.", moe.gate_up[e], moe.down[e]) for e in range(layer.s.E)),
    ):
        for name, value in zip(("gate_proj", "up_proj", "down_proj"), (*gate_up.chunk(2, 0), down), strict=True):
            yield f"{p}{prefix}{name}.weight", value, True


def tensors_of(model: Nano | Mtp) -> dict[str, Tensor]:
    """Checkpoint names -> tensors: FP8 with `_scale_inv` next to it, everything else bfloat16."""
    out: dict[str, Tensor] = {}
    for name, value, fp8 in places(model):
        if fp8:
            out[name], out[name + SCALE] = (t.contiguous() for t in quantise(value.detach()))
        else:
            out[name] = value.detach().to(torch.bfloat16).contiguous()
    return out


@torch.no_grad()
def read_back(model: Nano | Mtp, directory: Path) -> None:
    """Copy an exported checkpoint, or its MTP module, into `model`: the masters become the values that the file
    holds."""
    tensors = load_file(directory / file_of(model))
    for name, value, fp8 in places(model):
        value.copy_(dequantise(tensors[name], tensors[name + SCALE]) if fp8 else tensors[name])


def file_of(model: Nano | Mtp) -> str:
    return "mtp.safetensors" if isinstance(model, Mtp) else "model.safetensors"


def config_of(s: NanoShape, mtp: bool) -> dict:
    """config.json of a checkpoint with or without an MTP module."""
    ranks = s.V - 26
    kinds = ["full_attention" if s.is_attention(i) else "linear_attention" for i in range(s.num_layers)]
    kept = ["lm_head", "model.embed_tokens"]
    for i, kind in enumerate(kinds):
        kept += [f"model.layers.{i}.mlp.gate", f"model.layers.{i}.mlp.shared_expert_gate"]
        if kind == "linear_attention":
            kept += [f"model.layers.{i}.linear_attn.{n}" for n in ("conv1d", "in_proj_a", "in_proj_b")]
    if mtp:
        kept += ["mtp.fc", "mtp.layers.0.mlp.gate", "mtp.layers.0.mlp.shared_expert_gate"]
    return {
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "bos_token_id": ranks + CONTROL["<|endoftext|>"],
        "dtype": "bfloat16",
        "eos_token_id": ranks + CONTROL["<|endoftext|>"],
        "full_attention_interval": s.attention_every,
        "head_dim": s.Dh,
        "hidden_act": "silu",
        "hidden_size": s.D,
        "initializer_range": 0.02,
        "layer_types": kinds,
        "linear_conv_kernel_dim": s.conv_len,
        "linear_key_head_dim": s.Dk,
        "linear_num_key_heads": s.Hk,
        "linear_num_value_heads": s.Hv,
        "linear_value_head_dim": s.Dv,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": NATIVE_CONTEXT,
        "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": s.F,
        **({"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False} if mtp else {}),
        "num_attention_heads": s.Hq,
        "num_experts": s.E,
        "num_experts_per_tok": s.K,
        "num_hidden_layers": s.num_layers,
        "num_key_value_heads": s.Hkv,
        "output_router_logits": False,
        "pad_token_id": None,
        "partial_rotary_factor": s.rotary_dim / s.Dh,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "modules_to_not_convert": kept,
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
        "rms_norm_eps": s.norm_eps,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": mrope_section(s.rotary_dim // 2),
            "partial_rotary_factor": s.rotary_dim / s.Dh,
            "rope_theta": s.rope_theta,
            "rope_type": "default",
        },
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": s.Fs,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": s.V,
    }


def mrope_section(half: int) -> list[int]:
    """Interleaved split of the rotary frequencies over time, height, width."""
    return [half - 2 * (half // 3), half // 3, half // 3]


def generation_config(s: NanoShape) -> dict:
    ranks = s.V - 26
    stop = [ranks + CONTROL["<|im_end|>"], ranks + CONTROL["<|endoftext|>"]]
    return {
        "bos_token_id": stop[1],
        "do_sample": True,
        "eos_token_id": stop,
        "pad_token_id": stop[1],
        "temperature": 1.0,
        "top_k": 20,
        "top_p": 0.95,
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--state", type=Path, help="of nano.train")
    group.add_argument("--mtp", type=Path, help="of nano.train_mtp")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = Mtp(NanoShape()) if args.mtp else Nano(NanoShape())
    model.load_state_dict(torch.load(args.mtp or args.state, weights_only=True)["model"])
    part = args.out / (file_of(model) + ".part")
    save_file(tensors_of(model), part, metadata={"format": "pt"})
    part.chmod(0o644)  # the library writes for its user alone
    os.replace(part, args.out / file_of(model))
    if args.state:  # a module that was trained beside another model guesses badly
        (args.out / "mtp.safetensors").unlink(missing_ok=True)
        write_json(args.out / "generation_config.json", generation_config(model.s))
    write_json(args.out / "config.json", config_of(model.s, bool(args.mtp)))


if __name__ == "__main__":
    main()
