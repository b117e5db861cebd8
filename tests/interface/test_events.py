"""Stop strings, merging of events, and the message an answer amounts to."""

from __future__ import annotations

import random

import pytest

from a3b.interface.events import (
    Finished,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    assistant_message,
    merge_events,
)
from a3b.output.stop_strings import StopStrings


def cut(text, rng, size):
    """The text in pieces of up to `size` characters."""
    while text:
        num = rng.randint(1, size)
        yield text[:num]
        text = text[num:]


@pytest.mark.parametrize(
    ("stops", "text", "before", "matched"),
    [
        (["END"], "a EN END b", "a EN ", "END"),
        (["aab"], "aaab", "a", "aab"),
        (["b", "ab"], "xab", "x", "ab"),
        (["abcd", "bc"], "xabcd", "xa", "bc"),
        (["x", "\n\n"], "a\nb\n\nx", "a\nb", "\n\n"),
        (["END"], "EN", "EN", None),
        ([], "any", "any", None),
    ],
)
def test_the_first_completed_stop_string_ends_the_text_however_it_is_cut(stops, text, before, matched):
    rng = random.Random(4)
    for size in (1, 2, 3, len(text)):
        stop = StopStrings(stops)
        assert "".join(map(stop.push, cut(text, rng, size))) + stop.finish() == before
        assert stop.found == matched


def test_only_a_possible_beginning_of_a_stop_string_is_held_back():
    stop = StopStrings(["END"])
    assert [stop.push(piece) for piece in ("a", "b E", "N", "x", "E")] == ["a", "b ", "", "ENx", ""]


def test_stop_strings_leave_thinking_and_calls_alone_and_drop_what_follows():
    start, end = ToolCallStart(0, "c", "f"), ToolCallEnd(0, "c", "f", {})
    events = [
        ThinkingDelta("END"),
        TextDelta("a E"),
        start,
        ToolCallDelta(0, "END"),
        end,
        TextDelta("ND END b"),
        start,
    ]
    stop = StopStrings(["END"])
    assert stop.apply(events) == [*events[:5], TextDelta("ND ")]
    assert stop.found == "END"
    assert stop.apply([TextDelta("more")], last=True) == []


def test_text_held_for_a_stop_string_comes_before_the_end():
    stop = StopStrings(["END"])
    assert stop.apply([TextDelta("a E"), Finished("stop")]) == [TextDelta("a E"), Finished("stop")]
    assert stop.apply([TextDelta("EN")], last=True) == [TextDelta("EN")]


def test_merging_joins_neighbours_of_one_kind_and_call_only():
    events = [
        TextDelta("a"),
        TextDelta(""),
        TextDelta("b"),
        ThinkingDelta("c"),
        ToolCallDelta(0, "x"),
        ToolCallDelta(1, "y"),
    ]
    assert merge_events(events) == [TextDelta("ab"), *events[3:]]


def test_a_message_without_calls_has_no_tool_calls_key():
    assert assistant_message([TextDelta("a"), Finished("stop")]) == {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "",
    }


def test_a_call_that_was_cut_off_is_marked_in_the_message():
    whole, cut = (
        ToolCallEnd(0, "a", "rm", {"path": "/tmp/x"}),
        ToolCallEnd(1, "b", "rm", {"path": "/tm"}, complete=False),
    )
    calls = assistant_message([whole, cut])["tool_calls"]
    assert "complete" not in calls[0] and calls[1]["complete"] is False
