"""Anthropic's Messages API, through its own client and through raw requests."""

from __future__ import annotations

import asyncio
import json

import anthropic
import pytest

from a3b.errors import ContextError, OverloadedError, StoreError, UsageError
from a3b.interface.events import Finished, Reading, TextDelta, ThinkingDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.server import event_streams, fields
from a3b.server.anthropic import messages
from a3b.server.thinking_signatures import ThinkingSigner
from tests.support.scripted_service import SPECULATED, STARTED, USAGE, ScriptedService
from tests.support.served import (
    SECRET,
    ChosenService,
    Endless,
    app_of,
    content_of,
    exchange,
    leave,
    no_objects,
    noisy,
    served,
    statuses,
)

ASK = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {
    "name": "add",
    "description": "adds",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
ANSWER = [
    STARTED,
    Reading(3, 40),
    ThinkingDelta("I "),
    ThinkingDelta("think"),
    TextDelta("The "),
    TextDelta("sum"),
    ToolCallStart(0, "call_1", "add"),
    ToolCallDelta(0, '{"a": '),
    ToolCallDelta(0, "1}"),
    ToolCallEnd(0, "call_1", "add", {"a": 1}),
    ToolCallStart(1, "call_2", "add"),
    ToolCallEnd(1, "call_2", "add", {}),
    Finished("tool_calls", USAGE, None, "closed"),
]
DONE = [STARTED, TextDelta("ok"), Finished("stop", USAGE)]


def post(events, body, path="/v1/messages", key="alice", raw=None):
    """(status, headers, JSON or events of the stream, service) of one request."""
    service = events if isinstance(events, ScriptedService) else ScriptedService(events)
    reply = exchange(app_of(messages, service), "POST", path, body, key, raw)
    return reply.status_code, reply.headers, content_of(reply), service


def understood(body, key="alice"):
    """The Request that a body becomes."""
    status, _, reply, service = post(DONE, {**ASK, **body}, key=key)
    assert status == 200, reply
    return service.requests[0]


def refused(body, events=DONE):
    """(status, message) of a refusal."""
    status, _, reply, _ = post(events, {**ASK, **body})
    assert reply["type"] == "error" and reply["request_id"] == "req_1"
    return status, reply["error"]["message"]


@pytest.fixture(scope="module")
def url_of():
    """Chooses what a real server answers; gives its address and the service that remembers the requests."""
    service = ChosenService()
    with served(app_of(messages, service)) as url:
        yield lambda events: (url, service.choose(events))


def client_of(url, key="alice"):
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


# -- answers


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


# -- requests


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"max_tokens": 100}),
        ({"temperature": 0, "top_p": 0.5, "top_k": 7}, {"max_tokens": 100, "temperature": 0, "top_p": 0.5, "top_k": 7}),
        ({"stop_sequences": ["a", "b"]}, {"max_tokens": 100, "stop": ("a", "b")}),
    ],
)
def test_sampling_is_what_was_given_and_no_more(body, expected):
    assert dict(understood(body).sampling) == expected


@pytest.mark.parametrize(
    ("body", "think", "budget"),
    [
        ({}, None, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "adaptive"}}, True, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, True, 2000),
        ({"output_config": {"effort": "low"}}, True, fields.EFFORTS["low"]),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}, True, fields.EFFORTS["low"]),
        ({"output_config": {"effort": "low"}, "thinking": {"type": "enabled", "budget_tokens": 9}}, True, 9),
    ],
)
def test_thinking_and_its_budget(body, think, budget):
    request = understood(body)
    assert (request.think, request.thinking_budget) == (think, budget)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", None, True)),
        ({"type": "auto"}, ("auto", None, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", None, False)),
        ({"type": "none"}, ("none", None, True)),
        ({"type": "tool", "name": "add"}, ("named", "add", True)),
    ],
)
def test_tools_and_the_choice_among_them(choice, expected):
    request = understood(
        {"tools": [TOOL, {"type": "custom", "name": "noop", "input_schema": {}}], "tool_choice": choice}
    )
    assert (request.tool_choice, request.tool_name, request.parallel_tool_calls) == expected
    schema = TOOL["input_schema"]
    assert request.tools[0] == {
        "type": "function",
        "function": {"name": "add", "description": "adds", "parameters": schema},
    }
    assert request.tools[1]["function"]["name"] == "noop"


@pytest.mark.parametrize(
    "where",
    [lambda form: {"output_format": form}, lambda form: {"output_config": {"format": form}}],
    ids=["old", "new"],
)
def test_a_schema_of_the_answer(where):
    assert understood(where({"type": "json_schema", "schema": {"type": "array"}})).schema == {"type": "array"}
    assert refused(where({"type": "text"}))[0] == 400


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Be kind.\n", "Be kind.\n"),
        ("x-anthropic-billing-header: cch=1;\nBe kind.", "Be kind."),
        ([{"type": "text", "text": text} for text in ("x-anthropic-billing-header: a", "A", "B")], "A\n\nB"),
        ([{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}], "A"),
    ],
)
def test_the_system_prompt_loses_only_its_billing_lines(system, expected):
    assert understood({"system": system}).messages[0] == {"role": "system", "content": expected}


@pytest.mark.parametrize("system", [None, "", [], "x-anthropic-billing-header: cch=1;"])
def test_an_empty_system_prompt_is_none(system):
    assert [message["role"] for message in understood({"system": system}).messages] == ["user"]


def test_results_come_before_the_text_of_their_turn_and_errors_say_so():
    results = [
        {"type": "text", "text": "by the way"},
        {
            "type": "tool_result",
            "tool_use_id": "1",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"type": "tool_result", "tool_use_id": "2", "content": "no such file", "is_error": True},
        {"type": "tool_result", "tool_use_id": "3", "is_error": True},
        {"type": "tool_result", "tool_use_id": "4", "content": "Error 7", "is_error": True},
        {"type": "tool_result", "tool_use_id": "5"},
        {"type": "text", "text": "go on"},
    ]
    call = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": results},
    ]
    found = understood({"messages": turns}).messages[2:]
    assert [(m["role"], m.get("tool_call_id"), m["content"]) for m in found[:5]] == [
        ("tool", "1", "a\nb"),
        ("tool", "2", "Error: no such file"),
        ("tool", "3", "Error:"),
        ("tool", "4", "Error 7"),
        ("tool", "5", ""),
    ]
    assert found[5:] == [
        {"role": "user", "content": [{"type": "text", "text": "by the way"}, {"type": "text", "text": "go on"}]}
    ]


def test_neighbouring_assistant_messages_are_one_turn():
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert understood({"messages": turns}).messages == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "reasoning_content": "t"},
        {"role": "user", "content": "d"},
    ]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
REFUSED = [
    ({"max_tokens": None}, "max_tokens: missing"),
    ({"max_tokens": -1}, "max_tokens: -1"),
    ({"max_tokens": 1.5}, "max_tokens: 1.5"),
    ({"messages": []}, "messages: empty"),
    (
        {"messages": [*ASK["messages"], {"role": "assistant", "content": "The answer is ("}]},
        "end with a message of the user",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]},
        "messages[0].content[1]: content of type image",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
        "messages[0].content[0]: content of type document",
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "hologram"}]}],
                }
            ]
        },
        "messages[0].content[0].content[0]: content of type hologram",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, 'messages[0].role: "tool"'),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]: web_search_20250305"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]: bash_20250124"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: any needs tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name"),
    ({"thinking": {"type": "sometimes"}}, "thinking.type"),
    ({"thinking": {}}, "thinking.type"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers: not supported"),
    ({"container": "c1"}, "container: not supported"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["a"] * 17}, "stop_sequences: 17 texts; expected at most 16"),
    ({"stop_sequences": ["a" * 1001]}, "stop_sequences: a text of 1,001 characters; expected at most 1,000"),
    ({"temperature": "hot"}, 'temperature: "hot"'),
    ({"temperature": 10**400}, "temperature: 1000"),
]


@pytest.mark.parametrize(("body", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_would_change_the_answer_is_refused_by_name(body, named):
    status, message = refused(body)
    assert status == 400 and named in message


def test_an_image_in_a_tool_result_is_left_out_and_said_so():
    """Refused, it would end the conversation of an agent: the image stays in all that follows."""
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "a.png"}, IMAGE]}
    status, headers, _, service = post(
        DONE, {**ASK, "messages": [*ASK["messages"], {"role": "user", "content": [result]}]}
    )
    assert status == 200 and "messages[1].content[0].content[1]: image left out" in headers["x-a3b-warnings"]
    assert service.requests[0].messages[1]["content"] == "a.png\n[image left out: this model reads text only]"


def test_fields_that_do_no_harm_are_ignored():
    harmless = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "betas": ["x"],
        "context_management": {"edits": []},
        "mcp_servers": [],
        "container": None,
        "cache_control": {"type": "ephemeral"},
        "future": 1,
    }
    assert understood(harmless) == understood({})


# -- failures


@pytest.mark.parametrize(
    ("error", "status", "kind", "told"),
    [
        (OverloadedError("full"), 429, "rate_limit_error", "full"),
        (ContextError("9000 tokens > 8192"), 400, "invalid_request_error", "prompt is too long: 9000 tokens > 8192"),
        (UsageError("top_p: 3"), 400, "invalid_request_error", "top_p: 3"),
        (StoreError("disk"), 500, "api_error", "internal error; the server's log has details under req_1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_the_engine_has_its_status_even_for_a_stream(error, status, kind, told, stream):
    found, headers, reply, _ = post(error, {**ASK, "stream": stream})
    assert (found, reply["error"], reply["request_id"]) == (status, {"type": kind, "message": told}, "req_1")
    assert ("retry-after" in headers) == (status == 429)


def test_the_client_knows_the_errors(url_of):
    url, _ = url_of(OverloadedError("full"))
    with client_of(url) as client:
        with pytest.raises(anthropic.RateLimitError, match="full"):
            client.messages.create(**ASK)
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            client.messages.create(**{**ASK, "max_tokens": -1})


class Breaking(ScriptedService):
    """Fails in the middle of an answer."""

    async def stream(self, request):
        yield STARTED
        yield TextDelta("half")
        raise self.events


@pytest.mark.parametrize("last", [None, Finished("cancelled", USAGE)], ids=["no end", "cancelled"])
def test_an_answer_that_breaks_off_is_an_error(last):
    events = [STARTED, TextDelta("half"), *([last] if last else [])]
    assert post(events, ASK)[0] == 503
    _, _, told, _ = post(events, {**ASK, "stream": True})
    assert told[-1][0] == "error" and told[-1][1]["error"]["type"] == "overloaded_error"
    assert "message_stop" not in dict(told)


def test_a_failure_in_the_middle_of_a_stream_is_an_event():
    _, _, events, _ = post(Breaking(StoreError("disk is full")), {**ASK, "stream": True})
    name, told = events[-1]
    assert (name, told["error"]["type"], told["request_id"]) == ("error", "api_error", "req_1") and "req_1" in told[
        "error"
    ]["message"]


def test_silence_is_broken_by_pings(monkeypatch):
    class Slow(ScriptedService):
        async def stream(self, request):
            await asyncio.sleep(0.05)
            for event in DONE:
                yield event

    monkeypatch.setattr(event_streams, "KEEP_ALIVE_S", 0.01)
    _, _, events, _ = post(Slow([]), {**ASK, "stream": True})
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "ping" and kinds[kinds.index("message_start") :][-1] == "message_stop"


@pytest.mark.parametrize(("stream", "at_once"), [(False, True), (True, True), (True, False)])
def test_the_engine_stops_when_the_client_leaves(stream, at_once):
    async def run():
        service = Endless(STARTED, TextDelta("x"))
        await leave(
            app_of(messages, service), "/v1/messages", {**ASK, "stream": stream}, service.was_begun if at_once else None
        )
        return service.was_closed.is_set()

    assert asyncio.run(run())


# -- counting and noise


def test_tokens_are_counted_without_max_tokens(url_of):
    url, service = url_of(DONE)
    with client_of(url) as client:
        count = client.messages.count_tokens(model="m", messages=ASK["messages"], system="s", tools=[TOOL])
    assert count.input_tokens == 42
    assert [m["role"] for m in service.requests[0].messages] == ["system", "user"] and len(
        service.requests[0].tools
    ) == 1


FULL = {
    **ASK,
    "system": [{"type": "text", "text": "s"}],
    "stream": False,
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "stop_sequences": ["x"],
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "add", "disable_parallel_tool_use": False},
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 5, "display": "summarized"},
    "mcp_servers": [],
    "container": None,
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "output_format": None,
    "service_tier": "auto",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "1",
                    "content": [{"type": "text", "text": "2"}],
                    "is_error": False,
                },
            ],
        },
    ],
}


def test_no_value_in_any_field_makes_the_server_fail():
    app, bodies = app_of(messages, ScriptedService(DONE)), noisy(FULL)
    found = statuses(app, "/v1/messages", bodies[::5])
    assert set(found) == {200, 400} and found.count(200) > 30
    assert set(statuses(app, "/v1/messages/count_tokens", bodies[1::23])) == {200, 400}
    assert set(statuses(app, "/v1/messages", [json.dumps({**FULL, "stream": True, "model": "\udfff"}).encode()])) == {
        200
    }


@no_objects
def test_what_is_no_json_object_is_refused(raw, told):
    status, _, reply, _ = post(DONE, None, raw=raw)
    assert status == 400 and reply["error"]["message"].startswith(f"body: {told}")


def test_half_a_character_does_not_break_the_prompt():
    assert (
        understood({"messages": [{"role": "user", "content": "a\ud83d \U0001f9e0"}]}).messages[0]["content"]
        == "a\ufffd \U0001f9e0"
    )


def test_a_request_may_choose_which_thinking_stays_and_how_much_there_may_be():
    asked = understood({"thinking_policy": "budget:500", "task_thinking_budget": 64})
    assert (asked.policy, asked.task_budget) == ("budget:500", 64) and understood({}).policy is None
    status, message = refused({"thinking_policy": "some"})
    assert status == 400 and message.startswith("thinking_policy: ")
