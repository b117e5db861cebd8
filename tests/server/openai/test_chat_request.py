"""The body of a completion becomes a Request, or is refused by the name of the field at fault."""

from __future__ import annotations

import asyncio
import copy

import pytest

from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from a3b.server.errors import ApiError
from a3b.server.openai.chat_request import read_chat
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESERVED_ARGUMENTS = (
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "self",
    "raise_exception",
    "range",
    "_replay",
    "__class__",
)
USER = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
ANSWER = [STARTED, TextDelta("hi"), Finished("stop", USAGE)]


def read(**given):
    return read_chat({"messages": USER, **given})


def request(**given):
    return read(**given).requests[0]


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({}, "messages", USER),
        ({}, "think", None),
        ({"temperature": 0, "top_p": 0.5, "min_p": 0.1}, "sampling", {"temperature": 0, "top_p": 0.5, "min_p": 0.1}),
        ({"top_k": -1, "seed": -5}, "sampling", {"top_k": 0, "seed": -5}),
        ({"top_k": 10**400}, "sampling", {"top_k": 10**400}),  # as good as off
        (
            {"presence_penalty": 1.5, "frequency_penalty": -2, "repetition_penalty": 1.1},
            "sampling",
            {"presence_penalty": 1.5, "frequency_penalty": -2, "repetition_penalty": 1.1},
        ),
        ({"max_tokens": 5}, "sampling", {"max_tokens": 5}),
        ({"n_predict": 5, "repeat_penalty": 1.1}, "sampling", {"max_tokens": 5, "repetition_penalty": 1.1}),
        ({"n_predict": -1, "repeat_penalty": 1.2, "repetition_penalty": 1.1}, "sampling", {"repetition_penalty": 1.1}),
        ({"typical_p": 1.0, "mirostat": 0, "top_n_sigma": -1, "skip_special_tokens": True}, "sampling", {}),
        ({"max_tokens": 5, "max_completion_tokens": 9}, "sampling", {"max_tokens": 9}),
        ({"max_tokens": -1, "temperature": None}, "sampling", {}),
        ({"stop": "END"}, "sampling", {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, "sampling", {"stop": ("a", "b")}),
        ({"stop": []}, "sampling", {}),
        ({"logit_bias": {"7": -100, "5": 1.5, "05": 2}}, "sampling", {"logit_bias": ((5, 2.0), (7, -100.0))}),
        ({"top_k": 40.0, "seed": 7.0, "max_tokens": 9.0}, "sampling", {"top_k": 40, "seed": 7, "max_tokens": 9}),
        ({"thinking_budget": 33.0}, "thinking_budget", 33),
        ({"logprobs": True}, "top_logprobs", 0),
        ({"logprobs": True, "top_logprobs": 20}, "top_logprobs", 20),
        ({"logprobs": False, "top_logprobs": 0}, "top_logprobs", None),
        ({"tools": [TOOL]}, "tools", [TOOL]),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", "required"),
        ({"tools": [TOOL], "tool_choice": "none"}, "tool_choice", "none"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}}, "tool_name", "look"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}}, "tool_choice", "named"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"response_format": {"type": "text"}}, "schema", None),
        ({"response_format": {"type": "json_object"}}, "schema", {"type": "object"}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"type": "array"}},
                }
            },
            "schema",
            {"type": "array"},
        ),
        # thinking
        ({"enable_thinking": False}, "think", False),
        ({"chat_template_kwargs": {"enable_thinking": False, "other": 1}}, "think", False),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "preserve_thinking": True, "other": 1}},
            "template_kwargs",
            {"other": 1},
        ),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "think", True),
        ({"reasoning_effort": "none"}, "think", False),
        ({"reasoning_effort": "low"}, "think", True),
        ({"reasoning_effort": "none", "enable_thinking": True}, "think", True),
        ({"reasoning": {"effort": "none"}}, "think", False),
        ({"reasoning": {"enabled": False, "effort": "high"}}, "think", False),
        ({"thinking": {"type": "disabled"}}, "think", False),
        ({"thinking": {"type": "enabled", "budget_tokens": 77}}, "think", True),
        ({"thinking": {"type": "enabled", "budget_tokens": 77}}, "thinking_budget", 77),
        ({"reasoning": {"max_tokens": 55}}, "thinking_budget", 55),
        ({"thinking_budget": 33, "reasoning": {"max_tokens": 55}}, "thinking_budget", 33),
        ({"thinking_token_budget": 34}, "thinking_budget", 34),
        ({"thinking_budget": -1}, "thinking_budget", None),
        ({"reasoning_effort": "minimal"}, "thinking_budget", 256),
        ({"reasoning_effort": "low"}, "thinking_budget", 1024),
        ({"reasoning": {"effort": "medium"}}, "thinking_budget", 8192),
        ({"reasoning_effort": "high"}, "thinking_budget", None),
        ({"reasoning_effort": "xhigh"}, "thinking_budget", None),
        ({"reasoning_effort": "low", "thinking_budget": 5}, "thinking_budget", 5),
        ({"task_thinking_budget": 44}, "task_budget", 44),
        ({"thinking_policy": "budget:500"}, "policy", "budget:500"),
        ({"thinking_policy": "none", "preserve_thinking": True}, "policy", "none"),
        ({"preserve_thinking": True}, "policy", "all"),
        ({"preserve_thinking": False}, "policy", "current-task"),
        ({"chat_template_kwargs": {"preserve_thinking": False}}, "policy", "current-task"),
        ({"thinking": {"type": "enabled", "clear_thinking": False}}, "policy", "all"),
    ],
)
def test_a_field_of_the_body_becomes_one_of_the_request(given, field, expected):
    assert getattr(request(**given), field) == expected


def test_a_conversation_with_all_that_clients_send_passes_unchanged():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a", "cache_control": {}}, "b"]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "r",
            "reasoning": "r",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}]},
        {
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "no"}],
            "function_call": {"name": "look", "arguments": "{}"},
        },
        {"role": "function", "name": "look", "content": "x"},
    ]
    assert request(messages=messages).messages == messages


def test_fields_on_which_no_answer_depends_pass():
    harmless = {
        "user": "u",
        "metadata": {"a": 1},
        "store": True,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "verbosity": "medium",
        "logit_bias": {},
        "modalities": ["text"],
        "stream_options": None,
        "tools": None,
        "response_format": None,
        "min_tokens": 0,
        "audio": None,
        "prediction": {"type": "content", "content": "x"},
    }
    assert read(**harmless) == read()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [*USER, {"role": "robot"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        *(
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind, kind: {}}]}]},
                "messages[0].content[1].type",
            )
            for kind in ("image_url", "input_audio", "file", "video_url", "input_image")
        ),
        ({"messages": [{"role": "user", "content": {"image_url": "x"}}]}, "messages[0].content.image_url"),
        ({"tools": "x"}, "tools"),
        ({"tools": [{"name": "look", "input_schema": {}}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
        ({"functions": [{"name": 1}]}, "functions[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"functions": [TOOL["function"]], "function_call": {"name": "x"}}, "function_call.name"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
        ),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "a" * 1001}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": 1 << 64}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": (1 << 64) - 1, "n": 2}, "seed"),
        ({"temperature": 10**400}, "temperature"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"n_predict": 0}, "n_predict"),
        ({"repeat_penalty": "1"}, "repeat_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"mirostat": 2}, "mirostat"),
        ({"top_n_sigma": 1.5}, "top_n_sigma"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**30}, "n"),
        ({"logprobs": 5}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"logit_bias": [[5, 1]]}, "logit_bias"),
        ({"logit_bias": {"9" * 10: 1}}, "logit_bias"),
        ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"moderation": {}}, "moderation"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"guided_json": []}, "guided_json"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"enable_thinking": "no"}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": 0}}, "chat_template_kwargs.enable_thinking"),
        *(
            ({"chat_template_kwargs": {"x": 1, name: []}}, f"chat_template_kwargs.{name}")
            for name in RESERVED_ARGUMENTS
        ),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": {"budget_tokens": -5}}, "thinking.budget_tokens"),
        ({"thinking_budget": 1.5}, "thinking_budget"),
        ({"thinking_policy": "some"}, "thinking_policy"),
        ({"thinking_policy": "budget:" + "9" * 5000}, "thinking_policy"),
        ({"model": 5}, "model"),
        ({"model": "m" * 513}, "model"),
        ({"messages": [*USER, {"role": "assistant", "content": "x", "prefix": True}]}, "messages[1].prefix"),
        ({"messages": [*USER, {"role": "assistant", "content": "x", "partial": True}]}, "messages[1].partial"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(given, field):
    with pytest.raises(ApiError) as caught:
        read(**given)
    assert (caught.value.status, caught.value.field) == (400, field)
    assert str(caught.value).startswith(field) and len(str(caught.value)) < 600


# -- any JSON in any place

HOSTILE = [
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    10**400,
    "",
    "x",
    "\ud800",
    "\x00",
    [],
    [None],
    [[]],
    {},
    {"type": "text"},
    {"a": None},
    [{}],
    "9" * 999,
]
RICH = {
    "model": "m",
    "n": 2,
    "seed": 1,
    "stop": ["a"],
    "max_tokens": 5,
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "min_p": 0,
    "logprobs": True,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "top_logprobs": 1,
    "stream_options": {"include_usage": True},
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": {"type": "text", "text": "s"}},
        {
            "role": "assistant",
            "content": "x",
            "tool_calls": [{"id": "c", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "chat_template_kwargs": {"enable_thinking": True, "preserve_thinking": True, "x": 1},
    "thinking_policy": "all",
    "thinking_budget": 1,
    "reasoning": {"effort": "low", "max_tokens": 1, "enabled": True, "exclude": False},
    "thinking": {"type": "enabled", "budget_tokens": 1},
    "reasoning_effort": "low",
    "task_thinking_budget": 1,
    "logit_bias": {"5": 1},
    "functions": [{"name": "f"}],
    "function_call": "auto",
}
RICH_TEXT = {
    key: RICH[key] for key in ("model", "n", "seed", "stop", "max_tokens", "temperature", "stream_options")
} | {"prompt": ["a", [5, 6]], "logprobs": 1, "suffix": None, "echo": True, "best_of": 1, "logit_bias": {"5": 1}}


def variants(value, put):
    """Copies of a body, each with one place in it changed to something hostile."""
    for key in value if isinstance(value, dict) else range(len(value)):
        for other in HOSTILE:
            yield lambda root, key=key, other=other: put(root).__setitem__(key, other)
        if isinstance(value[key], dict | list):
            yield from variants(value[key], lambda root, key=key: put(root)[key])


RICH_LEGACY = {key: RICH[key] for key in ("n", "seed", "stream_options", "functions")} | {
    "messages": USER,
    "stream": True,
    "function_call": {"name": "f"},
    "logprobs": True,
    "include_reasoning": True,
}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), [(CHAT, RICH), (CHAT, RICH_LEGACY), (TEXT, RICH_TEXT)])
def test_no_value_anywhere_makes_the_server_fail(path, body):
    app = create_app(ScriptedService(ANSWER))

    async def all_of_them():
        found = {}
        for change in variants(body, lambda root: root):
            changed = copy.deepcopy(body)
            change(changed)
            reply = await ask(app, path, changed)
            found.setdefault(reply.status, []).append(changed)
            assert b"server_error" not in reply.body
            if reply.status == 400:
                assert reply.json()["error"]["message"]
        return found

    found = asyncio.run(all_of_them())
    assert set(found) == {200, 400}
    assert len(found[200]) > 20 and len(found[400]) > 50
