"""The MTP module: from the hidden state of a token and the token after it, a guess of the token after that.

    u_t = fc(norm(embed[x_t]) ++ norm(h_(t-1)));  one layer of attention with experts over u_0 .. u_t;  m_t = norm(u_t)
    guess of x_(t+1) = m_t · lm_headᵀ;  for the guess after that, m_t stands for h_t

h is what the model's head sees, after the final norm; h_(-1) is 0. What attention needs of u_t are keys and values at
position t, so following a sequence costs fc and two projections a token, for many tokens together; the layer is
computed for guesses alone, whose keys and values lie behind the sequence, where its next tokens are written.
No answer depends on any of this. Source: `qwen3_5_mtp.py` of vLLM; llama.cpp places u_t at t too. Enter at `MtpModule`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from a3b.errors import TensorError, UsageError
from a3b.formats.tiles import Tiles
from a3b.kernels import Kernels, LinearOp
from a3b.model.config import ModelConfig
from a3b.model.draft_vocabulary import frequent_ids
from a3b.model.layers import Attention, Span, bind_mlp
from a3b.model.rope import Rope
from a3b.model.state import State
from a3b.model.trail import LATEST
from a3b.model.weights import AttentionWeights, ModelWeights, MtpWeights


class MtpModule:
    """The module of one model. Immutable; what it knows of a sequence is in the state."""

    def __init__(self, k: Kernels, config: ModelConfig, weights: ModelWeights, mtp: MtpWeights, kv: str):
        """Bind every op. Raises TensorError for a weight of the wrong shape, or a layer without attention."""
        a, eps, layer = config.axes, config.norm_eps, mtp.layer
        if not isinstance(layer.mixer, AttentionWeights):
            raise TensorError("mtp: found a delta net; expected a layer of attention")
        self._k, self._lm_head = k, weights.lm_head
        self._embed = k.bind_embed(weights.embed, config.vocab_size, a.D)
        self._norms = [k.bind_norm(norm, eps) for norm in (mtp.embedding_norm, mtp.hidden_norm)]
        self._join = k.bind_linear([("MTP fc", mtp.fc)], 2 * a.D)
        index = config.layer_types.count("full_attention")  # the last in the state
        self.attention = Attention(k, config, layer.mixer, layer.input_norm, index, "MTP layer", kv)
        parts = [("MTP k_proj", layer.mixer.k_proj), ("MTP v_proj", layer.mixer.v_proj)]
        self._project_kv = k.bind_linear(parts, a.D, layer.input_norm, eps)
        self.mlp = bind_mlp(k, config, layer.mlp, layer.post_norm)
        self.norm, self.final_norm = k.bind_norm(mtp.norm, eps), k.bind_norm(weights.norm, eps)
        self._rope = Rope(config.rope)
        is_mapped = not isinstance(weights.lm_head, np.ndarray | Tiles)  # decoded at each use, so nothing is gained
        frequent = None if is_mapped else frequent_ids(config.vocab_size)
        self.frequent: np.ndarray | None = None  # bool [V]: whether the head has a token, None: it has all
        if frequent is not None:
            self.frequent = np.zeros(config.vocab_size, bool)
            self.frequent[frequent] = True
        self.default_head = self.head(frequent)

    def head(self, ids: np.ndarray | None) -> DraftHead:
        """Logits of some tokens, int64 [n], rising; or (None) of all of them."""
        if ids is None:
            ids, matrix = np.arange(self._lm_head.shape[0]), self._lm_head
        else:
            matrix = self._rows(ids)
        return DraftHead(ids, [self._k.bind_linear([("lm_head", matrix)], matrix.shape[1])])

    def head_with(self, ids: np.ndarray) -> DraftHead:
        """The default head and other tokens, int64 [n]."""
        return self.default_head.joined(self.head(ids))

    def _rows(self, ids: np.ndarray) -> np.ndarray | Tiles:
        if not isinstance(self._lm_head, np.ndarray | Tiles):
            raise UsageError("lm_head is mapped: it has no rows to copy")
        return rows_of(self._lm_head, ids)

    def follow(self, ids: np.ndarray, h: np.ndarray, spans: Sequence[Span]) -> None:
        """Note a step's tokens, or take them in if they are many. h float32 [T, D]: the model's rows before its final
        norm."""
        for span in spans:
            state, num_sure = span.state, span.rows.stop - span.rows.start - span.num_drafted
            if (trail := state.trail) is None:
                continue
            own_ids, rows, num = ids[span.rows], h[span.rows], state.num_tokens
            if trail.is_long(num) or num_sure > LATEST:
                self.take_in(state)
            if num_sure > LATEST:
                self._store(state, own_ids[:num_sure], np.concatenate((state.hidden[None], rows[: num_sure - 1])))
                num += num_sure
                trail.restart(num, rows[num_sure - 1])
                own_ids, rows = own_ids[num_sure:], rows[num_sure:]
            trail.note(num, own_ids, rows)

    def take_in(self, state: State) -> None:
        """Store keys and values of the tokens on a state's trail."""
        if state.trail is not None and state.trail.start < state.num_tokens:
            self._store(state, *state.trail.pairs(state.num_tokens))
            state.trail.restart(state.num_tokens, state.hidden)

    def _store(self, state: State, ids: np.ndarray, before: np.ndarray) -> None:
        """Keys and values of the tokens behind those that were taken in. before: the model's rows of the tokens before
        them."""
        start = state.trail.start if state.trail is not None else 0
        kv = self._project_kv(self.joined(ids, self.final_norm(before)))
        cos, sin = self._rope(np.arange(start, start + len(ids)))
        self.attention.attend.store(kv, cos, sin, state.segments(self.attention.index), start)

    def joined(self, ids: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Tokens [T] and the hidden states before them, float32 [T, D] -> u float32 [T, D]."""
        norm_of_token, norm_of_hidden = self._norms
        return self._join(np.concatenate((norm_of_token(self._embed(ids)), norm_of_hidden(hidden)), axis=1))

    def step(self, token: int, hidden: np.ndarray, state: State, position: int) -> np.ndarray:
        """The whole layer for one token at a position, all before it being there: m float32 [D]."""
        u = self.joined(np.array([token]), hidden[None])
        projected = self.attention.project_in(u)
        cos, sin = self._rope(np.array([position]))
        segments = state.segments(self.attention.index)
        self.attention.project_out.add(self.attention.attend(projected, cos, sin, segments, position), u)
        self.mlp(u)
        m: np.ndarray = self.norm(u)[0]
        return m

    def chain(self, state: State) -> DraftChain:
        """What may follow a sequence, token by token."""
        return DraftChain(self, state)


class DraftHead:
    """Logits of some tokens, or of all. ids: int64 [n], rising."""

    def __init__(self, ids: np.ndarray, projections: Sequence[LinearOp], order: np.ndarray | None = None):
        """order: int64 [n], places of the tokens in what the projections give one after the other; None: as it is."""
        self.ids, self._projections, self._order = ids, projections, order

    def __call__(self, m: np.ndarray) -> np.ndarray:
        """m float32 [D] -> logits float32 [n]."""
        logits = np.concatenate([project(m[None])[0] for project in self._projections])
        return logits if self._order is None else logits[self._order]

    def joined(self, other: DraftHead) -> DraftHead:
        """With the tokens of another head, neither of them joined before and without tokens in common."""
        ids = np.concatenate((self.ids, other.ids))
        order = np.argsort(ids)
        return DraftHead(ids[order], [*self._projections, *other._projections], order)


class DraftChain:
    """Tokens behind a sequence as the MTP module sees them: those that are known, then those that were guessed.

    Valid until the state takes its next step."""

    def __init__(self, module: MtpModule, state: State):
        self._module, self._state = module, state
        module.take_in(state)
        self._hidden, self._position = module.final_norm(state.hidden[None])[0], state.num_tokens

    def add(self, token: int) -> None:
        """Read the next token."""
        self._state.reserve_ahead(self._position + 1 - self._state.num_tokens)
        self._hidden = self._module.step(token, self._hidden, self._state, self._position)
        self._position += 1

    def logits(self, head: DraftHead | None = None) -> np.ndarray:
        """Of what follows the tokens read so far, at least one: float32 [n], of the tokens that the head has; None:
        the module's default head."""
        return (head or self._module.default_head)(self._hidden)


def rows_of(matrix: np.ndarray | Tiles, ids: np.ndarray) -> np.ndarray | Tiles:
    """Some rows of a matrix in the format that it has."""
    if isinstance(matrix, Tiles):
        return matrix.rows(ids)
    rows: np.ndarray = np.ascontiguousarray(matrix[ids])
    return rows
