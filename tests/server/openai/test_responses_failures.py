"""OpenAI's Responses API where something fails, and against noise."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from a3b.errors import ContextError, OverloadedError, StoreError
from a3b.interface.events import Finished, TextDelta
from a3b.server import event_streams
from tests.support.responses_server import (
    ASK,
    CUSTOM,
    DONE,
    NAMESPACE,
    PATH,
    TOOL,
    Server,
)
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import Endless, exchange, leave, no_objects, noisy, statuses


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
