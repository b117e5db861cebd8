"""Bodies of requests while they arrive: how long each may take, how many may be unfinished, how much memory they hold.

When there is no room left, a slow body is given up: one of the sender (key or address) that has the most of them. Enter
at `BodyLimiter.expect`."""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.types import Message, Receive

from a3b.server.errors import ApiError
from a3b.server.limits import RETRY_AFTER_S, ServerLimits

CLOSE = {"connection": "close"}
AT_ONCE_S = 0.1  # a body that arrives with its header needs no place


class BodyLimiter:
    """All bodies of a server that are still arriving."""

    def __init__(self, limits: ServerLimits, max_bytes: int):
        """max_bytes: of one body."""
        self.limits, self.max_bytes = limits, max_bytes
        self.unfinished: dict[LimitedBody, None] = {}  # oldest first
        self.num_bytes = 0

    def expect(self, receive: Receive, sender: str) -> LimitedBody:
        return LimitedBody(self, receive, sender)

    def begin(self, body: LimitedBody) -> bool:
        """Whether there is a place for it."""
        if len(self.unfinished) >= self.limits.bodies and not self._make_room(body):
            return False
        self.unfinished[body] = None
        return True

    def take(self, body: LimitedBody, num_bytes: int) -> None:
        """Raises ApiError if this body, or all of them together, become too large."""
        if body.num_bytes + num_bytes > self.max_bytes:
            raise too_large(self.max_bytes)
        while self.num_bytes + num_bytes > self.limits.all_bodies_bytes:
            if not self._make_room(body):
                raise busy(f"requests hold {self.num_bytes:,} bytes; send the request again later")
        body.num_bytes += num_bytes
        self.num_bytes += num_bytes

    def release(self, body: LimitedBody) -> None:
        self.unfinished.pop(body, None)
        self.num_bytes -= body.num_bytes
        body.num_bytes = 0

    def _make_room(self, newcomer: LimitedBody) -> bool:
        """Give up the oldest slow body of the sender with the most of them. False if none is slow."""
        late = asyncio.get_running_loop().time() - self.limits.slow_body_s
        slow = [body for body in self.unfinished if body.since <= late and body is not newcomer]
        if slow:
            most = Counter(body.sender for body in slow).most_common(1)[0][0]
            next(body for body in slow if body.sender == most).give_up()
        return bool(slow)


class LimitedBody:
    """One body: its `receive` is ASGI's, within the limits."""

    def __init__(self, bodies: BodyLimiter, receive: Receive, sender: str):
        self.bodies, self.sender = bodies, sender
        self.num_bytes = 0
        self.since = 0.0  # when it was first read
        self.is_begun = self.is_complete = self.is_given_up = False
        self._receive = receive
        self._timer: asyncio.Timeout | None = None

    async def receive(self) -> Message:
        """Raises ApiError beyond a limit; 408 if it is a limit of time."""
        if self.is_complete:
            return await self._receive()
        limits, now = self.bodies.limits, asyncio.get_running_loop().time()
        has_place = self.is_begun or self.bodies.begin(self)
        if not self.is_begun:
            self.is_begun, self.since = True, now
        left = self.since + limits.body_s - now
        try:
            async with asyncio.timeout(min(left, limits.body_idle_s) if has_place else AT_ONCE_S) as self._timer:
                message = await self._receive()
        except TimeoutError:
            if not has_place:
                raise self._no_place() from None
            raise self._late(
                f"nothing came for {limits.body_idle_s:g} s"
                if left > limits.body_idle_s
                else f"not complete after {limits.body_s:g} s"
            ) from None
        finally:
            self._timer = None
        if self.is_given_up:
            raise self._late("")
        if message["type"] == "http.request":
            self.bodies.take(self, len(message.get("body", b"")))
        if not message.get("more_body", False):
            self.is_complete = True
            self.bodies.unfinished.pop(self, None)
        elif not has_place:
            raise self._no_place()
        return message

    def _no_place(self) -> ApiError:
        return busy(f"{len(self.bodies.unfinished)} bodies are being received; send the request again")

    def give_up(self) -> None:
        """Make its reader raise ApiError at once."""
        self.bodies.release(self)
        self.is_given_up = True
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())

    def _late(self, why: str) -> ApiError:
        if self.is_given_up:
            why = "arrived too slowly while other requests waited for its place"
        return ApiError(408, f"body: {why}; send the request again", "request_timeout", headers=CLOSE)


def too_large(most: int) -> ApiError:
    message = f"body: larger than {most} bytes; send less, or start the server with a larger --max-body"
    return ApiError(413, message, "request_too_large", headers=CLOSE)


def busy(message: str) -> ApiError:
    return ApiError(503, f"body: {message}", "overloaded", headers={**CLOSE, "retry-after": str(RETRY_AFTER_S)})
