"""Heavy requests alongside others: each is answered or refused by name, holds up no other, and ends with its client or
the server."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from a3b.engine.engine import Engine
from a3b.errors import ContextError, Interrupted, OverloadedError, TemplateError, UsageError
from a3b.interface.request import Request
from a3b.isolation import bounded_json, deadlines
from a3b.isolation.bounded_json import TooMuchJSON, loads
from a3b.isolation.deadlines import Work, in_thread
from a3b.isolation.slots import Slots
from a3b.prompt import renderer
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.renderer import Renderer
from a3b.server.app import create_app
from a3b.server.openai.chat_request import read_chat
from tests.support.serving import ask
from tests.support.traced_server import Server, user

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load()


@pytest.fixture(scope="module")
def server(engine):
    with Server(engine) as found:
        yield found


def called(arguments: str) -> list[dict]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        user("q"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ]


# -- JSON


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" + "[]," * 200_000 + "[]]", "more than 200,000 values"),
        ("[" * 900 + "]" * 900, "nested deeper than 100"),
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested deeper than 100"),
    ],
)
def test_json_beyond_the_limits_is_refused(text, reason):
    with pytest.raises(TooMuchJSON, match=reason):
        loads(text)


def test_what_looks_like_values_inside_a_string_is_not_counted(monkeypatch):
    monkeypatch.setattr(bounded_json, "MAX_VALUES", 10)
    for text in (",[{" * 20, '\\",' * 20, "\\" * 20 + ",[{" * 5, ""):
        assert loads(json.dumps([text, {"a": text}])) == [text, {"a": text}]
    with pytest.raises(TooMuchJSON):
        loads(json.dumps([",[{" * 20, *[1] * 10]))


@pytest.mark.parametrize(
    "arguments", ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, '{"a": [' + "[]," * 200_000 + "1]}"]
)
def test_arguments_too_deep_or_too_many_are_a_400_that_names_them(server, arguments):
    app = create_app(server.service)
    items = [
        {"role": "user", "content": "q"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
    ]
    for path, body in (("/v1/chat/completions", {"messages": called(arguments)}), ("/v1/responses", {"input": items})):
        reply = asyncio.run(ask(app, path, body))
        assert reply.status == 400 and "tool_calls[0]: arguments" in reply.json()["error"]["message"]


class Whole(str):
    def __iter__(self):
        raise AssertionError("a text was walked character by character")


def test_a_text_is_not_walked_character_by_character():
    messages = [
        {"role": "user", "content": Whole("hi")},
        {"role": "assistant", "content": Whole("ho")},
        {"role": "user", "content": "x"},
    ]
    assert normalise_messages(read_chat({"messages": messages}).requests[0].messages)[0][0]["content"] == "hi"


# -- work


def test_work_ends_when_nobody_waits_for_it_any_more():
    started, ended = threading.Event(), threading.Event()

    def endless() -> None:
        started.set()
        try:
            while True:
                deadlines.check()
        except Interrupted:
            ended.set()
            raise

    async def leave() -> None:
        with ThreadPoolExecutor(1) as threads:
            task = asyncio.ensure_future(in_thread(threads, "test", 600, endless))
            await asyncio.to_thread(started.wait)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert ended.is_set()


def test_work_that_takes_too_long_is_refused_by_name():
    def endless() -> None:
        while True:
            deadlines.check()

    with pytest.raises(UsageError, match="the thing: takes longer than 0.01 s"):
        Work("the thing", 0.01).run(endless)


def test_one_namespace_leaves_places_to_others():
    slots, work_of_many = Slots(3, 2), Work("test", 0.05)
    with slots.one("many"), slots.one("many"):
        with pytest.raises(UsageError, match="longer"):
            work_of_many.run(slots.one("many").__enter__)
        with slots.one("other"):
            pass
    with slots.one("many"):
        pass


# -- prompts


def test_a_long_conversation_renders_in_its_process_as_it_does_here(engine):
    found = Renderer(engine.template)
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": f"number {i}", "reasoning_content": f"thinking {i}"}
        for i in range(401)
    ]
    try:
        assert renderer._is_long((messages, {}))
        assert found.render(messages, "", preserve_thinking=True) == engine.template.render(
            messages, preserve_thinking=True
        )
        messages[7]["content"] = [{"type": "image", "image": "x"}]
        messages[0] = {"role": "nobody", "content": "x"}
        with pytest.raises(TemplateError) as ours:
            engine.template.render(messages)
        with pytest.raises(TemplateError, match="refused") as theirs:
            found.render(messages, "")
        assert (str(theirs.value), theirs.value.refusal) == (str(ours.value), ours.value.refusal)
    finally:
        found.close()


def test_a_machine_out_of_processes_is_distinguished_from_a_conversation_that_is_too_long(engine, monkeypatch):
    def none(*_args, **_kwargs):
        raise BlockingIOError

    rendering = Renderer(engine.template)
    monkeypatch.setattr(subprocess, "Popen", none)
    with pytest.raises(OverloadedError, match="try again later"):
        rendering.render([user("hi")] * 2000, "")
    rendering.close()


@pytest.mark.parametrize(
    "source",
    ["{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "{{ 'a' * 60000000 }}" * 20],
)
def test_a_template_beyond_its_limits_is_an_error(source, monkeypatch):
    monkeypatch.setattr(renderer, "RENDER_BYTES", 64 << 20)
    found = Renderer(ChatTemplate(source))
    try:
        with pytest.raises(TemplateError, match="stopped at|more than|not enough memory|MemoryError"):
            found.render([user("hi")] * 2000, "")
    finally:
        found.close()


def test_more_messages_than_tokens_fit_are_refused_at_once_and_counted_all_the_same(server, monkeypatch):
    messages = [{"role": ("user", "assistant")[i % 2], "content": "hi"} for i in range(9001)]

    async def both() -> int:
        with pytest.raises(ContextError, match="at least 9001 tokens > 8191"):
            await anext(server.service.stream(Request(messages=messages)))
        return await server.service.count_tokens(Request(messages=messages))

    assert asyncio.run(both()) > 9001


def test_a_request_is_prepared_while_others_still_are(server, monkeypatch):
    """Eight others never end until this one has."""
    render, done = server.service.renderer.render, threading.Event()

    def slow(request):
        if request.messages[0]["content"] == "slow":
            while not done.is_set():
                deadlines.check()
                time.sleep(0.001)
        return render(request)

    monkeypatch.setattr(server.service.renderer, "render", slow)

    async def beside() -> tuple[int, list[int]]:
        others = [
            asyncio.ensure_future(server.service.count_tokens(Request(messages=[user("slow")]))) for _ in range(8)
        ]
        found = await server.service.count_tokens(Request(messages=[user("hi")]))
        done.set()
        return found, await asyncio.gather(*others)

    found, others = asyncio.run(beside())
    assert found > 0 and len(others) == 8


@pytest.mark.parametrize(
    ("part", "times"),
    [("word ", 5_600_000), (" ", 11_000_000), ("1", 20_000_000), ("\\ud800", 1_000_000), ("😀", 2_000_000)],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize"])
def test_a_text_of_megabytes_is_refused_by_name(server, path, part, times):
    body = ('{"prompt": "' + part * times + '", "max_tokens": 1}').encode()
    reply = asyncio.run(ask(create_app(server.service), path, body))
    assert reply.status == 400 and json.loads(reply.body)["error"]["message"].startswith(
        ("prompt: ", "text: ", "body: ")
    )


# -- the server


def test_a_server_told_to_stop_ends_despite_heavy_work(tmp_path):
    pattern = "^" + "".join(f"(?=.*a.{{{n}}}b)" for n in range(1, 25)) + ".*$"
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "string", "pattern": pattern}},
                "required": ["x"],
            },
        },
    }
    bodies = {
        "/v1/messages/count_tokens": {
            "messages": [{"role": ("user", "assistant")[i % 2], "content": "hi"} for i in range(20_000)]
        },
        "/v1/chat/completions": {"messages": [user("q")], "tools": [tool], "tool_choice": "required"},
        "/tokenize": {"prompt": "word and " * 1_500_000},
    }
    command = [sys.executable, "-m", "a3b.cli", "serve", "--no-persist", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, closing_kill(process):
        port = next(int(line.split("/v1")[0].rsplit(":", 1)[1]) for line in process.stderr if "/v1" in line)
        with ThreadPoolExecutor(len(bodies)) as threads:
            replies = [threads.submit(_post, port, path, body) for path, body in bodies.items()]
            while _running(port) < len(bodies) + 1:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0
        assert all("error" in json.loads(reply.result()) or "input_tokens" in reply.result() for reply in replies)


@contextmanager
def closing_kill(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def _post(port: int, path: str, body: dict) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        return urllib.request.urlopen(request, timeout=120).read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def _running(port: int) -> float:
    """Requests that the server works on, this one too."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith("a3b_http_requests_running"))
