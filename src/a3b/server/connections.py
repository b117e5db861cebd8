"""Connections: how many there may be, how long a request may take to arrive, and how each connection ends; on top of
uvicorn's HTTP/1.1 protocol.

What uvicorn lacks: timeouts for headers; answers to clients that closed their sending side; refusals that reach a
client which is still sending (the answer, then the end of the stream, then whatever arrives is discarded for a while,
because closing at once would reset the connection); a share for each address. `a3b.server.body_limits` times bodies.

A connection is always in one of these states (`Phase`):

    phase    meaning                                 next phase, and when                         if it takes too long
    IDLE     no byte of a request has arrived        HEAD: the first byte                         close (head_s, idle_s)
    HEAD     request line and headers are arriving   BODY or ANSWER: they are complete            408 (head_s)
    BODY     the body is arriving                    ANSWER: complete; REST: answered before that see body_limits
    ANSWER   the answer is being written             IDLE or HEAD: it is complete                 close (write_s)
    REST     of a body answered before its end       IDLE or HEAD: the body is complete           close (drain_*)
    DRAIN    our side is closed, input is discarded  CLOSING: the client closes its side too      close (drain_*)
    CLOSING  the transport closes once all is sent   the connection is gone                       abort (drain_s)

From any phase, an error answer leads to DRAIN or CLOSING (`_refuse`, `close_gracefully`), and an eviction, a timeout or
too many unwanted bytes to CLOSING (`close_now`). A client may close its sending side and wait for its answer
(`is_half_closed`): it is then probed, and the connection closes after the answer. Enter at `uvicorn_config`."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from a3b.server.error_types import DEFAULT_CODE, openai_error
from a3b.server.http_parser import BoundedParser
from a3b.server.limits import RETRY_AFTER_S, ServerLimits, is_loopback, peer_of
from a3b.server.logs import logger, request_line
from a3b.server.sse import FILLER

BACKLOG = 128  # connections accepted in one turn of the event loop
TURN_EVENTS = 32  # HTTP events that a connection may make of its input before others have their turn
MOST_REFUSED = 64  # connections over the limit that get an answer; others are closed at once
SWEEP_S, FAST_SWEEP_S = 0.5, 0.1  # between two checks of all connections; fast while one is half closed
WARNING_S = 5  # between two warnings about refused connections


class Phase(StrEnum):
    """The state of a connection; see the table at the top."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    REST = "rest"
    DRAIN = "drain"
    CLOSING = "closing"


BUSY = (Phase.BODY, Phase.ANSWER)  # there is a request, and no other connection may take its place
ENDING = (Phase.DRAIN, Phase.CLOSING)  # nothing that arrives is a request
UNWANTED = (Phase.REST, *ENDING)  # what arrives is counted and discarded


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
    """All connections of a server: admits and evicts them, checks their times, and lets them take turns."""

    def __init__(self, limits: ServerLimits):
        self.limits = limits
        self.open: dict[Connection, None] = {}  # oldest first
        self.refused: dict[Connection, None] = {}  # over a limit, and about to close
        self.peers: Counter[str] = Counter()
        self.num_refused = 0
        self._timer: asyncio.TimerHandle | None = None
        self._queue: deque[Connection] = deque()  # with input left from their last turn
        self._warned_at = 0.0

    def protocol(self, **parts: Any) -> Connection:
        """uvicorn's factory of connections."""
        return Connection(self, **parts)

    # -- admission

    def admit(self, connection: Connection) -> str:
        """Why the connection is refused; "" if it is admitted. The longest idle one is closed to make room."""
        self.open[connection] = None
        self.peers[connection.peer] += 1
        self._schedule_sweep(connection.loop)
        limits, peer = self.limits, connection.peer
        if limits.per_peer is not None and self.peers[peer] > limits.per_peer and peer and not is_loopback(peer):
            rivals = [other for other in self.open if other.peer == peer]
            why = f"{limits.per_peer} connections of this address are busy"
        elif len(self.open) > limits.connections:
            rivals = list(self.open)
            why = f"all {limits.connections} connections are busy"
        else:
            return ""
        if self._evict(rivals, connection):
            return ""
        self.forget(connection)
        self.refused[connection] = None
        self.num_refused += 1
        self._warn(connection, why)
        return why

    def _evict(self, rivals: list[Connection], newcomer: Connection) -> bool:
        """Whether one of the rivals was idle and is closed."""
        idle = [other for other in rivals if other.phase not in BUSY and other is not newcomer]
        if idle:
            min(idle, key=lambda other: other.since).close_now()
        return bool(idle)

    def _warn(self, connection: Connection, why: str) -> None:
        now = connection.loop.time()
        if now - self._warned_at > WARNING_S:
            self._warned_at = now
            logger.warning("connection of %s refused: %s; refused so far: %d", connection.peer, why, self.num_refused)

    def forget(self, connection: Connection) -> None:
        self.refused.pop(connection, None)
        if connection in self.open:
            del self.open[connection]
            self.peers[connection.peer] -= 1
            if not self.peers[connection.peer]:
                del self.peers[connection.peer]

    # -- turns

    def enqueue(self, connection: Connection) -> None:
        """Let a connection continue after others. One has its turn per iteration of the event loop, which stays
        short."""
        self._queue.append(connection)
        if len(self._queue) == 1:
            connection.loop.call_soon(self._run_next)

    def _run_next(self) -> None:
        connection = self._queue.popleft()
        if self._queue:
            connection.loop.call_soon(self._run_next)
        connection.take_turn()

    # -- times

    def sweep_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._schedule_sweep(loop, is_fast=True)

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop, is_fast: bool = False) -> None:
        if self._timer is None:
            self._timer = loop.call_later(FAST_SWEEP_S if is_fast else SWEEP_S, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        for connection in [*self.open, *self.refused]:
            connection.check_time(now)
        if self.open or self.refused:
            self._schedule_sweep(loop, is_fast=any(connection.is_half_closed for connection in self.open))


class Connection(H11Protocol):
    """One connection: uvicorn's protocol with the phases of the table at the top.

    since: when the phase began. heard: when the last byte arrived. Both in seconds of the event loop's clock."""

    def __init__(self, manager: ConnectionManager, **parts: Any):
        super().__init__(**parts)
        self.manager, self.limits = manager, manager.limits
        self.conn = self.parser = BoundedParser(self.limits.head_bytes)
        self.phase, self.since, self.heard = Phase.IDLE, self.loop.time(), self.loop.time()
        self.is_first = True  # nothing has arrived yet
        self.is_half_closed = False  # the client closed its sending side and waits for the answer
        self.is_probed = False  # since then, it was sent a byte
        self.is_queued = False  # it waits for its turn with input left
        self.num_unwanted = 0  # bytes received after the answer
        self.stuck_since: float | None = None  # since when the client reads nothing
        self.peer = ""

    # -- events of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's is narrower
        self.wire = transport
        super().connection_made(_GracefulTransport(transport, self))  # type: ignore[arg-type]  # wraps a transport
        self.peer = peer_of(self.client[0] if self.client else "")
        _keep_alive(transport.get_extra_info("socket"))
        if why := self.manager.admit(self):
            if len(self.manager.refused) <= MOST_REFUSED:
                self._send_error(503, f"{why}; try again later", "overloaded")
            else:
                self.close_now()

    def connection_lost(self, exc: Exception | None) -> None:
        self.phase = Phase.CLOSING
        self.manager.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        if self.phase in UNWANTED:
            self.num_unwanted += len(data)
            if self.num_unwanted > self.limits.drain_bytes:
                self.close_now()
                return
        if self.phase in ENDING or self.conn.their_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR):
            return
        self.is_first = False
        if self.phase == Phase.IDLE:
            self._enter(Phase.HEAD)
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's returns nothing
        """A client that has sent everything may close its side and wait for the answer. True keeps our side open."""
        if self.phase != Phase.ANSWER:
            return False
        self.is_half_closed, self.heard = True, self.loop.time()
        filler = self.scope["state"].get(FILLER)
        if filler and self.cycle.response_started:  # a client that is gone answers this with a reset
            self.wire.write(self.conn.send(h11.Data(data=filler)))
            self.is_probed = True
        self.manager.sweep_soon(self.loop)
        return True

    def pause_writing(self) -> None:
        self.stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck_since = None
        super().resume_writing()

    # -- steps of uvicorn

    def handle_events(self) -> None:
        if self.is_queued:
            return
        self.parser.num_left = TURN_EVENTS
        super().handle_events()
        if self.phase in ENDING:
            return
        if self.parser.num_left == 0:
            self.is_queued = True
            self.wire.pause_reading()
            self.manager.enqueue(self)
        self._enter(self._phase_of_request())
        num_pipelined = len(self.conn.trailing_data[0])
        if self.phase == Phase.ANSWER and self.flow.read_paused and num_pipelined < self.limits.pipelined_bytes:
            self.flow.resume_reading()  # otherwise a client that disconnects goes unnoticed
        self._close_half_closed()

    def take_turn(self) -> None:
        """Handle the input that the last turn left."""
        self.is_queued = False
        if self.phase not in ENDING:
            self.handle_events()
        if self.phase != Phase.CLOSING and not self.is_queued and not self.flow.read_paused:
            self.wire.resume_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.phase not in ENDING:
            self._enter(self._phase_of_request())
            self._close_half_closed()

    def send_400_response(self, msg: str) -> None:
        error = self.parser.error
        status = error.error_status_hint if error else 400
        self._refuse(status, f"not an HTTP/1.1 request: {error or msg}", DEFAULT_CODE)

    def shutdown(self) -> None:
        if self.phase in BUSY:
            super().shutdown()
        else:
            self.close_now()

    # -- phases

    def _enter(self, phase: Phase) -> None:
        if phase != self.phase:
            self.phase, self.since = phase, self.loop.time()

    def _phase_of_request(self) -> Phase:
        """The phase that the state of the request and of its answer amounts to."""
        if self.cycle is not None and not self.cycle.response_complete:
            return Phase.BODY if self.cycle.more_body else Phase.ANSWER
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.REST
        return Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE

    # -- time

    def check_time(self, now: float) -> None:
        if end := self._overdue(now):
            end()
        elif self.stuck_since is not None and now - self.stuck_since > self.limits.write_s:
            self.wire.abort()
        elif self.is_half_closed:
            self._probe(now)

    def _overdue(self, now: float) -> Callable[[], None] | None:
        """What to do about a phase that takes too long: the last column of the table at the top."""
        limits, waited = self.limits, now - self.since
        match self.phase:
            case Phase.IDLE if waited > (limits.head_s if self.is_first else limits.idle_s):
                return self.close_now
            case Phase.HEAD if waited > limits.head_s:
                return self._refuse_slow_head
            case Phase.REST | Phase.DRAIN:
                is_silent = now - max(self.heard, self.since) > limits.drain_idle_s
                return self.close_now if is_silent or waited > limits.drain_s else None
            case Phase.CLOSING if waited > limits.drain_s:
                return self.wire.abort
        return None

    def _refuse_slow_head(self) -> None:
        self._refuse(408, f"header: not complete after {self.limits.head_s:g} s", "request_timeout")

    def _probe(self, now: float) -> None:
        """Find out whether a half-closed client is still there: a closed socket answers any byte with a reset.

        Before the answer that byte is an interim response, which HTTP/1.1 lets every client skip."""
        handle = self.wire.get_extra_info("socket").fileno()
        poll = select.poll()
        if handle >= 0:
            poll.register(handle, 0)
        if poll.poll(0):  # POLLERR or POLLHUP
            self.wire.abort()
        elif not self.is_probed and now - self.heard > self.limits.probe_s:
            self.is_probed = True
            if not self.cycle.response_started and self.scope["http_version"] == "1.1":
                interim = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                self.wire.write(self.conn.send(interim))

    # -- ends

    def close_gracefully(self) -> None:
        """Close once all is sent; if the client may still be sending, once it stopped."""
        if self.phase in ENDING:
            return
        may_send = not self.is_half_closed and self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if may_send or self.phase == Phase.HEAD:
            self._enter(Phase.DRAIN)
            self.wire.write_eof()
            self.flow.resume_reading()
        else:
            self._enter(Phase.CLOSING)
            self.wire.close()

    def close_now(self) -> None:
        """Close whatever the client does; unsent data is dropped."""
        self._enter(Phase.CLOSING)
        self._unset_keepalive_if_required()
        self.wire.abort()

    def _close_half_closed(self) -> None:
        """No further request can arrive; close once those that did are answered."""
        if self.is_half_closed and not self.is_queued and self.phase != Phase.ANSWER:
            self.transport.close()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer an error of the framing, or one before there is a request. Ends an answer that is being written."""
        reason = f"{message} (from {self.peer})"
        logger.info("%s", request_line("-", "-", "-", status, None, self.loop.time() - self.since, reason))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.close_now()
                return
        self._send_error(status, message, code)

    def _send_error(self, status: int, message: str, code: str) -> None:
        body = json.dumps(openai_error(status, message, code)).encode()
        retry = f"retry-after: {RETRY_AFTER_S}\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n{retry}\r\n"
        )
        self.wire.write(head.encode() + body)
        self.phase = Phase.HEAD  # the client may be sending more of it
        self.close_gracefully()


class _GracefulTransport:
    """The transport that uvicorn sees: closing it is left to the connection."""

    def __init__(self, transport: asyncio.Transport, connection: Connection):
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._connection.close_gracefully()

    def resume_reading(self) -> None:
        if not self._connection.is_queued:
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._connection.phase in ENDING or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._transport.write(data)


def _keep_alive(sock: Any) -> None:
    """Let the system notice within minutes that the other machine is gone."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 6)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
