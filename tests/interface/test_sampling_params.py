"""One table of numeric sampling fields: defaults, limits at their edges, and errors that name both."""

from __future__ import annotations

import math

import pytest

from a3b.errors import UsageError
from a3b.interface.sampling_params import SAMPLING_FIELDS, SamplingParams


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
