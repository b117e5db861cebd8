"""Anthropic's Messages API, through its own client and raw requests: answers, and turns that go on from them."""

from __future__ import annotations

import pytest

from a3b.interface.events import Finished, Reading, TextDelta, ThinkingDelta, ToolCallEnd, ToolCallStart
from a3b.server.thinking_signatures import ThinkingSigner
from tests.support.messages_server import ANSWER, ASK, DONE, TOOL, client_of, post, understood
from tests.support.scripted_service import SPECULATED, STARTED, USAGE
from tests.support.served import (
    SECRET,
)


def test_an_answer_is_thinking_text_and_calls_with_usage(url_of):
    url, _ = url_of(ANSWER)
    with client_of(url) as client:
        reply = client.messages.create(**ASK)
    assert [block.type for block in reply.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (reply.content[0].thinking, reply.content[1].text) == ("I think", "The sum")
    assert [(call.id, call.name, call.input) for call in reply.content[2:]] == [
        ("call_1", "add", {"a": 1}),
        ("call_2", "add", {}),
    ]
    assert (reply.stop_reason, reply.stop_sequence, reply.role, reply.model) == ("tool_use", None, "assistant", "m")
    usage = reply.usage
    assert (
        usage.input_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.output_tokens,
    ) == (40, 60, 0, 20)
    assert usage.output_tokens_details.thinking_tokens == 8
    assert ThinkingSigner(SECRET).verify(reply.content[0].signature, "alice", "I think") == "I think"


def test_the_answer_says_what_the_cache_and_the_thinking_did():
    _, _, reply, _ = post(ANSWER, ASK)
    assert reply["a3b"]["cache"]["reused"] == 60 and reply["a3b"]["cache"]["miss"] == "none"
    assert reply["a3b"]["thinking_in_context"] == {"sent": 5, "restored": 7, "dropped": 9}
    assert (reply["a3b"]["thinking_stop_reason"], reply["a3b"]["warnings"]) == ("closed", [])
    assert reply["a3b"]["speculation"] == SPECULATED


def test_the_clients_stream_adds_up_to_the_same_message(url_of):
    url, _ = url_of(ANSWER)
    with client_of(url) as client:
        whole = client.messages.create(**ASK)
        with client.messages.stream(**ASK) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
    assert {"thinking", "signature", "text", "input_json"} <= set(kinds)
    assert final.to_dict()["content"] == whole.to_dict()["content"]
    assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 40, 20)


def test_reading_a_prompt_sends_more_than_pings_if_thinking_is_next(url_of):
    """Claude Code leaves after 300 s of nothing but pings."""
    events = [STARTED, Reading(3, 40), Reading(9, 40), *ANSWER[2:]]
    url, _ = url_of(events)
    body = {**ASK, "thinking": {"type": "adaptive"}}
    with client_of(url) as client, client.messages.stream(**body) as stream:
        told = [event for event in stream if event.type == "content_block_delta"]
        final = stream.get_final_message()
    assert [(event.delta.type, event.delta.thinking) for event in told[:3]] == [
        ("thinking_delta", text) for text in ("", "", "I ")
    ]
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert ThinkingSigner(SECRET).verify(final.content[0].signature, "alice", "I think") == "I think"
    for thinking in ({"type": "disabled"}, None):  # then the next may be text
        _, _, shape, _ = post(events, {**ASK, "thinking": thinking, "stream": True})
        assert [kind for kind, _ in shape[:4]] == ["message_start", "ping", "ping", "content_block_start"]


def test_thinking_that_was_announced_and_never_came_goes_back_as_nothing():
    _, _, reply, _ = post([STARTED, Reading(3, 40), *DONE[1:]], {**ASK, "thinking": {"type": "adaptive"}})
    assert [block["type"] for block in reply["content"]] == ["thinking", "text"] and reply["content"][0][
        "thinking"
    ] == ""
    turn = {"role": "assistant", "content": reply["content"]}
    request = understood({"messages": [*ASK["messages"], turn, {"role": "user", "content": "more"}]})
    assert request.messages[1]["content"] == "ok" and not request.messages[1]["reasoning_content"]


def test_events_of_a_stream_come_in_the_order_of_the_api():
    _, headers, events, _ = post(ANSWER, {**ASK, "stream": True})
    assert all(kind == data["type"] for kind, data in events)
    shape = [
        (kind, data.get("index"), data.get("delta", data.get("content_block", {})).get("type")) for kind, data in events
    ]
    assert shape == [
        ("message_start", None, None),
        ("ping", None, None),
        ("content_block_start", 0, "thinking"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "thinking_delta"),
        ("content_block_delta", 0, "signature_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "text"),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_delta", 1, "text_delta"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_stop", 2, None),
        ("content_block_start", 3, "tool_use"),
        ("content_block_stop", 3, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]
    start, ping, last = events[0][1], events[1][1], events[-2][1]
    assert start["message"]["usage"]["input_tokens"] == 40 and start["message"]["usage"]["output_tokens"] == 0
    assert ping["a3b"] == {"read": 3, "total": 40}
    assert last["usage"]["output_tokens"] == 20 and last["a3b"]["thinking_stop_reason"] == "closed"
    assert headers["content-type"].startswith("text/event-stream")


def test_interleaved_thinking_keeps_its_place():
    events = [STARTED, ThinkingDelta("a"), TextDelta("b"), ThinkingDelta("c"), TextDelta("d"), Finished("stop", USAGE)]
    _, _, reply, _ = post(events, ASK)
    assert [block.get("thinking", block.get("text")) for block in reply["content"]] == ["a", "b", "c", "d"]
    assert all(
        ThinkingSigner(SECRET).verify(reply["content"][i]["signature"], "alice", text)
        for i, text in ((0, "a"), (2, "c"))
    )


@pytest.mark.parametrize(
    ("finished", "reason", "stop"),
    [
        (Finished("stop", USAGE), "end_turn", None),
        (Finished("length", USAGE), "max_tokens", None),
        (Finished("stop", USAGE, "END"), "stop_sequence", "END"),
        (Finished("tool_calls", USAGE), "tool_use", None),
    ],
)
def test_the_stop_reason_says_why(finished, reason, stop):
    events = [STARTED, TextDelta("x"), finished]
    _, _, reply, _ = post(events, ASK)
    assert (reply["stop_reason"], reply["stop_sequence"]) == (reason, stop)
    _, _, told, _ = post(events, {**ASK, "stream": True})
    assert told[-2][1]["delta"] == {"stop_reason": reason, "stop_sequence": stop}


def test_a_call_that_was_cut_off_is_reported():
    events = [
        STARTED,
        ToolCallStart(0, "c9", "add"),
        ToolCallEnd(0, "c9", "add", {"a": 1}, complete=False),
        Finished("length", USAGE),
    ]
    _, _, reply, _ = post(events, ASK)
    assert reply["stop_reason"] == "max_tokens" and "c9 is incomplete" in reply["a3b"]["warnings"][0]


def test_omitted_thinking_is_sealed_and_comes_back_whole():
    body = {**ASK, "thinking": {"type": "adaptive", "display": "omitted"}}
    _, _, reply, _ = post(ANSWER, body)
    _, _, events, _ = post(ANSWER, {**body, "stream": True})
    block = reply["content"][0]
    assert block["thinking"] == "" and "I think" not in str(events)
    request = understood(
        {"messages": [*ASK["messages"], {"role": "assistant", "content": [block]}, {"role": "user", "content": "on"}]}
    )
    assert request.messages[1]["reasoning_content"] == "I think"


# -- second turns


def test_the_second_turn_has_the_thinking_and_the_calls_of_the_first(url_of):
    url, service = url_of(ANSWER)
    with client_of(url) as client:
        first = client.messages.create(**ASK, tools=[TOOL])
        results = [{"type": "tool_result", "tool_use_id": f"call_{i}", "content": f"r{i}"} for i in (1, 2)]
        turns = [*ASK["messages"], first.to_param(), {"role": "user", "content": results}]
        client.messages.create(**{**ASK, "messages": turns}, tools=[TOOL])
    assert service.requests[1].messages == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "The sum",
            "reasoning_content": "I think",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}},
                {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "r1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "r2"},
    ]
    assert service.requests[1].namespace == "alice" and service.requests[1].request_id == "req_1"


def turn_with(block):
    return {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [block, {"type": "text", "text": "a"}]},
            {"role": "user", "content": "on"},
        ]
    }


@pytest.mark.parametrize(
    ("block", "key"),
    [
        (
            {"type": "thinking", "thinking": "changed", "signature": ThinkingSigner(SECRET).sign("thought", "alice")},
            "alice",
        ),
        (
            {"type": "thinking", "thinking": "thought", "signature": ThinkingSigner(SECRET).sign("thought", "alice")},
            "bob",
        ),
        ({"type": "thinking", "thinking": "thought", "signature": "EqQBCkYIARgC"}, "alice"),
        ({"type": "redacted_thinking", "data": ThinkingSigner(SECRET).encrypt("thought", "alice")}, "bob"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_forged_and_foreign_thinking_is_left_out_and_reported(block, key, stream):
    _, headers, reply, service = post(DONE, {**ASK, **turn_with(block), "stream": stream}, key=key)
    assert service.requests[0].messages[1] == {"role": "assistant", "content": "a"}
    told = reply[-2][1]["a3b"] if stream else reply["a3b"]
    assert "messages[1].content[0]" in headers["x-a3b-warnings"] and "messages[1].content[0]" in told["warnings"][0]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "thought", "signature": ""},
        {"type": "thinking", "thinking": "thought"},
        {"type": "thinking", "thinking": "thought", "signature": ThinkingSigner(SECRET).sign("thought", "alice")},
        {"type": "redacted_thinking", "data": ThinkingSigner(SECRET).encrypt("thought", "alice")},
    ],
)
def test_thinking_without_a_signature_is_the_clients_and_signed_thinking_comes_back(block):
    _, headers, reply, service = post(DONE, {**ASK, **turn_with(block)})
    message = service.requests[0].messages[1]
    assert message["reasoning_content"] == "thought"
    assert reply["a3b"]["warnings"] == [] and "x-a3b-warnings" not in headers


def test_of_many_warnings_a_few_are_in_the_header_and_a_hundred_in_the_answer():
    blocks = [{"type": "thinking", "thinking": "x", "signature": "AAAA"}] * 2000
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": "on"},
    ]
    _, headers, reply, _ = post(DONE, {**ASK, "messages": turns})
    assert len(headers["x-a3b-warnings"]) < 2000 and headers["x-a3b-warnings"].endswith("and 1995 more")
    assert len(reply["a3b"]["warnings"]) == 101 and reply["a3b"]["warnings"][-1] == "and 1900 more"
