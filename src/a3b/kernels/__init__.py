"""The operations a forward pass is made of: one contract each, checked once when weights are bound.

`Kernels.bind_<op>(weights, sizes)` checks every shape and dtype and returns the op: a callable that trusts its
arguments, so that a call costs only its arithmetic. The model makes the arguments of a call itself, from checked token
ids. There are two implementations: `Reference`, NumPy twins that are slow and obvious, and `Native`, C++ for the
instruction set of this machine. Enter at `open_kernels`.

Activations are float32, C-contiguous. A matrix [out, in] is one of
    a float32 array  products in float32 (weights that are BF16 numbers stay BF16 in memory)
    Tiles            4 to 8-bit integers; activations become int8 with one scale per group of 32 or 64 columns, per 256
                     in formats with super-blocks
    mapped           left in its file and decoded by the twin at each use: correct, and slow

Accuracy: u = 2^-24; "n·u" bounds the error relative to the sum of the magnitudes that were added. With tiles this holds
against the integers and scales, which are exact; rounding activations to int8 costs at most 1/254 of a group's largest.
Order: a result depends on the token's own row, its state and its position, never on the other rows of the call, on how
a prompt was cut, or on threads. In Native that is an equality of bits: integer sums are exact within a group or
super-block, which are added in ascending order, floats in ascending columns. In Reference BLAS picks the order within a
product.
Numbers that are not finite: NaN in an activation or a weight, and a scale of tiles that is NaN or infinite, make every
result that depends on them NaN. No maximum, exponential or rounding to integers turns one into a number, and an
infinite product becomes NaN too. Small weights (norms, convolution, A_log, dt_bias) that are not finite are refused.
Errors: bind raises TensorError (name, found, expected); calls raise nothing of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from a3b.errors import TensorError, UsageError
from a3b.formats.quant import all_finite
from a3b.formats.tiles import Tiles
from a3b.kernels.kv import KV_TYPES, PAGE_LEN

__all__ = [
    "KV_TYPES",
    "MAX_DRAFTED",
    "PAGE_LEN",
    "AttentionOp",
    "DeltaOp",
    "EmbedOp",
    "GateUp",
    "InPlaceOp",
    "Kernels",
    "LinearOp",
    "Mapped",
    "Matrix",
    "MoeMatrices",
    "Op",
    "checked_floats",
    "checked_matrix",
    "open_kernels",
]


class Mapped(Protocol):
    """A matrix that stays in its file and is decoded to float32 where it is used."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def f32_rows(self, start: int, stop: int) -> np.ndarray: ...

    def f32_expert(self, e: int) -> np.ndarray: ...


Matrix = np.ndarray | Tiles | Mapped
GateUp = Matrix | tuple[Matrix, Matrix]  # one matrix, the rows of gate first, or two
MAX_A_LOG = 88
MAX_DRAFTED = 64  # drafted tokens of one sequence in a step
Segments = Sequence[tuple[np.ndarray, np.ndarray]]  # keys, values: uint8 [pages, Hkv, bytes]

Op = Callable[..., np.ndarray]
EmbedOp = Callable[[np.ndarray], np.ndarray]
InPlaceOp = Callable[[np.ndarray], object]  # adds to its argument


class LinearOp(Protocol):
    """What `Kernels.bind_linear` returns."""

    def __call__(self, x: np.ndarray, /) -> np.ndarray: ...

    def add(self, x: np.ndarray, h: np.ndarray, /) -> None: ...


class AttentionOp(Protocol):
    """What `Kernels.bind_attention` returns."""

    def __call__(
        self, projected: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments: Segments, start: int, /
    ) -> np.ndarray: ...

    def store(self, kv: np.ndarray, cos: np.ndarray, sin: np.ndarray, segments: Segments, start: int, /) -> None: ...


class DeltaOp(Protocol):
    """What `Kernels.bind_delta` returns."""

    def __call__(
        self,
        projected: np.ndarray,
        conv_state: np.ndarray,
        state: np.ndarray,
        taken: np.ndarray | None = None,
        num_drafted: int = 0,
        /,
    ) -> np.ndarray: ...


@dataclass(frozen=True)
class MoeMatrices:
    """Matrices of a MoE block."""

    router: Matrix  # [E, D]
    shared_expert_gate: Matrix  # [1, D]
    gate_up: GateUp  # [E, 2F, D], or twice [E, F, D]
    down: Matrix  # [E, D, F]
    shared_gate_up: GateUp  # [2Fs, D], or twice [Fs, D]
    shared_down: Matrix  # [D, Fs]


class Kernels(ABC):
    """One implementation of all ops, with its threads and its memory."""

    isa: str  # what computes: "avx512", "avx2", "scalar", or "reference"
    num_threads: int

    def bind_embed(self, table: Matrix, V: int, D: int) -> EmbedOp:
        """op(ids) -> float32 [T, D]: rows of the table, ids int64 [T] in [0, V).

        Exact for floats; scale·q + minimum for tiles.
        """
        return self._embed(checked_matrix("embed", table, (V, D)), V, D)

    def bind_linear(
        self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None = None, eps: float = 0.0
    ) -> LinearOp:
        """op(x) -> float32 [T, sum of out]: norm(x)·Wᵀ for each named W [out, in], side by side.

        op.add(x, h) adds the same to h in place. x float32 [T, in], rows may lie apart. norm float32 [in], around 0, or
        None: x·rsqrt(mean(x²) + eps)·(1 + norm), as in Qwen3_5MoeRMSNorm.
        Accuracy: in·u, and (in/2 + 6)·u for the norm.
        """
        checked = [(name, checked_matrix(name, w, (w.shape[0], num_in))) for name, w in weights]
        if norm is not None:
            norm = checked_floats(f"{weights[0][0]}.norm", norm, (num_in,))
        return self._linear(checked, num_in, norm, eps)

    def bind_norm(self, weight: np.ndarray, eps: float) -> Op:
        """op(x) -> float32 [T, n]: x·rsqrt(mean(x²) + eps)·(1 + weight), x float32 [T, n], weight [n], around 0.

        Accuracy: (n/2 + 6)·u. Source: Qwen3_5MoeRMSNorm in transformers.
        """
        return self._norm(checked_floats("norm", weight, weight.shape), eps)

    def bind_delta(
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
        tiled_heads: bool = False,
    ) -> DeltaOp:
        """Convolution, gated delta rule, gated norm: op(projected, conv_state, state) -> float32 [T, Hv·Dv].

        Both states advance in place. projected float32 [T, Hk·Dk q | Hk·Dk k | Hv·Dv v | Hv·Dv z | Hv b | Hv a],
        conv_state float32 [conv_len - 1, C] (latest inputs, oldest first), state float32 [Hv, Dk, Dv]. conv float32
        [C, conv_len]; A_log, dt_bias [Hv]; norm [Dv], around 1.
        op(..., taken, num_drafted): the states advance first by the rows of taken, float32 [P, q k v | b a], which give
        no output, and not by the last num_drafted rows of projected (at most MAX_DRAFTED), which are computed like the
        others. Rows that were drafted and are taken later leave the same bits as rows that were never drafted.
            x = silu(Σ_j conv[:, j]·x_(t - conv_len + 1 + j)) for q, k and v
            q, k ← u·rsqrt(Σu² + 1e-6) per head, q also ·Dk^-0.5
            β = sigmoid(b); decay = exp(-e^A_log·softplus(a + dt_bias))
            per token: M ← decay·M; δ = β(v - Mᵀk); M ← M + kδᵀ; o = Mᵀq
            out = norm·o·rsqrt(mean(o²) + eps)·silu(z)
        Value head h uses key head h // (Hv / Hk), or h % Hk if tiled_heads (the order of GGUF files).
        Accuracy: one token (conv_len + 2·Dk + Dv/2 + 40)·u of the magnitudes in M and v; earlier errors fade with the
        decay. Source: torch_recurrent_gated_delta_rule, Qwen3_5MoeRMSNormGated in transformers; Yang et al., "Gated
        Delta Networks", 2024.
        """
        C = 2 * Hk * Dk + Hv * Dv
        if Hv % Hk:
            raise TensorError(f"delta: {Hv} value heads over {Hk} key heads; expected a multiple")
        checked_floats("conv1d", conv, (C, conv.shape[-1]))
        checked_floats("A_log", A_log, (Hv,))
        checked_floats("dt_bias", dt_bias, (Hv,))
        checked_floats("delta.norm", norm, (Dv,))
        if A_log.max() > MAX_A_LOG:
            raise TensorError(
                f"A_log: found {A_log.max():g}; expected at most {MAX_A_LOG}, so that e^A_log is a float32"
            )
        return self._delta(conv, A_log, dt_bias, norm, eps, Hk, Hv, Dk, Dv, tiled_heads)

    def bind_attention(
        self, q_norm: np.ndarray, k_norm: np.ndarray, eps: float, Hq: int, Hkv: int, Dh: int, rotary_half: int, kv: str
    ) -> AttentionOp:
        """Gated causal attention: op(projected, cos, sin, segments, start) -> float32 [T, Hq·Dh].

        projected float32 [T, per query head: query, gate | k | v]; q_norm, k_norm float32 [Dh], around 0. The first
        2·rotary_half numbers of a head turn: x_i ← x_i·cos - x_(i+half)·sin, x_(i+half) ← x_(i+half)·cos + x_i·sin,
        with cos and sin float32 [T, half] (rotate_half in transformers). Keys and values are stored in `segments`:
        consecutive (keys, values), uint8 [pages, Hkv, bytes] as in a3b.kernels.kv, with room for positions
        start .. start + T - 1. Unwritten positions must be finite.
        op.store(kv, cos, sin, segments, start) stores the same keys and values of kv, float32 [T, k | v], and attends
        nothing.
        out = sigmoid(gate)·softmax(q·kᵀ·Dh^-0.5)·v over stored keys at positions <= the query's; query heads
        G·j .. G·j + G - 1 share KV head j. Page after page with an online softmax, then segment after segment.
        kv "q8": queries are int8 with a scale per 64 dimensions, weights 15-bit integers per page.
        Accuracy: (Dh·max|score| + S + 8)·u against the stored numbers for "f32" and "bf16"; "q8" adds 1/254 of each
        largest magnitude in query, key and value.
        Source: Milakov and Gimelshein, "Online normalizer calculation", 2018.
        """
        if Hq % Hkv:
            raise TensorError(f"attention: {Hq} query heads over {Hkv} KV heads; expected a multiple")
        if kv not in KV_TYPES:
            raise UsageError(f"kv: {kv!r}; expected one of {', '.join(KV_TYPES)}")
        checked_floats("q_norm", q_norm, (Dh,))
        checked_floats("k_norm", k_norm, (Dh,))
        return self._attention(q_norm, k_norm, eps, Hq, Hkv, Dh, rotary_half, kv)

    def bind_moe(
        self, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int
    ) -> InPlaceOp:
        """op(h): h += experts(norm(h)) + sigmoid(gate)·shared(norm(h)), h float32 [T, D] in place.

        The K best of E by router logits (the lower id among equals), weighted by the softmax over them; each is
        down(silu(gate x)·(up x)). Experts are added in ascending id, the shared one last.
        Accuracy: (2D + F + K + 12)·u per expert.
        Source: Qwen3_5MoeSparseMoeBlock in transformers; Shazeer, "GLU variants improve transformer", 2020.
        """
        checked_floats("post_norm", norm, (D,))
        checked_matrix("router", weights.router, (E, D))
        checked_matrix("shared_expert_gate", weights.shared_expert_gate, (1, D))
        _check_gate_up("gate_up", weights.gate_up, (E, 2 * F, D))
        checked_matrix("down", weights.down, (E, D, F))
        _check_gate_up("shared_gate_up", weights.shared_gate_up, (2 * Fs, D))
        checked_matrix("shared_down", weights.shared_down, (D, Fs))
        return self._moe(weights, norm, eps, E, K, D, F, Fs)

    def bind_mlp(self, gate_up: GateUp, down: Matrix, norm: np.ndarray, eps: float, D: int, F: int) -> InPlaceOp:
        """op(h): h += down(silu(gate x)·(up x)), x = norm(h), h float32 [T, D] in place. Accuracy: (2D + F + 12)·u."""
        checked_floats("post_norm", norm, (D,))
        _check_gate_up("gate_up", gate_up, (2 * F, D))
        checked_matrix("down", down, (D, F))
        return self._mlp(gate_up, down, norm, eps, D, F)

    @abstractmethod
    def _embed(self, table: Matrix, V: int, D: int) -> EmbedOp: ...

    @abstractmethod
    def _linear(
        self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None, eps: float
    ) -> LinearOp: ...

    @abstractmethod
    def _norm(self, weight: np.ndarray, eps: float) -> Op: ...

    @abstractmethod
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
    ) -> DeltaOp: ...

    @abstractmethod
    def _attention(
        self, q_norm: np.ndarray, k_norm: np.ndarray, eps: float, Hq: int, Hkv: int, Dh: int, rotary_half: int, kv: str
    ) -> AttentionOp: ...

    @abstractmethod
    def _moe(
        self, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int
    ) -> InPlaceOp: ...

    @abstractmethod
    def _mlp(self, gate_up: GateUp, down: Matrix, norm: np.ndarray, eps: float, D: int, F: int) -> InPlaceOp: ...


def open_kernels(isa: str | None = None, num_threads: int = 1) -> Kernels:
    """The kernels of this machine's best instruction set.

    isa forces one ("avx512", "avx2", "scalar"), or the NumPy twins ("reference"). Raises UsageError if this machine
    lacks it.
    """
    if isa == "reference":
        from a3b.kernels.ref.kernels import Reference
        from a3b.kernels.threads import set_blas_threads

        set_blas_threads(1)
        return Reference()
    from a3b.kernels.native import Native

    return Native(isa, num_threads)


def checked_floats(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array itself. Raises TensorError unless it is float32 of that shape and finite."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != shape:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TensorError(f"{name}: found {found}; expected float32 {list(shape)}")
    if not all_finite(array):
        raise TensorError(f"{name}: holds a number that is NaN or infinite; expected finite numbers")
    return array


def checked_matrix(name: str, matrix: Matrix, shape: tuple[int, ...]) -> Matrix:
    """The matrix itself. Raises TensorError unless it has that shape, and float32 numbers if it is an array."""
    if tuple(matrix.shape) != shape:
        raise TensorError(f"{name}: found shape {list(matrix.shape)}; expected {list(shape)}")
    if isinstance(matrix, np.ndarray) and matrix.dtype != np.float32:
        raise TensorError(f"{name}: found {matrix.dtype}; expected float32, or a mapped matrix that decodes to it")
    return matrix


def _check_gate_up(name: str, weights: GateUp, shape: tuple[int, ...]) -> None:
    if not isinstance(weights, tuple):
        checked_matrix(name, weights, shape)
        return
    half = (*shape[:-2], shape[-2] // 2, shape[-1])
    for part, tiles in zip(("gate", "up"), weights, strict=True):
        checked_matrix(f"{name}.{part}", tiles, half)
