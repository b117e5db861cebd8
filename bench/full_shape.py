"""The real layer sizes of Qwen3.6-35B-A3B with random BF16 weights: a mapped checkpoint runs, how fast, and in how much
memory.

    python -m bench.full_shape DIRECTORY [--layers 4] [--tokens 6] [--json]

Writes a checkpoint of the first layers (four of them: 8.5 GB) into DIRECTORY if none is there, reads a prompt, then
decodes token by token. The NumPy twins decode every weight they touch to float32, so the time is that of the
reference, not of an engine. Peak memory includes touched pages of the file, which the system can drop at any time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import time
from pathlib import Path

import numpy as np

from a3b.formats.checkpoint import Checkpoint
from a3b.formats.quant import f32_to_bf16
from a3b.kernels import open_kernels
from a3b.model.config_reader import read_config
from a3b.model.forward import Model
from a3b.model.loader import load_weights
from a3b.model.parameters import count_parameters

SIZES = {
    "vocab_size": 248320,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "max_position_embeddings": 262144,
}
POOL = (1 << 24) + 43  # random numbers written over and over; odd, so that no two rows are equal


def config_dict(num_layers: int) -> dict:
    kinds = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(num_layers)]
    rope = {"rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25}
    rope |= {"mrope_interleaved": True, "mrope_section": [11, 11, 10]}
    return {
        "model_type": "qwen3_5_moe_text",
        "num_hidden_layers": num_layers,
        "layer_types": kinds,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attn_output_gate": True,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 248044,
        "eos_token_id": 248044,
        "dtype": "bfloat16",
        "mamba_ssm_dtype": "float32",
        "rope_parameters": rope,
        **SIZES,
    }


def shapes(num_layers: int) -> dict[str, tuple[int, ...]]:
    """Checkpoint names of the first layers, experts fused."""
    out = {"model.embed_tokens.weight": (248320, 2048), "lm_head.weight": (248320, 2048), "model.norm.weight": (2048,)}
    delta = {
        "in_proj_qkv.weight": (8192, 2048),
        "in_proj_z.weight": (4096, 2048),
        "in_proj_b.weight": (32, 2048),
        "in_proj_a.weight": (32, 2048),
        "conv1d.weight": (8192, 1, 4),
        "dt_bias": (32,),
        "A_log": (32,),
        "norm.weight": (128,),
        "out_proj.weight": (2048, 4096),
    }
    attention = {
        "q_proj.weight": (8192, 2048),
        "k_proj.weight": (512, 2048),
        "v_proj.weight": (512, 2048),
        "o_proj.weight": (2048, 4096),
        "q_norm.weight": (256,),
        "k_norm.weight": (256,),
    }
    mlp = {
        "gate.weight": (256, 2048),
        "experts.gate_up_proj": (256, 1024, 2048),
        "experts.down_proj": (256, 2048, 512),
        "shared_expert.gate_proj.weight": (512, 2048),
        "shared_expert.up_proj.weight": (512, 2048),
        "shared_expert.down_proj.weight": (2048, 512),
        "shared_expert_gate.weight": (1, 2048),
    }
    for i in range(num_layers):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": (2048,), p + "post_attention_layernorm.weight": (2048,)}
        kind, mixer = ("self_attn.", attention) if i % 4 == 3 else ("linear_attn.", delta)
        out |= {p + kind + name: shape for name, shape in mixer.items()}
        out |= {p + "mlp." + name: shape for name, shape in mlp.items()}
    return out


def write_checkpoint(directory: Path, num_layers: int) -> None:
    """Random numbers of spread 0.02, streamed; the file gets its name when it is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, shape in shapes(num_layers).items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    pool = f32_to_bf16((np.random.default_rng(0).standard_normal(POOL) * 0.02).astype(np.float32)).tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = directory / "model.safetensors.part"
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while end > 0:
            file.write(pool[:end])
            end -= len(pool)
    (directory / "config.json").write_text(json.dumps(config_dict(num_layers), indent=2), encoding="utf-8")
    os.replace(part, directory / "model.safetensors")


def memory_mb(field: str) -> int:
    """VmHWM: most memory at once. RssAnon: what the process itself holds now. RssFile: touched pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) // 1024
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=6, help="length of the prompt, and number of tokens decoded")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not (args.directory / "model.safetensors").exists():
        write_checkpoint(args.directory, args.layers)
    result: dict[str, object] = {}
    start = time.perf_counter()
    config = read_config(args.directory)
    model = Model(config, load_weights(Checkpoint.open(args.directory), config, expand=False), open_kernels())
    state = model.new_state()
    result |= {"layers": config.num_layers, "parameters": count_parameters(config).total}
    result["load_s"] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    logits = model.forward(np.arange(args.tokens) * 4001 % config.vocab_size, state)
    result["prompt_s"] = round(time.perf_counter() - start, 2)
    times = []
    for _ in range(args.tokens):
        start = time.perf_counter()
        logits = model.forward(np.array([int(logits.argmax())]), state)
        times.append(time.perf_counter() - start)
    result["token_s"] = round(float(np.median(times)), 2)
    result["logits_std"], result["finite"] = round(float(logits.std()), 3), bool(np.isfinite(logits).all())
    result |= {"peak_mb": memory_mb("VmHWM"), "own_mb": memory_mb("RssAnon"), "file_mb": memory_mb("RssFile")}
    result["snapshot_mb"] = state.snapshot().num_bytes // 2**20
    print(json.dumps(result) if args.json else "\n".join(f"{key:12} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
