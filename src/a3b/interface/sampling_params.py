"""How tokens are chosen: the sampling fields with their limits, defaults and presets. Enter at `SamplingParams` and
`preset`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from a3b.errors import UsageError, did_you_mean

MAX_STOPS, MAX_STOP_CHARS = 16, 1000  # each token's text is compared with all of them, at every length
_LIMITS = {  # field: (lowest, highest, lowest itself allowed)
    "temperature": (0.0, math.inf, True),
    "top_p": (0.0, 1.0, False),
    "min_p": (0.0, 1.0, True),
    "presence_penalty": (-2.0, 2.0, True),
    "frequency_penalty": (-2.0, 2.0, True),
    "repetition_penalty": (0.0, math.inf, False),
}
_WHOLE_LIMITS = {"top_k": (0, None), "max_tokens": (1, None), "seed": (-(2**63), 2**64 - 1)}


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
