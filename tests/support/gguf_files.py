"""A small GGUF file of architecture qwen35moe or, if it has no experts, qwen35, written by the format's own library
with every transform of its converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from a3b.prompt.segments import CONTROL_NAMES
from a3b.prompt.tokenizer import byte_alphabet
from tests.support.random_model import AXES, random_tensors

SIZES = dict(zip(AXES, (290, 256, 4, 4, 4, 2, 64, 16, 2, 6, 32, 128, 5, 2, 256, 64), strict=True))
DENSE = {**SIZES, "E": 0, "K": 0, "Fs": 0, "F": 512}
MERGES = ["h e", "l l", "he ll", "Ġ t"]
LETTERS = [letter for letter, _ in sorted(byte_alphabet().items(), key=lambda pair: pair[1])]
TOKENS = [*LETTERS, *("".join(merge.split()) for merge in MERGES), *CONTROL_NAMES, "[PAD]", "[PAD2]"]
TYPES = [1] * (len(LETTERS) + len(MERGES)) + [3] * 16 + [4] * (len(CONTROL_NAMES) - 16) + [5, 5]
END = TOKENS.index("<|im_end|>")
TYPE_OF = {
    "token_embd": "Q8_0",
    "output": "Q6_K",
    "attn_qkv": "Q5_K",
    "attn_gate": "Q4_K",
    "ssm_out": "Q6_K",
    "attn_q": "Q4_0",
    "attn_k": "Q8_0",
    "attn_v": "BF16",
    "attn_output": "Q4_1",
    "ffn_gate_exps": "Q4_K",
    "ffn_up_exps": "Q4_K",
    "ffn_down_exps": "Q5_K",
    "ffn_gate_shexp": "Q8_0",
    "ffn_up_shexp": "Q8_0",
    "ffn_down_shexp": "Q8_0",
    "ffn_gate": "Q4_K",
    "ffn_up": "Q4_K",
    "ffn_down": "Q6_K",
    "eh_proj": "Q8_0",
}
MINIMUMS = {"Q4_K": 7.5, "Q5_K": 15.5}  # in units of d, so that values lie around 0


def heads_of(sizes: dict) -> np.ndarray:
    """For every value head of the file, the head of Hugging Face that it is."""
    new = np.arange(sizes["Hv"])
    return new % sizes["Hk"] * (sizes["Hv"] // sizes["Hk"]) + new // sizes["Hk"]


def encoded(gguf, dtype: str, values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(blocks, the numbers they stand for). K types, which the library cannot make, get random blocks of the right
    spread."""
    kind = gguf.GGMLQuantizationType[dtype]
    if dtype in ("Q4_K", "Q5_K", "Q6_K"):
        size = {"Q4_K": 144, "Q5_K": 176, "Q6_K": 210}[dtype]
        blocks = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // 256, size), np.uint8)
        d = values.std() / {"Q4_K": 200, "Q5_K": 400, "Q6_K": 1300}[dtype]
        if dtype == "Q6_K":
            blocks[..., 208:] = np.array([d], "<f2").view(np.uint8)
        else:
            blocks[..., :4] = np.array([d, d * MINIMUMS[dtype]], "<f2").view(np.uint8)
        rows = blocks.reshape(*values.shape[:-1], -1)
    else:
        rows = gguf.quants.quantize(values, kind)
    return rows, gguf.quants.dequantize(rows, kind).reshape(values.shape).astype(np.float32)


def write_gguf(
    path: Path,
    gguf,
    sizes: dict = SIZES,
    *,
    types: dict[str, str] = TYPE_OF,
    mtp: bool = False,
    change=lambda kv, tensors: None,
) -> dict[str, np.ndarray]:
    """Write the file; the float32 tensors that a reader must get, in the names and the order of Hugging Face."""
    s, rng = sizes, np.random.default_rng(11)
    exact = random_tensors(s, 5, mtp)
    heads, tensors = heads_of(s), {}
    wide = (heads[:, None] * s["Dv"] + np.arange(s["Dv"])).ravel()
    keys = 2 * s["Hk"] * s["Dk"]
    channels = np.concatenate((np.arange(keys), keys + wide))

    def matrix(name: str, source: str, rows=slice(None), columns=slice(None), part=slice(None)):
        """Into the order of the file, encoded, and what was encoded back into the order of `exact`."""
        kind = types[name.split(".")[-2]]
        blocks, values = encoded(
            gguf, kind, np.ascontiguousarray(exact[source][..., part, :][..., rows, :][..., columns]), rng
        )
        tensors[name] = (blocks, kind)
        view = exact[source][..., part, :]
        back = np.empty_like(view)
        back[..., np.arange(view.shape[-2])[rows][:, None], np.arange(view.shape[-1])[columns]] = values
        view[...] = back

    def floats(name: str, value: np.ndarray):
        tensors[name] = (np.ascontiguousarray(value, np.float32), None)

    matrix("token_embd.weight", "model.embed_tokens.weight")
    matrix("output.weight", "lm_head.weight")
    floats("output_norm.weight", exact["model.norm.weight"] + 1)
    for i in range(s["layers"] + mtp):
        b, p = f"blk.{i}.", f"model.layers.{i}." if i < s["layers"] else "mtp.layers.0."
        floats(b + "attn_norm.weight", exact[p + "input_layernorm.weight"] + 1)
        floats(b + "post_attention_norm.weight", exact[p + "post_attention_layernorm.weight"] + 1)
        if (i + 1) % s["every"] and i < s["layers"]:
            q = p + "linear_attn."
            matrix(b + "attn_qkv.weight", q + "in_proj_qkv.weight", rows=channels)
            matrix(b + "attn_gate.weight", q + "in_proj_z.weight", rows=wide)
            matrix(b + "ssm_out.weight", q + "out_proj.weight", columns=wide)
            floats(b + "ssm_beta.weight", exact[q + "in_proj_b.weight"][heads])
            floats(b + "ssm_alpha.weight", exact[q + "in_proj_a.weight"][heads])
            floats(b + "ssm_conv1d.weight", exact[q + "conv1d.weight"][channels, 0])
            floats(b + "ssm_dt.bias", exact[q + "dt_bias"][heads])
            floats(b + "ssm_a", -np.exp(exact[q + "A_log"][heads]))
            floats(b + "ssm_norm.weight", exact[q + "norm.weight"])
        else:
            q = p + "self_attn."
            for name, key in (
                ("attn_q", "q_proj"),
                ("attn_k", "k_proj"),
                ("attn_v", "v_proj"),
                ("attn_output", "o_proj"),
            ):
                matrix(f"{b}{name}.weight", f"{q}{key}.weight")
            floats(b + "attn_q_norm.weight", exact[q + "q_norm.weight"] + 1)
            floats(b + "attn_k_norm.weight", exact[q + "k_norm.weight"] + 1)
        q, F = p + "mlp.", s["F"]
        if not s["E"]:
            for name in ("gate", "up", "down"):
                matrix(f"{b}ffn_{name}.weight", f"{q}{name}_proj.weight")
            continue
        floats(b + "ffn_gate_inp.weight", exact[q + "gate.weight"])
        floats(b + "ffn_gate_inp_shexp.weight", exact[q + "shared_expert_gate.weight"][0])
        matrix(b + "ffn_gate_exps.weight", q + "experts.gate_up_proj", part=slice(0, F))
        matrix(b + "ffn_up_exps.weight", q + "experts.gate_up_proj", part=slice(F, None))
        matrix(b + "ffn_down_exps.weight", q + "experts.down_proj")
        for name in ("gate", "up", "down"):
            matrix(f"{b}ffn_{name}_shexp.weight", f"{q}shared_expert.{name}_proj.weight")
    if mtp:
        b = f"blk.{s['layers']}.nextn."
        matrix(b + "eh_proj.weight", "mtp.fc.weight")
        floats(b + "enorm.weight", exact["mtp.pre_fc_norm_embedding.weight"] + 1)
        floats(b + "hnorm.weight", exact["mtp.pre_fc_norm_hidden.weight"] + 1)
        floats(b + "shared_head_norm.weight", exact["mtp.norm.weight"] + 1)
    kv = key_values(s, mtp)
    change(kv, tensors)
    writer = gguf.GGUFWriter(path, kv.pop("general.architecture"))
    for key, value in kv.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }[type(value)]
        add(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType[kind] if kind else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return exact


def key_values(s: dict, mtp: bool) -> dict:
    half = s["rotary"] // 2
    keys = {
        "block_count": s["layers"] + mtp,
        "context_length": 1024,
        "embedding_length": s["D"],
        "attention.head_count": s["Hq"],
        "attention.head_count_kv": s["Hkv"],
        "attention.key_length": s["Dh"],
        "attention.value_length": s["Dh"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": s["rotary"],
        "rope.dimension_sections": [half - 2 * (half // 3), half // 3, half // 3, 0],
        "ssm.conv_kernel": 4,
        "ssm.state_size": s["Dk"],
        "ssm.group_count": s["Hk"],
        "ssm.time_step_rank": s["Hv"],
        "ssm.inner_size": s["Hv"] * s["Dv"],
        "full_attention_interval": s["every"],
    }
    if s["E"]:
        keys |= {
            "expert_count": s["E"],
            "expert_used_count": s["K"],
            "expert_feed_forward_length": s["F"],
            "expert_shared_feed_forward_length": s["Fs"],
        }
    else:
        keys["feed_forward_length"] = s["F"]
    if mtp:
        keys["nextn_predict_layers"] = 1
    tokenizer = {
        "model": "gpt2",
        "pre": "qwen35",
        "tokens": TOKENS,
        "token_type": TYPES,
        "merges": MERGES,
        "eos_token_id": END,
        "bos_token_id": TOKENS.index("<|endoftext|>"),
        "padding_token_id": TOKENS.index("<|endoftext|>"),
    }
    arch = "qwen35moe" if s["E"] else "qwen35"
    return {
        "general.architecture": arch,
        **{f"{arch}.{key}": value for key, value in keys.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()},
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
