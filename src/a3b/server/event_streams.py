"""Waiting for a service while a client waits for us: several streams at once, silences, clients that disconnect.

Knows no wire format. Enter at `prime_stream`, `collect` and `EventStream` for one stream, at `interleave` and `prime`
for several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from a3b.interface.events import Event, Finished, Started
from a3b.server.errors import ApiError
from a3b.server.sse import FILLER, comment

KEEP_ALIVE_S = 10.0  # longest silence of a stream
T = TypeVar("T")
EventSource = AsyncGenerator[Event, None]
Interleaved = AsyncGenerator[tuple[int, Event] | None, None]


class EventStream(StreamingResponse):
    """Server-sent events. The response ends as soon as the client disconnects; `chunks` is always closed."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
        source: PrimedStream | None = None,
    ):
        """source: what the chunks are made from; closed with them, even if no chunk was ever read."""
        self.chunks, self.source = chunks, source
        head = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
        super().__init__(chunks, media_type="text/event-stream", headers=head)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[FILLER] = comment("")
        try:
            await while_connected(receive, self.stream_response(send))
        finally:
            await self.chunks.aclose()
            if self.source is not None:
                await self.source.aclose()


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. If the client disconnects first, `work` is cancelled at once: raises ClientDisconnect.

    The body of the request must have been read."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


# -- several streams


async def interleave(streams: Sequence[EventSource]) -> Interleaved:
    """(index of the stream, event) in order of arrival; None after each silence of KEEP_ALIVE_S. Closes the streams."""
    pending = {asyncio.ensure_future(anext(stream)): i for i, stream in enumerate(streams)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            for task in sorted(done, key=pending.__getitem__):
                i = pending.pop(task)
                try:
                    event = task.result()
                except StopAsyncIteration:
                    continue
                yield i, event
                pending[asyncio.ensure_future(anext(streams[i]))] = i
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def prime(events: Interleaved, num: int, warnings: list[str] | None = None) -> Interleaved:
    """The same events, once each of `num` streams gave its first one or none of them did for KEEP_ALIVE_S.

    Errors until then are raised here, while they can still be answered with an HTTP status. warnings: collects those
    of the first events."""
    first: list[tuple[int, Event]] = []
    waiting = set(range(num))
    while waiting and (item := await anext(events, None)) is not None:
        first.append(item)
        waiting.discard(item[0])
    if warnings is not None:
        warnings += dict.fromkeys(warnings_of(event for _, event in first))

    async def all_events() -> Interleaved:
        try:
            for item in first:
                yield item
            async for later in events:
                yield later
        finally:
            await events.aclose()

    return all_events()


# -- one stream


class PrimedStream:
    """Events of a stream that has begun; None after each silence. Its owner closes it."""

    def __init__(self, items: Interleaved, source: Interleaved, warnings: list[str]):
        """warnings: those of the first event."""
        self._items, self._source = items, source  # once iterated, `items` reads from `source`
        self.warnings = warnings

    async def __aiter__(self) -> AsyncIterator[Event | None]:
        async for item in self._items:
            yield item and item[1]

    async def aclose(self) -> None:
        await self._items.aclose()
        await self._source.aclose()


async def prime_stream(receive: Receive, stream: EventSource) -> PrimedStream:
    """A stream that gave its first event, or none for KEEP_ALIVE_S. Errors until then are raised here."""
    items = interleave([stream])
    warnings: list[str] = []
    try:
        return PrimedStream(await while_connected(receive, prime(items, 1, warnings)), items, warnings)
    except BaseException:
        await items.aclose()
        raise


async def collect(receive: Receive, stream: EventSource) -> list[Event]:
    """All events of a stream; it is closed if the client disconnects before its end."""

    async def all_events() -> list[Event]:
        async with aclosing(interleave([stream])) as items:
            return [item[1] async for item in items if item is not None]

    return await while_connected(receive, all_events())


def warnings_of(events: Iterable[Event]) -> list[str]:
    """What the request asked for and does not get."""
    return [warning for event in events if isinstance(event, Started) for warning in event.warnings]


def finish_of(events: Sequence[Event]) -> Finished:
    """The last event of a complete answer. Raises ApiError for an answer that broke off."""
    last = events[-1] if events else None
    if not isinstance(last, Finished) or last.reason == "cancelled":
        raise ApiError(503, "the answer broke off on the server; send the request again", "overloaded")
    return last
