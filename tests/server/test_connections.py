"""Connections that are half closed, slow, silent or no HTTP, over a real socket."""

from __future__ import annotations

import asyncio
import logging
import select
import socket

import pytest

from a3b.interface.events import TextDelta
from tests.support.raw_connections import (
    ANSWER,
    CHAT,
    HEALTH,
    WAIT_S,
    Slow,
    chat,
    lines,
    one,
    post,
    rest,
    running,
)
from tests.support.scripted_service import STARTED, ScriptedService
from tests.support.serving import Hanging

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


# -- half closed, and gone


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_closed_its_side_gets_its_answer(stream, version):
    with running() as server:
        reply = server.told(post(chat(stream=stream)).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
    assert reply.startswith(b"HTTP/1.1 200") and b"hi" in reply
    assert reply.rstrip(b"0\r\n").endswith(b"[DONE]") if stream else reply.endswith(b"}")


def test_a_client_that_closed_its_side_waits_as_long_as_an_answer_takes():
    class Waiting(ScriptedService):
        async def stream(self, request):
            while not server.is_probed:
                await asyncio.sleep(0.01)
            async for event in super().stream(request):
                yield event

    service = Waiting(ANSWER)
    with running(service, probe_s=0.05) as server:
        server.is_probed = False
        client = server.open(post(chat()))
        client.shutdown(socket.SHUT_WR)
        interim = client.recv(len(b"HTTP/1.1 100 Continue\r\n\r\n"))
        server.is_probed = True
        reply = rest(client)
    assert interim.startswith(b"HTTP/1.1 100") and reply.startswith(b"HTTP/1.1 200") and reply.endswith(b"}")


def test_all_pipelined_requests_of_a_client_that_closed_its_side_are_answered():
    with running(Slow(ANSWER)) as server:
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in chat()) + b"0\r\n\r\n"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        reply = server.told(post(chat()) + head + pieces + HEALTH)
    assert reply.count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_read_all_and_left_ends_the_work(stream):
    service = Hanging(ANSWER[:2])
    with running(service, probe_s=0.05) as server:
        client = server.open(post(chat(stream=stream)))
        assert service.is_hanging.wait(WAIT_S)
        if stream:  # nothing unread is left, so that closing sends no reset
            data = b""
            while b'"hi"' not in data:
                data += client.recv(65536)
        client.close()
        assert service.is_closed.wait(WAIT_S)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_pipelined_a_request_and_left_ends_the_work(stream):
    service = Hanging(ANSWER[:2])
    with running(service, probe_s=0.05) as server:
        client = server.open(post(chat(stream=stream)))
        assert service.is_hanging.wait(WAIT_S)
        client.sendall(HEALTH)
        client.close()
        assert service.is_closed.wait(WAIT_S)


def test_a_body_that_ends_early_is_answered_by_nothing_and_leaves_nothing(caplog):
    caplog.set_level(logging.INFO)
    with running() as server:
        assert server.told(post(b"{", length=99)) == b""
        server.wait_until(lambda: lines(caplog))
    assert " 499 " in lines(caplog)[0] and lines(caplog)[0].endswith("reason=the client left")


# -- slow


@pytest.mark.parametrize("given", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_a_header_that_does_not_end_is_ended(given):
    with running(head_s=0.1) as server:
        reply = rest(server.open(given))
    assert reply.startswith(b"HTTP/1.1 408") if given else reply == b""


def test_a_header_that_trickles_has_no_more_time_than_another():
    with running(head_s=0.2, drain_s=0.2) as server:
        client = server.open(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(OSError):
            for _ in range(1000):
                client.sendall(b"X: y\r\n")
                select.select([], [], [], 0.02)
        assert not server.connections.open


def test_a_connection_that_asks_nothing_more_is_closed():
    with running(idle_s=0.1) as server:
        client = server.open(HEALTH)
        assert one(client).startswith(b"HTTP/1.1 200") and rest(client) == b""


@pytest.mark.parametrize(
    "head",
    [
        post(b'{"mess', length=1000),
        post(length=10),
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc".encode(),
    ],
)
def test_a_body_that_stops_coming_is_refused_with_the_reason(head, caplog):
    caplog.set_level(logging.INFO)
    with running(body_idle_s=0.1) as server:
        reply = rest(server.open(head))
    assert reply.startswith(b"HTTP/1.1 408") and b"body: nothing came for 0.1 s" in reply
    assert "reason=body: nothing came for 0.1 s" in lines(caplog)[0]


def test_a_body_that_trickles_has_an_end():
    with running(body_idle_s=5, body_s=0.3) as server:
        client = server.open(post(length=100_000))
        for _ in range(200):
            if select.select([client], [], [], 0.02)[0]:
                break
            client.sendall(b" ")
        else:
            pytest.fail("it went on")
        assert b"body: not complete after 0.3 s" in rest(client)


def test_an_answer_may_take_longer_than_a_body():
    with running(Slow(ANSWER), body_idle_s=0.05, body_s=0.1, head_s=0.05, idle_s=0.05) as server:
        assert one(server.open(post(chat()))).startswith(b"HTTP/1.1 200")


def test_a_client_that_takes_nothing_of_its_answer_is_cut():
    class Flood(ScriptedService):
        async def stream(self, request):
            yield STARTED
            while True:
                yield TextDelta("x" * 60_000)
                await asyncio.sleep(0)

    with running(Flood([]), write_s=0.1) as server:
        server.open(post(chat(stream=True)))
        server.wait_until(lambda: server.connections.open)
        server.wait_until(lambda: not server.connections.open)


# -- what is no HTTP


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        (b"hello\r\n\r\n", 400, "not an HTTP/1.1 request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "not an HTTP/1.1 request"),  # TLS
        (b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not an HTTP/1.1 request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431, "not an HTTP/1.1 request"),
        (post(more="Content-Length: 5\r\n"), 400, "Content-Length"),
        (
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
            400,
            "not an HTTP/1.1 request",
        ),
    ],
)
def test_what_is_no_http_is_refused_with_a_reason_in_the_log(data, status, told, caplog):
    caplog.set_level(logging.INFO)
    with running() as server:
        reply = server.told(data)
    assert reply.startswith(f"HTTP/1.1 {status}".encode())
    assert any(f" {status} " in line and told in line for line in lines(caplog)), lines(caplog)
    assert "\x1b" not in "".join(lines(caplog))


def test_bytes_after_a_last_request_are_no_request():
    with running() as server:
        reply = server.told(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"\r\nrubbish")
    assert reply.startswith(b"HTTP/1.1 200") and reply.count(b"HTTP/1.1") == 1


def test_a_body_in_a_great_many_pieces_is_refused():
    with running() as server:
        client = server.open(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall(b"1\r\nx\r\n" * 40_000)
        reply = rest(client)
    assert reply.startswith(b"HTTP/1.1 400") and b"too many pieces" in reply
