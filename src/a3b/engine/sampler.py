"""Logits to the next token id: penalties, temperature, cuts and one draw keyed by (seed, position).

Owns the sampling parameters with their limits, the presets and the draw. Knows nothing of text, of the model
or of requests; reads no global randomness. Enter at `Sampler`.

Order: what is not allowed is gone; biases are added; repetition, then presence and frequency penalty; temperature; top-k; top-p; min-p;
draw. That is the order of `transformers`. vLLM has the same penalties and temperature but applies min-p before top-k and top-p,
so its top-p counts less mass; llama.cpp applies the temperature last, after all cuts.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import numpy as np

from a3b.errors import A3BError, UsageError, did_you_mean

MAX_STOPS, MAX_STOP_CHARS = 16, 1000  # each token's text is compared with all of them, at every length
FIRST_HEAD = 64  # most likely tokens sorted at first when top-k is off; widened as needed
_LIMITS = {  # field: (lowest, highest, lowest itself allowed)
    "temperature": (0.0, math.inf, True),
    "top_p": (0.0, 1.0, False),
    "min_p": (0.0, 1.0, True),
    "presence_penalty": (-2.0, 2.0, True),
    "frequency_penalty": (-2.0, 2.0, True),
    "repetition_penalty": (0.0, math.inf, False),
}
_WHOLE_LIMITS = {"top_k": (0, None), "max_tokens": (1, None), "seed": (-(2**63), 2**64 - 1)}


class LogitsError(A3BError):
    """The model gave logits that no token can be drawn from."""


DAMAGED = "the weights are damaged, or this machine's memory; 'a3b verify DIR' looks at all of a packed model, else download it again"


def finite_logits(logits: np.ndarray, position: int) -> np.ndarray:
    """float32 [T, V] of positions `position`, ..., if all are finite. Raises LogitsError."""
    bad = ~np.isfinite(logits).all(-1)
    if bad.any():
        raise LogitsError(f"logits at position {position + int(bad.argmax())}: NaN or infinite; expected finite numbers: {DAMAGED}")
    return logits


def too_many_stops(stops: Sequence[str]) -> str:
    """Why stop strings are refused, or nothing."""
    if len(stops) > MAX_STOPS:
        return f"{len(stops):,} texts; expected at most {MAX_STOPS}"
    longest = max(map(len, stops), default=0)
    return f"a text of {longest:,} characters; expected at most {MAX_STOP_CHARS:,}" if longest > MAX_STOP_CHARS else ""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop. Values out of range are refused by name with UsageError.

    temperature 0 is greedy: the highest logit after penalties, the lowest id of equals. top_k 0, top_p 1,
    min_p 0 switch those cuts off. seed None: the caller of the sampler must choose one (`with_seed`).
    max_tokens None: up to the end of the context. logit_bias: (token id, what is added to its logit), each id once.
    """

    temperature: float = 1.0
    top_k: int = 20
    top_p: float = 0.95
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name, (low, high, low_allowed) in _LIMITS.items():
            object.__setattr__(self, name, _real(name, getattr(self, name), low, high, low_allowed))
        for name, (low, high) in _WHOLE_LIMITS.items():
            if name == "top_k" or getattr(self, name) is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name), low, high))
        stop = self.stop
        if not isinstance(stop, tuple | list) or not all(isinstance(s, str) and s for s in stop):
            raise UsageError(f"stop: {stop!r}; expected a tuple of strings that are not empty")
        if refused := too_many_stops(stop):
            raise UsageError(f"stop: {refused}")
        object.__setattr__(self, "stop", tuple(stop))

    def with_seed(self, seed: int) -> SamplingParams:
        """The same with another seed."""
        return replace(self, seed=seed)


def _real(name: str, value: Any, low: float, high: float, low_allowed: bool) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
        value = _float(value)
        if math.isfinite(value) and low <= value <= high and (low_allowed or value > low):
            return float(value)
    below = "]" if high < math.inf else ")"
    expected = f"a finite number in {'[' if low_allowed else '('}{low:g}, {high:g}{below}"
    raise UsageError(f"{name}: {value!r}; expected {expected}")


def _float(value: numbers.Real) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _whole(name: str, value: Any, low: int, high: int | None) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_):
        if low <= value and (high is None or value <= high):
            return int(value)
    expected = f"a whole number of at least {low}" + (f" and at most {high}" if high is not None else "")
    raise UsageError(f"{name}: {value!r}; expected {expected}")


PRESETS: Mapping[str, SamplingParams] = MappingProxyType(
    {
        "thinking": SamplingParams(temperature=1.0, top_p=0.95, top_k=20, presence_penalty=1.5),
        "coding": SamplingParams(temperature=0.6, top_p=0.95, top_k=20),
        "instruct": SamplingParams(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5),
        "greedy": SamplingParams(temperature=0.0, top_p=1.0, top_k=0),
        "nano": SamplingParams(temperature=1.0, top_p=0.95, top_k=20),
    }
)
"""The model card's recommendations by name, greedy decoding, and what suits the embedded model."""


def preset(name: str, *, has_tools: bool = False, is_nano: bool = False, **overrides: Any) -> SamplingParams:
    """A preset with some fields replaced; None means not given.

    A preset's presence penalty is dropped with tools and for the embedded model, unless it is given here: it
    punishes the repeated names and digits that tool calls are made of.
    """
    if not isinstance(name, str) or name not in PRESETS:
        meant = did_you_mean(name, PRESETS) if isinstance(name, str) else ""
        raise UsageError(f"preset: {name!r}{meant or '; expected one of ' + ', '.join(PRESETS)}")
    known = [field.name for field in fields(SamplingParams)]
    for key in overrides:
        if key not in known:
            raise UsageError(f"sampling parameter {key!r} is unknown; expected one of {', '.join(known)}")
    given = {key: value for key, value in overrides.items() if value is not None}
    if has_tools or is_nano:
        given.setdefault("presence_penalty", 0.0)
    return replace(PRESETS[name], **given)


class TokenCounts:
    """Which tokens a sequence holds, as far as penalties ask: generated ones counted, prompt ones noted.

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
        return self._counts[ids]


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
        return self._ids[: self._num]


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

    def sample(self, logits: np.ndarray, counts: TokenCounts | None, position: int, allowed: np.ndarray | None = None) -> int:
        """The id of the token at `position` (its index in the sequence, prompt included).

        logits: float32 [V], V >= num_tokens, not changed. counts: needed only if a penalty is on. allowed: bool [num_tokens],
        the tokens to choose from, None for all.
        Raises LogitsError on NaN, on +inf and if no token is possible (all -inf, or none allowed).
        """
        params = self.params
        if logits.ndim != 1 or len(logits) < self.num_tokens:
            raise LogitsError(
                f"logits: shape {logits.shape}; expected [V] with V of at least {self.num_tokens}"
            )
        scores, chosen_from = self._scores(logits, counts, allowed)
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
        target = uniform(params.seed, position) * cumulative[-1]
        return int(chosen_from[ids[np.searchsorted(cumulative, target, side="right")]])

    def probabilities(self, logits: np.ndarray, counts: TokenCounts | None, allowed: np.ndarray | None = None) -> np.ndarray:
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

    def _scores(self, logits: np.ndarray, counts: TokenCounts | None, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
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

    def _penalise(self, scores: np.ndarray, counts: TokenCounts | None) -> np.ndarray:
        """Logits after biases and penalties; the caller's array is left alone.

        Repetition (CTRL, arXiv 1909.05858, as in transformers): over prompt and generated tokens. Presence
        and frequency (OpenAI): over generated tokens.
        """
        params = self.params
        repetition = params.repetition_penalty
        if len(self._biased):
            scores = scores.copy()
            scores[self._biased] += self._bias
        if repetition == 1 and params.presence_penalty == 0 and params.frequency_penalty == 0:
            return scores
        if counts is None:
            raise UsageError("counts: None; expected TokenCounts, because a penalty is on")
        scores = scores.copy()
        if repetition != 1:
            seen = scores[counts.seen].astype(np.float64)
            scores[counts.seen] = np.where(seen > 0, seen / repetition, seen * repetition)
        ids = counts.generated
        lowered = scores[ids] - (params.presence_penalty + params.frequency_penalty * counts.of(ids))
        scores[ids] = lowered
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
