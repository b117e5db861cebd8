"""/v1/warm reads what the first requests of a client share, keeps the state right there, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from a3b.cache.disk_store import Store
from a3b.engine.engine import Engine
from a3b.engine.local import local_service
from a3b.server.app import create_app
from a3b.server.middleware import ServerSettings
from tests.support.serving import Reply, ask

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

INSTRUCTIONS = "".join(f"Rule {i}: read the file before you change it, and say what you did.\n" for i in range(20))
TOOL = {"name": "look", "description": "Look at a file.", "input_schema": {"type": "object", "properties": {}}}


def message(directory: str, day: str, question: str = "What is here?", instructions: str = INSTRUCTIONS) -> dict:
    """A first request as an agent sends it from a directory on a day."""
    system = f"{instructions}You work in {directory} and today is {day}.\nMore about {directory}."
    return {
        "model": "a3b",
        "max_tokens": 1,
        "temperature": 0,
        "system": system,
        "tools": [TOOL],
        "messages": [{"role": "user", "content": question}],
    }


def chat(directory: str, day: str) -> dict:
    system = f"{INSTRUCTIONS}You work in {directory} and today is {day}."
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": "What is here?"}]}


def response(directory: str, day: str) -> dict:
    return {"instructions": f"{INSTRUCTIONS}You work in {directory} and today is {day}.", "input": "What is here?"}


PATHS = {"/v1/messages": message, "/v1/chat/completions": chat, "/v1/responses": response}
HERE, THERE = ("/tmp/one", "2026-11-25"), ("/tmp/two", "2026-11-26")
ELSEWHERE = ("/home/me/project", "2027-02-14")


def pair(path: str = "/v1/messages", **fields) -> dict:
    return {"requests": [{"path": path, "body": PATHS[path](*place)} for place in (HERE, THERE)], **fields}


class Warmed:
    """A server of the embedded model with a store."""

    def __init__(self, directory: Path, **settings):
        self.store = Store(directory)
        self.service = local_service(Engine.load(), store=self.store)
        self.app = create_app(self.service, ServerSettings(**settings))

    def ask(self, path: str, body: dict, **headers: str) -> Reply:
        return asyncio.run(ask(self.app, path, body, headers))

    def warm(self, body: dict | None = None, **headers: str) -> dict:
        reply = self.ask("/v1/warm", body or pair(), **headers)
        assert reply.status == 200, reply.body
        return reply.json()

    def close(self) -> None:
        self.service.close()
        self.store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Warmed]:
    server = Warmed(tmp_path)
    yield server
    server.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_first_request_from_elsewhere_on_another_day_begins_where_the_shared_part_ends(server, path):
    told = server.warm(pair(path))
    reply = server.ask(path, {**PATHS[path](*ELSEWHERE), "max_tokens": 1, "max_output_tokens": 16}).json()
    assert told["on_disk"] and told["read_tokens"] == told["shared_tokens"] > 200
    assert reply["a3b"]["cache"]["reused"] == told["shared_tokens"]


def test_what_was_read_is_there_after_a_restart(tmp_path):
    first = Warmed(tmp_path)
    told = first.warm()
    first.close()
    second = Warmed(tmp_path)
    try:
        reply = second.ask("/v1/messages", message(*ELSEWHERE)).json()
    finally:
        second.close()
    assert reply["a3b"]["cache"]["reused"] == told["shared_tokens"]


def test_the_shared_part_ends_at_the_start_of_a_line(server):
    """What follows in the line may become part of the last token."""
    shared = server.warm()["shared_tokens"]
    ids = server.ask("/v1/warm", pair()).json()["shared_tokens"]
    rendered = asyncio.run(server.service.render(_request(server)))
    assert ids == shared and server.service.decode(rendered[:shared]).endswith("what you did.\n")


def _request(server: Warmed):
    from a3b.server.openai.chat_request import read_chat

    body = {
        "messages": [
            {"role": "system", "content": message(*HERE)["system"]},
            {"role": "user", "content": "What is here?"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": TOOL["description"], "parameters": TOOL["input_schema"]},
            }
        ],
    }
    return read_chat(body).requests[0]


def test_a_second_warming_finds_everything_and_reads_nothing(server):
    first, second = server.warm(), server.warm()
    assert (second["cached_tokens"], second["read_tokens"]) == (first["shared_tokens"], 0)
    assert server.service.totals["prefill_tokens"] == first["shared_tokens"]


def test_a_look_computes_nothing(server):
    told = server.warm(pair(read=False))
    assert (told["cached_tokens"], told["read_tokens"], told["on_disk"]) == (0, 0, None)
    assert server.service.totals["prefill_tokens"] == 0


def test_a_stream_tells_how_far_it_is_and_ends_with_the_answer(server):
    lines = server.ask("/v1/warm", pair(stream=True)).body.decode().split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert '"warm.progress"' in events[0] and '"shared_tokens"' in events[-1]


def test_what_was_read_belongs_to_the_key_that_asked(tmp_path):
    server = Warmed(tmp_path, api_keys=("one", "two"))
    try:
        server.warm(**{"x-api-key": "one"})
        reused = [
            server.ask("/v1/messages", message(*ELSEWHERE), **{"x-api-key": key}).json()["a3b"]["cache"]["reused"]
            for key in ("two", "one")
        ]
        refused = server.ask("/v1/warm", pair()).status
    finally:
        server.close()
    assert reused[0] == 0 < reused[1] and refused == 401


def test_a_warmed_state_counts_as_the_end_of_a_system_turn(server):
    server.warm()
    server.store.flush()
    rows = server.store.rows(server.service.backend.cache._space("").root.id)
    assert [row.kind for row in rows][-1] == "system"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "requests: 0; expected 2 to 8"),
        ({"requests": pair()["requests"][:1]}, "requests: 1; expected 2 to 8"),
        ({"requests": pair()["requests"] * 5}, "requests: 10; expected 2 to 8"),
        ({"requests": [{"path": "/v1/embeddings", "body": {}}] * 2}, "requests[0].path"),
        ({"requests": [{"path": "/v1/messages"}] * 2}, "requests[0]: expected a path and a body"),
        ({"requests": ["/v1/messages"] * 2}, "requests[0]: expected a JSON object"),
        ({"requests": [{"path": "/v1/messages", "body": {"max_tokens": 1}}] * 2}, "messages"),
        (
            {
                "requests": [
                    {"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": text}]}}
                    for text in ("one", "two")
                ]
            },
            "expected requests of one client",
        ),
    ],
)
def test_what_cannot_be_warmed_is_refused_by_name(server, body, told):
    reply = server.ask("/v1/warm", body)
    assert reply.status == 400 and told in reply.json()["error"]["message"]


def test_equal_requests_are_read_up_to_their_last_line(server):
    told = server.warm({"requests": [{"path": "/v1/messages", "body": message(*HERE)}] * 2})
    assert told["shared_tokens"] < told["prompt_tokens"][0]


def test_claude_code_s_newer_display_of_thinking_is_understood(server):
    asked = {**message(*HERE), "thinking": {"type": "adaptive", "display": "updates"}}
    assert server.ask("/v1/messages", asked).status == 200
