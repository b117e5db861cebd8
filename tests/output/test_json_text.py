"""JSON as models write it: what is read as what, and text that grows up to its end."""

from __future__ import annotations

import sys

import pytest

from a3b.output.json_text import MAX_JSON_DEPTH, JsonSpan, JsonText, dumps, loads, read

OBJECT, ARRAY, BOTH = frozenset({"object"}), frozenset({"array"}), frozenset({"object", "array"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('"\\ud800"', "\ufffd"),
        ('{"\\udc00": 1}', {"\ufffd": 1}),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("[1e400, -1e400]", [sys.float_info.max, -sys.float_info.max]),
        ("{'a': True, 'b': [None, False,],}", {"a": True, "b": [None, False]}),
        ("{'it\\'s': 'say \"so\"'}", {"it's": 'say "so"'}),
        (r"{'a': '\x41\n'}", {"a": "A\n"}),
        ("['True, None,]', \"False\"]", ["True, None,]", "False"]),
        ("{'a': 'one\ntwo'}", {"a": "one\ntwo"}),
    ],
)
def test_json_and_its_spelling_in_python_are_read(text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "{'a: 1}", "['a", "{'a': 'b\\", "[" * 100_000, "true false", "['a\\\nb']"]
)
def test_what_is_json_in_neither_spelling_is_refused(text):
    with pytest.raises(ValueError):
        read(text)


def test_a_number_beyond_all_floats_is_refused_unless_it_may_be_bounded():
    with pytest.raises(ValueError):
        loads("[1e400]")
    assert loads("[1e400, 1e3]", bounded=True) == [sys.float_info.max, 1000.0]


def test_values_are_written_as_templates_write_them():
    assert dumps({"a": ["\u00e9", 1.5, None]}) == '{"a": ["\u00e9", 1.5, null]}'
    with pytest.raises(ValueError):
        dumps(float("nan"))


def states(kinds: frozenset, *pieces: str) -> list[tuple[bool, bool]]:
    """(is_dead, is_whole) after each piece."""
    text, found = JsonText(kinds), []
    for piece in pieces:
        text.push(piece)
        found.append((text.is_dead, text.is_whole))
    return found


OPEN, WHOLE, DEAD = (False, False), (False, True), (True, False)


@pytest.mark.parametrize(
    ("kinds", "pieces", "expected"),
    [
        (OBJECT, [" ", "{", '"a": "}', '\\"', '"', "}", " \n", "x"], [OPEN] * 5 + [WHOLE, WHOLE, DEAD]),
        (OBJECT, ["["], [DEAD]),
        (ARRAY, ["[{}", "]"], [OPEN, WHOLE]),
        (ARRAY, ["{"], [DEAD]),
        (BOTH, ["{]"], [DEAD]),
        (BOTH, ["[1]", "]"], [WHOLE, DEAD]),
        (BOTH, ["['"], [DEAD]),
        (BOTH, ['["\\', "x"], [OPEN, DEAD]),
        (BOTH, ["text"], [DEAD]),
        (frozenset({"string"}), ["{"], [DEAD]),
    ],
)
def test_text_that_grows_is_the_beginning_of_json_or_all_of_it_or_cannot_become_it(kinds, pieces, expected):
    assert states(kinds, *pieces) == expected


def test_a_value_that_may_be_neither_object_nor_array_never_becomes_json_text():
    assert JsonText(frozenset({"string"})).is_dead is True and JsonText(BOTH).is_dead is False


def test_brackets_may_stand_in_500_others_and_no_more():
    assert MAX_JSON_DEPTH == 500
    assert states(ARRAY, "[" * 500, "]" * 500) == [OPEN, WHOLE]
    assert states(ARRAY, "[" * 501) == [DEAD]


def test_closed_brackets_around_what_is_no_json_are_found_out_when_they_are_closed():
    text = JsonText(OBJECT)
    text.push('{"a": 1 2}')
    assert text.is_whole and not text.was_valid
    assert not text.is_valid('{"a": 1 2}') and (text.is_dead, text.is_whole, text.was_valid) == (True, False, False)
    text = JsonText(OBJECT)
    text.push(' {"a": 1} ')
    assert text.is_valid(' {"a": 1} ') and text.was_valid


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ('{"a": "}"} rest', (10, "")),
        ("{'a': \"it's}\"} rest", (14, "")),
        ("{'a\\'}': 1}", (11, "")),
        ('[{"a": 1}, []]]', (14, "")),
        ('{"a": [1#', (8, "]}")),
        ('{"a": "x#y$', (10, '"}')),
        ("{'a$", (3, "'}")),
        ('{"a\\', None),
        ('{"a": 1', None),
    ],
)
def test_the_end_of_a_span_is_the_same_in_one_piece_and_character_by_character(text, end):
    assert JsonSpan("#$").find_end(text, 0, "$") == end
    span, found = JsonSpan("#$"), None
    for size in range(1, len(text) + 1):
        found = span.find_end(text[:size], 0, "$")
        if found is not None:
            break
    assert found == end
