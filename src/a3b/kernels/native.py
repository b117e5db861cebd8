"""The C++ kernels under the contracts of `a3b.kernels`: lays weights out, allocates results, computes nothing.

Weights that are neither floats in memory nor tiles go to the NumPy twins, which decode them at each use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from a3b.errors import UsageError
from a3b.formats.tiles import TILE_ROWS, Tiles
from a3b.kernels import (
    KV_TYPES,
    AttentionOp,
    DeltaOp,
    EmbedOp,
    GateUp,
    InPlaceOp,
    Kernels,
    LinearOp,
    Matrix,
    MoeMatrices,
    Op,
    Segments,
)
from a3b.kernels.ref.kernels import Reference

try:
    from a3b.kernels import _native
except ImportError as error:  # other functions of this module need no compiled code
    _missing = str(error)
else:
    _missing = ""

MAX_THREADS = 1024
F32, BF16 = 8, 9  # codes of float tiles, after those of a3b.formats.tiles

TileOperand = tuple[int, np.ndarray, int, int]  # code, bytes, rows (of one expert), columns


class Native(Kernels):
    """The ops in C++, for one instruction set and a number of threads."""

    def __init__(self, isa: str | None, num_threads: int):
        """isa None: the best. Raises UsageError if this machine lacks it, or this installation the compiled kernels."""
        if _missing:
            raise UsageError(f"the compiled kernels are missing ({_missing}); install a3b again with a C++ compiler")
        if isa and isa not in _native.isas():
            raise UsageError(
                f"instruction set {isa!r} is not available here; this machine "
                f"runs {', '.join(_native.isas())}, reference"
            )
        if not 1 <= num_threads <= MAX_THREADS:
            raise UsageError(f"threads: {num_threads}; expected 1 to {MAX_THREADS}")
        self.runtime = _native.Runtime(isa or "", num_threads)
        self.isa, self.num_threads = self.runtime.isa, self.runtime.num_threads
        self._twins = Reference()

    def _embed(self, table: Matrix, V: int, D: int) -> EmbedOp:
        if not _is_native(table):
            return self._twins.bind_embed(table, V, D)
        op = _native.BoundEmbed(self.runtime, laid_out(table))

        def embed(ids: np.ndarray) -> np.ndarray:
            out = np.empty((len(ids), D), np.float32)
            op(np.ascontiguousarray(ids, np.int64), out)
            return out

        return embed

    def _linear(
        self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None, eps: float
    ) -> LinearOp:
        operands = [laid_out(w) for _, w in weights if _is_native(w)]
        if len(operands) < len(weights):
            return self._twins.bind_linear(weights, num_in, norm, eps)
        scale = None if norm is None else around_one(norm)
        return NativeLinear(_native.BoundLinear(self.runtime, operands, scale, eps))

    def _norm(self, weight: np.ndarray, eps: float) -> Op:
        return self._twins.bind_norm(weight, eps)

    def _delta(
        self,
        conv: np.ndarray,
        A_log: np.ndarray,
        dt_bias: np.ndarray,
        norm: np.ndarray,
        eps: float,
        Hk: int,
        Hv: int,
        Dk: int,
        Dv: int,
        tiled_heads: bool,
    ) -> DeltaOp:
        rate = -np.exp(A_log.astype(np.float64)).astype(np.float32)
        taps = np.ascontiguousarray(conv.T)
        op = _native.BoundDelta(self.runtime, Hk, Hv, Dk, Dv, tiled_heads, taps, rate, dt_bias, norm, eps)

        def delta(
            projected: np.ndarray,
            conv_state: np.ndarray,
            state: np.ndarray,
            taken: np.ndarray | None = None,
            num_drafted: int = 0,
        ) -> np.ndarray:
            out = np.empty((len(projected), Hv * Dv), np.float32)
            op(projected, conv_state, state, out, taken, num_drafted)
            return out

        return delta

    def _attention(
        self, q_norm: np.ndarray, k_norm: np.ndarray, eps: float, Hq: int, Hkv: int, Dh: int, rotary_half: int, kv: str
    ) -> AttentionOp:
        op = _native.BoundAttention(
            self.runtime, Hq, Hkv, Dh, rotary_half, KV_TYPES[kv], around_one(q_norm), around_one(k_norm), eps
        )
        return NativeAttention(op, Hq * Dh)

    def _moe(
        self, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int
    ) -> InPlaceOp:
        w = weights
        matrices = [*_halves(w.gate_up), w.down, *_halves(w.shared_gate_up), w.shared_down]
        operands = [laid_out(matrix) for matrix in matrices if _is_native(matrix)]
        router, gate = w.router, w.shared_expert_gate
        if len(operands) < len(matrices) or not (_is_native(router) and _is_native(gate)):
            return self._twins.bind_moe(weights, norm, eps, E, K, D, F, Fs)
        operands.append(laid_out(np.concatenate([_decoded(router), _decoded(gate)])))
        return _native.BoundMoe(self.runtime, E, K, operands, around_one(norm), eps)

    def _mlp(self, gate_up: GateUp, down: Matrix, norm: np.ndarray, eps: float, D: int, F: int) -> InPlaceOp:
        gate, up = _halves(gate_up)
        if not (_is_native(gate) and _is_native(up) and _is_native(down)):
            return self._twins.bind_mlp(gate_up, down, norm, eps, D, F)
        return _native.BoundMoe(self.runtime, laid_out(gate), laid_out(up), laid_out(down), around_one(norm), eps)


class NativeLinear:
    """A LinearOp that allocates its result."""

    def __init__(self, op: _native.BoundLinear):
        self.op, self.num_out = op, op.num_out

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), self.num_out), np.float32)
        self.op(x, out)
        return out

    def add(self, x: np.ndarray, h: np.ndarray) -> None:
        self.op(x, h, True)


class NativeAttention:
    """An AttentionOp that allocates its result."""

    def __init__(self, op: _native.BoundAttention, num_out: int):
        self.op, self.num_out = op, num_out

    def __call__(
        self, projected: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments: Segments, start: int
    ) -> np.ndarray:
        out = np.empty((len(projected), self.num_out), np.float32)
        self.op(projected, start, cos, sin, _flat(segments), len(segments[0][0]), out)
        return out

    def store(self, kv: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments: Segments, start: int) -> None:
        self.op.store(kv, start, cos, sin, _flat(segments), len(segments[0][0]))


def _flat(segments: Segments) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(keys.reshape(-1), values.reshape(-1)) for keys, values in segments]


def around_one(norm: np.ndarray) -> np.ndarray:
    """A norm's weight with the 1 that checkpoints leave out."""
    return (1.0 + norm.astype(np.float64)).astype(np.float32)


def laid_out(matrix: np.ndarray | Tiles) -> TileOperand:
    """The matrix as the extension expects it.

    Tiles stay as they are; float32 [(E,) rows, n] becomes tiles [n, 16], in BF16 if that loses nothing.
    """
    rows, n = matrix.shape[-2:]
    if isinstance(matrix, Tiles):
        return matrix.format.code, matrix.data, rows, n
    bits, as_bf16 = _bits(matrix), is_bf16(matrix)
    stored = (bits >> 16).astype(np.uint16) if as_bf16 else bits
    padded = np.pad(stored, [(0, 0)] * (stored.ndim - 2) + [(0, -rows % TILE_ROWS), (0, 0)])
    tiles = padded.reshape(*padded.shape[:-2], -1, TILE_ROWS, n).swapaxes(-1, -2)
    return BF16 if as_bf16 else F32, np.ascontiguousarray(tiles).view(np.uint8).reshape(-1), rows, n


def is_bf16(matrix: np.ndarray) -> bool:
    """Whether float32 numbers are kept as BF16, in half the bytes."""
    return not bool((_bits(matrix) & 0xFFFF).any())


def _bits(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix).view(np.uint32)


def _is_native(matrix: Matrix) -> TypeGuard[np.ndarray | Tiles]:
    return isinstance(matrix, np.ndarray | Tiles)


def _halves(gate_up: GateUp) -> tuple[Matrix, Matrix]:
    """Gate and up: views of floats, the two of tiles; a mapped matrix twice, for the twins to take whole."""
    if isinstance(gate_up, tuple):
        return gate_up
    if not isinstance(gate_up, np.ndarray):
        return gate_up, gate_up
    half = gate_up.shape[-2] // 2
    return gate_up[..., :half, :], gate_up[..., half:, :]


def _decoded(matrix: np.ndarray | Tiles) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.f32_rows(0, matrix.shape[0])
