"""Logits to the next token id: penalties, temperature, cuts and one draw keyed by (seed, position).

Owns the sampling parameters with their limits, the presets and the draw. Knows nothing of text, of the model
or of requests; reads no global randomness. Enter at `Sampler`.

Order: tokens that are not allowed are removed; biases are added; repetition, then presence and frequency penalty;
temperature; top-k; top-p; min-p; draw. That is the order of `transformers`. vLLM has the same penalties and temperature
but applies min-p before top-k and top-p, so its top-p counts less mass; llama.cpp applies the temperature last, after
all cuts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from a3b.errors import LogitsError, UsageError
from a3b.interface.sampling_params import SamplingParams

FIRST_HEAD = 64  # most likely tokens sorted at first when top-k is off; widened as needed


DAMAGED = (
    "the weights are damaged, or this machine's memory; 'a3b verify DIR' "
    "looks at all of a packed model, else download it again"
)


def finite_logits(logits: np.ndarray, position: int) -> np.ndarray:
    """float32 [T, V] of positions `position`, ..., if all are finite. Raises LogitsError."""
    bad = ~np.isfinite(logits).all(-1)
    if bad.any():
        raise LogitsError(
            f"logits at position {position + int(bad.argmax())}: NaN or infinite; expected finite numbers: {DAMAGED}"
        )
    return logits


class TokenCounts:
    """The tokens of a sequence that penalties look at: generated ones with counts, prompt ones without.

    num_tokens: ids are below this; prompt: ids int [T].
    """

    def __init__(self, num_tokens: int, prompt: Iterable[int] = ()):
        self._counts = np.zeros(num_tokens, np.int32)  # [V] times generated
        self._generated = _DistinctIds(num_tokens)
        self._seen = _DistinctIds(num_tokens)
        for token_id in prompt:
            self._seen.add(token_id)

    def add(self, token_id: int) -> None:
        """Count one generated token."""
        self._generated.add(token_id)
        self._seen.add(token_id)
        self._counts[token_id] += 1

    @property
    def generated(self) -> np.ndarray:
        """Distinct generated ids, int64 [n]."""
        return self._generated.ids

    @property
    def seen(self) -> np.ndarray:
        """Distinct ids of prompt and generated tokens, int64 [n]."""
        return self._seen.ids

    def of(self, ids: np.ndarray) -> np.ndarray:
        """How often each of `ids` was generated, int32 [n]."""
        counts: np.ndarray = self._counts[ids]
        return counts


class _DistinctIds:
    """A growing set of ids that is an array at any time."""

    def __init__(self, num_tokens: int):
        self._is_in = np.zeros(num_tokens, bool)
        self._ids = np.empty(16, np.int64)
        self._num = 0

    def add(self, token_id: int) -> None:
        if not 0 <= token_id < len(self._is_in):
            raise UsageError(f"token id: {token_id}; expected 0 to {len(self._is_in) - 1}")
        if not self._is_in[token_id]:
            self._is_in[token_id] = True
            if self._num == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._ids[self._num] = token_id
            self._num += 1

    @property
    def ids(self) -> np.ndarray:
        ids: np.ndarray = self._ids[: self._num]
        return ids


def uniform(seed: int, position: int) -> float:
    """The draw for a position: in [0, 1), the same wherever and whenever it is asked for.

    53 bits of BLAKE2b over both numbers, so neighbouring seeds and positions are unrelated.
    """
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Sampler:
    """Draws token ids below `num_tokens`: rows of the output matrix without a token are never chosen."""

    def __init__(self, params: SamplingParams, num_tokens: int):
        if params.temperature > 0 and params.seed is None:
            raise UsageError("seed: None; expected a whole number when temperature is above 0")
        self.params = params
        self.num_tokens = num_tokens
        self._ids = np.arange(num_tokens)
        self._biased = np.array([id for id, _ in params.logit_bias], np.int64)
        self._bias = np.array([bias for _, bias in params.logit_bias], np.float32)
        if wrong := [id for id in self._biased if not 0 <= id < num_tokens]:
            raise UsageError(f"logit_bias: token id {wrong[0]}; expected 0 to {num_tokens - 1}")

    def sample(
        self, logits: np.ndarray, counts: TokenCounts | None, position: int, allowed: np.ndarray | None = None
    ) -> int:
        """The id of the token at `position` (its index in the sequence, prompt included).

        logits: float32 [V], V >= num_tokens, not changed. counts: needed only if a penalty is on. allowed: bool
        [num_tokens], the tokens to choose from, None for all. Raises LogitsError on NaN, on +inf and if no token is
        possible (all -inf, or none allowed)."""
        if logits.ndim != 1 or len(logits) < self.num_tokens:
            raise LogitsError(f"logits: shape {logits.shape}; expected [V] with V of at least {self.num_tokens}")
        return self._drawn(*self._scores(logits, counts, allowed), position)

    def guess(
        self, logits: np.ndarray, ids: np.ndarray, counts: TokenCounts, position: int, allowed: np.ndarray | None
    ) -> int:
        """As `sample`, from logits float32 [n] of the tokens `ids`, int64 [n], rising, alone; from all of them if none
        is allowed."""
        num = int(np.searchsorted(ids, self.num_tokens))
        ids = ids[:num]
        scores = self._penalise(logits[:num], counts, ids)
        if allowed is not None and (may := allowed[ids]).any():
            scores, ids = scores[may], ids[may]
        return self._drawn(scores, ids, position)

    def _drawn(self, scores: np.ndarray, chosen_from: np.ndarray, position: int) -> int:
        """One of some tokens, int64 [n], rising, by scores float32 [n]."""
        params = self.params
        if not len(scores):
            raise LogitsError(f"logits at position {position}: no token is allowed; expected a mask that leaves one")
        best = scores.max()
        if not math.isfinite(best):
            what = {math.inf: "+inf", -math.inf: "all -inf"}.get(float(best), "NaN")
            raise LogitsError(f"logits at position {position}: {what}; expected a finite maximum and no NaN: {DAMAGED}")
        if params.temperature == 0 or params.top_k == 1:
            return int(chosen_from[scores.argmax()])
        ids, cumulative = self._candidates(scores, float(best))
        # Always below the total: x times a double below 1 rounds to below x. "right" skips weights of 0.
        target = uniform(params.seed or 0, position) * cumulative[-1]
        return int(chosen_from[ids[np.searchsorted(cumulative, target, side="right")]])

    def probabilities(
        self, logits: np.ndarray, counts: TokenCounts | None, allowed: np.ndarray | None = None
    ) -> np.ndarray:
        """What `sample` draws from: float64 [num_tokens], summing to 1. For tests and explanations."""
        scores, chosen_from = self._scores(logits, counts, allowed)
        result = np.zeros(self.num_tokens)
        if self.params.temperature == 0 or self.params.top_k == 1:
            result[chosen_from[scores.argmax()]] = 1.0
            return result
        ids, cumulative = self._candidates(scores, float(scores.max()))
        result[chosen_from[ids]] = np.diff(cumulative, prepend=0.0) / cumulative[-1]
        return result

    def logprobs(self, logits: np.ndarray, token_id: int, num_top: int) -> tuple[float, list[tuple[int, float]]]:
        """Log-softmax of `token_id` and of the `num_top` likeliest (id, logprob), equals by rising id.

        Of the model's own logits: temperature 1, no penalty, no cut, no mask. Computed in float64."""
        scores = logits[: self.num_tokens]
        best = float(scores.max())
        total = best + math.log(float(np.exp(scores.astype(np.float64) - best).sum()))
        top = _top(scores, min(num_top, self.num_tokens)) if num_top else ()
        return float(scores[token_id]) - total, [(int(i), float(scores[i]) - total) for i in top]

    def _scores(
        self, logits: np.ndarray, counts: TokenCounts | None, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits after penalties of the allowed tokens, float32 [n], and their ids by place, rising."""
        scores = self._penalise(logits[: self.num_tokens], counts)
        if allowed is None:
            return scores, self._ids
        if 2 * np.count_nonzero(allowed) > len(allowed):  # a few are barred: no arrays of all the others
            scores = scores.copy()
            scores[np.flatnonzero(~allowed)] = -np.inf
            return scores, self._ids
        ids = np.flatnonzero(allowed)  # what is gone costs nothing in the cuts
        return scores[ids], ids

    def _penalise(
        self, scores: np.ndarray, counts: TokenCounts | None, chosen_from: np.ndarray | None = None
    ) -> np.ndarray:
        """Logits after biases and penalties; the caller's array is left alone. chosen_from: the tokens that they are
        of, int64 [n], rising; None: all.

        Repetition (CTRL, arXiv 1909.05858, as in transformers): over prompt and generated tokens. Presence
        and frequency (OpenAI): over generated tokens.
        """
        params = self.params
        repetition = params.repetition_penalty
        if len(self._biased):
            scores = scores.copy()
            places, biased = _places(self._biased, chosen_from)
            scores[places] += self._bias[biased]
        if repetition == 1 and params.presence_penalty == 0 and params.frequency_penalty == 0:
            return scores
        if counts is None:
            raise UsageError("counts: None; expected TokenCounts, because a penalty is on")
        scores = scores.copy()
        if repetition != 1:
            places, _ = _places(counts.seen, chosen_from)
            seen = scores[places].astype(np.float64)
            scores[places] = np.where(seen > 0, seen / repetition, seen * repetition)
        places, generated = _places(counts.generated, chosen_from)
        times = counts.of(counts.generated[generated])
        scores[places] = scores[places] - (params.presence_penalty + params.frequency_penalty * times)
        return scores

    def _candidates(self, scores: np.ndarray, best: float) -> tuple[np.ndarray, np.ndarray]:
        """Ids that can be drawn, int64 [n], and their cumulative weights, float64 [n].

        By falling probability, equals by rising id; without any cut by id, which needs no sorting. With top-k
        off, the sorted head is widened until the cut of top-p or min-p lies within it.
        """
        params, num = self.params, len(scores)
        if params.top_k and params.top_k < num:
            ids = _top(scores, params.top_k)
            weights = self._weights(scores[ids], best)
            return self._cut(ids, weights, float(weights.sum()))
        if params.top_p == 1 and params.min_p == 0:
            return np.arange(num), np.cumsum(self._weights(scores, best))
        mass = float(self._weights(scores, best).sum())
        size = FIRST_HEAD
        while True:
            ids = _top(scores, min(size, num))
            weights = self._weights(scores[ids], best)
            is_enough = params.top_p < 1 and weights.sum() >= params.top_p * mass * (1 + 1e-9)
            if size >= num or is_enough or weights[-1] < params.min_p:
                return self._cut(ids, weights, mass)
            size *= 8

    def _weights(self, scores: np.ndarray, best: float) -> np.ndarray:
        """exp((score - best) / temperature) in float64; the best weighs 1."""
        with np.errstate(over="ignore"):
            return np.exp((scores.astype(np.float64) - best) / self.params.temperature)

    def _cut(self, ids: np.ndarray, weights: np.ndarray, mass: float) -> tuple[np.ndarray, np.ndarray]:
        """Keep the smallest head that reaches top_p of `mass`, then what is at least min_p of the best."""
        cumulative = np.cumsum(weights)
        num = len(ids)
        if self.params.top_p < 1:
            num = min(num, int(np.searchsorted(cumulative, self.params.top_p * mass, side="left")) + 1)
        num = min(num, int(np.count_nonzero(weights >= self.params.min_p)))
        return ids[:num], cumulative[:num]


def _top(scores: np.ndarray, num: int) -> np.ndarray:
    """Ids of the `num` highest scores, highest first, equals by rising id: int64 [num]."""
    if num < len(scores):
        threshold = np.partition(scores, len(scores) - num)[len(scores) - num]
        ids = np.flatnonzero(scores >= threshold)
    else:
        ids = np.arange(len(scores))
    return ids[np.argsort(-scores[ids], kind="stable")][:num]


def _places(tokens: np.ndarray, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | slice]:
    """(where they are among others, int64 [m], which of them are). tokens: int64 [n]; among: rising, None for all."""
    if among is None:
        return tokens, slice(None)
    places = np.searchsorted(among, tokens)
    is_there = places < len(among)
    is_there[is_there] = among[places[is_there]] == tokens[is_there]
    return places[is_there], is_there
