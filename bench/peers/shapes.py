"""What a GGUF file of this architecture holds: sizes, metadata, tensor names and shapes, and the type that each mix
gives a tensor.

Owns the facts about `qwen35moe` files; writes nothing. Enter at `SHAPES`, `metadata` and `tensors`.
Source: llama.cpp's src/models/qwen35moe.cpp (names and shapes) and src/llama-quant.cpp (types).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.peers.gguf_writer import Tensor

ARCH = "qwen35moe"
FILE_TYPES = {"F32": 0, "Q4_0": 2, "Q4_K_M": 15}  # general.file_type of each mix
CONTROLS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> "
    "<|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> "
    "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> "
    "<|file_sep|> <tool_response> </tool_response> "
    "<think> </think>"
).split()
NORMAL, CONTROL, UNUSED = 1, 3, 5  # tokenizer.ggml.token_type


@dataclass(frozen=True)
class Shape:
    """Axes as in ModelConfig; Dv = Dk, as the format has one size for both. Layers `every`-1, 2·`every`-1, ... are
    attention."""

    V: int
    D: int
    layers: int
    every: int
    Hq: int
    Hkv: int
    Dh: int
    rotary: int
    sections: tuple[int, ...]  # rotary frequencies that each of the position axes turns, in turn
    Hk: int
    Hv: int
    Dk: int
    E: int
    K: int
    F: int
    Fs: int
    conv_len: int
    theta: float
    context: int
    first_control: int  # id of <|endoftext|>

    def attends(self, layer: int) -> bool:
        return layer % self.every == self.every - 1


SHAPES = {
    "35b-a3b": Shape(
        248320, 2048, 40, 4, 16, 2, 256, 64, (11, 11, 10, 0), 16, 32, 128, 256, 8, 512, 512, 4, 1e7, 262144, 248044
    ),
    "tiny": Shape(701, 512, 5, 3, 16, 2, 64, 16, (3, 3, 2, 0), 8, 24, 32, 10, 3, 256, 1280, 4, 1e4, 1024, 640),
}


def metadata(shape: Shape, mix: str, name: str, mtp: bool = False) -> dict[str, Any]:
    """Keys of the file in order. The vocabulary has the true size and control tokens, and made-up words that no text
    becomes. The MTP module counts as one layer more."""
    s = shape
    sizes = {
        "block_count": s.layers + mtp,
        "context_length": s.context,
        "embedding_length": s.D,
        "attention.head_count": s.Hq,
        "attention.head_count_kv": s.Hkv,
        "rope.dimension_sections": list(s.sections),
        "rope.freq_base": s.theta,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "expert_count": s.E,
        "expert_used_count": s.K,
        "attention.key_length": s.Dh,
        "attention.value_length": s.Dh,
        "expert_feed_forward_length": s.F,
        "expert_shared_feed_forward_length": s.Fs,
        "ssm.conv_kernel": s.conv_len,
        "ssm.state_size": s.Dk,
        "ssm.group_count": s.Hk,
        "ssm.time_step_rank": s.Hv,
        "ssm.inner_size": s.Hv * s.Dk,
        "full_attention_interval": s.every,
        "rope.dimension_count": s.rotary,
        **({"nextn_predict_layers": 1} if mtp else {}),
    }
    words = [f"w{i}" for i in range(s.first_control - 256)]
    unused = [f"[PAD{i}]" for i in range(s.first_control + len(CONTROLS), s.V)]
    kinds = [NORMAL] * s.first_control + [CONTROL] * len(CONTROLS) + [UNUSED] * len(unused)
    return {
        "general.architecture": ARCH,
        "general.type": "model",
        "general.name": name,
        "general.quantization_version": 2,
        "general.file_type": FILE_TYPES[mix],
        **{f"{ARCH}.{key}": value for key, value in sizes.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen35",
        "tokenizer.ggml.tokens": [*_byte_letters(), *words, *CONTROLS, *unused],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["w 0"],
        "tokenizer.ggml.eos_token_id": s.first_control + 2,
        "tokenizer.ggml.padding_token_id": s.first_control,
        "tokenizer.ggml.bos_token_id": s.first_control,
        "tokenizer.ggml.add_bos_token": False,
    }


def _byte_letters() -> list[str]:
    """The letters that stand for the 256 bytes in byte-level BPE, those that print themselves first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(i) for i in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def tensors(shape: Shape, mix: str, mtp: bool = False) -> list[Tensor]:
    """Every tensor, layer by layer, the MTP module last: those that llama.cpp's converter writes, with the types that
    its quantiser chooses."""
    s = shape
    q_dim, v_dim, channels = s.Hq * s.Dh, s.Hv * s.Dk, 2 * s.Hk * s.Dk + s.Hv * s.Dk
    delta = {
        "attn_qkv.weight": (channels, s.D),
        "attn_gate.weight": (v_dim, s.D),
        "ssm_conv1d.weight": (channels, s.conv_len),
        "ssm_dt.bias": (s.Hv,),
        "ssm_a": (s.Hv,),
        "ssm_beta.weight": (s.Hv, s.D),
        "ssm_alpha.weight": (s.Hv, s.D),
        "ssm_norm.weight": (s.Dk,),
        "ssm_out.weight": (s.D, v_dim),
    }
    attention = {
        "attn_q.weight": (2 * q_dim, s.D),
        "attn_k.weight": (s.Hkv * s.Dh, s.D),
        "attn_v.weight": (s.Hkv * s.Dh, s.D),
        "attn_output.weight": (s.D, q_dim),
        "attn_q_norm.weight": (s.Dh,),
        "attn_k_norm.weight": (s.Dh,),
    }
    moe = {
        "attn_norm.weight": (s.D,),
        "post_attention_norm.weight": (s.D,),
        "ffn_gate_inp.weight": (s.E, s.D),
        "ffn_gate_exps.weight": (s.E, s.F, s.D),
        "ffn_up_exps.weight": (s.E, s.F, s.D),
        "ffn_down_exps.weight": (s.E, s.D, s.F),
        "ffn_gate_inp_shexp.weight": (s.D,),
        "ffn_gate_shexp.weight": (s.Fs, s.D),
        "ffn_up_shexp.weight": (s.Fs, s.D),
        "ffn_down_shexp.weight": (s.D, s.Fs),
    }
    shapes = {"token_embd.weight": (s.V, s.D), "output_norm.weight": (s.D,), "output.weight": (s.V, s.D)}
    for i in range(s.layers):
        mixer = attention if s.attends(i) else delta
        shapes |= {f"blk.{i}.{name}": sizes for name, sizes in (mixer | moe).items()}
    if mtp:
        module = {
            "nextn.eh_proj.weight": (s.D, 2 * s.D),
            "nextn.enorm.weight": (s.D,),
            "nextn.hnorm.weight": (s.D,),
            "nextn.shared_head_norm.weight": (s.D,),
        }
        shapes |= {f"blk.{s.layers}.{name}": sizes for name, sizes in (attention | moe | module).items()}
    return [Tensor(name, _dtype(name, sizes, mix, s.layers), sizes) for name, sizes in shapes.items()]


def _dtype(name: str, shape: tuple[int, ...], mix: str, layers: int) -> str:
    """The choice of llama.cpp's quantiser without an importance matrix, for rows that are whole blocks."""
    kind = name.split(".")[-2]
    if mix == "F32" or len(shape) == 1 or kind in ("ffn_gate_inp", "ssm_conv1d"):
        return "F32"
    if name == "output.weight":
        return "Q6_K"
    if (
        mix == "Q4_K_M"
        and kind in ("attn_qkv", "attn_v", "ffn_down_exps", "ffn_down_shexp")
        and _more_bits(name, layers)
    ):
        return "Q6_K"
    return {"Q4_K_M": "Q4_K", "Q4_0": "Q4_0"}[mix]


def _more_bits(name: str, layers: int) -> bool:
    """The first and last eighth of the layers, and every third of those between."""
    layer, eighth = int(name.split(".")[1]), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
