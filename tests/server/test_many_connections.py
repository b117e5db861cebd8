"""Many connections, and many bodies, over a real socket: what they may take, and who gives way."""

from __future__ import annotations

import threading

import httpx
import pytest

from a3b.server.limits import peer_of
from tests.support.raw_connections import (
    ANSWER,
    HEALTH,
    WAIT_S,
    chat,
    lines,
    one,
    post,
    rest,
    running,
)
from tests.support.serving import Hanging

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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
