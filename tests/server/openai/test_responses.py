"""OpenAI's Responses API, through its own client and through raw requests."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from a3b.errors import ContextError, OverloadedError, StoreError
from a3b.interface.events import Finished, TextDelta, TokenLogprobs, ToolCallEnd, ToolCallStart
from a3b.server import event_streams, fields
from a3b.server.thinking_signatures import ThinkingSigner
from tests.support.responses_server import (
    ANSWER,
    ASK,
    CUSTOM,
    DONE,
    NAMESPACE,
    OUTPUTS,
    PATH,
    TOOL,
    TURN,
    Server,
    client_of,
    understood,
)
from tests.support.scripted_service import SPECULATED, STARTED, USAGE, ScriptedService
from tests.support.served import SECRET, Endless, exchange, leave, no_objects, noisy, statuses


def refused(body):
    status, reply = Server().send({**ASK, **body})
    return status, reply.get("error")


@pytest.fixture(scope="module")
def client():
    with client_of() as made:
        yield made


# -- answers


def test_an_answer_is_reasoning_message_and_calls_with_usage(client):
    client.choose(ANSWER)
    reply = client.responses.create(**ASK)
    reasoning, message, *calls = reply.output
    assert [item.type for item in reply.output] == ["reasoning", "message", "function_call", "function_call"]
    assert (reasoning.content[0].text, reasoning.summary, reasoning.encrypted_content) == ("I think", [], None)
    assert (reply.output_text, message.content[0].annotations, message.status) == ("The sum", [], "completed")
    assert [(call.call_id, call.name, json.loads(call.arguments)) for call in calls] == [
        ("call_1", "add", {"a": 1}),
        ("call_2", "add", {}),
    ]
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (100, 20, 120)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (60, 8)
    assert (reply.status, reply.model, reply.error, reply.incomplete_details) == ("completed", "m", None, None)


def test_the_answer_says_what_the_cache_and_the_thinking_did():
    told = Server(ANSWER).create()["a3b"]
    assert told["cache"]["reused"] == 60 and told["thinking_in_context"] == {"sent": 5, "restored": 7, "dropped": 9}
    assert (told["thinking_stop_reason"], told["warnings"]) == ("closed", [])
    assert told["speculation"] == SPECULATED


def test_an_answer_repeats_what_was_asked():
    asked = {
        "instructions": "Be kind.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 50,
        "tools": [TOOL],
        "tool_choice": "auto",
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "store": False,
        "truncation": "disabled",
        "user": "u",
    }
    reply = Server().create(asked)
    assert {key: reply[key] for key in asked} == {**asked, "tools": [{**TOOL, "strict": False}]}


@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]])
@pytest.mark.parametrize("summary", [None, "auto"])
def test_the_clients_stream_adds_up_to_the_same_output(client, include, summary):
    client.choose(ANSWER)
    asked = {**ASK, "include": include, "reasoning": {"summary": summary}}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()

    def plain(value):
        # differ from answer to answer, or are the client's
        own = ("id", "encrypted_content", "parsed", "parsed_arguments")
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in own}
        return [plain(item) for item in value] if isinstance(value, list) else value

    assert plain(final.to_dict()["output"]) == plain(whole.to_dict()["output"]) and final.output_text == "The sum"
    assert [item.text for item in final.output[0].summary] == (["I think"] if summary else [])
    assert ("response.reasoning_summary_text.delta" in kinds) == bool(summary)
    sealed = final.output[0].encrypted_content
    assert (sealed is not None) == bool(include)
    assert not include or ThinkingSigner(SECRET).verify(sealed, "alice") == "I think"


def test_events_of_a_stream_come_in_order_and_numbered():
    events = Server(ANSWER).create({"stream": True, "reasoning": {"summary": "auto"}})
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(kind == data["type"] for kind, data in events)
    assert [(kind.removeprefix("response."), data.get("output_index")) for kind, data in events] == [
        ("created", None),
        ("in_progress", None),
        ("in_progress", None),
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_summary_part.added", 0),
        ("reasoning_text.delta", 0),
        ("reasoning_summary_text.delta", 0),
        ("reasoning_text.delta", 0),
        ("reasoning_summary_text.delta", 0),
        ("reasoning_text.done", 0),
        ("reasoning_summary_text.done", 0),
        ("reasoning_summary_part.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1),
        ("output_text.delta", 1),
        ("output_text.done", 1),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3),
        ("function_call_arguments.done", 3),
        ("output_item.done", 3),
        ("completed", None),
    ]
    assert events[2][1]["response"]["a3b"] == {"read": 3, "total": 40}
    added = [data["item"] for kind, data in events if kind == "response.output_item.added"]
    assert [item["status"] for item in added] == ["in_progress"] * 4 and added[0]["content"] == []
    done = [data["item"] for kind, data in events if kind == "response.output_item.done"]
    last = events[-1][1]["response"]
    assert last["output"] == done and last["status"] == "completed" and last["usage"]["output_tokens"] == 20
    assert {data["item_id"] for _, data in events if data.get("output_index") == 0 and "item_id" in data} == {
        done[0]["id"]
    }


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_at_its_limit_is_incomplete(stream):
    cut = ToolCallEnd(0, "c9", "add", {"a": 1}, complete=False)
    events = [STARTED, TextDelta("x"), ToolCallStart(0, "c9", "add"), cut, Finished("length", USAGE)]
    reply = Server(events).create({"stream": stream})
    if stream:
        assert reply[-1][0] == "response.incomplete"
        reply = reply[-1][1]["response"]
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in reply["output"]] == ["completed", "incomplete"]
    assert "c9 is incomplete" in reply["a3b"]["warnings"][0]


def test_probabilities_are_sent_with_their_text():
    def tokens(word):
        return TokenLogprobs(7, word, -0.5, ((7, word, -0.5), (8, b"\xf0", float("-inf"))))

    events = [STARTED, tokens(b"a"), TextDelta("a"), tokens(b"b"), TextDelta("b"), Finished("stop", USAGE)]
    server = Server(events)
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    found = server.create(asked)["output"][0]["content"][0]["logprobs"]
    assert server.request.top_logprobs == 2
    assert [entry["token"] for entry in found] == ["a", "b"] and found[0]["top_logprobs"][1] == {
        "token": "�",
        "bytes": [0xF0],
        "logprob": -9999.0,
    }
    deltas = [data for kind, data in server.create({**asked, "stream": True}) if kind == "response.output_text.delta"]
    assert [[entry["token"] for entry in data["logprobs"]] for data in deltas] == [["a"], ["b"]]


# -- second turns


def test_a_second_turn_by_the_output_items_has_the_thinking_and_the_calls(client):
    service = client.choose(ANSWER)
    first = client.responses.create(**ASK, store=False, include=["reasoning.encrypted_content"])
    client.responses.create(model="m", input=[{"role": "user", "content": "hi"}, *first.output, *OUTPUTS])
    assert service.requests[1].messages == [{"role": "user", "content": "hi"}, *TURN]
    assert service.requests[1].namespace == "alice" and service.requests[1].request_id == "req_1"


def test_a_second_turn_by_the_id_of_the_first_has_them_too(client):
    service = client.choose(ANSWER)
    first = client.responses.create(**ASK, instructions="Be brief.")
    service = client.choose(DONE)
    second = client.responses.create(model="m", input=OUTPUTS, previous_response_id=first.id)
    client.responses.create(model="m", input="more", previous_response_id=second.id)
    # instructions are not carried over
    assert service.requests[0].messages == [{"role": "user", "content": "hi"}, *TURN]
    assert service.requests[1].messages == [
        {"role": "user", "content": "hi"},
        *TURN,
        {"role": "assistant", "content": "ok", "reasoning_content": "hm"},
        {"role": "user", "content": "more"},
    ]


def test_what_a_streamed_answer_stored_can_be_continued():
    server = Server(DONE)
    first = server.create({"stream": True})[-1][1]["response"]
    server.create({"input": "more", "previous_response_id": first["id"]})
    assert [message["content"] for message in server.request.messages] == ["hi", "ok", "more"]


def test_items_can_be_referred_to():
    server = Server(ANSWER)
    first = server.create()
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    references[1] = {"id": references[1]["id"]}
    server.create({"input": [{"role": "user", "content": "hi"}, *references, *OUTPUTS]})
    assert server.request.messages[1:] == TURN


def test_warnings_are_in_a_header_too():
    body = {
        **ASK,
        "input": [{"type": "reasoning", "encrypted_content": "x"}, {"role": "user", "content": "q"}],
        "stream": True,
    }
    reply = exchange(Server().app, "POST", PATH, body)
    assert reply.headers["x-a3b-warnings"].startswith("input[0]: reasoning left out")


def test_one_turn_is_one_message_and_other_turns_are_their_own():
    def thought(text):
        return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}

    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "D"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        thought("t1"),
        {"role": "assistant", "content": [{"type": "output_text", "text": "x"}, {"type": "refusal", "refusal": "y"}]},
        {"type": "function_call", "call_id": "1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": c} for c in "pq"]},
        thought("t2"),
        {"role": "assistant", "content": "z"},
        {"role": "user", "content": "c"},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    assert understood({"input": items, "instructions": "I"}).messages == [
        {"role": "system", "content": "I"},
        {"role": "system", "content": "D"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "xy", "reasoning_content": "t1", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "p\nq"},
        {"role": "assistant", "content": "z", "reasoning_content": "t2"},
        {"role": "user", "content": "c"},
    ]


# -- requests


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"reasoning": {"effort": "none"}}, "think", False),
        ({"reasoning": {"effort": "low"}}, "thinking_budget", fields.EFFORTS["low"]),
        ({"reasoning": {"effort": "high"}}, "thinking_budget", None),
        ({"reasoning": {"effort": "high", "budget_tokens": 77}}, "thinking_budget", 77),
        ({"reasoning": {"context": "current_turn"}}, "policy", "current-task"),
        ({"reasoning": {"context": "all_turns"}}, "policy", "all"),
        ({"reasoning": {}}, "policy", None),
        ({"text": {"format": {"type": "text"}}}, "schema", None),
        ({"text": {"format": {"type": "json_object"}}}, "schema", {"type": "object"}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}}}},
            "schema",
            {"type": "array"},
        ),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        (
            {"max_output_tokens": 9, "temperature": 0, "top_p": 0.5},
            "sampling",
            {"max_tokens": 9, "temperature": 0, "top_p": 0.5},
        ),
        ({"top_k": 5, "seed": 3, "min_p": 0.1}, "sampling", {"top_k": 5, "seed": 3, "min_p": 0.1}),
        ({}, "sampling", {}),
        ({}, "top_logprobs", None),
        ({"include": ["message.output_text.logprobs"]}, "top_logprobs", 0),
    ],
)
def test_fields_become_those_of_a_request(body, field, value):
    assert getattr(understood(body), field) == value


def test_fields_that_do_no_harm_are_ignored():
    harmless = {
        "metadata": {},
        "user": "u",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "truncation": "auto",
        "service_tier": "auto",
        "background": False,
        "conversation": None,
        "max_tool_calls": 3,
        "stream_options": {"include_obfuscation": False},
        "text": {"verbosity": "low"},
        "future": 1,
    }
    assert understood(harmless) == understood({})


REFUSED = [
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"background": True}, "background"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"truncation": "middle"}, "truncation"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ({"text": {"format": {"type": "regex"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
    (
        {"input": [{"type": "function_call_output", "call_id": "1", "output": [{"type": "hologram"}]}]},
        "input[0].output[0]",
    ),
    ({"input": [{"type": "computer_call_output"}]}, "input[0].id"),
    ({"input": [{"type": "additional_tools"}]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "file_search"}]}]}, "tools[0].tools[0].type"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "sub"}, "tools": [TOOL]}, "tool_choice.name"),
    ({"tool_choice": {"type": "mcp"}, "tools": [TOOL]}, "tool_choice.type"),
    ({"temperature": "hot"}, "temperature"),
    ({"previous_response_id": "resp_0"}, "previous_response_id"),
]


@pytest.mark.parametrize(("body", "field"), REFUSED, ids=[f"{i} {field}" for i, (_, field) in enumerate(REFUSED)])
def test_what_would_change_the_answer_is_refused_by_name(body, field):
    status, error = refused(body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert error["message"]


def test_tokens_are_counted(client):
    service = client.choose(DONE)
    assert client.responses.input_tokens.count(model="m", input="hi", tools=[TOOL]).input_tokens == 42
    assert service.requests[0].messages == [{"role": "user", "content": "hi"}]


# -- failures


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (OverloadedError("full"), 429, "rate_limit_error", "overloaded"),
        (ContextError("too long"), 400, "invalid_request_error", "context_length_exceeded"),
        (StoreError("disk"), 500, "server_error", "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_of_the_engine_has_its_status_even_for_a_stream(error, status, kind, code, stream):
    found, reply = Server(error).send({**ASK, "stream": stream})
    message = str(error) if status < 500 else "internal error; the server's log has details under req_1"
    assert (found, reply["error"]) == (status, {"message": message, "type": kind, "param": None, "code": code})


def test_the_client_knows_the_errors(client):
    client.choose(OverloadedError("full"))
    with pytest.raises(openai.RateLimitError, match="full"):
        client.responses.create(**ASK)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.create(**ASK, background=True)


class Breaking(ScriptedService):
    """Fails in the middle of an answer."""

    async def stream(self, request):
        yield STARTED
        yield TextDelta("half")
        raise self.events


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Breaking(StoreError("disk")), "server_error"),
        (Breaking(ContextError("too long")), "context_length_exceeded"),
        ([STARTED, TextDelta("half")], "server_error"),
        ([STARTED, TextDelta("half"), Finished("cancelled", USAGE)], "server_error"),
    ],
)
def test_an_answer_that_breaks_off_fails_and_is_not_stored(script, code):
    server = Server(script)
    kind, data = server.create({"stream": True})[-1]
    assert (kind, data["response"]["status"], data["response"]["error"]["code"]) == ("response.failed", "failed", code)
    assert server.send(None, f"{PATH}/{data['response']['id']}", method="GET")[0] == 404
    assert server.send(ASK)[0] in (400, 500, 503)


def test_silence_is_broken_by_progress(monkeypatch):
    class Slow(ScriptedService):
        async def stream(self, request):
            await asyncio.sleep(0.3)
            for event in DONE:
                yield event

    monkeypatch.setattr(event_streams, "KEEP_ALIVE_S", 0.01)
    kinds = [kind for kind, _ in Server(Slow([])).create({"stream": True})]
    assert (
        kinds.count("response.in_progress") > 2 and kinds[0] == "response.created" and kinds[-1] == "response.completed"
    )


@pytest.mark.parametrize(("stream", "at_once"), [(False, True), (True, True), (True, False)])
def test_the_engine_stops_when_the_client_leaves(stream, at_once):
    async def run():
        service = Endless(STARTED, TextDelta("x"))
        await leave(Server(service).app, PATH, {**ASK, "stream": stream}, service.was_begun if at_once else None)
        return service.was_closed.is_set()

    assert asyncio.run(run())


# -- noise


FULL = {
    **ASK,
    "instructions": "i",
    "stream": False,
    "store": True,
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "max_output_tokens": 9,
    "seed": 1,
    "top_logprobs": 1,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "low", "summary": "auto", "context": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "metadata": {"a": "b"},
    "user": "u",
    "parallel_tool_calls": True,
    "truncation": "auto",
    "background": False,
    "previous_response_id": None,
    "prompt_cache_key": "k",
    "tools": [TOOL, NAMESPACE, CUSTOM, {"type": "web_search", "external_web_access": False}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]},
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [{"type": "summary_text", "text": "s"}],
            "encrypted_content": None,
            "content": [{"type": "reasoning_text", "text": "t"}],
        },
        {
            "type": "function_call",
            "id": "fc",
            "call_id": "1",
            "name": "read",
            "namespace": "mcp__fs__",
            "arguments": "{}",
        },
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "custom_tool_call", "call_id": "2", "name": "apply_patch", "input": "x"},
    ],
}


@pytest.mark.slow
def test_no_value_in_any_field_makes_the_server_fail():
    server, bodies = Server(max_count=3), noisy(FULL)
    found = statuses(server.app, PATH, bodies[::7])
    assert set(found) == {200, 400} and found.count(200) > 30
    assert set(statuses(server.app, PATH + "/input_tokens", bodies[1::31])) == {200, 400}
    streamed = [json.dumps({**FULL, "stream": True, "user": user}).encode() for user in ("\udfff", "u")]
    assert set(statuses(server.app, PATH, streamed)) == {200}


@no_objects
def test_what_is_no_json_object_is_refused(raw, told):
    reply = exchange(Server().app, "POST", PATH, raw=raw)
    assert reply.status_code == 400 and reply.json()["error"]["message"].startswith(f"body: {told}")


def test_a_request_may_choose_which_thinking_stays_and_how_much_there_may_be():
    server = Server(DONE)
    assert (
        server.send(
            {**ASK, "thinking_policy": "none", "task_thinking_budget": 64, "reasoning": {"context": "all_turns"}}
        )[0]
        == 200
    )
    asked = server.service.script.requests[-1]
    assert (asked.policy, asked.task_budget) == ("none", 64)
    assert server.send({**ASK, "thinking_policy": "budget:"})[0] == 400
