"""OpenAI's Responses API, through its own client and through raw requests: answers, and turns that go on from them."""

from __future__ import annotations

import json

import pytest

from a3b.interface.events import Finished, TextDelta, TokenLogprobs, ToolCallEnd, ToolCallStart
from a3b.server.thinking_signatures import ThinkingSigner
from tests.support.responses_server import (
    ANSWER,
    ASK,
    DONE,
    OUTPUTS,
    PATH,
    TOOL,
    TURN,
    Server,
    understood,
)
from tests.support.scripted_service import SPECULATED, STARTED, USAGE
from tests.support.served import SECRET, exchange


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
