"""What every request passes: ids, keys, limits, errors, the log; and what the server says about itself."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket

import pytest

from a3b.errors import ContextError, ConversationError, OverloadedError, StoreError
from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from a3b.server.middleware import ServerSettings, namespace_of
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import Hanging, ask, served

CHAT, PROMPT = "/v1/chat/completions", "the secret prompt"
BODY = {"messages": [{"role": "user", "content": PROMPT}]}
ANSWER = [STARTED, TextDelta("hi"), Finished("stop", USAGE)]


def asked(path=CHAT, body=None, headers=None, service=None, settings=None, **more):
    return asyncio.run(
        ask(create_app(service or ScriptedService(ANSWER), settings or ServerSettings()), path, body, headers, **more)
    )


# -- ids


def test_a_sane_id_of_the_client_is_kept_and_reaches_the_service():
    service = ScriptedService(ANSWER)
    reply = asked(body=BODY, headers={"x-request-id": "a.B-1_"}, service=service)
    assert reply.headers["x-request-id"] == service.requests[0].request_id == "a.B-1_"


@pytest.mark.parametrize("given", ["", "a b", "é", "x" * 129, "a\tb"])
def test_any_other_id_is_replaced(given):
    assert re.fullmatch("req_[0-9a-f]{24}", asked("/nope", headers={"x-request-id": given}).headers["x-request-id"])


# -- keys

KEYS = ServerSettings(api_keys=("key-one", "key-two"))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-two"},
        {"authorization": "bearer  key-two"},
        {"x-api-key": "key-two"},
        {"authorization": "Bearer none", "x-api-key": "key-two"},
    ],
)
def test_a_known_key_opens_and_names_the_namespace(headers):
    service = ScriptedService(ANSWER)
    assert asked(body=BODY, headers=headers, service=service, settings=KEYS).status == 200
    assert service.requests[0].namespace == namespace_of(b"key-two")


def test_namespaces_differ_by_key_and_tell_nothing_of_it():
    one, two = namespace_of(b"key-one"), namespace_of(b"key-two")
    assert one != two and re.fullmatch("[0-9a-f]{16}", one)


def test_without_keys_there_is_one_namespace():
    service = ScriptedService(ANSWER)
    asked(body=BODY, headers={"authorization": "Bearer whatever"}, service=service)
    assert service.requests[0].namespace == ""


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer key-on"},
        {"authorization": "key-one"},
        {"x-api-key": "é"},
        {"authorization": "Basic key-one"},
        {"x-api-key": ""},
    ],
)
def test_any_other_key_is_refused(headers):
    service = ScriptedService(ANSWER)
    reply = asked(body=BODY, headers=headers, service=service, settings=KEYS)
    assert (reply.status, reply.json()["error"]["code"], service.requests) == (401, "invalid_api_key", [])


def test_health_needs_no_key_and_all_else_does():
    statuses = {path: asked(path, settings=KEYS).status for path in ("/health", "/metrics", "/v1/models", "/nope")}
    assert statuses == {"/health": 200, "/metrics": 401, "/v1/models": 401, "/nope": 401}


def test_errors_have_the_form_of_the_api_that_was_asked():
    reply = asked("/v1/messages", {}, {"x-request-id": "id7"}, settings=KEYS)
    assert reply.json()["type"] == "error" and reply.json()["request_id"] == "id7"
    assert reply.json()["error"]["type"] == "authentication_error"


# -- limits


def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read():
    reply = asked(body=b"x" * 101, headers={"content-length": "101"}, settings=ServerSettings(max_body_bytes=100))
    assert (reply.status, reply.chunks_read, reply.json()["error"]["code"]) == (413, 0, "request_too_large")


def test_a_body_without_a_length_is_read_no_further_than_the_limit():
    reply = asked(chunks=[b"x" * 60] * 10, settings=ServerSettings(max_body_bytes=100))
    assert (reply.status, reply.chunks_read) == (413, 2)


def test_a_body_as_long_as_the_limit_passes():
    text = json.dumps(BODY).encode()
    assert asked(body=text, settings=ServerSettings(max_body_bytes=len(text))).status == 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "line 1 column 1"),
        (b'{"a": 1,\n}', "line 2 column 1"),
        (b'{"a": "\xff"}', "UTF-8 at byte 7"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "-Infinity"),
        (b'{"temperature": 1e999}', "1e999"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 200_000, "nested"),
        (b'{"messages":' * 101 + b"1" + b"}" * 101, "nested"),
        (b'{"messages":' * 100 + b"1" + b"}" * 100, "expected a list"),
        (b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}", "nested"),
        (b'"text"', "found text"),
        (b"\x1f\x8b\x08", "UTF-8"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_place(body, told):
    reply = asked(body=body)
    assert reply.status == 400 and told in reply.json()["error"]["message"]


def test_half_a_surrogate_pair_becomes_a_replacement_and_a_whole_one_a_character():
    service = ScriptedService(ANSWER)
    body = rb'{"messages":[{"role":"user","content":"\ud800x \ud83d\ude00","content":"\udfff \ud83d\ude00\ud83d"}]}'
    assert asked(body=body, service=service).status == 200
    assert service.requests[0].messages[0]["content"] == "\ufffd \U0001f600\ufffd"


# -- where a request may come from


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "box.lan:1"])
def test_hosts_of_this_machine_and_configured_ones_pass(host):
    assert asked("/health", headers={"host": host}, settings=ServerSettings(hosts=("Box.lan",))).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "", "[", "a:b:c"]
)
def test_other_hosts_are_refused(host):
    assert asked(body=BODY, headers={"host": host}).json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "settings",
    [ServerSettings(hosts=("box.lan",), host="0.0.0.0"), ServerSettings(hosts=("box.lan",), api_keys=("key-one",))],
)
def test_hosts_that_were_named_are_the_only_ones(settings):
    statuses = [
        asked("/health", headers={"host": host}, settings=settings).status
        for host in ("box.lan:1", "localhost", "evil.example")
    ]
    assert statuses == [200, 200, 403]


def test_any_host_may_be_allowed():
    assert asked("/health", headers={"host": "evil.example"}, settings=ServerSettings(hosts=("*",))).status == 200


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"host": "box.lan:8080"}, "start the server with --allow-host box.lan"),
        ({"host": "a;rm -rf /"}, "send the name of this machine"),
        ({"origin": "https://chat.example:8443"}, "start the server with --allow-origin https://chat.example:8443"),
        ({"origin": "null"}, "start the server with --allow-origin *"),
        ({"origin": "http://a' b"}, "start the server with --allow-origin *"),
    ],
)
def test_a_refused_host_or_page_is_told_the_option_to_use(headers, told):
    assert told in asked(body=BODY, headers=headers).json()["error"]["message"]


@pytest.mark.parametrize("settings", [KEYS, ServerSettings(host="0.0.0.0")])
def test_any_host_passes_with_keys_or_on_an_open_address(settings):
    headers = {"host": "evil.example", "authorization": "Bearer key-one"}
    assert asked(body=BODY, headers=headers, settings=settings).status == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://localhost:3000", 200), ("vscode-file://vscode-app", 200)],
)
def test_pages_from_elsewhere_cannot_make_a_browser_ask(origin, status):
    assert asked(body=BODY, headers={"origin": origin}).status == status


def test_pages_may_read_answers_only_if_their_origin_is_configured():
    origin = {"origin": "https://chat.example"}
    assert "access-control-allow-origin" not in asked("/health", headers={"origin": "http://localhost"}).headers
    reply = asked(body=BODY, headers=origin, settings=ServerSettings(cors_origins=("https://chat.example",)))
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://chat.example")


PREFLIGHT = {
    "origin": "https://chat.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os,anthropic-version",
}


@pytest.mark.parametrize("keys", [(), ("key-one",)])
@pytest.mark.parametrize(("origins", "told"), [(("https://chat.example",), "https://chat.example"), (("*",), "*")])
def test_a_preflight_of_a_configured_page_needs_no_key(keys, origins, told):
    reply = asked(headers=PREFLIGHT, method="OPTIONS", settings=ServerSettings(api_keys=keys, cors_origins=origins))
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, told)
    assert (
        "x-stainless-os" in reply.headers["access-control-allow-headers"]
        and "POST" in reply.headers["access-control-allow-methods"]
    )


def test_a_refused_preflight_is_in_the_log_with_the_option_to_use(caplog):
    caplog.set_level(logging.INFO)
    settings = ServerSettings(cors_origins=("https://other.example",))
    assert asked(headers=PREFLIGHT, method="OPTIONS", settings=settings).status == 400
    assert "'https://chat.example'; start the server with --allow-origin https://chat.example" in caplog.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"body": BODY}, 200),
        ({"body": b"{"}, 400),
        ({"path": "/nope"}, 404),
        ({"body": b"x" * 2000}, 413),
        ({"body": BODY, "service": ScriptedService(OverloadedError("full"))}, 429),
    ],
)
def test_a_configured_page_may_read_every_answer_and_what_its_headers_say(request_, status):
    settings = ServerSettings(cors_origins=("https://chat.example",), max_body_bytes=1000)
    reply = asked(headers={"origin": "https://chat.example"}, settings=settings, **request_)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, "https://chat.example")
    assert {"x-request-id", "retry-after"} <= set(reply.headers["access-control-expose-headers"].split(", "))


# -- errors


@pytest.mark.parametrize(
    ("path", "method", "status", "told"),
    [
        ("/nope", "GET", 404, "/nope: no such path"),
        ("/v1/models/", "GET", 404, "is not served here"),
        ("/v1/chat/completions/", "POST", 404, "no such path"),
        (CHAT, "GET", 405, "GET /v1/chat/completions"),
        ("/health", "POST", 405, "POST /health"),
    ],
)
def test_unknown_paths_and_methods_are_answered_in_json(path, method, status, told):
    reply = asked(path, method=method)
    assert reply.status == status and told in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConversationError("messages: odd"), 400, None),
        (ContextError("9000 tokens; expected at most 8192"), 400, "context_length_exceeded"),
        (OverloadedError("4 of 4 places taken"), 429, "overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_service_refuses_is_reported_with_a_status(error, status, code, stream):
    reply = asked(body={**BODY, "stream": stream}, service=ScriptedService(error))
    found = reply.json()["error"]
    assert (reply.status, found["code"], found["message"]) == (status, code, str(error))
    assert ("retry-after" in reply.headers) == (status == 429)


@pytest.mark.parametrize("error", [ValueError("the secret prompt"), StoreError("disk full: the secret prompt")])
def test_an_unexpected_error_is_reported_by_its_id_and_logged_without_its_message(error, caplog):
    reply = asked(body=BODY, headers={"x-request-id": "id7"}, service=ScriptedService(error))
    assert reply.status == 500 and "id7" in reply.json()["error"]["message"]
    assert "scripted_service.py" not in reply.body.decode() and PROMPT not in reply.body.decode()
    assert (
        "id7 failed with" in caplog.text
        and "scripted_service.py" in caplog.text
        and type(error).__name__ in caplog.text
    )
    assert PROMPT not in caplog.text


def test_a_stream_without_an_end_is_an_error_of_ours(caplog):
    assert asked(body=BODY, service=ScriptedService(ANSWER[:2])).status == 500
    assert "RuntimeError" in caplog.text


# -- the log and the numbers


def test_one_line_for_each_request_and_no_secret_in_it(caplog):
    caplog.set_level(logging.DEBUG)
    headers = {"authorization": "Bearer key-one", "x-request-id": "id7"}
    asked(body=BODY, headers=headers, settings=KEYS)
    lines = [record.getMessage() for record in caplog.records if record.name == "a3b.server"]
    assert len(lines) == 1 and re.fullmatch(
        r"id7 POST /v1/chat/completions 200 prompt=100 cached=60 written=20 seconds=0\.\d{3}", lines[0]
    )
    assert "key-one" not in caplog.text and PROMPT not in caplog.text


def test_a_path_cannot_forge_a_line_of_the_log(caplog):
    caplog.set_level(logging.INFO)
    with served(create_app(ScriptedService(ANSWER))) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /a%0Aforged HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while client.recv(4096):
            pass
    lines = [record.getMessage() for record in caplog.records if record.name == "a3b.server"]
    assert len(lines) == 1 and "/a%0Aforged 404" in lines[0] and "\n" not in lines[0]


def test_metrics_count_by_route_and_show_the_numbers_of_the_service():
    app = create_app(ScriptedService(ANSWER))
    for path, body in ((CHAT, BODY), (CHAT, BODY), (CHAT, {}), ("/made/up", None), ("/v1/models/x", None)):
        asyncio.run(ask(app, path, body))
    reply = asyncio.run(ask(app, "/metrics"))
    lines = reply.body.decode().splitlines()
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'a3b_http_requests_total{path="/v1/chat/completions",status="200"} 2.0',
        'a3b_http_requests_total{path="/v1/chat/completions",status="400"} 1.0',
        'a3b_http_requests_total{path="other",status="404"} 1.0',
        'a3b_http_requests_total{path="/v1/models/{id:path}",status="404"} 1.0',
        'a3b_http_request_seconds_count{path="/v1/chat/completions"} 3.0',
        "a3b_http_requests_running 1.0",
        "a3b_prompt_tokens_total 100.0",
        "a3b_places_free 3.0",
    ):
        assert line in lines
    assert "made" not in reply.body.decode()


# -- what it tells about itself


@pytest.mark.parametrize(("status", "http"), [("ok", 200), ("loading", 503)])
def test_health_says_whether_requests_can_be_answered(status, http):
    service = ScriptedService(ANSWER)
    service.status = status
    reply = asked("/health", service=service)
    assert (reply.status, reply.json()["status"]) == (http, status)


def test_the_model_is_listed_with_its_context():
    listed = asked("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["a3b-nano"]
    assert listed["data"][0] == {
        **asked("/v1/models/a3b-nano").json(),
        "created": listed["data"][0]["created"],
        "created_at": listed["data"][0]["created_at"],
    }
    assert listed["data"][0]["max_model_len"] == listed["data"][0]["context_length"] == 8192
    assert asked("/v1/models/Other/Model").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("key", ["content", "prompt", "text"])
def test_text_to_ids_and_back(key):
    reply = asked("/tokenize", {key: "hé"}).json()
    assert reply == {"tokens": [104, 195, 169], "count": 3, "max_model_len": 8192}
    assert asked("/detokenize", {"tokens": reply["tokens"]}).json() == {"content": "hé", "prompt": "hé", "text": "hé"}


def test_messages_are_tokenized_as_a_completion_would_read_them():
    service = ScriptedService(ANSWER)
    reply = asked("/tokenize", {**BODY, "enable_thinking": False}, service=service).json()
    assert reply["count"] == 42 and service.requests[0].think is False


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": 1}),
        ("/tokenize", {"messages": []}),
        ("/tokenize", []),
        ("/detokenize", {"tokens": "1"}),
        ("/detokenize", {"tokens": [True]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [1 << 40]}),
        ("/detokenize", {"tokens": [300]}),
        ("/detokenize", {"tokens": [[1]]}),
    ],
)
def test_other_things_to_tokenize_are_refused(path, body):
    assert asked(path, body).status == 400


# -- clients that leave


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_work(stream):
    service = Hanging([STARTED, TextDelta("hi")])
    body = json.dumps({**BODY, "stream": stream}).encode()
    with served(create_app(service)) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body)) + body
            )
            assert service.is_hanging.wait(5)
            assert not service.is_closed.is_set()
        assert service.is_closed.wait(5)


def test_a_client_that_leaves_before_the_first_event_ends_the_work(caplog):
    caplog.set_level(logging.INFO)
    service = Hanging([])
    body = json.dumps({**BODY, "stream": True}).encode()
    with served(create_app(service)) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body)) + body
            )
            assert service.is_hanging.wait(5)
        assert service.is_closed.wait(5)
    assert " 499 " in caplog.text


def test_a_client_that_leaves_within_its_body_gets_no_answer():
    service = ScriptedService(ANSWER)
    with served(create_app(service)) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{" % CHAT.encode())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
    assert service.requests == []
