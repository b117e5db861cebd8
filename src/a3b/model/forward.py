"""The forward pass: token ids and a state in, logits out. Everything it reads is an argument.

A model is immutable and holds ops bound to weights; what a sequence accumulates is in `a3b.model.state.State`. Knows no
tokenizer, no sampling and no files. Enter at `Model(config, weights, kernels)`.

    h = embed[ids];  per layer: h += mixer(norm(h)), h += mlp(norm(h));  logits = norm(h) · lm_headᵀ

Rows of several sequences share every product with a weight; mixers run per sequence, on its rows and its state. A row
depends only on its token, its position and its state, so cutting or batching the work changes no bit (with the NumPy
twins, only the rounding inside BLAS; see `a3b.kernels`).
Axes: T rows of a step, D hidden, V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, overload

import numpy as np

from a3b import kernels
from a3b.errors import Interrupted, UsageError
from a3b.kernels import Kernels
from a3b.model.config import ModelConfig
from a3b.model.layers import Span, bind_layers, joined
from a3b.model.mtp import MtpModule
from a3b.model.rope import Rope
from a3b.model.state import State, advancing
from a3b.model.weights import ModelWeights

CHUNK = 512  # tokens of one sequence in a step, at most; bounds the memory of a long prompt


class Model:
    """A checkpoint ready to compute. Keeps no reference to `weights` beyond the arrays it uses."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, k: Kernels, kv: str = "q8"):
        """Bind every op. kv: how keys and values are stored. Raises TensorError for a weight of the wrong shape."""
        self.config, self.kv, self.isa = config, kv, k.isa
        self._embed = k.bind_embed(weights.embed, config.vocab_size, config.hidden_size)
        self._layers = bind_layers(k, config, weights, kv)
        self._lm_head = k.bind_linear([("lm_head", weights.lm_head)], config.hidden_size, weights.norm, config.norm_eps)
        self._rope = Rope(config.rope)
        self.mtp = None if weights.mtp is None else MtpModule(k, config, weights, weights.mtp, kv)

    def new_state(self) -> State:
        return State(self.config, self.kv, None if self.mtp is None else self.mtp.take_in)

    @overload
    def forward(
        self,
        ids: np.ndarray,
        state: State,
        logits: Literal["last", "all"] = "last",
        cancel: Callable[[], bool] | None = None,
    ) -> np.ndarray: ...

    @overload
    def forward(
        self, ids: np.ndarray, state: State, logits: Literal["none"], cancel: Callable[[], bool] | None = None
    ) -> None: ...

    def forward(
        self, ids: np.ndarray, state: State, logits: str = "last", cancel: Callable[[], bool] | None = None
    ) -> np.ndarray | None:
        """Read ids int [T], advance `state` by T; logits "last" -> float32 [V], "all" -> [T, V], "none" -> None.

        cancel is called before each layer; if it returns True, Interrupted is raised and the state is torn.
        Raises UsageError if ids are not a non-empty 1-D integer array of values in [0, V), or the state is torn.
        """
        if logits == "all":
            return np.concatenate(list(self.forward_chunks(ids, state)))
        if logits not in ("last", "none"):
            raise UsageError(f"logits: {logits!r}; expected 'last', 'all' or 'none'")
        for hidden in self._chunks(self._checked(ids), state, cancel):
            last = hidden[-1:]
        return self._lm_head(last)[0] if logits == "last" else None

    def forward_chunks(
        self, ids: np.ndarray, state: State, rows: int = CHUNK, cancel: Callable[[], bool] | None = None
    ) -> Iterator[np.ndarray]:
        """Like forward with "all", in pieces float32 [up to rows, V], for prompts whose logits do not fit in memory."""
        for hidden in self._chunks(self._checked(ids), state, cancel):
            for start in range(0, len(hidden), rows):
                yield self._lm_head(hidden[start : start + rows])

    def forward_batch(self, pieces: Sequence[tuple[np.ndarray, State]]) -> list[np.ndarray]:
        """Advance several sequences together: (ids, state) each -> logits float32 [V] of each last token.

        Raises UsageError as `forward` does, and if two pieces share a state.
        """
        return [rows[0] for rows in self.forward_drafted([(ids, state, 0) for ids, state in pieces])]

    def forward_drafted(self, pieces: Sequence[tuple[np.ndarray, State, int]]) -> list[np.ndarray]:
        """Like forward_batch, with drafts: (ids, state, num_drafted) each -> logits float32 [1 + num_drafted, V] of the
        last token that is none, and of each draft.

        The last num_drafted ids are read as drafts; the state counts them only after `State.keep`. Raises UsageError
        as `forward_batch` does, and for more than MAX_DRAFTED or nothing but drafts."""
        if len({id(state) for _, state, _ in pieces}) != len(pieces):
            raise UsageError("pieces: a state occurs twice; fork it, or join its tokens into one piece")
        rests, drafted = [], [num for *_, num in pieces]
        for ids, state, num in [(self._checked(ids), state, num) for ids, state, num in pieces]:
            if not 0 <= num <= min(kernels.MAX_DRAFTED, len(ids) - 1):
                raise UsageError(
                    f"pieces: {num} drafts in {len(ids)} tokens; expected fewer, at most {kernels.MAX_DRAFTED}"
                )
            # long prompts go ahead alone; at most CHUNK tokens each remain
            head = (len(ids) - num - 1) // CHUNK * CHUNK
            for _ in self._chunks(ids[:head], state):
                pass
            rests.append((ids[head:], state))
        if not rests:
            return []
        hidden, ends = self.hidden(rests, drafted=drafted), np.cumsum([len(ids) for ids, _ in rests])
        wanted = [np.arange(end - num - 1, end) for end, num in zip(ends, drafted, strict=True)]
        logits = self._lm_head(hidden[joined(wanted)])
        return np.split(logits, np.cumsum([len(rows) for rows in wanted])[:-1])

    def settle(self, state: State) -> None:
        """Take in drafted tokens that were kept since the last step: `snapshot` and `fork` need that."""
        if state.is_settled:
            return
        with advancing([(state, 0)]):
            for layer in self._layers:
                layer.mixer.settle(state)

    def _chunks(self, ids: np.ndarray, state: State, cancel: Callable[[], bool] | None = None) -> Iterator[np.ndarray]:
        """Hidden rows before the final norm, up to CHUNK at a time."""
        for start in range(0, len(ids), CHUNK):
            yield self.hidden([(ids[start : start + CHUNK], state)], cancel)

    def hidden(
        self,
        pieces: Sequence[tuple[np.ndarray, State]],
        cancel: Callable[[], bool] | None = None,
        drafted: Sequence[int] = (),
    ) -> np.ndarray:
        """One pass through all layers: float32 [T, D] before the final norm, rows in the order of the pieces.

        ids are trusted, memory grows with T, and cancel is called before each layer. drafted: how many ids of each
        piece are drafts, its last ones."""
        spans, positions, stop = [], [], 0
        for (ids, state), num_drafted in zip(pieces, drafted or [0] * len(pieces), strict=True):
            spans.append(Span(slice(stop, stop + len(ids)), state, num_drafted))
            positions.append(np.arange(state.num_tokens, state.num_tokens + len(ids)))
            stop += len(ids)
        cos_sin = self._rope(joined(positions))
        with advancing([(state, len(ids)) for ids, state in pieces], drafted):
            joined_ids = joined([ids for ids, _ in pieces])
            h = self._embed(joined_ids)
            for layer in self._layers:
                if cancel is not None and cancel():
                    raise Interrupted("the step was cancelled")
                layer(h, spans, cos_sin)
            if self.mtp is not None:
                self.mtp.follow(joined_ids, h, spans)
        return h

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
            raise UsageError(f"ids: {ids.dtype} {list(ids.shape)}; expected a non-empty 1-D array of integers")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            bad = ids[(ids < 0) | (ids >= self.config.vocab_size)][0]
            raise UsageError(f"ids: found {bad}; expected ids in [0, {self.config.vocab_size})")
        return ids
