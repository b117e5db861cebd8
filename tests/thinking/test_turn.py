"""A turn as it is stored, and the parts of messages that it is compared by."""

from __future__ import annotations

import json

import pytest

from a3b.interface.events import TruncationPoint
from a3b.thinking.turn import Turn, calls_of, text_of, with_thinking_apart

MESSAGE = {
    "role": "assistant",
    "reasoning_content": "Two reads.",
    "content": "Reading.",
    "tool_calls": [
        {"id": "call_a", "function": {"name": "read", "arguments": {"path": "a"}}},
        {"id": "call_b", "function": {"name": "list", "arguments": {}}},
    ],
}


def test_a_turn_with_all_that_it_can_hold_comes_back_from_its_bytes():
    cuts = [TruncationPoint(2, True, 3, 0), TruncationPoint(4, False, 5, 1)]
    turn = Turn.of(MESSAGE, [1, 2, 3, 4], True, 2, cuts, {"digest": ("2026-01-02",)}, ["STOP"])
    again = Turn.from_bytes(turn.to_bytes())
    assert again == turn and again.dates == turn.dates


@pytest.mark.parametrize("field", ["ids", "closed", "thinking", "thinking_tokens", "content", "calls"])
def test_bytes_that_lack_a_field_are_no_turn(field):
    record = json.loads(Turn.of(MESSAGE, [1], False, 1).to_bytes())
    del record[field]
    with pytest.raises(ValueError, match="not a turn"):
        Turn.from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize(
    "changed",
    [
        {"ids": ["1"]},
        {"thinking": None},
        {"content": 3},
        {"calls": [["a", "read", 1]]},
        {"stops": [7]},
        {"calls": [["a"]]},
    ],
)
def test_bytes_with_a_field_of_another_type_are_no_turn(changed):
    record = json.loads(Turn.of(MESSAGE, [1], False, 1).to_bytes()) | changed
    with pytest.raises(ValueError):
        Turn.from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize("call_id", [None, 7, ["call_a"]])
def test_a_call_whose_id_is_no_string_has_none(call_id):
    call = {"id": call_id, "name": "read", "arguments": {"b": 1.0, "a": 2}}
    assert calls_of({"tool_calls": [call]}) == (("", "read", '{"a":2,"b":1}'),)


def test_the_text_of_content_in_parts_does_not_depend_on_the_order_of_keys():
    one, other = ({"content": [part]} for part in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert text_of(one) == text_of(other) != text_of({"content": [{"a": 1, "b": 3}]})


def test_only_the_first_end_of_thinking_ends_it():
    message = {"role": "assistant", "content": "<think>\nIt says so.\n</think>\n\nThe tag is </think>, then text."}
    apart = with_thinking_apart(message)
    assert apart["reasoning_content"] == "It says so."
    assert apart["content"] == "The tag is </think>, then text."
