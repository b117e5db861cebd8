"""OpenAI's completions: what clients send becomes a Request, what the service gives becomes what clients read."""

from __future__ import annotations

import asyncio

import openai
import pytest

from a3b.errors import OverloadedError
from a3b.interface.events import (
    TextDelta,
)
from a3b.server.app import create_app
from tests.support.openai_answers import (
    ANSWER,
    CALLS,
    CHAT,
    LOGPROBS,
    TOOL,
    USER,
    create,
)
from tests.support.scripted_service import SPECULATED, STARTED
from tests.support.serving import ask


def test_an_answer_has_text_thinking_usage_and_our_report(service, sdk):
    service.events = ANSWER
    answer = create(sdk)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hi you", "stop")
    assert choice.message.reasoning_content == choice.message.reasoning == "I see"
    assert choice.message.tool_calls is None and choice.logprobs is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 20, 120)
    assert usage.prompt_tokens_details.cached_tokens == 60 and usage.completion_tokens_details.reasoning_tokens == 8
    assert answer.model == "any" and answer.id.startswith("chatcmpl-")
    assert answer.a3b == {
        "cache": {"reused": 60, "miss": "none", "position": 0, "expected": "", "found": "", "kept_dates": 0},
        "thinking_in_context": {"sent": 5, "restored": 7, "dropped": 9},
        "thinking_stop_reason": "closed",
        "prefill_s": 0.5,
        "decode_s": 1.0,
        "speculation": SPECULATED,
        "warnings": [],
    }
    assert choice.thinking_stop_reason == "closed"


def test_calls_of_tools_have_their_ids_and_the_arguments_as_they_were_written(service, sdk):
    service.events = CALLS
    choice = create(sdk, tools=[TOOL]).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    found = [(c.id, c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls]
    assert found == [("call_a", "function", "look", '{"x": 1}'), ("call_b", "function", "look", "{}")]


def test_text_beside_calls_is_kept(service, sdk):
    service.events = [STARTED, TextDelta("so"), *CALLS[2:]]
    assert create(sdk, tools=[TOOL]).choices[0].message.content == "so"


def test_choices_are_requests_of_their_own_with_seeds_that_follow_each_other(service, sdk):
    service.events = ANSWER
    answer = create(sdk, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(request.sampling["seed"] for request in service.requests) == [7, 8, 9]
    assert len({request.request_id for request in service.requests}) == 3
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 60)


def test_logprobs_are_those_of_the_text(service, sdk):
    service.events = LOGPROBS
    tokens = create(sdk, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert service.requests[0].top_logprobs == 2
    assert [(t.token, t.logprob, t.bytes) for t in tokens] == [
        ("h", -0.25, [104]),
        ("i", -0.5, [105]),
        ("!", -1.0, [33]),
    ]
    assert [(t.token, t.logprob, t.bytes) for t in tokens[0].top_logprobs] == [
        ("h", -0.25, [104]),
        ("\ufffd", -9999.0, [255]),
    ]
    assert create(sdk).choices[0].logprobs is None


def test_thinking_can_be_left_out_of_the_answer(service, sdk):
    service.events = ANSWER
    for extra in ({"reasoning": {"exclude": True}}, {"include_reasoning": False}):
        message = create(sdk, extra_body=extra).choices[0].message
        assert (message.reasoning, message.reasoning_content, message.content) == (None, None, "hi you")
        deltas = [c.choices[0].delta for c in create(sdk, stream=True, extra_body=extra)]
        assert "".join(delta.content or "" for delta in deltas) == "hi you"
        assert not any("reasoning" in delta.model_extra or "reasoning_content" in delta.model_extra for delta in deltas)


def test_old_functions_are_called_in_the_old_way(service, sdk):
    service.events = CALLS
    choice = create(sdk, functions=[TOOL["function"]], function_call={"name": "look"}).choices[0]
    request = service.requests[0]
    assert (request.tools, request.tool_choice, request.tool_name, request.parallel_tool_calls) == (
        [TOOL],
        "named",
        "look",
        False,
    )
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
    assert (choice.message.function_call.name, choice.message.function_call.arguments) == ("look", '{"x": 1}')
    deltas = [c.choices[0].delta for c in create(sdk, functions=[TOOL["function"]], stream=True)]
    assert [d.function_call.name for d in deltas if d.function_call and d.function_call.name] == ["look"]
    assert "".join(d.function_call.arguments for d in deltas if d.function_call) == '{"x": 1}'


def test_a_wrong_field_raises_bad_request_with_its_name(service, sdk):
    with pytest.raises(openai.BadRequestError) as caught:
        create(sdk, temperature=-1)
    assert caught.value.param == "temperature" and "expected" in str(caught.value)
    assert caught.value.request_id.startswith("req_") and service.requests == []


def test_overload_raises_a_rate_limit_error_with_the_time_to_wait(service, sdk):
    service.events = OverloadedError("no place")
    with pytest.raises(openai.RateLimitError) as caught:
        create(sdk)
    assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("key", ["_reminder", "_replay"])
def test_marks_that_only_this_server_sets_are_not_taken_from_a_client(key, service):
    """One would hide a question from what tells conversations apart, one holds token ids."""
    body = {"messages": [{"role": "user", "content": "hello", key: True}]}
    assert asyncio.run(ask(create_app(service), CHAT, body)).status == 200
    assert service.requests[-1].messages == USER
