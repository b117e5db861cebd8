"""Connections: how many there may be, how long a request may take to arrive, and how each ends, over uvicorn's protocol
of HTTP/1.1.

What uvicorn lacks: time-outs for headers; answers to clients that closed their sending side; refusals that reach a
client which is still sending (the answer, then the end of the stream, then what still comes is thrown away for a while,
because closing at once would reset the connection); a share for each address. Bodies are timed in
`a3b.server.body_limits`. Enter at `config_of`."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import select
import socket
from collections import Counter, deque
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from a3b.server.error_types import DEFAULT_CODE, openai_error
from a3b.server.limits import RETRY_AFTER_S, ServerLimits, is_loopback
from a3b.server.logs import logger, request_line
from a3b.server.sse import FILLER

BACKLOG = 128  # connections that are accepted in one turn of the event loop
TURN_EVENTS = 32  # of HTTP that a connection may make of what it has read, before others have their turn
DATA_EVENTS, EVENT_BYTES = 10_000, 64  # a body may come in so many pieces, and in one more for each so many bytes
MOST_REFUSED = 64  # connections over the limit that get an answer; others are cut
SWEEP_S, FAST_SWEEP_S = 0.5, 0.1
BUSY = ("answer", "body")


def uvicorn_config(app: ASGIApp, connections: ConnectionManager, **more: Any) -> uvicorn.Config:
    """How uvicorn serves `app` within the limits of `connections`."""
    more = {"log_config": None, "log_level": "critical", **more}  # the application logs
    return uvicorn.Config(
        app,
        http=connections.protocol,  # type: ignore[arg-type]  # uvicorn takes any factory, its annotation only classes
        ws="none",
        lifespan="off",
        loop="asyncio",
        access_log=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(connections.limits.idle_s) + 1,
        **more,
    )


class ConnectionManager:
    """All connections of a server. Looks after them twice a second while there are any."""

    def __init__(self, limits: ServerLimits):
        self.limits = limits
        self.open: dict[Connection, None] = {}  # oldest first
        self.leaving: dict[Connection, None] = {}  # over the limit, and told so
        self.peers: Counter[str] = Counter()
        self.num_refused = 0
        self._timer: asyncio.TimerHandle | None = None
        self._behind: deque[Connection] = deque()  # with more events to be made
        self._told_at = 0.0

    def protocol(self, **parts: Any) -> Connection:
        return Connection(self, **parts)

    def admit(self, connection: Connection) -> str:
        """Why the connection is refused, "" if it is not. To make room, the one that has asked nothing for longest is
        cut."""
        self.open[connection] = None
        self.peers[connection.peer] += 1
        self._look_soon(connection.loop)
        limits, peer, why = self.limits, connection.peer, ""
        if limits.per_peer is not None and self.peers[peer] > limits.per_peer and peer and not is_loopback(peer):
            others = [other for other in self.open if other.peer == peer]
            why = f"{limits.per_peer} connections of this address are busy"
        elif len(self.open) > limits.connections:
            others = list(self.open)
            why = f"all {limits.connections} connections are busy"
        if not why or self._evict(others, connection):
            return ""
        self.forget(connection)
        self.leaving[connection] = None
        self.num_refused += 1
        now = connection.loop.time()
        if now - self._told_at > 5:
            self._told_at = now
            logger.warning("connection of %s refused: %s; refused so far: %d", peer, why, self.num_refused)
        return why

    def _evict(self, others: list[Connection], newcomer: Connection) -> bool:
        idle = [other for other in others if other.phase not in BUSY and other is not newcomer]
        if idle:
            min(idle, key=lambda other: other.since).cut()
        return bool(idle)

    def forget(self, connection: Connection) -> None:
        self.leaving.pop(connection, None)
        if self.open.pop(connection, 0) is None:
            self.peers[connection.peer] -= 1
            if not self.peers[connection.peer]:
                del self.peers[connection.peer]

    def _look_soon(self, loop: asyncio.AbstractEventLoop, fast: bool = False) -> None:
        if self._timer is None:
            self._timer = loop.call_later(FAST_SWEEP_S if fast else SWEEP_S, self._look, loop)

    def later(self, connection: Connection) -> None:
        """Let a connection go on after others: one of all in a turn of the event loop, so that a turn stays short."""
        self._behind.append(connection)
        if len(self._behind) == 1:
            connection.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        connection = self._behind.popleft()
        if self._behind:
            connection.loop.call_soon(self._go_on)
        connection.catch_up()

    def hurry(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look_soon(loop, fast=True)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        for connection in [*self.open, *self.leaving]:
            connection.look(now)
        if self.open or self.leaving:
            self._look_soon(loop, fast=any(connection.is_half_closed for connection in self.open))


class Connection(H11Protocol):
    """phase: "idle" (nothing of a request came), "head", "body", "answer", "rest" (of a body that was answered before
    it was complete), "drain" (all is said, the client still sends) or "closing". since, heard: when it began, and the
    last byte came."""

    def __init__(self, manager: ConnectionManager, **parts: Any):
        super().__init__(**parts)
        self.manager, self.limits = manager, manager.limits
        self.conn = self.parser = _Parser(self.limits.head_bytes)
        self.phase, self.since, self.heard = "idle", self.loop.time(), self.loop.time()
        self.is_first = True  # nothing came yet
        self.is_half_closed = self.is_probed = self.is_behind = False
        self.num_unwanted = 0  # bytes after the answer
        self.stuck_since: float | None = None  # the client takes nothing
        self.peer = ""

    # -- what the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.wire = transport
        super().connection_made(_Patient(transport, self))  # type: ignore[arg-type]
        self.peer = peer_of(self.client[0] if self.client else "")
        _keep_alive(transport.get_extra_info("socket"))
        if why := self.manager.admit(self):
            if len(self.manager.leaving) <= MOST_REFUSED:
                self._send_refusal(503, f"{why}; try again later", "overloaded")
            else:
                self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = "closing"
        self.manager.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        if self.phase in ("drain", "rest", "closing"):
            self.num_unwanted += len(data)
            if self.num_unwanted > self.limits.drain_bytes:
                self.cut()
                return
        if self.phase in ("drain", "closing") or self.conn.their_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
            return  # nothing that comes now is a request
        self.is_first = False
        if self.phase == "idle":
            self._enter("head")
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all may close its side and still wait for the answer. True: this side stays open."""
        if self.phase != "answer":
            return False
        self.is_half_closed, self.heard = True, self.loop.time()
        filler = self.scope["state"].get(FILLER)
        if filler and self.cycle.response_started:  # if nobody is there, this brings a reset
            self.wire.write(self.conn.send(h11.Data(data=filler)))
            self.is_probed = True
        self.manager.hurry(self.loop)
        return True

    def pause_writing(self) -> None:
        self.stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck_since = None
        super().resume_writing()

    # -- what uvicorn does

    def handle_events(self) -> None:
        if self.is_behind:
            return
        self.parser.num_left = TURN_EVENTS
        super().handle_events()
        if self.phase in ("drain", "closing"):
            return
        if self.parser.num_left == 0:
            self.is_behind = True
            self.wire.pause_reading()
            self.manager.later(self)
        self._enter(self._phase())
        if (
            self.phase == "answer"
            and self.flow.read_paused
            and len(self.conn.trailing_data[0]) < self.limits.pipelined_bytes
        ):
            self.flow.resume_reading()  # else nobody notices that the client leaves
        self._end_half_closed()

    def catch_up(self) -> None:
        """Go on where a turn ended."""
        self.is_behind = False
        if self.phase not in ("drain", "closing"):
            self.handle_events()
        if self.phase != "closing" and not self.is_behind and not self.flow.read_paused:
            self.wire.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.phase not in ("drain", "closing"):
            self._enter(self._phase())
            self._end_half_closed()

    def send_400_response(self, msg: str) -> None:
        error = self.parser.error
        self._refuse(
            error.error_status_hint if error else 400,
            f"not a request of HTTP/1.1: {error or msg}",
            DEFAULT_CODE,
        )

    def shutdown(self) -> None:
        if self.phase in BUSY:
            super().shutdown()
        else:
            self.cut()

    # -- time

    def look(self, now: float) -> None:
        limits, waited = self.limits, now - self.since
        if self.phase == "idle" and waited > (limits.head_s if self.is_first else limits.idle_s):
            self.cut()
        elif self.phase == "head" and waited > limits.head_s:
            self._refuse(408, f"header: not complete after {limits.head_s:g} s", "request_timeout")
        elif self.phase in ("drain", "rest") and (
            waited > limits.drain_s or now - max(self.heard, self.since) > limits.drain_idle_s
        ):
            self.cut()
        elif self.phase == "closing" and waited > limits.drain_s:
            self.wire.abort()
        elif self.stuck_since is not None and now - self.stuck_since > limits.write_s:
            self.wire.abort()
        elif self.is_half_closed:
            self._look_for_peer(now)

    def _look_for_peer(self, now: float) -> None:
        """After its end of stream: is the client still there? A socket that was closed answers any byte with a reset.
        Before an answer an interim response is such a byte, which HTTP/1.1 lets every client skip."""
        handle = self.wire.get_extra_info("socket").fileno()
        poll = select.poll()
        if handle >= 0:
            poll.register(handle, 0)
        if poll.poll(0):  # POLLERR or POLLHUP
            self.wire.abort()
        elif not self.is_probed and now - self.heard > self.limits.probe_s:
            self.is_probed = True
            if not self.cycle.response_started and self.scope["http_version"] == "1.1":
                self.wire.write(
                    self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))
                )

    # -- ends

    def leave(self) -> None:
        """Close when all is sent; where the client may still be sending, after it stopped."""
        if self.phase in ("drain", "closing"):
            return
        may_send = not self.is_half_closed and self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if may_send or self.phase == "head":
            self._enter("drain")
            self.wire.write_eof()
            self.flow.resume_reading()
        else:
            self._enter("closing")
            self.wire.close()

    def _end_half_closed(self) -> None:
        """No request can come any more; what came is answered, or will never be whole."""
        if self.is_half_closed and not self.is_behind and self.phase != "answer":
            self.transport.close()

    def cut(self) -> None:
        """Close now, whatever the client does."""
        self._enter("closing")
        self._unset_keepalive_if_required()
        self.wire.abort()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer what is wrong before there is a request, or with its framing."""
        logger.info(
            "%s",
            request_line("-", "-", "-", status, None, self.loop.time() - self.since, f"{message} (from {self.peer})"),
        )
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.cut()
                return
        self._send_refusal(status, message, code)

    def _send_refusal(self, status: int, message: str, code: str) -> None:
        body = json.dumps(openai_error(status, message, code)).encode()
        retry = f"retry-after: {RETRY_AFTER_S}\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n{retry}\r\n"
        )
        self.wire.write(head.encode() + body)
        self.phase = "head"  # there may be more of it
        self.leave()

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase, self.since = phase, self.loop.time()

    def _phase(self) -> str:
        if self.cycle is not None and not self.cycle.response_complete:
            return "body" if self.cycle.more_body else "answer"
        if self.conn.their_state is h11.SEND_BODY:
            return "rest"
        return "head" if self.conn.trailing_data[0] else "idle"


class _Parser(h11.Connection):
    """Keeps the last error, refuses bodies in pieces of a few bytes, and has a turn: after `num_left` events it seems
    to have no more."""

    error: h11.RemoteProtocolError | None = None
    num_events = num_bytes = 0  # of data, in this request
    num_left = 0  # events

    def __init__(self, max_head_bytes: int):
        super().__init__(h11.SERVER, max_head_bytes)
        self.max_head_bytes = max_head_bytes

    def next_event(self) -> Any:
        if self.num_left == 0:
            return h11.NEED_DATA
        self.num_left -= 1
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.error = error
            raise
        if isinstance(event, h11.Request):
            self.num_events = self.num_bytes = 0
            # came at once
            if len(event.target) + sum(len(name) + len(value) for name, value in event.headers) > self.max_head_bytes:
                self.error = h11.RemoteProtocolError("the header is too long", error_status_hint=431)
                raise self.error
        elif isinstance(event, h11.Data):
            self.num_events += 1
            self.num_bytes += len(event.data)
            if self.num_events > DATA_EVENTS + self.num_bytes // EVENT_BYTES:
                self.error = h11.RemoteProtocolError("the body comes in too many pieces")
                raise self.error
        return event


class _Patient:
    """The transport as uvicorn has it: closing it is left to the connection."""

    def __init__(self, transport: asyncio.Transport, connection: Connection):
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._connection.leave()

    def resume_reading(self) -> None:
        if not self._connection.is_behind:
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._connection.phase in ("drain", "closing") or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._transport.write(data)


def peer_of(host: str) -> str:
    """Who shares a limit: an address, or all that one network of IPv6 gives its user."""
    if ":" in host and not host.startswith("::ffff:"):
        with suppress(ValueError):
            return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False)) if host != "::1" else host
    return host


def _keep_alive(sock: Any) -> None:
    """Let the system notice within minutes that a machine on the other side is gone."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 6)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
