"""Random weights in a GGUF file: the full shape for speed at true size, a tiny one for tests.

    python -m bench.peers.random_gguf FILE [--shape 35b-a3b] [--mix Q4_K_M] [--seed 0] [--mtp]

Quantised tensors are random blocks, not quantised numbers: scales of the size that trained weights have, so that
activations and logits stay ordinary. Blocks come from pools and are used again at other places; their number is odd, so
no two rows of an expert, and no two experts, are equal. The same options give the same bytes on every machine."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from a3b.errors import A3BError
from a3b.formats.ggml_blocks import BLOCKS, decode
from bench.peers.gguf_writer import Tensor, write_gguf
from bench.peers.shapes import FILE_TYPES, SHAPES, Shape, metadata, tensors

POOL_BYTES = 24 << 20
PIECE_BYTES = 8 << 20  # of a pool, written at once
MIDDLE = 7.5  # of the numbers 0 to 15
SHARED = 0.75  # of a query row of the delta rule is in its key row too, so that queries find what keys stored
# spread of a matrix times the root of its inputs; small where it adds to the residual stream, or rounding would grow in
# it
GAINS = {
    "output": 3.0,
    "attn_qkv": 1.0,
    "attn_gate": 1.0,
    "ssm_beta": 1.0,
    "ssm_alpha": 1.0,
    "ssm_out": 0.15,
    "attn_q": 1.0,
    "attn_k": 1.0,
    "attn_v": 1.0,
    "attn_output": 0.6,
    "ffn_gate_inp": 2.0,
    "ffn_gate_exps": 1.0,
    "ffn_up_exps": 1.0,
    "ffn_down_exps": 0.5,
    "ffn_gate_inp_shexp": 2.0,
    "ffn_gate_shexp": 1.0,
    "ffn_up_shexp": 1.0,
    "ffn_down_shexp": 0.35,
    "eh_proj": 1.0,
}


def random_blocks(dtype: str, count: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 [count, bytes of a block]: numbers around 0 with about this standard deviation."""
    if dtype == "F32":
        return (rng.standard_normal((count, 1), np.float32) * np.float32(spread)).view(np.uint8)
    blocks = np.empty((count, BLOCKS[dtype].num_bytes), np.uint8)
    size = rng.uniform(0.75, 1.25, count)  # of a block, relative to the others
    if dtype == "Q4_0":
        blocks[:, 2:] = _nibbles(rng, count, 16, 8.0)
        _put_halves(blocks, 0, size)
    elif dtype == "Q4_K":
        scale = rng.integers(24, 64, (count, 8), np.uint8)
        minimum = np.clip(scale + rng.integers(-3, 4, (count, 8), np.int8), 0, 63).astype(np.uint8)
        blocks[:, 4:8] = scale[:, :4] | scale[:, 4:] >> 4 << 6
        blocks[:, 8:12] = minimum[:, :4] | minimum[:, 4:] >> 4 << 6
        blocks[:, 12:16] = scale[:, 4:] & 15 | (minimum[:, 4:] & 15) << 4
        blocks[:, 16:] = _nibbles(rng, count, 128, MIDDLE)
        _put_halves(blocks, 0, size)
        _put_halves(blocks, 2, MIDDLE * size)
    else:
        assert dtype == "Q6_K"
        q = np.clip(np.rint(32 + 10 * rng.standard_normal((count, 2, 4, 32), np.float32)), 0, 63).astype(np.uint8)
        blocks[:, :128] = (q[:, :, :2] & 15 | q[:, :, 2:] << 4).reshape(count, 128)
        high = q >> 4
        blocks[:, 128:192] = (high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6).reshape(
            count, 64
        )
        scale = rng.integers(48, 128, (count, 16), np.int8) * rng.choice(np.array([-1, 1], np.int8), (count, 16))
        blocks[:, 192:208] = scale.view(np.uint8)
        _put_halves(blocks, 208, size)
    size *= spread / decode(dtype, blocks[:512]).std()
    _put_halves(blocks, 208 if dtype == "Q6_K" else 0, size)
    if dtype == "Q4_K":
        _put_halves(blocks, 2, MIDDLE * size)
    return blocks


def _nibbles(rng: np.random.Generator, count: int, num_bytes: int, middle: float) -> np.ndarray:
    """uint8 [count, num_bytes] of two 4-bit numbers each, most of them near `middle`."""
    q = np.clip(np.rint(middle + 3 * rng.standard_normal((count, 2 * num_bytes), np.float32)), 0, 15).astype(np.uint8)
    return q[:, :num_bytes] | q[:, num_bytes:] << 4


def _put_halves(blocks: np.ndarray, at: int, values: np.ndarray) -> None:
    """Half-precision numbers [count] at byte `at` of every block."""
    blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)


class RandomData:
    """Call it with one of `listed` after the other: the bytes of the tensor, piece by piece."""

    def __init__(self, shape: Shape, listed: list[Tensor], seed: int):
        self.shape = shape
        self.pool_bytes = min(POOL_BYTES, sum(t.num_bytes for t in listed) // 8)
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.pools: dict[tuple[str, float], np.ndarray] = {}

    def __call__(self, tensor: Tensor) -> Iterator[np.ndarray]:
        kind = tensor.name.split(".")[-2]
        if kind == "token_embd":
            yield from self._blocks(tensor, 1.0)
        elif kind == "attn_qkv":
            yield self._alike(tensor, self._blocks(tensor, GAINS[kind] * tensor.shape[-1] ** -0.5))
        elif kind in GAINS:
            yield from self._blocks(tensor, GAINS[kind] * tensor.shape[-1] ** -0.5)
        else:
            yield self._numbers(tensor).astype("<f4")

    def _blocks(self, tensor: Tensor, spread: float) -> Iterator[np.ndarray]:
        """Pieces of the pool for this type and spread, from a random place on, round and round."""
        key = tensor.dtype, spread
        size = BLOCKS[tensor.dtype].num_bytes
        if key not in self.pools:
            self.pools[key] = random_blocks(tensor.dtype, self.pool_bytes // size | 1, spread, self.rng)
        pool = self.pools[key].reshape(-1)
        at, left = int(self.rng.integers(len(pool) // size)) * size, tensor.num_bytes
        while left:
            piece = pool[at : at + min(left, PIECE_BYTES)]
            yield piece
            at, left = (at + len(piece)) % len(pool), left - len(piece)

    def _alike(self, tensor: Tensor, pieces: Iterator[np.ndarray]) -> np.ndarray:
        """uint8 [rows, bytes of a row] of the query, key and value rows, keys like queries in their first blocks."""
        rows = np.concatenate(list(pieces)).reshape(tensor.shape[0], -1)
        keys, size = self.shape.Hk * self.shape.Dk, BLOCKS[tensor.dtype].num_bytes
        same = int(SHARED * (rows.shape[1] // size)) * size
        rows[keys : 2 * keys, :same] = rows[:keys, :same]
        return rows

    def _numbers(self, tensor: Tensor) -> np.ndarray:
        """The small float tensors, as the file stores them: norms around 1, decay rates negative."""
        rng, name, shape = self.rng, tensor.name, tensor.shape
        if name.endswith("ssm_a"):
            return -rng.uniform(0.02, 2.0, shape)
        if name.endswith("ssm_dt.bias"):
            return rng.standard_normal(shape) - 2
        if name.endswith("ssm_conv1d.weight"):
            return 0.5 * rng.standard_normal(shape)
        assert name.endswith(("norm.weight", "nextn.enorm.weight", "nextn.hnorm.weight")), name
        return (1.7 if "attn_q_norm" in name else 1.0) + 0.3 * rng.standard_normal(shape)


class Progress:
    """A line on stderr now and then: share, speed, time left."""

    def __init__(self, total: int):
        self.total, self.start, self.shown = total, time.monotonic(), 0.0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.shown < 2:
            return
        self.shown, spent = now, now - self.start
        left = spent * (self.total / done - 1)
        print(
            f"{done / 1e9:6.2f} of {self.total / 1e9:.2f} GB, {done / spent / 1e6:.0f} MB/s, {left:.0f} s left",
            file=sys.stderr,
        )


def write_random(
    path: Path, shape: Shape, mix: str, seed: int = 0, done: Callable[[int], None] = lambda _: None, mtp: bool = False
) -> int:
    """Write the file; its size in bytes. done(bytes so far) is called now and then."""
    listed = tensors(shape, mix, mtp)
    described = metadata(shape, mix, f"random weights, seed {seed}", mtp)
    return write_gguf(path, described, listed, RandomData(shape, listed, seed), done)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="35b-a3b")
    parser.add_argument("--mix", choices=FILE_TYPES, default="Q4_K_M")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mtp", action="store_true", help="with an MTP module, which drafts tokens")
    args = parser.parse_args()
    start = time.perf_counter()
    shape = SHAPES[args.shape]
    listed = tensors(shape, args.mix, args.mtp)
    try:
        total = sum(t.num_bytes for t in listed)
        size = write_random(args.file, shape, args.mix, args.seed, Progress(total), args.mtp)
    except (A3BError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    parameters = sum(math.prod(t.shape) for t in listed)
    print(f"{args.file}: {parameters:,} parameters, {size:,} bytes, {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
