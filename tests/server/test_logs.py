"""Lines of the log: when, who asked what, why it was refused, how far a long prompt is; and nothing that could forge
another line."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from types import SimpleNamespace

import pytest

from a3b.errors import ConversationError
from a3b.interface.events import Finished, Reading, TextDelta
from a3b.server import logs
from a3b.server.app import create_app
from a3b.server.middleware import ServerSettings
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import ask

ANSWER = [STARTED, TextDelta("hi"), Finished("stop", USAGE)]
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def log():
    """What a server writes, as text."""
    handler, logger, out = logging.StreamHandler(stream := io.StringIO()), logging.getLogger("a3b.server"), stream
    handler.setFormatter(logs.LogFormatter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield out.getvalue
    logger.removeHandler(handler)
    logger.setLevel(level)


def asked(path=CHAT, body=None, headers=None, service=None, settings=None, **more):
    return asyncio.run(
        ask(create_app(service or ScriptedService(ANSWER), settings or ServerSettings()), path, body, headers, **more)
    )


def test_a_line_has_the_time_with_its_zone_and_what_was_read_and_written(log):
    asked(body=BODY, headers={"x-request-id": "id7"})
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(
        time + r" id7 POST /v1/chat/completions 200 prompt=100 cached=60 written=20 seconds=0\.\d{3}\n", log()
    )


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({"body": b"{"}, 400, "body: not JSON at line 1 column 2"),
        ({"body": {"messages": 1}}, 400, "messages: 1; expected a list"),
        ({"body": BODY, "service": ScriptedService(ConversationError("messages: odd"))}, 400, "messages: odd"),
        ({"body": BODY, "settings": ServerSettings(api_keys=("k",))}, 401, "an API key is needed"),
        ({"path": "/health", "headers": {"host": "evil.example"}}, 403, "Host: 'evil.example'"),
        ({"path": "/nope"}, 404, "GET /nope: no such path"),
        ({"body": b"x" * 11, "settings": ServerSettings(max_body_bytes=10)}, 413, "body: larger than 10 bytes"),
        ({"body": BODY, "service": ScriptedService(ValueError("hello"))}, 500, "internal error"),
    ],
)
def test_a_line_tells_why_a_request_was_refused(request_, status, told, log):
    assert asked(**request_).status == status
    assert re.search(rf" {status} seconds=0\.\d+ reason=.*{re.escape(told)}", log())


CONTROLS = "a\x1b[2J\r\nb\x00\x7f\x9b31m\u202e\u2028"
UNFIT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


@pytest.mark.parametrize("place", ["path", "method", "id", "host", "origin", "reason", "model"])
def test_no_control_character_of_a_client_reaches_the_log(place, log):
    given = {"path": CHAT, "body": BODY, "headers": {}}
    sent = CONTROLS.encode("utf-8", "replace").decode("latin-1")
    match place:
        case "path":
            given |= {"path": f"/{CONTROLS}"}
        case "method":
            given |= {"method": CONTROLS}
        case "id":
            given["headers"] = {"x-request-id": sent}
        case "host" | "origin":
            given["headers"] = {place: sent if place == "host" else f"http://{sent}"}
        case "reason":
            given |= {"body": {"messages": CONTROLS}}
        case "model":
            given |= {"service": ScriptedService(ConversationError(CONTROLS))}
    asked(**given)
    text = log()
    assert text.count("\n") == 1 and not UNFIT.search(text), text


def test_a_long_reason_is_cut(log):
    asked(service=ScriptedService(ConversationError("x" * 10_000)), body=BODY)
    assert len(log()) < 500


def test_what_a_message_has_below_its_first_line_cannot_pass_for_a_line(log):
    logging.getLogger("a3b.server").error("failed\x1b[2J\n2026-01-01T00:00:00.000+00:00 req_1 forged")
    first, second = log().splitlines()
    assert " ERROR failed\\u001b[2J" in first and second.startswith("    2026")


# -- progress


def reading(times, monkeypatch, log):
    """A prompt whose pieces are read at these seconds."""
    clock = iter([0.0, *times, *[1e6] * 9])
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    events = [STARTED, *(Reading((i + 1) * 512, 50_120) for i in range(len(times) - 1)), *ANSWER[1:]]

    async def read():
        request = SimpleNamespace(request_id="req_x")
        return [event async for event in logs.logging_progress(ScriptedService(events)).stream(request)]

    assert asyncio.run(read()) == events
    return log().splitlines()


def test_the_progress_of_a_long_prompt_is_logged_every_few_seconds(monkeypatch, log):
    lines = reading([0, 2, 4, 6, 8, 10, 12], monkeypatch, log)  # the first is when reading begins
    assert [line.split(" ", 1)[1] for line in lines] == [
        "req_x reading 1,536 of 50,120 tokens, 256 tokens/s, about 190 s left",
        "req_x reading 3,072 of 50,120 tokens, 256 tokens/s, about 184 s left",
    ]


def test_a_short_prompt_logs_no_progress(monkeypatch, log):
    assert reading([0, 1, 2, 3], monkeypatch, log) == []


def test_time_in_the_queue_does_not_count_as_reading(monkeypatch, log):
    assert reading([100, 101, 102], monkeypatch, log) == []


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_progress_is_logged_whatever_the_api(path, stream, monkeypatch, log):
    monkeypatch.setattr(logs, "PROGRESS_S", 0.0)
    events = [STARTED, Reading(512, 1000), Finished("stop", USAGE)]
    body = {**BODY, "prompt": "hi", "input": "hi", "max_tokens": 9, "stream": stream}
    wanted = {
        CHAT: ("messages",),
        "/v1/completions": ("prompt",),
        "/v1/responses": ("input",),
        "/v1/messages": ("messages", "max_tokens"),
    }
    body = {key: body[key] for key in (*wanted[path], "stream")}
    assert asked(path, body, {"x-request-id": "id7"}, ScriptedService(events)).status == 200
    first, last = log().splitlines()
    assert " id7 reading 512 of 1,000 tokens, " in first and f" id7 POST {path} 200 prompt=100 cached=60" in last
