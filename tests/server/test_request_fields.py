"""Every field of the clients' own request types is followed, refused, reported or known to do nothing; nulls, numbers
and names of models."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import anthropic.types as anthropic_types
import anthropic.types.beta as beta_types
import openai.types.chat as chat_types
import openai.types.responses as response_types
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import input_token_count_params, response_compact_params, response_create_params
from openai.types.shared_params import Reasoning

from a3b.interface.events import Finished, TextDelta
from a3b.server import fields
from a3b.server.anthropic import messages_fields, threads
from a3b.server.app import create_app
from a3b.server.openai import chat_fields, compaction, completions, responses_request, responses_tools
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}
TABLES = {
    CHAT: chat_fields.CHAT,
    TEXT: completions.TEXT,
    RESPONSES: responses_request.RESPONSE,
    MESSAGES: messages_fields.MESSAGE,
}
TYPES = [
    (chat_params.CompletionCreateParamsStreaming, chat_fields.CHAT),
    (completion_create_params.CompletionCreateParamsStreaming, completions.TEXT),
    (response_create_params.ResponseCreateParamsStreaming, responses_request.RESPONSE),
    (input_token_count_params.InputTokenCountParams, responses_request.RESPONSE),
    (response_compact_params.ResponseCompactParams, compaction.COMPACT),
    (message_create_params.MessageCreateParamsStreaming, messages_fields.MESSAGE),
    (beta_create_params.MessageCreateParamsStreaming, messages_fields.MESSAGE),
    (message_count_tokens_params.MessageCountTokensParams, messages_fields.MESSAGE),
    (beta_count_params.MessageCountTokensParams, messages_fields.MESSAGE),
    # and within them
    (chat_types.ChatCompletionStreamOptionsParam, chat_fields.STREAM_OPTIONS),
    (response_create_params.StreamOptions, chat_fields.STREAM_OPTIONS),
    (Reasoning, responses_request.REASONING),
    (response_types.ResponseTextConfigParam, responses_request.TEXT),
    (response_types.FunctionToolParam, responses_tools.TOOL),
    (response_types.CustomToolParam, responses_tools.TOOL),
    *((kind, messages_fields.THINKING) for kind in get_args(beta_types.BetaThinkingConfigParam)),
    *((kind, messages_fields.CHOICE) for kind in get_args(beta_types.BetaToolChoiceParam)),
    (beta_types.BetaOutputConfigParam, messages_fields.OUTPUT),
    (anthropic_types.ToolParam, messages_fields.TOOL),
    (beta_types.BetaToolParam, messages_fields.TOOL),
    (beta_types.BetaThreadCreateParams, threads.CREATE),
    (beta_types.BetaThreadContinueParams, threads.CONTINUE),
]


def names_of(table: fields.FieldRules) -> list[str]:
    return [*table.read, *table.refused, *table.warned, *table.harmless]


def answered(path: str, body: dict[str, Any], status: int = 200) -> tuple[Any, Any]:
    """(JSON of the answer, Request that the service got)."""
    service = ScriptedService([STARTED, TextDelta("ok"), Finished("stop", USAGE)])
    reply = asyncio.run(ask(create_app(service), path, {**LEAST[path], **body}))
    assert reply.status == status, reply.body
    return reply.json(), service.requests[-1] if service.requests else None


def same(request: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(request).items() if key != "request_id"}


@pytest.mark.parametrize(
    ("kind", "table"), TYPES, ids=[f"{kind.__module__.split('.')[0]} {kind.__name__}" for kind, _ in TYPES]
)
def test_no_field_of_the_clients_is_overlooked(kind, table):
    fields = {
        name for base in (kind, *getattr(kind, "__orig_bases__", ())) for name in getattr(base, "__annotations__", {})
    }
    assert fields and {name.removesuffix("_") for name in fields} - set(names_of(table)) == set()


@pytest.mark.parametrize("table", dict.fromkeys(map(id, (table for _, table in TYPES))), ids=lambda _: "")
def test_nothing_but_one_thing_becomes_of_a_field(table):
    names = names_of(next(other for _, other in TYPES if id(other) == table))
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", TABLES)
def test_null_is_the_default_in_every_field(path):
    nulls = dict.fromkeys(name for name in names_of(TABLES[path]) if name not in LEAST[path])
    without, request = answered(path, {})
    found, same_request = answered(path, nulls)
    assert same(request) == same(same_request)
    assert found["a3b"]["warnings"] == [] and found.keys() == without.keys()


@pytest.mark.parametrize("path", TABLES)
def test_a_whole_number_may_be_spelled_with_a_point(path):
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    _, whole = answered(path, {limit: 40, "top_k": 20, "temperature": 1})
    _, point = answered(path, {limit: 40.0, "top_k": 20.0, "temperature": 1.0})
    assert same(whole) == same(point) and type(point.sampling["max_tokens"]) is int
    for wrong in (40.5, "40", True, -40.0):
        error, _ = answered(path, {limit: wrong}, status=400)
        assert error["error"]["message"].startswith(limit)


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"logprobs": True, "top_logprobs": 21}), (TEXT, {"logprobs": 21}), (RESPONSES, {"top_logprobs": 21})],
)
def test_no_token_comes_with_more_likely_ones_than_the_apis_allow(path, body):
    """With the whole vocabulary beside each token, an answer would fill the memory."""
    error, request = answered(path, body, status=400)
    assert "expected at most 20" in error["error"]["message"] and request is None


@pytest.mark.parametrize("path", TABLES)
def test_the_model_that_was_asked_for_comes_back(path):
    for asked, told in (("Some/Model-v1", "Some/Model-v1"), (None, "a3b-nano"), ("", "a3b-nano")):
        reply, _ = answered(path, {"model": asked})
        assert reply["model"] == told
    error, _ = answered(path, {"model": "m" * 600}, status=400)
    assert error["error"]["message"].startswith("model") and len(error["error"]["message"]) < 300


@pytest.mark.parametrize("path", TABLES)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_followed_is_reported_in_header_and_answer(path, stream):
    service = ScriptedService([STARTED, TextDelta("ok"), Finished("stop", USAGE)])
    unknown = {"made_up_0": 0, "x" * 5000: 1} | {f"made_up_{i}": i for i in range(1, 1000)}
    options = {"stream_options": {"include_usage": True}} if stream and path in (CHAT, TEXT) else {}
    reply = asyncio.run(ask(create_app(service), path, {**LEAST[path], **unknown, **options, "stream": stream}))
    assert reply.status == 200 and reply.headers["x-a3b-warnings"].startswith(
        "made_up_0: this server has no such field"
    )
    assert (
        b"made_up_8: this server has no such field; ignored" in reply.body
        and b"991 more unknown fields ignored" in reply.body
    )
    assert (
        b"made_up_9" not in reply.body and b"x" * 61 not in reply.body and len(reply.headers["x-a3b-warnings"]) < 1500
    )


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (CHAT, {"verbosity": "low"}, "verbosity: this model has no such setting"),
        (RESPONSES, {"text": {"verbosity": "high"}}, "text.verbosity: this model has no such setting"),
        (CHAT, {"messages": [{"role": "user", "name": "ann", "content": "hi"}]}, "messages[].name"),
        (
            CHAT,
            {"messages": [{"role": "assistant", "audio": {"id": "a"}}, {"role": "user", "content": "hi"}]},
            "messages[].audio",
        ),
        (RESPONSES, {"context_management": [{"type": "compaction"}]}, "context_management: nothing is compacted"),
        (MESSAGES, {"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "output_config.task_budget"),
        (
            MESSAGES,
            {"context_management": {"edits": [{"type": "compact_20260112"}]}},
            "context_management.edits[0]: compact_20260112 is not",
        ),
        (MESSAGES, {"tools": [{"name": "t", "input_schema": {}, "defer_loading": True}]}, "tools[0].defer_loading"),
        (MESSAGES, {"thinking": {"type": "adaptive", "pace": 1}}, "thinking.pace: this server has no such field"),
    ],
)
def test_a_setting_that_the_model_cannot_follow_is_reported(path, body, told):
    reply, _ = answered(path, body)
    assert len(reply["a3b"]["warnings"]) == 1 and reply["a3b"]["warnings"][0].startswith(told)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (MESSAGES, {"compaction": {"type": "summarize"}}, "compaction"),
        (
            MESSAGES,
            {"tools": [{"name": "t", "input_schema": {}, "allowed_callers": ["code_execution_20260120"]}]},
            "tools[0].allowed_callers",
        ),
        (
            MESSAGES,
            {
                "context_management": {
                    "edits": [{"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 3}}]
                }
            },
            "context_management.edits[0].keep",
        ),
        (
            RESPONSES,
            {"tools": [{"type": "function", "name": "f", "allowed_callers": ["programmatic"]}]},
            "tools[0].allowed_callers",
        ),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", "async": True}]}, "tools[0].async"),
        (CHAT, {"moderation": {"model": "m"}}, "moderation"),
        (CHAT, {"add_generation_prompt": 1}, "add_generation_prompt"),
        (CHAT, {"typical_p": True}, "typical_p"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(path, body, named):
    error, request = answered(path, body, status=400)
    assert error["error"]["message"].startswith(named) and request is None


def test_a_refused_field_may_say_what_the_server_does_anyway():
    harmless = {
        "add_generation_prompt": True,
        "typical_p": 1.0,
        "top_n_sigma": -1,
        "bad_words": [],
        "modalities": ["text"],
    }
    assert answered(CHAT, harmless)[0]["a3b"]["warnings"] == []


@pytest.mark.parametrize(
    ("edit", "policy"),
    [
        ({"keep": "all"}, "all"),
        ({"keep": {"type": "all"}}, "all"),
        ({}, "current-task"),
        ({"keep": {"type": "thinking_turns", "value": 1}}, "current-task"),
    ],
)
def test_an_edit_that_clears_thinking_chooses_which_thinking_stays(edit, policy):
    edits = {"edits": [{"type": "clear_thinking_20251015", **edit}]}
    assert answered(MESSAGES, {"context_management": edits})[1].policy == policy
    assert answered(MESSAGES, {"context_management": edits, "thinking_policy": "none"})[1].policy == "none"


def test_examples_and_strictness_of_anthropics_tools_reach_the_model():
    tool = {
        "name": "t",
        "description": "Does it.",
        "input_schema": {"type": "object"},
        "strict": True,
        "input_examples": [{"a": "é"}, {}],
    }
    function = answered(MESSAGES, {"tools": [tool]})[1].tools[0]["function"]
    assert (
        function["strict"] is True and function["description"] == 'Does it.\n\nExamples of its input:\n{"a": "é"}\n{}'
    )


def test_what_the_assistant_refused_is_what_it_said():
    refusal = {"role": "assistant", "content": None, "refusal": "I will not."}
    messages = [{"role": "user", "content": "q"}, refusal, {"role": "user", "content": "p"}]
    assert answered(CHAT, {"messages": messages})[1].messages[1]["content"] == "I will not."
