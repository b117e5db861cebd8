"""What requests of OpenAI's Responses API mean, and which are refused."""

from __future__ import annotations

import pytest

from a3b.server import fields
from tests.support.responses_server import (
    DONE,
    TOOL,
    refused,
    understood,
)


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
