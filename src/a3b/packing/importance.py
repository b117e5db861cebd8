"""Which columns of each matrix matter: the mean squares of its inputs while the unpacked model reads a text.

All pieces of the text go through a layer together, so that every weight is decoded once and its pages are given back:
the model may be far larger than the memory. Experts that see few tokens borrow from the mean over all experts of their
layer. The order of the arithmetic does not depend on the number of threads. Enter at `measure`. Source of the idea: the
importance matrix of llama.cpp (tools/imatrix), Frantar et al., "GPTQ", 2022 (the diagonal of the Hessian)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from a3b.kernels import AttentionOp, DeltaOp, EmbedOp, GateUp, Kernels, Matrix, MoeMatrices, Op
from a3b.kernels.ref import ops
from a3b.model.config import ModelConfig
from a3b.model.forward import Model
from a3b.model.tensor_names import BY_ROLE, tensors_of
from a3b.model.weights import ModelWeights, by_role
from a3b.packing.plan import halves
from a3b.packing.source import Source

MAX_TOKENS = 4096  # of a text; their hidden rows are in memory together
PRIOR = 16  # weight, in tokens, of the layer's mean that is mixed into an expert's own inputs
FLOOR = 0.01  # share of the mean over all columns that a column without input still counts
ROWS = 512  # of a matrix decoded at a time


def measure(
    source: Source,
    pieces: Sequence[np.ndarray],
    kernels: Kernels,
    threads: int,
    done: Callable[[int], None] = lambda layers: None,
) -> dict[str, np.ndarray]:
    """The importance of columns, by tensor name of the packed directory: float32 [1, columns], experts [E, columns].

    pieces: ids int [T] each, at most MAX_TOKENS in all. kernels: compute what has no matrices. done: called with the
    number of layers read so far."""
    config, weights = source.config, source.weights
    with ThreadPoolExecutor(threads) as pool:
        watching = Watching(kernels, pool, source.release, done)
        model = Model(config, replace(weights, mtp=None), watching, "f32")
        hidden = model.hidden([(ids, model.new_state()) for ids in pieces])
    found = {name: watching.inputs[id(matrix)].importance() for name, matrix in _bound(config, weights)}
    head = "embed" if config.tie_word_embeddings else "lm_head"
    last = Inputs(1, config.hidden_size)
    last.add(0, ops.bind_rms_norm(weights.norm, config.norm_eps)(hidden))
    return found | {BY_ROLE[head].full_name(None): last.importance()}


class Inputs:
    """Sums of squares of the inputs of a matrix by column, or of each of E experts."""

    def __init__(self, E: int, num_in: int):
        self.sums, self.counts = np.zeros((E, num_in)), np.zeros((E, 1))

    def add(self, e: int, x: np.ndarray) -> None:
        self.sums[e] += np.einsum("tn,tn->n", x, x, dtype=np.float64)
        self.counts[e] += len(x)

    def importance(self) -> np.ndarray:
        """float32 [E, columns], all above zero."""
        mean = self.sums.sum(0) / max(self.counts.sum(), 1)
        own = (self.sums + PRIOR * mean) / (self.counts + PRIOR)
        return np.asarray(own + FLOOR * (mean.mean() or 1), np.float32)


class Watching(Kernels):
    """Ops over float or mapped matrices that sum the squares of their inputs, by the identity of the matrix."""

    isa = "reference"

    def __init__(self, inner: Kernels, pool: Executor, release: Callable[[Any], None], done: Callable[[int], None]):
        self.inner, self.pool, self.release, self.done = inner, pool, release, done
        self.inputs: dict[int, Inputs] = {}
        self.num_layers = 0  # read so far

    def watch(self, matrix: Any, E: int, num_in: int) -> Inputs:
        return self.inputs.setdefault(id(matrix), Inputs(E, num_in))

    def layer_is_read(self) -> None:
        self.num_layers += 1
        self.done(self.num_layers)

    def product(self, matrix: Matrix, x: np.ndarray) -> np.ndarray:
        """float32 [T, out]: x·Wᵀ."""
        out = np.empty((len(x), matrix.shape[0]), np.float32)

        def fill(start: int) -> None:
            out[:, start : start + ROWS] = x.dot(_rows(matrix, start, min(start + ROWS, matrix.shape[0])).T)

        for _ in self.pool.map(fill, range(0, matrix.shape[0], ROWS)):
            pass
        self.release(matrix)
        return out

    def _embed(self, table: Matrix, V: int, D: int) -> EmbedOp:
        return self.inner.bind_embed(table, V, D)

    def _norm(self, weight: np.ndarray, eps: float) -> Op:
        return self.inner.bind_norm(weight, eps)

    def _delta(self, *args: Any) -> DeltaOp:
        return self.inner.bind_delta(*args)

    def _attention(self, *args: Any) -> AttentionOp:
        return self.inner.bind_attention(*args)

    def _linear(
        self, weights: Sequence[tuple[str, Matrix]], num_in: int, norm: np.ndarray | None, eps: float
    ) -> WatchedLinear:
        return WatchedLinear(self, [w for _, w in weights], num_in, norm, eps)

    def _mlp(self, gate_up: GateUp, down: Matrix, norm: np.ndarray, eps: float, D: int, F: int) -> WatchedMlp:
        return WatchedMlp(self, gate_up, down, norm, eps, D, F)

    def _moe(
        self, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int
    ) -> WatchedMoe:
        return WatchedMoe(self, weights, norm, eps, E, K, D, F, Fs)


class WatchedLinear:
    def __init__(self, k: Watching, weights: list[Matrix], num_in: int, norm: np.ndarray | None, eps: float):
        self.k, self.weights = k, weights
        self.inputs = [k.watch(w, 1, num_in) for w in weights]
        self.norm = None if norm is None else ops.bind_rms_norm(norm, eps)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = x if self.norm is None else self.norm(x)
        for inputs in self.inputs:
            inputs.add(0, x)
        return np.concatenate([self.k.product(w, x) for w in self.weights], axis=1)

    def add(self, x: np.ndarray, h: np.ndarray) -> None:
        h += self(x)


class WatchedMlp:
    def __init__(self, k: Watching, gate_up: GateUp, down: Matrix, norm: np.ndarray | None, eps: float, D: int, F: int):
        self.k, self.down, self.halves = k, down, halves(gate_up)
        self.into, self.between = k.watch(gate_up, 1, D), k.watch(down, 1, F)
        self.norm = None if norm is None else ops.bind_rms_norm(norm, eps)

    def __call__(self, h: np.ndarray) -> None:
        h += self.of(h if self.norm is None else self.norm(h))
        self.k.layer_is_read()

    def of(self, x: np.ndarray) -> np.ndarray:
        self.into.add(0, x)
        hidden = ops.swiglu(np.concatenate([self.k.product(half, x) for half in self.halves], axis=1))
        self.between.add(0, hidden)
        return self.k.product(self.down, hidden)


class WatchedMoe:
    def __init__(
        self, k: Watching, weights: MoeMatrices, norm: np.ndarray, eps: float, E: int, K: int, D: int, F: int, Fs: int
    ):
        self.k, self.weights, self.E, self.K = k, weights, E, K
        self.into, self.between = k.watch(weights.gate_up, E, D), k.watch(weights.down, E, F)
        self.shared = WatchedMlp(k, weights.shared_gate_up, weights.shared_down, None, eps, D, Fs)
        self.halves, self.norm = halves(weights.gate_up), ops.bind_rms_norm(norm, eps)

    def __call__(self, h: np.ndarray) -> None:
        x = self.norm(h)
        ids, shares = ops.route(self.k.product(self.weights.router, x), self.K)

        def of_expert(e: int) -> tuple[np.ndarray, np.ndarray]:
            rows, ranks = np.nonzero(ids == e)
            if not len(rows):
                return rows, x[:0]
            gate, up, down = (
                _rows(_expert(matrix, e), 0, matrix.shape[1]) for matrix in (*self.halves, self.weights.down)
            )
            hidden = ops.swiglu(np.concatenate((x[rows].dot(gate.T), x[rows].dot(up.T)), axis=1))
            self.into.add(e, x[rows])
            self.between.add(e, hidden)
            return rows, hidden.dot(down.T) * shares[rows, ranks, None]

        gate = ops.sigmoid(self.k.product(self.weights.shared_expert_gate, x))
        shared = self.shared.of(x) * gate
        for rows, out in self.k.pool.map(of_expert, range(self.E)):
            h[rows] += out
        h += shared
        for matrix in (*self.halves, self.weights.down):
            self.k.release(matrix)
        self.k.layer_is_read()


def _bound(config: ModelConfig, weights: ModelWeights) -> Iterator[tuple[str, Any]]:
    """(name in the packed directory, the matrix that was bound) of every matrix in a layer; gate and up may be one."""
    for tensor, layer in tensors_of(config):
        if layer is not None and tensor.kind:
            yield tensor.full_name(layer), by_role(weights, layer)[tensor.role]


def _expert(matrix: Any, e: int) -> Matrix:
    expert: Matrix = matrix[e] if isinstance(matrix, np.ndarray) else matrix.expert(e)
    return expert


def _rows(matrix: Matrix, start: int, stop: int) -> np.ndarray:
    return matrix[start:stop] if isinstance(matrix, np.ndarray) else matrix.f32_rows(start, stop)
