"""One table of numeric sampling fields: defaults, limits at their edges, and errors that name both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from a3b.errors import UsageError
from a3b.interface.sampling_params import PRESETS, SAMPLING_FIELDS, SamplingParams, preset


def beyond(low: float, high: float, is_whole: bool) -> list[float]:
    step = 1 if is_whole else 0.001
    return [low - step] + ([high + step] if high < math.inf else [])


@pytest.mark.parametrize("name", SAMPLING_FIELDS)
def test_a_number_is_accepted_up_to_its_limits_and_refused_beyond_them(name):
    limits = SAMPLING_FIELDS[name]
    edges = [high for high in (limits.high,) if high < math.inf] + ([] if limits.excludes_low else [limits.low])
    for value in edges:
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in beyond(limits.low, limits.high, limits.is_whole) + ([limits.low] if limits.excludes_low else []):
        with pytest.raises(UsageError, match=f"^{name}: "):
            SamplingParams(**{name: value})


@pytest.mark.parametrize("name", SAMPLING_FIELDS)
@pytest.mark.parametrize("value", [True, "1", math.nan, math.inf, [1]])
def test_what_is_no_finite_number_is_refused(name, value):
    with pytest.raises(UsageError, match=f"^{name}: .*expected a (finite|whole) number"):
        SamplingParams(**{name: value})


def test_the_table_holds_the_defaults_and_a_meaning_for_each_field():
    defaults = SamplingParams()
    for name, limits in SAMPLING_FIELDS.items():
        assert (limits.name, limits.default) == (name, getattr(defaults, name)) and limits.meaning
    assert vars(defaults).keys() - SAMPLING_FIELDS.keys() == {"stop", "logit_bias"}


@pytest.mark.parametrize("name", [name for name, limits in SAMPLING_FIELDS.items() if limits.default is not None])
def test_none_is_refused_where_a_field_always_has_a_value(name):
    with pytest.raises(UsageError, match=f"^{name}: None; expected"):
        SamplingParams(**{name: None})


LIMITS = {  # as docs/cli.md and the APIs have them: default, lowest, highest
    "temperature": (1.0, 0, math.inf),
    "top_k": (20, 0, math.inf),
    "top_p": (0.95, 0, 1),
    "min_p": (0.0, 0, 1),
    "presence_penalty": (0.0, -2, 2),
    "frequency_penalty": (0.0, -2, 2),
    "repetition_penalty": (1.0, 0, math.inf),
    "seed": (None, -(2**63), 2**64 - 1),
    "max_tokens": (None, 1, math.inf),
}


def test_limits_and_defaults_are_those_of_the_apis():
    assert {name: (limits.default, limits.low, limits.high) for name, limits in SAMPLING_FIELDS.items()} == LIMITS
    assert [name for name, limits in SAMPLING_FIELDS.items() if limits.excludes_low] == ["top_p", "repetition_penalty"]


def test_an_error_writes_the_limits_as_an_interval():
    for name, interval in {"top_p": "(0, 1]", "repetition_penalty": "(0, inf)", "min_p": "[0, 1]"}.items():
        with pytest.raises(UsageError) as error:
            SamplingParams(**{name: -1.0})
        assert str(error.value) == f"{name}: -1.0; expected a finite number in {interval}"
    for name, limits in {"top_k": "at least 0", "seed": f"at least {-(2**63)} and at most {2**64 - 1}"}.items():
        with pytest.raises(UsageError) as error:
            SamplingParams(**{name: 0.5})
        assert str(error.value) == f"{name}: 0.5; expected a whole number of {limits}"


def test_numbers_become_those_of_python():
    params = SamplingParams(temperature=1, top_k=np.int64(3), top_p=np.float32(0.5))
    assert [type(value) for value in (params.temperature, params.top_k, params.top_p)] == [float, int, float]


def test_sixteen_stops_of_a_thousand_characters_are_accepted_and_no_more():
    assert SamplingParams(stop=["x" * 1000] * 16).stop == ("x" * 1000,) * 16
    with pytest.raises(UsageError, match="^stop: 17 texts; expected at most 16$"):
        SamplingParams(stop=("x",) * 17)
    with pytest.raises(UsageError, match="^stop: a text of 1,001 characters; expected at most 1,000$"):
        SamplingParams(stop=("x", "x" * 1001))


@pytest.mark.parametrize("stop", ["x", ("",), ("x", 1), None, {"x"}])
def test_stops_that_are_no_tuple_of_strings_are_refused(stop):
    with pytest.raises(UsageError, match="^stop: .*expected a tuple of strings that are not empty"):
        SamplingParams(stop=stop)


def test_presets_are_the_recommendations_of_the_model_card():
    fields = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "repetition_penalty")
    assert {name: tuple(getattr(params, field) for field in fields) for name, params in PRESETS.items()} == {
        "thinking": (1.0, 0.95, 20, 0.0, 1.5, 1.0),
        "coding": (0.6, 0.95, 20, 0.0, 0.0, 1.0),
        "instruct": (0.7, 0.8, 20, 0.0, 1.5, 1.0),
        "greedy": (0.0, 1.0, 0, 0.0, 0.0, 1.0),
        "nano": (1.0, 0.95, 20, 0.0, 0.0, 1.0),
    }


def test_a_preset_loses_its_presence_penalty_to_tools_and_nano_but_not_one_that_is_given():
    assert preset("thinking").presence_penalty == 1.5
    assert preset("thinking", has_tools=True).presence_penalty == 0
    assert preset("thinking", is_nano=True).presence_penalty == 0
    assert preset("thinking", has_tools=True, presence_penalty=0.5).presence_penalty == 0.5
    assert preset("coding", top_k=None, top_p=0.9) == SamplingParams(temperature=0.6, top_p=0.9, top_k=20)


def test_an_unknown_preset_or_parameter_is_refused_by_name():
    with pytest.raises(UsageError, match="^preset: 'codings'; did you mean .coding."):
        preset("codings")
    with pytest.raises(UsageError, match="^preset: 7; expected one of thinking, coding"):
        preset(7)
    with pytest.raises(UsageError, match="'top_q' is unknown; expected one of temperature, top_k"):
        preset("coding", top_q=None)
