"""What the families judge of models that never learnt them; what nano has learnt is in tests/nano."""

from __future__ import annotations

import pytest

from a3b.evals.families import lookup, secret
from a3b.evals.families.common import assistant, call_form, rng_for


def a_case():
    return secret.case(rng_for("test", "secret", 3), is_stated=True)


def played(case, thinking, told=None, hidden=None):
    shown, kept = (417, 83) if case.told == "first" else (83, 417)

    def generate(messages, tools, sample=False):
        if sample:
            return assistant(f"It is {shown if told is None else told}.", thinking)
        return assistant(f"It is {kept if hidden is None else hidden}.", "I remember.")

    return case.play(generate)


def test_a_stated_case_asks_for_the_form_once_and_in_one_message():
    for index in range(20):
        opening = secret.case(rng_for("test", "secret", index), is_stated=True).opening
        assert len(opening) == 1 and opening[0]["content"].count("first: N") == 1
    plain, stated = (secret.case(rng_for("test", "secret", 3), is_stated=flag) for flag in (False, True))
    assert (plain.ask, plain.reveal, plain.told) == (stated.ask, stated.reveal, stated.told)


@pytest.mark.parametrize(
    "thinking",
    [
        "first: 417\nsecond: 83",
        "Let me see. Perhaps first: 1 and second: 2? No.\n- **First:** 417\n- **Second:** 83\nTell one.",
        "First = 417, second = 83",
    ],
)
def test_numbers_are_found_in_a_long_thinking_and_the_last_ones_count(thinking):
    assert played(a_case(), thinking).ok


@pytest.mark.parametrize("thinking", ["", "417 and 83", "first: 4170\nsecond: 83", "first: 417"])
def test_a_thinking_without_both_numbers_fails(thinking):
    outcome = played(a_case(), thinking)
    assert not outcome.ok and "does not think of two numbers" in outcome.detail


def test_numbers_of_any_length_and_script_are_wrong_and_no_error():
    assert not played(a_case(), "first: 417\nsecond: 83", hidden="9" * 10_000).ok
    assert not played(a_case(), "first: 417\nsecond: 83", told="৪" * 10_000).ok


@pytest.mark.parametrize("arguments", [{}, {"x": None}, {"key": ["a"]}, {"key": {"a": 1}}, {"key": 10**400}])
def test_arguments_of_any_type_are_wrong_and_no_error(arguments):
    case = lookup.case(rng_for("test", "lookup", 0))
    name, param = call_form(case.schema)
    given = {param if key == "key" else key: value for key, value in arguments.items()}
    assert not case.play(lambda messages, tools, sample=False: assistant("", call=(name, given))).ok
