"""Servers that speak OpenAI's chat completions in ways of their own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from a3b.agent import client as agent_client
from a3b.agent.events import Notice, TurnFinished
from a3b.agent.options import AgentOptions
from a3b.agent.session import open_session
from tests.support.agent_sessions import NotesTool, end_of, of
from tests.support.scripted_model import Says, ScriptedModel
from tests.support.served import served

pytestmark = pytest.mark.slow  # starts servers


@dataclass
class OtherServer:
    """answers: bodies of streams, or objects that are not streamed; the last one again and again. refuses: fields of a
    request that it does not know; path: where its interface lies; key: which it asks for."""

    answers: list[Any]
    refuses: tuple[str, ...] = ()
    path: str = "/v1"
    key: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(f"{self.path}/models", self._models),
                Route(f"{self.path}/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    def _may(self, http: Request) -> bool:
        return not self.key or http.headers.get("authorization") == f"Bearer {self.key}"

    async def _models(self, http: Request) -> Response:
        if not self._may(http):
            return JSONResponse({"detail": "no key"}, 401)
        return JSONResponse({"object": "list", "data": [{"id": "other", "object": "model", "owned_by": "somebody"}]})

    async def _chat(self, http: Request) -> Response:
        body = await http.json()
        if not self._may(http):
            return JSONResponse({"detail": "no key"}, 401)
        for name in self.refuses:
            if name in body:
                text = f"Unsupported parameter: '{name}' is not supported with this model."
                return JSONResponse({"error": {"message": text, "code": "unsupported_parameter"}}, 400)
        self.bodies.append(body)
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        if isinstance(answer, dict):
            return JSONResponse(answer)
        return Response(answer, media_type="text/event-stream")


def stream(*deltas, reason="stop", done=True):
    """No usage, and chunks without choices between."""
    chunks = [{"choices": []}, *({"choices": [{"index": 0, "delta": delta}]} for delta in deltas)]
    chunks += [{"choices": [{"index": 0, "delta": {"content": None}, "finish_reason": reason}]}] if reason else []
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return (text + ("data: [DONE]\n\n" if done else "")).encode()


def worked(tmp_path, server, url="", **options):
    """The notices of a session and the events of one task."""
    project = tmp_path / "project"
    project.mkdir(exist_ok=True)

    async def work(root):
        given = AgentOptions(project, tmp_path / "home", root + (url or server.path), **{"tools": (), **options})
        async with open_session(given, None, [NotesTool()]) as session:
            return session, [event async for event in session.run("Do it.")]

    with served(server.app()) as root:
        session, events = asyncio.run(work(root))
    return [notice.text for notice in session.notices], events


CALL = {"tool_calls": [{"function": {"name": "note", "arguments": '{"text": "a"}'}}]}


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_thinking_goes_back_under_the_name_that_it_came_with(tmp_path, key):
    server = OtherServer([stream({key: "I note it."}, CALL, reason="tool_calls"), stream({"content": "Done."})])
    _, events = worked(tmp_path, server)
    assert end_of(events).status == "done"
    back = server.bodies[1]["messages"][2]
    assert back[key] == "I note it." and back["tool_calls"][0]["id"]


def test_an_answer_without_a_reason_for_its_end_counts_if_the_server_says_that_it_is_done(tmp_path):
    server = OtherServer([stream({"content": "Done."}, reason=None)])
    assert end_of(worked(tmp_path, server)[1]).text == "Done." and len(server.bodies) == 1


def test_an_answer_that_is_not_streamed_is_taken(tmp_path):
    call = {"message": {"role": "assistant", "content": None, **CALL}}
    server = OtherServer([{"choices": [call]}, {"choices": [{"message": {"content": "Done."}}]}])
    assert end_of(worked(tmp_path, server)[1]).text == "Done."


def test_whole_answers_are_asked_for_without_the_fields_of_streams_and_tell_what_they_cost(tmp_path):
    server = ScriptedModel([Says(calls=[("note", {"text": "a"})]), Says("Done.", "I am done.")], streams=False)
    _, events = worked(tmp_path, server, "/v1", streams=False)
    assert end_of(events).text == "Done."
    assert not {"stream", "stream_options", "return_progress"} & {name for body in server.bodies for name in body}
    usage = of(events, TurnFinished)[1].usage
    assert usage.read > 0 and usage.cached > 0 and (usage.thinking, usage.written > 10) == (10, True)


def test_a_server_that_sends_heartbeats_may_be_silent_before_a_whole_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_client, "SILENCE_S", 0.05)
    monkeypatch.setattr(agent_client, "TRIES", 1)
    _, events = worked(tmp_path, ScriptedModel([Says("Done.", pause=0.5)]), "/v1", streams=False)
    assert end_of(events).text == "Done."


def test_a_whole_answer_that_never_comes_is_given_up_and_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_client, "WHOLE_S", 0.2)
    answers = [lambda *_: StreamingResponse(nothing(), media_type="application/json")]
    server = ScriptedModel(answers)
    _, events = worked(tmp_path, server, "/v1", streams=False)
    assert end_of(events).status == "failed" and "no answer within" in end_of(events).text
    assert len(server.bodies) == 1


async def nothing():
    """The body of an answer of which only the head comes."""
    yield b" "
    await asyncio.sleep(60)
    yield b"{}"


def test_the_limit_of_tokens_holds_where_the_server_does_not_say_what_it_computes(tmp_path):
    server = OtherServer([stream(CALL, reason="tool_calls")])
    notices, events = worked(tmp_path, server, max_tokens=400)
    assert end_of(events).status == "limit" and "--max-tokens" in end_of(events).text
    assert any("estimates" in notice for notice in notices)
    assert of(events, TurnFinished)[0].usage.read > 100


def test_a_field_that_the_server_does_not_know_is_left_out(tmp_path):
    server = OtherServer([stream({"content": "Done."})], refuses=("stream_options", "max_tokens"))
    _, events = worked(tmp_path, server)
    assert end_of(events).status == "done"
    assert [notice.text.rpartition("; ")[2] for notice in of(events, Notice)] == [
        "stream_options is left out from now on",
        "max_tokens is left out from now on",
    ]


@pytest.mark.parametrize("path", ["/v1", "/api/paas/v4", "/v1beta/openai"])
def test_a_version_in_the_address_is_kept(tmp_path, path):
    server = OtherServer([stream({"content": "Done."})], path=path)
    assert end_of(worked(tmp_path, server)[1]).status == "done"


def test_a_context_that_the_server_does_not_say_can_be_said(tmp_path):
    server = OtherServer([stream({"content": "Done."})])
    assert any("--context N" in notice for notice in worked(tmp_path, server)[0])
    assert not any("--context N" in notice for notice in worked(tmp_path, server, context=128_000)[0])


def test_a_server_that_needs_a_key_gets_it_or_is_named_with_the_option(tmp_path):
    server = OtherServer([stream({"content": "Done."})], key="sesame")
    assert end_of(worked(tmp_path, server, api_key="sesame")[1]).status == "done"
    with pytest.raises(Exception, match="--api-key"):
        worked(tmp_path, server)
