"""A server that drafts says what one without drafts says: in each API, streamed and whole, also after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from a3b.constrain.grammar_constraint import GrammarConstraint
from a3b.engine.draft_prices import Balance, Effort, Odds, Prices, StepCosts
from a3b.engine.engine import Engine
from a3b.engine.local import local_service
from a3b.server.app import create_app
from a3b.server.middleware import ServerSettings
from tests.support.serving import ask
from tests.support.traced_server import TOOL

pytestmark = pytest.mark.slow  # starts servers

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
CHAIN = [{"role": "user", "content": "Start at a1b2 and follow the chain for 2 steps. Where do you end?"}]
SECRET = [{"role": "user", "content": "Think of two numbers from 0 to 999. Tell me only the first."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Anna", "Bertram"]}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name", "ages"],
    "additionalProperties": False,
}
DRAWN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 5}
SPOKEN = {"name": TOOL["function"]["name"], "input_schema": TOOL["function"]["parameters"]}
BODIES = {
    "chat": (CHAT, {"messages": SECRET, **DRAWN, "max_tokens": 50, "logprobs": True, "top_logprobs": 3}),
    "greedy": (CHAT, {"messages": SECRET, "temperature": 0, "max_tokens": 50, "n": 2, "stop": ["7"]}),
    "penalties": (CHAT, {"messages": SECRET, **DRAWN, "max_tokens": 50, "repetition_penalty": 1.2, "n": 2}),
    "tools": (CHAT, {"messages": CHAIN, **DRAWN, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}),
    "schema": (
        CHAT,
        {
            "messages": SECRET,
            **DRAWN,
            "max_tokens": 80,
            "thinking_budget": 6,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
        },
    ),
    "text": (TEXT, {"prompt": "1 2 3 4 1 2 3 4 1 2", **DRAWN, "max_tokens": 50, "logprobs": 2, "echo": True}),
    "responses": (RESPONSES, {"input": CHAIN[0]["content"], "temperature": 0, "max_output_tokens": 60}),
    "messages": (MESSAGES, {"messages": CHAIN, "temperature": 0, "max_tokens": 60, "tools": [SPOKEN], "model": "m"}),
    "stopped": (
        MESSAGES,
        {"messages": SECRET, "temperature": 0, "max_tokens": 60, "stop_sequences": ["1"], "model": "m"},
    ),
}
OF_ITS_OWN = (  # what two answers to the same request never have in common
    *("id", "item_id", "call_id", "tool_use_id", "created", "created_at", "completed_at", "signature", "seed"),
    *("prefill_s", "decode_s", "speculation", "encrypted_content", "prompt_progress", "system_fingerprint"),
)


def common(value: Any) -> Any:
    """A reply without ids, times and what is said of drafts."""
    if isinstance(value, dict):
        return {key: common(item) for key, item in value.items() if key not in OF_ITS_OWN}
    return [common(item) for item in value] if isinstance(value, list) else value


def events(body: bytes) -> list[Any]:
    """Of a stream, without comments and progress, which come by the clock."""
    lines = [line[6:] for line in body.decode().splitlines() if line.startswith("data: {")]
    found = [json.loads(line) for line in lines]
    return [event for event in found if event.get("type") not in ("ping",) and "prompt_progress" not in event]


def index(event: Any) -> int:
    """Of the choice: which of several answers is ahead is a matter of the clock."""
    return event["choices"][0]["index"] if event.get("choices") else 9


@contextmanager
def serving(drafts: bool) -> Iterator[Any]:
    service = local_service(Engine.load(threads=1), max_active=4, drafts=drafts)
    try:
        yield create_app(service, ServerSettings(secret=b"s" * 32))
    finally:
        service.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    with serving(False) as app:
        yield app


@pytest.fixture(scope="module")
def eager() -> Iterator[Any]:
    """A server that drafts whatever it can think of, and waits for what a grammar forces."""
    forced = GrammarConstraint.forced
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrammarConstraint, "forced", lambda self, most: (self.wait(9), forced(self, most))[1])
        patch.setattr(StepCosts, "prices", lambda self, num_answers: Prices(0.01, 0.01))
        patch.setattr(Balance, "affords", lambda self, paid: True)
        patch.setattr(Effort, "is_spent", False)
        patch.setattr(Odds, "of", lambda self, kind: 0.9)
        with serving(True) as app:
            yield app


def answered(app: Any, name: str, stream: bool) -> tuple[Any, dict[str, Any]]:
    """What both servers must say, and what is said of drafts."""
    path, body = BODIES[name]
    options = {"stream_options": {"include_usage": True}} if path in (CHAT, TEXT) else {}
    reply = asyncio.run(ask(app, path, {**body, "stream": True, **options} if stream else body))
    assert reply.status == 200, reply.body
    found = sorted(events(reply.body), key=index) if stream else reply.json()
    told = [event for event in found if "a3b" in str(event.keys())][-1] if stream and path != RESPONSES else found
    told = found[-1]["response"] if stream and path == RESPONSES else told
    return common(found), told["a3b"]["speculation"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", BODIES)
def test_every_api_says_the_same_with_drafts(name: str, stream: bool, plain: Any, eager: Any):
    expected, without = answered(plain, name, stream)
    found, drafts = answered(eager, name, stream)
    assert found == expected
    assert without["drafted"] == without["accepted"] == 0 and without["sources"] == {}
    assert drafts["drafted"] > 0 and drafts["steps"] < without["steps"] + drafts["drafted"]


@pytest.mark.parametrize("name", ["chat", "tools", "text", "messages"])
def test_what_is_said_of_drafts_adds_up(name: str, plain: Any, eager: Any):
    (_, without), (_, drafts) = answered(plain, name, False), answered(eager, name, False)
    assert drafts["steps"] + drafts["accepted"] == without["steps"], "each step gave a token and what was accepted"
    assert drafts["tokens_per_step"] == round(1 + drafts["accepted"] / drafts["steps"], 3)
    assert without["tokens_per_step"] == 1.0 and without["gain"] == pytest.approx(1.0, abs=0.2)
    assert 0 < drafts["accepted"] <= drafts["drafted"]
    for what in ("drafted", "accepted"):
        assert sum(count[what] for count in drafts["sources"].values()) == drafts[what]


def test_a_grammar_that_leaves_no_choice_is_a_source_of_drafts(eager: Any):
    _, drafts = answered(eager, "schema", False)
    forced = drafts["sources"]["forced"]
    assert forced["accepted"] == forced["drafted"] > 0


def test_the_metrics_add_up_the_answers(eager: Any):
    def numbers() -> dict[str, float]:
        text = asyncio.run(ask(eager, "/metrics")).body.decode()
        found = re.findall(r"^a3b_(speculation_\w+|decode_seconds_total) ([\d.e+-]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    before = numbers()
    _, drafts = answered(eager, "text", False)
    after = numbers()
    for source in ("forced", "repeated", "mtp"):
        for what in ("drafted", "accepted"):
            name = f"speculation_{source}_{what}_total"
            assert after[name] - before[name] == drafts["sources"].get(source, {}).get(what, 0)
    assert after["speculation_steps_total"] - before["speculation_steps_total"] == drafts["steps"]
    accepted = sum(after[f"speculation_{source}_accepted_total"] for source in ("forced", "repeated", "mtp"))
    assert after["speculation_tokens_per_step"] == pytest.approx(1 + accepted / after["speculation_steps_total"])
    gain = after["speculation_plain_seconds_total"] / after["decode_seconds_total"]
    assert after["speculation_gain"] == pytest.approx(gain)


def test_all_requests_at_once_are_answered_as_one_by_one(plain: Any, eager: Any):
    async def all_of() -> list[Any]:
        replies = await asyncio.gather(*(ask(eager, *BODIES[name]) for name in BODIES))
        return [reply.json() for reply in replies]

    for name, found in zip(BODIES, asyncio.run(all_of()), strict=True):
        expected, _ = answered(plain, name, False)
        found, expected = common(found), common(expected)
        found.pop("usage"), expected.pop("usage")  # what was cached depends on who came first
        found.pop("a3b"), expected.pop("a3b")
        assert found == expected, name


# -- after a kill


@contextmanager
def process(home: Path, drafts: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "a3b.cli", "serve", "--port", "0", "--drafts", drafts]
    env = {**os.environ, "A3B_HOME": str(home), "A3B_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stderr is not None
            while not (found := re.search(r"http://[\d.]+:\d+", line := server.stderr.readline())):
                assert line, "the server has ended"
            yield server, found[0]
        finally:
            server.kill()


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url + CHAT, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=60)


def test_a_conversation_goes_on_alike_after_a_kill_in_the_middle_of_an_answer(tmp_path: Path):
    asked = [{"role": "user", "content": "What is 17 plus 25? " + "Take your time, please. " * 12}]

    def body(messages: list[Any], **options: Any) -> dict[str, Any]:
        return {"messages": messages, **DRAWN, "max_tokens": 60, **options}

    def talk(home: Path, drafts: str) -> tuple[Any, Any, int]:
        with process(home, drafts) as (server, url):
            first = json.load(post(url, body(asked)))
            message = first["choices"][0]["message"]
            longer = [
                *asked,
                {"role": "assistant", "content": message["content"]},
                {"role": "user", "content": "Add 3."},
            ]
            until = time.monotonic() + 60
            while "a3b_store_pending 0.0" not in urllib.request.urlopen(url + "/metrics").read().decode():
                assert time.monotonic() < until, "the conversation is not on the disk"
            with post(url, body(longer, stream=True, max_tokens=400)) as stream:
                for _ in range(6):
                    stream.readline()
                server.send_signal(signal.SIGKILL)
                server.wait()
        with process(home, drafts) as (_, url):
            second = json.load(post(url, body(longer)))
        return common(first["choices"]), common(second["choices"]), second["a3b"]["cache"]["reused"]

    *expected, _ = talk(tmp_path / "plain", "off")
    *found, reused = talk(tmp_path / "drafted", "auto")
    assert found == expected and reused > 40
