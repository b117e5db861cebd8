"""How tokens are chosen: the sampling fields with their limits and defaults, written only here, and the presets.

Knows no wire format and no command line: those read `SAMPLING_FIELDS`. Enter at `SamplingParams` and `preset`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from a3b.errors import UsageError, did_you_mean

MAX_STOPS, MAX_STOP_CHARS = 16, 1000  # each token's text is compared with all of them, at every length


def too_many_stops(stops: Sequence[str]) -> str:
    """Why stop strings are refused, "" if they are not."""
    if len(stops) > MAX_STOPS:
        return f"{len(stops):,} texts; expected at most {MAX_STOPS}"
    longest = max(map(len, stops), default=0)
    return f"a text of {longest:,} characters; expected at most {MAX_STOP_CHARS:,}" if longest > MAX_STOP_CHARS else ""


@dataclass(frozen=True)
class SamplingField:
    """A number that steers sampling: its default (None: not set), its limits and its meaning."""

    name: str
    default: float | None
    meaning: str
    low: float
    high: float = math.inf
    excludes_low: bool = False
    is_whole: bool = False

    def check(self, value: Any) -> float | int:
        """The value as a Python number. Raises UsageError that names the field and the limits."""
        if self.is_whole:
            if _is_a(numbers.Integral, value) and self.low <= value <= self.high:
                return int(value)
            upper = f" and at most {self.high}" if self.high < math.inf else ""
            raise UsageError(f"{self.name}: {value!r}; expected a whole number of at least {self.low}{upper}")
        if _is_a(numbers.Real, value):
            value = number = _float(value)
            is_over_low = number > self.low if self.excludes_low else number >= self.low
            if math.isfinite(number) and is_over_low and number <= self.high:
                return number
        left, right = "(" if self.excludes_low else "[", "]" if self.high < math.inf else ")"
        raise UsageError(
            f"{self.name}: {value!r}; expected a finite number in {left}{self.low:g}, {self.high:g}{right}"
        )


def _is_a(kind: type, value: Any) -> bool:
    """A bool does not count as a number."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _checked_bias(pairs: Any) -> tuple[tuple[int, float], ...]:
    """The pairs as Python numbers. Raises UsageError that names the first that is none."""
    expected = "expected pairs of a token id and a finite number"
    if not isinstance(pairs, tuple | list):
        raise UsageError(f"logit_bias: {pairs!r}; {expected}")
    found = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"logit_bias: {pair!r}; {expected}")
        token, bias = pair
        if not _is_a(numbers.Integral, token) or not _is_a(numbers.Real, bias) or not math.isfinite(_float(bias)):
            raise UsageError(f"logit_bias: {pair!r}; {expected}")
        found.append((int(token), float(bias)))
    return tuple(found)


def _real(default: float, meaning: str, *, low: float, high: float = math.inf, excludes_low: bool = False) -> Any:
    limits = {"meaning": meaning, "low": low, "high": high, "excludes_low": excludes_low}
    return field(default=default, metadata=limits)


def _whole(default: int | None, meaning: str, *, low: int, high: float = math.inf) -> Any:
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high, "is_whole": True})


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop. Raises UsageError that names a field whose value is out of range.

    Greedy decoding (temperature 0) takes the highest logit after penalties, the lowest id among equals. A sampler needs
    a seed: where it is None, the caller chooses one (`with_seed`). logit_bias: (token id, what is added to its logit),
    each id once."""

    temperature: float = _real(1.0, "randomness of the choice; 0 is greedy", low=0)
    top_k: int = _whole(20, "choose among the k likeliest tokens; 0 is off", low=0)
    top_p: float = _real(
        0.95, "choose among the likeliest tokens of this probability", low=0, high=1, excludes_low=True
    )
    min_p: float = _real(0.0, "drop tokens below this share of the likeliest one's probability", low=0, high=1)
    presence_penalty: float = _real(0.0, "subtracted from logits of tokens written before", low=-2, high=2)
    frequency_penalty: float = _real(0.0, "subtracted once for each time a token was written", low=-2, high=2)
    repetition_penalty: float = _real(
        1.0, "lowers logits of tokens of prompt and answer; 1 is off", low=0, excludes_low=True
    )
    seed: int | None = _whole(None, "same seed, same tokens", low=-(2**63), high=2**64 - 1)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = _whole(None, "most tokens to write; unset, the context is the limit", low=1)
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name, limits in SAMPLING_FIELDS.items():
            value = getattr(self, name)
            if value is not None or limits.default is not None:
                object.__setattr__(self, name, limits.check(value))
        stop = self.stop
        if not isinstance(stop, tuple | list) or not all(isinstance(s, str) and s for s in stop):
            raise UsageError(f"stop: {stop!r}; expected a tuple of strings that are not empty")
        if refused := too_many_stops(stop):
            raise UsageError(f"stop: {refused}")
        object.__setattr__(self, "stop", tuple(stop))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))

    def with_seed(self, seed: int) -> SamplingParams:
        """The same parameters with another seed."""
        return replace(self, seed=seed)


SAMPLING_FIELDS: Mapping[str, SamplingField] = MappingProxyType(
    {
        item.name: SamplingField(item.name, getattr(SamplingParams, item.name), **item.metadata)
        for item in fields(SamplingParams)
        if item.metadata
    }
)
"""The numeric fields of SamplingParams by name."""


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
