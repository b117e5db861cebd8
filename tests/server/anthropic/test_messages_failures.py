"""Anthropic's Messages API where something fails, and against noise."""

from __future__ import annotations

import asyncio
import json

import anthropic
import pytest

from a3b.errors import ContextError, OverloadedError, StoreError, UsageError
from a3b.interface.events import Finished, TextDelta
from a3b.server import event_streams
from a3b.server.anthropic import messages
from tests.support.messages_server import ASK, DONE, TOOL, client_of, post, refused, understood
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import (
    Endless,
    app_of,
    leave,
    no_objects,
    noisy,
    statuses,
)


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
