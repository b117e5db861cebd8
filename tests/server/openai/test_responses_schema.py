"""Responses and their events are complete by the types of OpenAI's client and by the lists of fields that the published
schemas require."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from pydantic import TypeAdapter

from a3b.interface.events import Finished, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.interface.request import Request
from tests.support.responses_server import ANSWER, CUSTOM, DONE, NAMESPACE, PATH, TOOL, Server
from tests.support.scripted_service import STARTED, USAGE

RESPONSE = (
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
)
ITEMS = {
    "message": ("type", "id", "status", "role", "content"),
    "reasoning": ("type", "id", "summary", "content"),
    "function_call": ("type", "id", "call_id", "name", "arguments", "status"),
    "custom_tool_call": ("type", "id", "call_id", "name", "input"),
}
TOOLS = {
    "function": ("type", "name", "description", "parameters", "strict"),
    "custom": ("type", "name"),
    "namespace": ("type", "name", "description", "tools"),
}
LIMITED = [STARTED, TextDelta("ok"), Finished("length", USAGE)]
PATCH = [
    STARTED,
    ToolCallStart(0, "c", "apply_patch"),
    ToolCallDelta(0, '{"input": "x"}'),
    ToolCallEnd(0, "c", "apply_patch", {"input": "x"}),
    Finished("tool_calls", USAGE),
]


def said(text: str, role: str = "user") -> dict:
    return {"type": "message", "role": role, "content": text}


CASES: dict[str, tuple[list, dict]] = {
    "a message": (DONE, {"input": [said("Say hello in three words.")]}),
    "a system message": (DONE, {"input": [said("Speak like a pirate.", "system"), said("Say hello.")]}),
    "a tool": (ANSWER, {"input": [said("What is the weather?")], "tools": [{"type": "function", "name": "add"}]}),
    "a strict tool": (
        ANSWER,
        {"tools": [{**TOOL, "strict": True}], "tool_choice": {"type": "function", "name": "add"}},
    ),
    "custom tools": (PATCH, {"tools": [CUSTOM, NAMESPACE], "tool_choice": {"type": "custom", "name": "apply_patch"}}),
    "several turns": (DONE, {"input": [said("I am Ann."), said("Hello Ann!", "assistant"), said("Who am I?")]}),
    "a limit": (LIMITED, {"max_output_tokens": 1}),
    "a schema": (
        DONE,
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": None}}},
    ),
    "an object": (DONE, {"text": {"format": {"type": "json_object"}}}),
    "thinking": (DONE, {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}),
    "all options": (
        DONE,
        {
            "temperature": 0.5,
            "top_p": 0.5,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "top_logprobs": 2,
            "metadata": {"a": "b"},
            "user": "u",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
            "max_tool_calls": 2,
            "instructions": "Be kind.",
            "parallel_tool_calls": False,
            "truncation": "auto",
            "store": False,
        },
    ),
}
cases = pytest.mark.parametrize(("events", "body"), CASES.values(), ids=CASES)


def check(response: dict[str, Any]) -> None:
    assert [key for key in RESPONSE if key not in response] == []
    for item in response["output"]:
        assert [key for key in ITEMS[item["type"]] if key not in item] == []
    for tool in response["tools"]:
        assert [key for key in TOOLS[tool["type"]] if key not in tool] == []
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        assert type(response[name]) is float
    assert {"cached_tokens", "cache_write_tokens"} <= response["usage"]["input_tokens_details"].keys()
    assert type(response["created_at"]) is int
    assert type(response["completed_at"]) is (int if response["status"] == "completed" else type(None))
    assert response.get("user", "") is not None  # a text if it is there
    text = response["text"]["format"]
    assert text["type"] != "json_schema" or (type(text["strict"]), type(text["description"])) == (bool, str)
    Response.model_validate(response)


@cases
def test_a_response_is_complete(events, body):
    check(Server(events).create(body))


@cases
def test_the_responses_and_events_of_a_stream_are_complete(events, body):
    server, event_type = Server(events), TypeAdapter(ResponseStreamEvent)
    told = server.create({**body, "stream": True})
    assert [name for name, _ in told[:2]] == ["response.created", "response.in_progress"]
    assert told[-1][0] == ("response.incomplete" if events is LIMITED else "response.completed")
    for i, (name, event) in enumerate(told):
        assert (event["type"], event["sequence_number"]) == (name, i)
        event_type.validate_python(event)
        if "response" in event:
            check(event["response"])


HISTORY = [
    said("Be kind.", "system"),
    {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]},
    said("Hello.", "assistant"),
    {"role": "assistant", "content": [{"type": "output_text", "text": "more"}, {"text": "and more"}]},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]},
    {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "text", "text": "1"}]},
    {"type": "custom_tool_call", "call_id": "d", "name": "p", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": {"content": "y", "success": True}},
    {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "failed",
        "action": {"type": "search", "query": "x", "queries": ["x"]},
    },
    {
        "type": "computer_call",
        "id": "cu",
        "call_id": "e",
        "action": {"type": "wait"},
        "pending_safety_checks": [],
        "status": "completed",
    },
    {
        "type": "computer_call_output",
        "id": "co",
        "call_id": "e",
        "output": {"type": "computer_screenshot", "image_url": "data:x"},
    },
]


@pytest.mark.parametrize("given", ["hi", HISTORY])
def test_listed_items_are_complete_however_they_were_sent(given):
    server, item_type = Server(), TypeAdapter(ResponseItem)
    first = server.create({"input": given})
    later = server.create({"input": "more", "previous_response_id": first["id"]})
    status, told = server.send(None, f"{PATH}/{later['id']}/input_items?limit=100&order=asc", method="GET")
    sent = [said("hi")] if given == "hi" else given
    assert status == 200 and [item["type"] for item in told["data"][: len(sent)]] == [
        item.get("type", "message") for item in sent
    ]
    for item in told["data"]:
        item_type.validate_python(item, strict=True)
        assert item["id"] and (
            item["type"] == "reasoning" or item["status"] == ("failed" if item["id"] == "ws_1" else "completed")
        )
        if item["type"] == "message":
            kind = "output_text" if item["role"] == "assistant" else "input_text"
            assert item["content"] and all(part["type"] == kind and part["text"] for part in item["content"])
            assert kind == "input_text" or all(part["annotations"] == [] for part in item["content"])
        assert "output" not in item or isinstance(item["output"], str | list) or item["type"] == "computer_call_output"


def test_a_response_says_what_was_used_where_the_request_says_nothing():
    params = Server().service.sampling(Request())
    response = Server().create({"temperature": None, "frequency_penalty": 0.25})
    assert (response["temperature"], response["top_p"]) == (params.temperature, params.top_p)
    assert (response["presence_penalty"], response["frequency_penalty"]) == (params.presence_penalty, 0.25)


def test_a_tool_without_description_parameters_or_strictness_has_them_in_the_response():
    response = Server().create({"tools": [{"type": "function", "name": "add", "strict": None}]})
    assert response["tools"] == [
        {"type": "function", "name": "add", "description": None, "parameters": None, "strict": False}
    ]


def test_the_usage_of_a_stream_grows():
    told = Server().create({"stream": True})
    assert told[0][1]["response"]["usage"]["input_tokens"] == 0
    usage = told[-1][1]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (USAGE.prompt_tokens, USAGE.completion_tokens)
