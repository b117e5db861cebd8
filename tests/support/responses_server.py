"""A server of the Responses API alone, with a scripted engine: for its tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from a3b.interface.events import Finished, Reading, TextDelta, ThinkingDelta, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.server.openai import responses
from a3b.server.response_store import ResponseStore
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import ChosenService, app_of, content_of, exchange, served

PATH = "/v1/responses"
ASK = {"model": "m", "input": "hi"}
TOOL = {"type": "function", "name": "add", "description": "adds", "parameters": {"type": "object"}}
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
DONE = [STARTED, ThinkingDelta("hm"), TextDelta("ok"), Finished("stop", USAGE)]
OUTPUTS = [{"type": "function_call_output", "call_id": f"call_{i}", "output": f"r{i}"} for i in (1, 2)]
TURN = [
    {
        "role": "assistant",
        "content": "The sum",
        "reasoning_content": "I think",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "r1"},
    {"role": "tool", "tool_call_id": "call_2", "content": "r2"},
]

NAMESPACE = {
    "type": "namespace",
    "name": "mcp__fs__",
    "description": "Files.",
    "tools": [
        {"type": "function", "name": "read", "description": "reads", "parameters": {}, "strict": True},
        {"type": "custom", "name": "patch"},
    ],
}
CUSTOM = {
    "type": "custom",
    "name": "apply_patch",
    "description": "edits",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: LINE"},
}


class Server:
    """An app with a store, asked without a network."""

    def __init__(self, events: Any = DONE, **limits: int):
        self.service, self.stored = ChosenService(), ResponseStore(**limits)
        self.choose(events)
        self.app = app_of(responses, self.service, stored=self.stored)

    def choose(self, events):
        self.service.script = events if isinstance(events, ScriptedService) else ScriptedService(events)

    @property
    def request(self):
        return self.service.script.requests[-1]

    def send(self, body, path=PATH, key="alice", method="POST"):
        reply = exchange(self.app, method, path, body, key)
        return reply.status_code, content_of(reply)

    def create(self, body=None, key="alice"):
        status, reply = self.send({**ASK, **(body or {})}, key=key)
        assert status == 200, reply
        return reply


def understood(body):
    """The Request that a body becomes."""
    server = Server()
    server.create(body)
    return server.request


@contextmanager
def client_of() -> Iterator[openai.OpenAI]:
    """OpenAI's client of a real server; its `choose` sets the answers and gives the service that remembers the
    requests."""
    service = ChosenService()
    app = app_of(responses, service, stored=ResponseStore())
    with served(app) as url, openai.OpenAI(base_url=url + "/v1", api_key="alice", max_retries=0) as client:
        client.choose = service.choose
        yield client


def refused(body):
    """(status, error) of a refusal."""
    status, reply = Server().send({**ASK, **body})
    return status, reply.get("error")
