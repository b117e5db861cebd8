"""Does a GGUF file mean what we think? Our reference model and llama.cpp on the same known numbers; the types of each
mix.

    python -m bench.peers.parity --llama DIR [--keep FILE]

First the types that `shapes.py` gives each tensor are held against those that llama.cpp's quantiser announces. Then
random weights of the checkpoint's own layout become a GGUF of float32, transformed as llama.cpp's converter does it;
llama.cpp's logits of the file are held against those of our reference model of the original weights. Exits with 1 if
anything differs. Source of the transforms: llama.cpp's conversion/qwen.py. Enter at `gguf_tensors`."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from a3b.kernels import open_kernels
from a3b.model.config_reader import config_from_dict
from a3b.model.forward import Model
from bench.peers.gguf_writer import data_bytes, header, write_gguf
from bench.peers.logits import llama_logits, program
from bench.peers.shapes import SHAPES, Shape, metadata, tensors
from tests.support.random_model import config_dict, model_weights, random_tensors

# standard deviations of the logits, as between us and transformers; flash attention in half precision alone is at 4e-3
BOUND = 1e-4
NUM_IDS = 60
PLAIN = {  # GGUF name -> name in the checkpoint, nothing changed
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_down_exps.weight": "mlp.experts.down_proj",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
}
NORMS = {  # around 0 in the checkpoint, around 1 in GGUF
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
}


def sizes_of(shape: Shape) -> dict:
    """The same sizes as tests/support/random_model.py names them."""
    names = ("V", "D", "layers", "every", "Hq", "Hkv", "Dh", "rotary", "Hk", "Hv", "Dk", "E", "K", "F", "Fs")
    return {name: getattr(shape, name) for name in names} | {"Dv": shape.Dk}


def gguf_tensors(original: dict[str, np.ndarray], shape: Shape) -> dict[str, np.ndarray]:
    """Checkpoint names, experts fused -> GGUF names; all float32."""
    s, keys = shape, 2 * shape.Hk * shape.Dk

    def tiled(array: np.ndarray, size: int) -> np.ndarray:
        """Value heads of `size` rows each: those of one key head together -> the first of every key head, then the
        second, ..."""
        heads = array.reshape(s.Hk, s.Hv // s.Hk, size, *array.shape[1:])
        return heads.swapaxes(0, 1).reshape(array.shape)

    def behind_keys(array: np.ndarray) -> np.ndarray:
        return np.concatenate((array[:keys], tiled(array[keys:], s.Dk)))

    out = {"token_embd.weight": original["model.embed_tokens.weight"], "output.weight": original["lm_head.weight"]}
    out["output_norm.weight"] = 1 + original["model.norm.weight"]
    for i in range(s.layers):
        p, g = f"model.layers.{i}.", f"blk.{i}."
        out |= {g + name: original[p + old] for name, old in PLAIN.items() if p + old in original}
        out |= {g + name: 1 + original[p + old] for name, old in NORMS.items() if p + old in original}
        out[g + "ffn_gate_exps.weight"], out[g + "ffn_up_exps.weight"] = np.split(
            original[p + "mlp.experts.gate_up_proj"], 2, axis=1
        )
        out[g + "ffn_gate_inp_shexp.weight"] = original[p + "mlp.shared_expert_gate.weight"][0]
        if not s.attends(i):
            p += "linear_attn."
            out[g + "attn_qkv.weight"] = behind_keys(original[p + "in_proj_qkv.weight"])
            out[g + "ssm_conv1d.weight"] = behind_keys(original[p + "conv1d.weight"][:, 0])
            out[g + "attn_gate.weight"] = tiled(original[p + "in_proj_z.weight"], s.Dk)
            out[g + "ssm_beta.weight"] = tiled(original[p + "in_proj_b.weight"], 1)
            out[g + "ssm_alpha.weight"] = tiled(original[p + "in_proj_a.weight"], 1)
            out[g + "ssm_dt.bias"] = tiled(original[p + "dt_bias"], 1)
            out[g + "ssm_a"] = -np.exp(tiled(original[p + "A_log"], 1))
            out[g + "ssm_out.weight"] = tiled(original[p + "out_proj.weight"].T, s.Dk).T
    return out


def write_known(path: Path, shape: Shape, seed: int) -> Model:
    """A float32 GGUF file at `path`; our model of the numbers before they were transformed."""
    original = random_tensors(sizes_of(shape), seed)
    values = gguf_tensors(original, shape)
    write_gguf(
        path,
        metadata(shape, "F32", "known numbers"),
        tensors(shape, "F32"),
        lambda t: [np.ascontiguousarray(values[t.name], "<f4").reshape(t.shape)],
        lambda _: None,
    )
    config = config_from_dict(config_dict(sizes_of(shape)), where="tiny shape")
    return Model(config, model_weights(config, original), open_kernels("reference"), "f32")


def wrong_types(llama: Path, name: str, mix: str, scratch: Path) -> list[str]:
    """Tensors of a shape for which llama.cpp's quantiser would choose another type. The file it is shown is all
    holes."""
    source = [replace(t, dtype="F32" if t.dtype == "F32" else "BF16") for t in tensors(SHAPES[name], mix)]
    path = scratch / "holes.gguf"
    path.write_bytes(first := header(metadata(SHAPES[name], mix, name), source))
    os.truncate(path, len(first) + data_bytes(source))
    command = [str(program(llama, "llama-quantize")), "--dry-run", str(path), mix, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    announced = re.findall(r"\] +(\S+) +- \[.*type = +(\w+), .*?(?:\((\w+)\))?\n", done.stdout + done.stderr)
    theirs = {tensor: (new or old).upper() for tensor, old, new in announced}
    return [
        f"{t.name}: {theirs.get(t.name)}, not {t.dtype}"
        for t in tensors(SHAPES[name], mix)
        if theirs.get(t.name) != t.dtype
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, required=True, help="directory of build_llama.py")
    parser.add_argument("--keep", type=Path, help="write the GGUF here and leave it")
    args = parser.parse_args()
    shape, worst, wrong = SHAPES["tiny"], 0.0, []
    with tempfile.TemporaryDirectory(prefix="a3b-parity-") as scratch:
        for name, mix in itertools.product(SHAPES, ("Q4_K_M", "Q4_0")):
            wrong += (found := wrong_types(args.llama, name, mix, Path(scratch)))
            print(f"{name} {mix}: {len(found)} of {len(tensors(SHAPES[name], mix))} types differ", *found[:5])
        path = args.keep or Path(scratch, "known.gguf")
        model = write_known(path, shape, seed=7)
        ids = np.random.Generator(np.random.PCG64(8)).integers(0, shape.V, NUM_IDS)
        ours = model.forward(ids, model.new_state(), logits="all")
        for chunk in (NUM_IDS, 1):
            theirs = llama_logits(path, ids, args.llama, chunk=chunk, exact=True)
            worst = max(worst, off := float(np.abs(ours - theirs).max() / ours.std()))
            print(f"chunks of {chunk}: largest difference {off:.1e} std of the logits (bound {BOUND:g})")
    return int(bool(wrong) or not worst <= BOUND)


if __name__ == "__main__":
    sys.exit(main())
