"""The C++ kernels behind the contracts of `a3b.kernels`: weights laid out for them, results allocated, nothing computed
here.

Weights that are neither floats in memory nor tiles go to the twins, which decode them where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from a3b.errors import UsageError
from a3b.formats.tiles import TILE_ROWS, Tiles
from a3b.kernels import KV_TYPES, Kernels, Matrix, MoeWeights
from a3b.kernels.ref.kernels import Reference

MAX_THREADS = 1024
F32, BF16 = 8, 9  # codes of float tiles, behind those of a3b.formats.tiles

Laid = tuple[int, np.ndarray, int, int]  # code, bytes, rows (of one expert), columns


class Native(Kernels):
    def __init__(self, isa: str | None, num_threads: int):
        """Raises UsageError if this machine lacks the instruction set, or this installation the kernels."""
        try:
            from a3b.kernels import _native
        except ImportError as error:
            raise UsageError(
                f"the compiled kernels are missing ({error}); install a3b again with a C++ compiler"
            ) from None
        if isa and isa not in _native.isas():
            raise UsageError(
                f"instruction set {isa!r} is not available here; this machine "
                f"runs {', '.join(_native.isas())}, reference"
            )
        if not 1 <= num_threads <= MAX_THREADS:
            raise UsageError(f"threads: {num_threads}; expected 1 to {MAX_THREADS}")
        self._lib = _native
        self._runtime = _native.Runtime(isa or "", num_threads)
        self.isa, self.num_threads = self._runtime.isa, self._runtime.num_threads
        self._twins = Reference()

    def _embed(self, table: Matrix, V: int, D: int):
        if not _is_native(table):
            return self._twins.bind_embed(table, V, D)
        op = self._lib.Embed(self._runtime, laid_out(table))

        def embed(ids: np.ndarray) -> np.ndarray:
            out = np.empty((len(ids), D), np.float32)
            op(np.ascontiguousarray(ids, np.int64), out)
            return out

        return embed

    def _linear(self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None, eps: float):
        if not all(_is_native(w) for _, w in weights):
            return self._twins.bind_linear(weights, num_in, norm, eps)
        return Linear(self._lib.Linear(self._runtime, [laid_out(w) for _, w in weights], around_one(norm), eps))

    def _delta(self, conv, A_log, dt_bias, norm, eps, Hk, Hv, Dk, Dv, tiled_heads):
        rate = -np.exp(A_log.astype(np.float64)).astype(np.float32)
        op = self._lib.Delta(
            self._runtime, Hk, Hv, Dk, Dv, tiled_heads, np.ascontiguousarray(conv.T), rate, dt_bias, norm, eps
        )

        def delta(projected: np.ndarray, conv_state: np.ndarray, state: np.ndarray) -> np.ndarray:
            out = np.empty((len(projected), Hv * Dv), np.float32)
            op(projected, conv_state, state, out)
            return out

        return delta

    def _attention(self, q_norm, k_norm, eps, Hq, Hkv, Dh, rotary_half, kv):
        op = self._lib.Attention(
            self._runtime, Hq, Hkv, Dh, rotary_half, KV_TYPES[kv], around_one(q_norm), around_one(k_norm), eps
        )

        def attention(projected: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments, start: int) -> np.ndarray:
            out = np.empty((len(projected), Hq * Dh), np.float32)
            op(
                projected,
                start,
                cos,
                sin,
                [(keys.reshape(-1), values.reshape(-1)) for keys, values in segments],
                len(segments[0][0]),
                out,
            )
            return out

        return attention

    def _moe(self, weights: MoeWeights, norm, eps, E, K, D, F, Fs):
        w = weights
        gate_up, shared = _halves(w.gate_up), _halves(w.shared_gate_up)
        parts = [*gate_up, w.down, *shared, w.shared_down, w.router, w.shared_expert_gate]
        if not all(_is_native(part) for part in parts):
            return self._twins.bind_moe(weights, norm, eps, E, K, D, F, Fs)
        router = np.concatenate([_decoded(w.router), _decoded(w.shared_expert_gate)])
        op = self._lib.Moe(
            self._runtime, E, K, [laid_out(part) for part in (*parts[:6], router)], around_one(norm), eps
        )
        return op

    def _mlp(self, gate_up, down, norm, eps, D, F):
        gate, up = _halves(gate_up)
        if not all(_is_native(part) for part in (gate, up, down)):
            return self._twins.bind_mlp(gate_up, down, norm, eps, D, F)
        return self._lib.Moe(self._runtime, laid_out(gate), laid_out(up), laid_out(down), around_one(norm), eps)


class Linear:
    def __init__(self, op):
        self.op, self.num_out = op, op.num_out

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), self.num_out), np.float32)
        self.op(x, out)
        return out

    def add(self, x: np.ndarray, h: np.ndarray) -> None:
        self.op(x, h, True)


def around_one(norm: np.ndarray | None) -> np.ndarray | None:
    """A norm's weight with the 1 that checkpoints leave out."""
    return None if norm is None else (1.0 + norm.astype(np.float64)).astype(np.float32)


def laid_out(matrix: np.ndarray | Tiles) -> Laid:
    """What the extension takes: tiles as they are; float32 [(E,) rows, n] as tiles [n, 16], in BF16 if that loses
    nothing."""
    if isinstance(matrix, Tiles):
        return matrix.format.code, matrix.data, *matrix.shape[-2:]
    rows, n = matrix.shape[-2:]
    bits, as_bf16 = _bits(matrix), is_bf16(matrix)
    stored = (bits >> 16).astype(np.uint16) if as_bf16 else bits
    padded = np.pad(stored, [(0, 0)] * (stored.ndim - 2) + [(0, -rows % TILE_ROWS), (0, 0)])
    tiles = padded.reshape(*padded.shape[:-2], -1, TILE_ROWS, n).swapaxes(-1, -2)
    return BF16 if as_bf16 else F32, np.ascontiguousarray(tiles).view(np.uint8).reshape(-1), rows, n


def is_bf16(matrix: np.ndarray) -> bool:
    """Whether float32 numbers are kept as BF16, in half the bytes."""
    return not (_bits(matrix) & 0xFFFF).any()


def _bits(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix).view(np.uint32)


def _is_native(matrix: Matrix) -> bool:
    return isinstance(matrix, np.ndarray | Tiles)


def _halves(gate_up: Matrix | tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix]:
    """Gate and up: views of floats, the two of tiles; a mapped matrix twice, for the twins to take whole."""
    if isinstance(gate_up, tuple):
        return gate_up
    if not isinstance(gate_up, np.ndarray):
        return gate_up, gate_up
    half = gate_up.shape[-2] // 2
    return gate_up[..., :half, :], gate_up[..., half:, :]


def _decoded(matrix: np.ndarray | Tiles) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.f32_rows(0, matrix.shape[0])
