"""Answers in the forms that servers give them, and answers that never end."""

from __future__ import annotations

import pytest

from a3b.agent.answer import MAX_ANSWER, AnswerReader
from a3b.agent.cost import cost_lines
from a3b.agent.event_lines import BadStreamError
from a3b.agent.options import SessionCost

PIECE = "x" * (MAX_ANSWER // 4)
CALL = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "bash", "arguments": PIECE}}]}


@pytest.mark.parametrize("delta", [{"content": PIECE}, {"reasoning_content": PIECE}, CALL])
def test_an_answer_without_end_is_refused(delta):
    reader = AnswerReader()
    for _ in range(4):
        list(reader.add({"choices": [{"delta": delta}]}))
    with pytest.raises(BadStreamError, match="more than 8 MiB"):
        list(reader.add({"choices": [{"delta": delta}]}))


def call(name=None, arguments=None, **more):
    given = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in given.items() if value is not None}}


def answer_of(*chunks, is_whole=False, finish="tool_calls"):
    reader = AnswerReader()
    for chunk in chunks:
        list(reader.add({"choices": [{"message" if is_whole else "delta": chunk}]}))
    reader.finish = finish
    return reader.answer()


def calls_of(*chunks, **options):
    return [(call.name, call.arguments) for call in answer_of(*chunks, **options).calls]


BOTH = [("read", '{"path": "a"}'), ("bash", '{"command": "b"}')]


@pytest.mark.parametrize("more", [{}, {"index": 0}, {"index": 0, "id": ""}, {"id": None}])
def test_calls_without_ids_or_with_one_index_stay_apart(more):
    whole = [{"tool_calls": [call(*one, **more)]} for one in BOTH]
    assert calls_of(*whole) == calls_of({"tool_calls": [call(*one, **more) for one in BOTH]}) == BOTH
    pieces = [
        {"tool_calls": [call(part if part == name else None, None if part == name else part, **more)]}
        for name, text in BOTH
        for part in (name, text[:5], text[5:])
    ]
    assert calls_of(*pieces) == BOTH


def test_calls_of_an_answer_that_was_not_streamed_stay_apart():
    assert calls_of({"tool_calls": [call("a", ""), call("a", ""), call("b", {"x": 1})]}, is_whole=True) == [
        ("a", ""),
        ("a", ""),
        ("b", '{"x": 1}'),
    ]


def test_a_piece_without_a_name_goes_on_with_its_call_whatever_its_id():
    pieces = [call("bash", "", index=0, id="a")] + [call(None, c, index=0, id=f"a{i}") for i, c in enumerate('{"x":1}')]
    assert calls_of(*({"tool_calls": [piece]} for piece in pieces)) == [("bash", '{"x":1}')]


def test_a_name_that_is_repeated_with_each_piece_is_one_call():
    pieces = [call("bash", part, index=0, id="a") for part in ('{"command": "x {}', '"', "}", "")]
    assert calls_of(*({"tool_calls": [piece]} for piece in pieces)) == [("bash", '{"command": "x {}"}')]


def test_content_in_parts_is_read():
    parts = [{"type": "text", "text": "Hello"}, {"type": "image"}, None, {"type": "text", "text": " there"}]
    assert answer_of({"content": parts}, finish="stop").text == "Hello there"


def test_an_answer_ends_with_done_where_no_reason_is_given():
    reader = AnswerReader()
    list(reader.add({"choices": [{"delta": {"content": "Hello"}, "finish_reason": None}]}))
    with pytest.raises(BadStreamError, match="broke off"):
        reader.answer()
    reader.is_ended = True
    assert reader.answer().text == "Hello"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"a3b": {"speculation": {"drafted": 9, "accepted": 4}}}, (9, 4)),
        ({"timings": {"draft_n": 7, "draft_n_accepted": 7}}, (7, 7)),
        ({"a3b": {"speculation": ["drafted"]}, "timings": {"draft_n": -1, "draft_n_accepted": "9"}}, (0, 0)),
        ({"a3b": {"speculation": {"drafted": 1e9, "accepted": None}}}, (0, 0)),
    ],
)
def test_drafts_are_counted_as_the_server_tells_them(told, expected):
    reader = AnswerReader()
    list(reader.add({"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}], **told}))
    usage = reader.answer().usage
    assert (usage.drafted, usage.accepted) == expected
    total = usage + usage
    assert (total.drafted, total.accepted, total.read) == (2 * expected[0], 2 * expected[1], 0)
    cost = SessionCost(1, total, 0, 4096, 4096, None, 1.0)
    assert any(line.startswith("drafted ") for line in cost_lines(cost)) == bool(expected[0])
