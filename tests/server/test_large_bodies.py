"""Bodies beyond the limit, while they are being sent: every client sees the refusal."""

from __future__ import annotations

import shutil
import subprocess

import httpx
import openai
import pytest
import requests

from tests.support.raw_connections import (
    CHAT,
    HEALTH,
    WAIT_S,
    chat,
    one,
    post,
    rest,
    running,
)

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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
