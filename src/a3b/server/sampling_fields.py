"""The sampling fields of a request as the APIs spell them. Names, limits and defaults are those of `SAMPLING_FIELDS`.

Enter at `read_completion_sampling` for OpenAI's completions and at `read_numbers` for the other APIs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from a3b.errors import UsageError
from a3b.interface.sampling_params import MAX_STOPS, SAMPLING_FIELDS, too_many_stops
from a3b.server.errors import ApiError
from a3b.server.fields import Fields
from a3b.server.shared_fields import STOPS

NUMBERS = tuple(name for name in SAMPLING_FIELDS if name != "max_tokens")  # its name differs between the APIs
TOKEN_LIMITS = ("max_completion_tokens", "max_tokens", "n_predict")  # the first that is given counts
MAX_BIASED = 1024
BIAS = (
    f"added to the logits of tokens, before the penalties: token id to a number from -100 to 100; up to {MAX_BIASED:,}"
)
COMPLETION_SAMPLING = {
    **{name: SAMPLING_FIELDS[name].meaning for name in NUMBERS},
    "repeat_penalty": "llama.cpp's name for `repetition_penalty`",
    "max_completion_tokens": SAMPLING_FIELDS["max_tokens"].meaning + "; -1 is no limit",
    "max_tokens": "the same, if `max_completion_tokens` is absent",
    "n_predict": "the same, llama.cpp's name",
    "stop": "text, or " + STOPS,
    "logit_bias": BIAS,
}
TOKEN_ID = re.compile(r"[0-9]{1,9}")


def read_numbers(fields: Fields, names: Collection[str] = NUMBERS, *, least_top_k: int = 0) -> dict[str, Any]:
    """The numeric sampling fields that are given, by name. Raises ApiError for values that are not numbers of the right
    kind; SamplingParams checks the ranges."""
    found: dict[str, Any] = {}
    for name in names:
        limits = SAMPLING_FIELDS[name]
        least = least_top_k if name == "top_k" else int(limits.low)
        found[name] = fields.integer(name, least) if limits.is_whole else fields.number(name)
    return {name: value for name, value in found.items() if value is not None}


def read_completion_sampling(fields: Fields) -> dict[str, Any]:
    """The fields of SamplingParams that a completion gives, within their ranges.

    As on other servers, -1 turns top_k off and removes the limit of tokens; `repeat_penalty` is llama.cpp's name."""
    sampling = read_numbers(fields, least_top_k=-1)
    if sampling.get("top_k") == -1:
        sampling["top_k"] = 0
    spelled = {}
    if "repetition_penalty" not in sampling and (penalty := fields.number("repeat_penalty")) is not None:
        sampling["repetition_penalty"], spelled["repetition_penalty"] = penalty, "repeat_penalty"
    for name, value in sampling.items():
        check_number(name, value, spelled.get(name, name))
    for key in TOKEN_LIMITS:
        limit = fields.integer(key, least=-1)
        if limit == 0:
            raise fields.invalid(key, "at least 1")
        if limit is not None and limit > 0:
            sampling.setdefault("max_tokens", limit)
    if stop := _stop(fields):
        sampling["stop"] = stop
    if bias := read_bias(fields):
        sampling["logit_bias"] = bias
    return sampling


def check_number(name: str, value: float, key: str | None = None) -> float:
    """The value if it is within the limits of the field. Raises ApiError. key: the client's name for the field."""
    try:
        SAMPLING_FIELDS[name].check(value)
    except UsageError as error:
        key = key or name
        raise ApiError(400, str(error).replace(name, key, 1), field=key) from None
    return value


def read_bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    """(token id, what is added to its logit) by rising id."""
    expected = f"an object of token ids and numbers from -100 to 100, at most {MAX_BIASED}"
    given: Mapping[str, Any] = fields.get("logit_bias", Mapping, expected, {})
    are_numbers = all(
        isinstance(bias, int | float) and not isinstance(bias, bool) and -100 <= bias <= 100 for bias in given.values()
    )
    if len(given) > MAX_BIASED or not are_numbers or not all(TOKEN_ID.fullmatch(id) for id in given):
        raise fields.invalid("logit_bias", expected)
    return tuple(sorted({int(id): float(bias) for id, bias in given.items()}.items()))


def _stop(fields: Fields) -> tuple[str, ...]:
    expected = f"text, or a list of up to {MAX_STOPS} texts, that are not empty"
    value: str | list[Any] = fields.get("stop", (str, list), expected, [])
    stops = [value] if isinstance(value, str) else value
    if len(stops) > MAX_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise fields.invalid("stop", expected)
    if refused := too_many_stops(stops):
        raise ApiError(400, f"{fields.name('stop')}: {refused}", field="stop")
    return tuple(stops)
