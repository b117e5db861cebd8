"""Requests as the suites of llama.cpp, vLLM, ollama and lm-eval's client send them, with bodies of our own.

`expected` is the status; "told" means an answer with a warning that names the field."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from tests.support.paths import DATA
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask

PEERS = json.loads((DATA / "peer_requests.json").read_text(encoding="utf-8"))
PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
}
ANSWER = [STARTED, TextDelta("ok"), Finished("stop", USAGE)]


def answered(api: str, body: dict[str, Any]) -> tuple[int, Any, ScriptedService]:
    service = ScriptedService(ANSWER)
    reply = asyncio.run(ask(create_app(service), PATHS[api], body))
    return reply.status, None if body.get("stream") is True else reply.json(), service


@pytest.mark.parametrize("case", PEERS, ids=[f"{case['api']}: {case['situation']}" for case in PEERS])
def test_requests_are_answered_or_refused_as_the_peer_expects(case):
    status, reply, service = answered(case["api"], case["body"])
    assert status == (200 if case["expected"] == "told" else case["expected"]), reply
    if status == 400:
        assert reply["error"]["message"] and service.requests == []
    if case["expected"] == "told":
        unusual = case["body"].keys() - {"model", "messages", "prompt", "input", "max_tokens"}
        assert any(text.startswith(name) for name in unusual for text in reply["a3b"]["warnings"])


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "b", "c")]


def allowing(mode: str | None, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"tools": tools, **({"mode": mode} if mode else {})}}


@pytest.mark.parametrize("mode", ["auto", "required", None])
def test_a_chat_may_allow_some_of_its_tools(mode):
    body = {"messages": [{"role": "user", "content": "q"}], "tools": TOOLS, "tool_choice": allowing(mode, "c", "a")}
    status, _, service = answered("chat", body)
    request = service.requests[0]
    assert (status, request.tool_choice) == (200, mode or "auto")
    assert [tool["function"]["name"] for tool in request.tools] == ["a", "c"]


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (allowing("auto", "z"), "tool_choice.allowed_tools.tools[0].function.name"),
        (allowing("any", "a"), "tool_choice.allowed_tools.mode"),
        (allowing("required"), "tool_choice"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "odd"}, "tool_choice.type"),
    ],
)
def test_what_allows_no_tools_of_a_chat_is_refused_by_name(choice, named):
    body = {"messages": [{"role": "user", "content": "q"}], "tools": TOOLS, "tool_choice": choice}
    status, reply, _ = answered("chat", body)
    assert (status, reply["error"]["param"]) == (400, named)
