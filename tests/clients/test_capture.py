"""The endpoint that stands in for a server while a client shows what it sends first."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
from anthropic import Anthropic
from openai import OpenAI

from a3b.clients import capture
from a3b.clients.capture import TEXT, Capture

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def endpoint() -> Iterator[Capture]:
    with Capture("m", 4096) as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdks_understand_the_answers_of_every_api(stream, endpoint):
    openai = OpenAI(base_url=f"{endpoint.url}/v1", api_key=endpoint.key, max_retries=0)
    anthropic = Anthropic(base_url=endpoint.url, api_key=endpoint.key, max_retries=0)
    if stream:
        chunks = list(openai.chat.completions.create(model="m", messages=HELLO, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        events = list(openai.responses.create(model="m", input="Hello", stream=True))
        assert events[-1].response.output_text == TEXT
        with anthropic.messages.stream(model="m", max_tokens=1, messages=HELLO) as events:
            assert events.get_final_text() == TEXT
    else:
        assert openai.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == TEXT
        assert openai.responses.create(model="m", input="Hello").output_text == TEXT
        assert anthropic.messages.create(model="m", max_tokens=1, messages=HELLO).content[0].text == TEXT
    assert [found.path for found in endpoint.requests] == ["/v1/chat/completions", "/v1/responses", "/v1/messages"]
    openai.close()
    anthropic.close()


def asked(endpoint: Capture, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body or None, {"x-api-key": endpoint.key, **headers})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_what_is_no_request_for_an_answer_is_answered_and_not_kept(endpoint):
    assert asked(endpoint, "GET", "/v1/models")[0] == 200
    assert asked(endpoint, "GET", "/v1/models/m")[0] == 200
    assert asked(endpoint, "HEAD", "/")[0] == 200
    assert asked(endpoint, "POST", "/v1/messages/count_tokens", b"{}")[0] == 200
    assert asked(endpoint, "POST", "/v1/telemetry", b"{}")[0] == 404
    assert endpoint.requests == []


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 200_000, b"7"])
def test_a_body_that_is_no_object_is_refused(body, endpoint):
    assert asked(endpoint, "POST", "/v1/messages", body)[0] == 400 and endpoint.requests == []


@pytest.mark.parametrize("length", ["-1", "x", str(1 << 40), "²"])
def test_a_length_that_is_none_or_too_large_is_refused(length, endpoint):
    headers = {"content-length": length.encode("latin-1", "replace").decode("latin-1")}
    assert asked(endpoint, "POST", "/v1/messages", b"{}", **headers)[0] == 413 and endpoint.requests == []


def test_only_so_many_requests_are_kept(endpoint, monkeypatch):
    monkeypatch.setattr(capture, "MAX_REQUESTS", 2)
    for number in range(4):
        asked(endpoint, "POST", "/v1/messages", json.dumps({"number": number}).encode())
    assert [found.body["number"] for found in endpoint.requests] == [0, 1]


@pytest.mark.parametrize("key", ["", "another", "\xe9"])
def test_only_the_client_that_was_started_is_kept(key, endpoint):
    assert asked(endpoint, "POST", "/v1/messages", b"{}", **{"x-api-key": key})[0] == 401
    assert endpoint.requests == []


def test_paths_work_without_v1(endpoint):
    asked(endpoint, "POST", "/chat/completions", b"{}")
    assert endpoint.requests[0].path == "/v1/chat/completions"
