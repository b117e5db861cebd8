"""Connections that are slow, numerous, half closed or silent, over a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager

import httpx
import openai
import pytest
import requests

from a3b.interface.events import Finished, TextDelta
from a3b.server.app import create_app
from a3b.server.connections import ConnectionManager
from a3b.server.limits import ServerLimits, peer_of
from a3b.server.middleware import ServerSettings
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.serving import Hanging, served

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

ANSWER = [STARTED, TextDelta("hi"), Finished("stop", USAGE)]
CHAT = "/v1/chat/completions"
WAIT_S = 20  # far more than anything here takes
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """A real one, and ways to talk to it by bytes."""

    def __init__(self, port: int, connections: ConnectionManager, stack: ExitStack):
        self.port, self.connections, self._stack = port, connections, stack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        client = self._stack.enter_context(
            socket.create_connection(("127.0.0.1", self.port), WAIT_S, source_address=(source, 0))
        )
        client.sendall(data)
        return client

    def told(self, data: bytes) -> bytes:
        """Everything received after `data` was sent and this side closed."""
        client = self.open(data)
        client.shutdown(socket.SHUT_WR)
        return rest(client)

    def wait_until(self, is_so) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.005)


class Slow(ScriptedService):
    """Begins after a while."""

    async def stream(self, request):
        await asyncio.sleep(0.3)
        async for event in super().stream(request):
            yield event


@contextmanager
def running(service=None, settings=None, **limits):
    limits = ServerLimits(**limits)
    connections = ConnectionManager(limits)
    settings = ServerSettings(**{"limits": limits, **(settings or {})})
    app = create_app(service or ScriptedService(ANSWER), settings, connections=connections)
    with served(app, connections) as port, ExitStack() as stack:
        yield Server(port, connections, stack)


def rest(client: socket.socket) -> bytes:
    """Everything received until the server closes; a reset fails the test."""
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def one(client: socket.socket) -> bytes:
    """One answer with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    length = int(re.search(rb"content-length: (\d+)", data)[1])
    while len(data.partition(b"\r\n\r\n")[2]) < length:
        data += client.recv(65536)
    return data


def post(body: bytes = b"", more: str = "", length: int | None = None, path: str = CHAT) -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n".encode() + body


def chat(**more) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hello"}], **more}).encode()


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "a3b.server"]


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


# -- bodies beyond the limit, while they are being sent

BIG, MOST = 8 << 20, 1 << 20
SMALL_BODIES = {"max_body_bytes": MOST}


def chunked(num: int) -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return (
        head
        + b"10000\r\n"
        + b"x" * 65536
        + b"\r\n"
        + b"".join(b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(num))
        + b"0\r\n\r\n"
    )


@pytest.mark.parametrize(
    "data",
    [post(b"x" * BIG), chunked(BIG >> 16), post(b"x" * BIG, "Connection: close\r\n")],
    ids=["length", "chunked", "close"],
)
def test_a_client_that_sends_all_before_it_reads_gets_the_413(data):
    with running(settings=SMALL_BODIES) as server:
        client = server.open()
        client.sendall(data)
        reply = rest(client)
    assert reply.startswith(b"HTTP/1.1 413") and b"body: larger than 1048576 bytes" in reply and b"--max-body" in reply


def asks_curl(url):
    done = subprocess.run(
        ["curl", "-sS", "-w", "%{http_code}", "-H", "content-type: application/json", "--data-binary", "@-", url],
        input=b"x" * BIG,
        capture_output=True,
        timeout=WAIT_S,
    )
    assert b"request_too_large" in done.stdout, done.stderr
    return int(done.stdout[-3:])


def asks_node(url):
    script = """
    const url = process.argv[1];
    fetch(url, {method: "POST", body: "x".repeat(8 << 20)})
        .then(async r => console.log(r.status, (await r.json()).error.code));
    """
    done = subprocess.run(["node", "-e", script, url], capture_output=True, text=True, timeout=WAIT_S)
    assert "request_too_large" in done.stdout, done.stderr
    return int(done.stdout.split()[0])


def asks_openai(url):
    with openai.OpenAI(base_url=url.removesuffix("/chat/completions"), api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as error:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * BIG}])
    assert error.value.code == "request_too_large"
    return error.value.status_code


CLIENTS = {
    "requests": lambda url: requests.post(url, data=b"x" * BIG, timeout=WAIT_S).status_code,
    "requests, chunked": lambda url: requests.post(url, data=iter([b"x" * 65536] * 128), timeout=WAIT_S).status_code,
    "httpx": lambda url: httpx.post(url, content=b"x" * BIG, timeout=WAIT_S).status_code,
    "httpx, chunked": lambda url: httpx.post(url, content=iter([b"x" * 65536] * 128), timeout=WAIT_S).status_code,
    "openai": asks_openai,
    "curl": asks_curl,
    "node": asks_node,
}


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_see_the_413(name):
    if name in ("curl", "node") and shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    with running(settings=SMALL_BODIES) as server:
        assert CLIENTS[name](server.url + CHAT) == 413


def test_a_body_over_the_limit_in_small_pieces_is_thrown_away_too():
    with running(settings={"max_body_bytes": 100}) as server:
        client = server.open(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
        assert rest(client).startswith(b"HTTP/1.1 413")


def test_a_body_in_pieces_arrives_whole():
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in chat(user="x" * 3000)) + b"0\r\n\r\n"
    with running() as server:
        client = server.open(
            f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + pieces + HEALTH
        )
        assert one(client).startswith(b"HTTP/1.1 200")


def test_a_client_that_never_stops_sending_is_cut():
    with running(settings=SMALL_BODIES, drain_bytes=4 << 20) as server:
        client = server.open(post(length=1 << 40))
        with pytest.raises(OSError):
            for _ in range(10_000):
                client.sendall(b"x" * 65536)


def test_a_refused_client_that_neither_sends_nor_leaves_is_cut():
    with running(settings=SMALL_BODIES, drain_idle_s=0.1) as server:
        client = server.open(post(length=1 << 40))
        server.wait_until(lambda: server.connections.open)
        server.wait_until(lambda: not server.connections.open)
        assert client.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_key_that_is_refused_before_its_body_came_may_ask_again_on_the_same_connection():
    with running(settings={"api_keys": ("key",)}) as server:
        client = server.open(post(length=100_000))
        assert one(client).startswith(b"HTTP/1.1 401")
        client.sendall(b"x" * 100_000 + HEALTH)
        assert one(client).startswith(b"HTTP/1.1 200")


def test_a_client_that_waits_to_send_is_asked_for_its_body():
    with running() as server:
        client = server.open(post(more="Expect: 100-continue\r\n", length=len(chat())))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(chat())
        assert one(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("settings", "status"), [({"api_keys": ("key",)}, b"401"), ({"max_body_bytes": 10}, b"413")])
def test_a_client_that_waits_to_send_is_refused_without_its_body(settings, status):
    with running(settings=settings, drain_idle_s=0.1) as server:
        reply = rest(server.open(post(more="Expect: 100-continue\r\n", length=100)))
    assert reply.startswith(b"HTTP/1.1 " + status) and b"connection: close" in reply


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


# -- many


def test_a_connection_that_asks_nothing_makes_room_for_one_that_asks():
    with running(connections=3) as server:
        idle = [server.open(), server.open(b"GET"), server.open()]
        server.wait_until(lambda: [c.phase for c in server.connections.open] == ["idle", "head", "idle"])
        assert one(server.open(HEALTH)).startswith(b"HTTP/1.1 200")
        assert idle[0].recv(10) == b""  # the oldest


def test_no_connection_over_the_limit_takes_one_that_is_answered(caplog):
    service = Hanging(ANSWER[:1])
    with running(service, connections=2) as server:
        for _ in range(2):
            server.open(post(chat()))
        server.wait_until(lambda: len(service.requests) == 2)
        for _ in range(3):
            reply = rest(server.open(HEALTH))
            assert (
                reply.startswith(b"HTTP/1.1 503") and b"retry-after" in reply and b"all 2 connections are busy" in reply
            )
        assert server.connections.num_refused == 3 and sum("refused" in line for line in lines(caplog)) == 1
        assert not service.is_closed.is_set()


def test_one_address_has_no_more_than_its_share(monkeypatch):
    monkeypatch.setattr("a3b.server.connections.is_loopback", lambda peer: False)
    service = Hanging(ANSWER[:1])
    with running(service, connections=10, per_peer=2) as server:
        for _ in range(2):
            server.open(post(chat()), source="127.0.0.2")
        server.wait_until(lambda: len(service.requests) == 2)
        assert b"of this address" in rest(server.open(HEALTH, source="127.0.0.2"))
        assert one(server.open(HEALTH, source="127.0.0.3")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "::ffff:10.0.0.7"),
        ("::1", "::1"),
        ("", ""),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(host, peer):
    assert peer_of(host) == peer


def test_hundreds_of_silent_connections_hold_up_nobody():
    with running(connections=50) as server:
        for _ in range(300):
            server.open(b"GET /health HTTP/1.1\r\n")
        assert one(server.open(HEALTH)).startswith(b"HTTP/1.1 200")
        server.wait_until(lambda: len(server.connections.open) <= 50)


def test_nothing_is_left_of_connections_that_are_gone():
    with running() as server:
        for data in (HEALTH, post(chat()), post(b"x", length=5), b"rubbish\r\n\r\n"):
            server.told(data)
        server.wait_until(lambda: not server.connections.open)
        assert not server.connections.peers


def test_slow_bodies_make_room_for_others():
    with running(bodies=2, slow_body_s=0.0) as server:
        slow = [server.open(post(b"{", length=50)) for _ in range(2)]
        server.wait_until(lambda: [c.phase for c in server.connections.open] == ["body", "body"])
        assert one(server.open(post(chat()))).startswith(b"HTTP/1.1 200")
        assert b"arrived too slowly" in rest(slow[0])


def test_bodies_that_come_in_time_are_not_given_up_for_others():
    with running(bodies=2, slow_body_s=60.0) as server:
        begun = [server.open(post(chat()[:-1], length=len(chat()))) for _ in range(2)]
        server.wait_until(lambda: [c.phase for c in server.connections.open] == ["body", "body"])
        for data in (post(chat()[:-1], "Connection: close\r\n", len(chat())), post(b"", "Connection: close\r\n", 50)):
            assert b"HTTP/1.1 503" in rest(server.open(data))
        for client in begun:
            client.sendall(chat()[-1:])
            assert one(client).startswith(b"HTTP/1.1 200")


def test_a_body_that_comes_with_its_header_needs_no_place():
    with running(bodies=1, slow_body_s=60.0) as server:
        server.open(post(b"{", length=50))
        server.wait_until(lambda: [c.phase for c in server.connections.open] == ["body"])
        assert one(server.open(post(chat()))).startswith(b"HTTP/1.1 200")


def test_all_bodies_together_have_a_limit():
    service = Hanging(ANSWER[:1])
    with running(service, all_bodies_bytes=len(chat()) + 50) as server:
        server.open(post(chat()))
        assert service.is_hanging.wait(WAIT_S)
        reply = rest(server.open(post(chat(), "Connection: close\r\n")))
        assert reply.startswith(b"HTTP/1.1 503") and b"requests hold" in reply


def test_the_memory_of_a_body_is_free_again_after_the_answer():
    with running(all_bodies_bytes=len(chat()) + 50) as server:
        client = server.open()
        for _ in range(3):
            client.sendall(post(chat()))
            assert one(client).startswith(b"HTTP/1.1 200")


def test_the_sender_that_has_most_slow_bodies_gives_one_first():
    with running(settings={"api_keys": ("a", "b")}, bodies=3, slow_body_s=0.0) as server:
        mine = server.open(post(chat()[:-1], "x-api-key: a\r\n", len(chat())))
        server.wait_until(lambda: len(server.connections.open) == 1)
        theirs = [server.open(post(b"{", "x-api-key: b\r\n", 50)) for _ in range(2)]
        server.wait_until(lambda: [c.phase for c in server.connections.open] == ["body"] * 3)
        assert one(server.open(post(chat(), "x-api-key: b\r\n"))).startswith(b"HTTP/1.1 200")
        assert b"arrived too slowly" in rest(theirs[0])
        mine.sendall(chat()[-1:])
        assert one(mine).startswith(b"HTTP/1.1 200")


def test_metrics_show_connections():
    with running() as server:
        text = httpx.get(server.url + "/metrics").text
    assert "a3b_http_connections 1.0" in text and "a3b_http_connections_refused_total 0.0" in text


def test_a_server_stops_at_once_with_silent_connections_open():
    with running() as server:
        silent = [server.open(), server.open(b"GET"), server.open(post(length=1 << 40))]
        server.wait_until(lambda: len(server.connections.open) == 3)
    assert threading.active_count() < 50 and len(silent) == 3 and not server.connections.open
