"""Scripted answers for OpenAI's completions, and the short forms in which tests ask for them."""

from __future__ import annotations

import asyncio
import json
import math

from a3b.interface.events import (
    Finished,
    Reading,
    TextDelta,
    ThinkingDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from a3b.server.app import create_app
from tests.support.scripted_service import STARTED, USAGE
from tests.support.serving import ask

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
FINISHED = Finished("stop", USAGE, None, "closed")
ANSWER = [
    STARTED,
    Reading(9, 40),
    Reading(40, 40),
    ThinkingDelta("I "),
    ThinkingDelta("see"),
    TextDelta("hi"),
    TextDelta(" you"),
    FINISHED,
]
CALLS = [
    STARTED,
    ThinkingDelta("call"),
    ToolCallStart(0, "call_a", "look"),
    ToolCallDelta(0, '{"x": '),
    ToolCallDelta(0, "1}"),
    ToolCallEnd(0, "call_a", "look", {"x": 1}),
    ToolCallStart(1, "call_b", "look"),
    ToolCallDelta(1, "{}"),
    ToolCallEnd(1, "call_b", "look", {}),
    Finished("tool_calls", USAGE),
]
LOGPROBS = [
    STARTED,
    TokenLogprobs(5, b"h", -0.25, ((5, b"h", -0.25), (6, b"\xff", -math.inf))),
    TokenLogprobs(7, b"i", -0.5, ()),
    TextDelta("hi"),
    TokenLogprobs(9, b"!", -1.0, ()),
    Finished("length", USAGE),
]


def create(client, **given):
    return client.chat.completions.create(model="any", messages=USER, **given)


def events_of(body: bytes) -> list:
    """JSON of a stream of server-sent events; the end as text, comments without their colon."""
    lines = body.decode().split("\n\n")
    assert lines.pop() == ""
    return [
        line[2:] if line[0] == ":" else line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines
    ]


def streamed(service, path=CHAT, **given):
    body = {"messages": USER, "stream": True, **given} if path == CHAT else {"prompt": "x", "stream": True, **given}
    reply = asyncio.run(ask(create_app(service), path, body))
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/event-stream")
    return events_of(reply.body)
