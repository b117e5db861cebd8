"""What all wire formats share: refusals, reading of fields, streams of events. Knows no particular API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from a3b.errors import A3BError
from a3b.events import Event
from a3b.requests import Request

KEEP_ALIVE_S = 10.0  # longest silence of a stream
T = TypeVar("T")


class Service(Protocol):
    """What answers requests; `a3b.service` in a server, a script in tests."""

    model: str  # the name clients use
    context: int  # tokens

    def stream(self, request: Request) -> AsyncIterator[Event]:
        """Started, Reading*, deltas, Finished. A refusal is an A3BError before the first event; closing the iterator cancels."""

    async def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt that `stream` would read."""

    async def render(self, request: Request) -> list[int]:
        """The ids of that prompt."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a control token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises TokenizerError for those that the vocabulary does not have."""

    def health(self) -> dict[str, Any]:
        """At least `status`: "ok" once requests can be answered."""

    def metrics(self) -> Mapping[str, float]:
        """Numbers for /metrics by name; what ends in _total counts up."""


class Refusal(A3BError):
    """A request that gets an error of HTTP: `status`, and a `code` for programs; `field` is the one at fault."""

    def __init__(self, status: int, message: str, code: str = "invalid_request_error", field: str | None = None,
                 headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.field, self.headers = status, code, field, dict(headers or {})


class Fields:
    """A JSON object of a request, read field by field; each wrong value is refused by its name."""

    def __init__(self, body: Any, where: str = ""):
        if not isinstance(body, Mapping):
            raise Refusal(400, f"{where or 'body'}: expected a JSON object, found {kind_of(body)}", field=where or None)
        self.body, self.where = body, where

    def name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def fail(self, key: str, expected: str) -> Refusal:
        found = json.dumps(self.body.get(key), ensure_ascii=False, default=str)
        return Refusal(400, f"{self.name(key)}: {found[:120]}; expected {expected}", field=self.name(key))

    def get(self, key: str, kind: type | tuple[type, ...], expected: str, default: Any = None) -> Any:
        """The value, `default` if it is absent or null. A bool is no number."""
        value = self.body.get(key)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.fail(key, expected)
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        return self.get(key, str, "text", default)

    def flag(self, key: str, default: bool = False) -> bool:
        return self.get(key, bool, "true or false", default)

    def whole(self, key: str, default: int | None = None, least: int = 0) -> int | None:
        value = self.get(key, int, f"a whole number of at least {least}", default)
        if value is not None and value < least:
            raise self.fail(key, f"a whole number of at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float | None:
        return self.get(key, (int, float), "a number", default)

    def choice(self, key: str, known: Collection[str]) -> str | None:
        value = self.text(key)
        if value is not None and value not in known:
            raise self.fail(key, "one of " + ", ".join(known))
        return value

    def items(self, key: str) -> list[Any]:
        return self.get(key, list, "a list", [])

    def object(self, key: str) -> Mapping[str, Any] | None:
        return self.get(key, Mapping, "an object")

    def refuse(self, unsupported: Mapping[str, Callable[[Any], bool] | None]) -> None:
        """400 for fields that would change the answer and are not implemented; a function says which values do no harm."""
        for key, harmless in unsupported.items():
            value = self.body.get(key)
            if value is not None and not (harmless and harmless(value)):
                raise Refusal(400, f"{self.name(key)}: not supported by this server; leave it out", "unsupported_parameter", self.name(key))


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event; text is sent as it is, anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return _utf8((f"event: {event}\n" if event else "") + f"data: {text}\n\n")


def comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection alive."""
    return f": {text}\n\n".encode()


def _utf8(text: str) -> bytes:
    """A lone surrogate, which UTF-8 has not, is written as JSON escapes it."""
    return text.encode("utf-8", "backslashreplace")


def event_stream(chunks: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None) -> Response:
    """Ends as soon as the client goes away; `chunks` is closed in any case."""
    head = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
    return _EventStream(chunks, media_type="text/event-stream", headers=head)


class _EventStream(StreamingResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self.stream_response(send))
        finally:
            await self.body_iterator.aclose()


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return _Json(value, status, dict(headers or {}))


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return _utf8(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


# -- waiting for the service


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled at once if the client goes away first: then ClientDisconnect.

    The body of the request must have been read."""

    async def departure() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(departure())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def interleave(streams: Sequence[AsyncIterator[Event]]) -> AsyncGenerator[tuple[int, Event] | None, None]:
    """(index of the stream, event) as they come; None whenever nothing came for KEEP_ALIVE_S. Closes the streams at its end."""
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


async def begun(events: AsyncGenerator[tuple[int, Event] | None, None], num: int) -> AsyncGenerator[tuple[int, Event] | None, None]:
    """The same events, once each of `num` streams gave one or nothing came for a while.

    A refusal until then is raised here, so that it can still be answered with a status of HTTP."""
    first, waiting = [], set(range(num))
    while waiting and (item := await anext(events, None)) is not None:
        first.append(item)
        waiting.discard(item[0])

    async def all_events() -> AsyncGenerator[tuple[int, Event] | None, None]:
        try:
            for item in first:
                yield item
            async for item in events:
                yield item
        finally:
            await events.aclose()

    return all_events()
