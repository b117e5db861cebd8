"""A server of the Messages API alone, with a scripted engine: for its tests."""

from __future__ import annotations

import anthropic

from a3b.interface.events import Finished, Reading, TextDelta, ThinkingDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.server.anthropic import messages
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import (
    app_of,
    content_of,
    exchange,
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


def client_of(url, key="alice"):
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
