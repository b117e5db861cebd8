"""How far engines are from the exact value of a GGUF file: mean KL(F32 evaluation || engine) over some positions.

    python -m bench.peers.oracle GGUF --llama DIR [--packed DIR] [--positions 64] [--reference FILE] [--json]

The F32 evaluation is our NumPy reference, with every weight decoded to float32 where it is used and keys and values in
float32: a few hundred MB in addition to the mapped file, and minutes at full size. It reads the file by itself, not
through the loader it judges. a3b runs the packed form of the file, which `a3b pack` makes first if it is not there.
FILE keeps the logits of the evaluation. Exits with 1 if a3b fails or its KL is above BOUND times llama.cpp's. Enter at
`f32_model` and `kl`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from a3b.formats.ggml_blocks import decode
from a3b.formats.gguf import GgufFile
from a3b.kernels import open_kernels
from a3b.model.config import ModelConfig
from a3b.model.config_reader import config_from_dict
from a3b.model.forward import Model
from a3b.model.weights import AttentionWeights, DeltaNetWeights, LayerWeights, ModelWeights, MoEWeights
from bench.peers.engines import EngineError, a3b_program, pack
from bench.peers.logits import llama_logits
from bench.peers.shapes import ARCH
from tests.support.random_model import config_dict

BOUND = 1.2  # of our KL to llama.cpp's


@dataclass(frozen=True)
class Decoded:
    """A matrix [out, in] in its file, decoded at each use; `rows` and `columns`: which of the file's stand where, None:
    all in order."""

    name: str
    dtype: str
    stored: np.ndarray  # uint8 [out, bytes of a row]
    num_in: int
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.stored), self.num_in

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        stored = self.stored[start:stop] if self.rows is None else self.stored[self.rows[start:stop]]
        values = decode(self.dtype, np.ascontiguousarray(stored))
        return values if self.columns is None else np.ascontiguousarray(values[:, self.columns])


@dataclass(frozen=True)
class Stacked:
    """Matrices of equal width one below the other; with experts, those of each expert."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Decoded, ...]

    def f32_rows(self, start: int, stop: int) -> np.ndarray:
        return np.concatenate([part.f32_rows(0, part.shape[0]) for part in self.parts])[start:stop]

    def f32_expert(self, e: int) -> np.ndarray:
        each = [part.shape[0] // self.shape[0] for part in self.parts]
        return np.concatenate([part.f32_rows(e * n, (e + 1) * n) for part, n in zip(self.parts, each, strict=True)])


def f32_model(path: Path) -> Model:
    """The reference model of a GGUF file of the architecture."""
    file = GgufFile(path)
    config = config_from_dict(_config(file.metadata), where=str(path))
    return Model(config, _weights(file, config), open_kernels("reference"), "f32")


def _config(metadata: dict[str, Any]) -> dict[str, Any]:
    def key(name: str) -> Any:
        return metadata[f"{ARCH}.{name}"]

    heads = key("ssm.time_step_rank")
    sizes = {
        "V": len(metadata["tokenizer.ggml.tokens"]),
        "D": key("embedding_length"),
        "layers": key("block_count"),
        "every": key("full_attention_interval"),
        "Hq": key("attention.head_count"),
        "Hkv": key("attention.head_count_kv"),
        "Dh": key("attention.key_length"),
        "rotary": key("rope.dimension_count"),
        "Hk": key("ssm.group_count"),
        "Hv": heads,
        "Dk": key("ssm.state_size"),
        "Dv": key("ssm.inner_size") // heads,
        "E": key("expert_count"),
        "K": key("expert_used_count"),
        "F": key("expert_feed_forward_length"),
        "Fs": key("expert_shared_feed_forward_length"),
    }
    return config_dict(
        sizes, {"rope_theta": key("rope.freq_base"), "mrope_section": key("rope.dimension_sections")[:3]}
    )


def _weights(file: GgufFile, c: ModelConfig) -> ModelWeights:
    """Value heads back to the order of the checkpoint: those of a key head together; norms around 0, A_log a logarithm
    again."""
    a = c.axes
    heads = np.arange(a.Hv).reshape(a.Hv // a.Hk, a.Hk).T.ravel()  # place in the checkpoint -> place in the file
    values = (heads[:, None] * a.Dv + np.arange(a.Dv)).ravel()
    channels = np.concatenate((np.arange(2 * a.Hk * a.Dk), 2 * a.Hk * a.Dk + values))

    def matrix(name: str, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> Decoded:
        info = file.tensors[name + ".weight"]
        return Decoded(name, info.dtype, file.array(info.name), info.shape[-1], rows, columns)

    def numbers(name: str) -> np.ndarray:
        """float32 [n]"""
        return decode(file.tensors[name].dtype, file.array(name))[0]

    def norm(name: str) -> np.ndarray:
        return numbers(name + ".weight") - 1

    def mixer(i: int, b: str) -> AttentionWeights | DeltaNetWeights:
        if c.layer_types[i] == "full_attention":
            q, k, v, out = (matrix(f"{b}.attn_{name}") for name in ("q", "k", "v", "output"))
            return AttentionWeights(q, k, v, out, norm(f"{b}.attn_q_norm"), norm(f"{b}.attn_k_norm"))
        conv = matrix(f"{b}.ssm_conv1d", channels)
        return DeltaNetWeights(
            in_proj_qkv=matrix(f"{b}.attn_qkv", channels),
            in_proj_z=matrix(f"{b}.attn_gate", values),
            in_proj_b=matrix(f"{b}.ssm_beta", heads),
            in_proj_a=matrix(f"{b}.ssm_alpha", heads),
            conv1d=conv.f32_rows(0, conv.shape[0]),
            dt_bias=numbers(f"{b}.ssm_dt.bias")[heads],
            A_log=np.log(-numbers(f"{b}.ssm_a"))[heads],
            delta_norm=numbers(f"{b}.ssm_norm.weight"),
            out_proj=matrix(f"{b}.ssm_out", columns=values),
        )

    def moe(b: str) -> MoEWeights:
        gate, up, down = (matrix(f"{b}.ffn_{name}_exps") for name in ("gate", "up", "down"))
        shared = tuple(matrix(f"{b}.ffn_{name}_shexp") for name in ("gate", "up"))
        return MoEWeights(
            router=matrix(f"{b}.ffn_gate_inp"),
            gate_up=Stacked(f"{b}.gate_up", (a.E, 2 * a.F, a.D), (gate, up)),
            down=Stacked(f"{b}.down", (a.E, a.D, a.F), (down,)),
            shared_gate_up=Stacked(f"{b}.shared", (2 * a.Fs, a.D), shared),
            shared_down=matrix(f"{b}.ffn_down_shexp"),
            shared_expert_gate=numbers(f"{b}.ffn_gate_inp_shexp.weight")[None],
        )

    layers = tuple(
        LayerWeights(
            norm(f"blk.{i}.attn_norm"), mixer(i, f"blk.{i}"), norm(f"blk.{i}.post_attention_norm"), moe(f"blk.{i}")
        )
        for i in range(c.num_layers)
    )
    return ModelWeights(matrix("token_embd"), layers, norm("output_norm"), matrix("output"), residency="mapped")


def kl(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """float64 [positions]: KL divergence in nats of softmax(found) from softmax(expected), logits [positions, V]."""
    return np.array([_kl(*rows) for rows in zip(expected, found, strict=True)])


def _kl(expected: np.ndarray, found: np.ndarray) -> float:
    p, q = (_log_softmax(row.astype(np.float64)) for row in (expected, found))
    return float(np.exp(p) @ (p - q))


def _log_softmax(row: np.ndarray) -> np.ndarray:
    row = row - row.max()
    return row - np.log(np.exp(row).sum())


def a3b_logits(program: str, packed: Path, ids: np.ndarray) -> np.ndarray:
    """float32 [len(ids), V] of `a3b logits`. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="a3b-oracle-") as scratch:
        source, target = Path(scratch, "ids.json"), Path(scratch, "logits.npy")
        source.write_text(json.dumps(ids.tolist()), encoding="utf-8")
        subprocess.run([program, "logits", str(packed), "--ids", str(source), "--out", str(target)], check=True)
        return np.load(target)


def summary(divergences: np.ndarray) -> dict[str, float]:
    mean = float(divergences.mean())
    error = float(divergences.std(ddof=1) / len(divergences) ** 0.5)
    return {
        "mean_kl": mean,
        "standard_error": error,
        "median_kl": float(np.median(divergences)),
        "largest_kl": float(divergences.max()),
    }


def ratio_range(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Between which values nine of ten ratios of the means lie when the positions are drawn anew: few positions carry
    most of a mean."""
    picks = np.random.Generator(np.random.PCG64(0)).integers(0, len(ours), (2000, len(ours)))
    low, high = np.quantile(ours[picks].mean(1) / theirs[picks].mean(1), (0.05, 0.95))
    return float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="GGUF")
    parser.add_argument("--llama", type=Path, required=True, help="directory of build_llama.py")
    parser.add_argument("--a3b", default=a3b_program(), help="the program to run as a3b")
    parser.add_argument("--packed", type=Path, metavar="DIR", help="the packed form of the file")
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reference", type=Path, help="logits of the F32 evaluation, read if it exists, otherwise written (.npy)"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of llama.cpp")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    num_words = GgufFile(args.model).metadata["tokenizer.ggml.token_type"].count(1)
    ids = np.random.Generator(np.random.PCG64(args.seed)).integers(0, num_words, args.positions)
    start = time.perf_counter()
    if args.reference and args.reference.exists():
        expected = np.load(args.reference)
        if len(expected) != args.positions:
            print(
                f"{args.reference}: {len(expected)} positions, not {args.positions}; give another file", file=sys.stderr
            )
            return 2
    else:
        model = f32_model(args.model)
        expected = model.forward(ids, model.new_state(), logits="all")
        del model
        if args.reference:
            np.save(args.reference, expected)
    print(f"F32 evaluation: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    result: dict[str, Any] = {"file": str(args.model), "positions": args.positions, "logits_std": float(expected.std())}
    theirs = kl(expected, llama_logits(args.model, ids, args.llama, threads=args.threads))
    result["llama.cpp"] = summary(theirs)
    try:
        packed = pack(args.a3b, args.model, args.packed)
        ours = kl(expected, a3b_logits(args.a3b, packed, ids))
        result["a3b"] = summary(ours)
        result |= {"ratio": float(ours.mean() / theirs.mean()), "ratio_range": ratio_range(ours, theirs)}
    except (EngineError, subprocess.CalledProcessError) as error:
        result["failure"] = str(error)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{args.model}, {args.positions} positions, logits of spread {result['logits_std']:.2f}")
        for name in ("llama.cpp", "a3b"):
            if name in result:
                mean, error, median, largest = result[name].values()
                print(f"{name:10} KL {mean:.3e} ± {error:.1e}, median {median:.3e}, largest {largest:.3e}")
        if "ratio" in result:
            low, high = result["ratio_range"]
            print(f"ratio {result['ratio']:.3f} ({low:.2f} to {high:.2f} with other positions), bound {BOUND}")
        else:
            print(f"failed: {result['failure']}")
    return int(not result.get("ratio", np.inf) <= BOUND)


if __name__ == "__main__":
    sys.exit(main())
