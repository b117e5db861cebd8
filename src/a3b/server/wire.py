"""What all wire formats share: refusals, reading of fields, server-sent events. Knows no particular API."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse

from a3b.errors import A3BError, ContextError, ConversationError, OverloadedError, TemplateError, TokenizerError, UsageError
from a3b.events import Event, Finished, Usage
from a3b.requests import Request

KEEP_ALIVE_S = 10.0  # longest silence of a stream
RETRY_AFTER_S = 5
MAX_DEPTH = 100  # of lists and objects inside each other
EFFORTS: Mapping[str, tuple[bool, int | None]] = {  # effort: (think, tokens of thinking at most)
    "none": (False, None), "minimal": (True, 1024), "low": (True, 4096), "medium": (True, 16384),
    "high": (True, None), "xhigh": (True, None), "max": (True, None),
}  # fmt: skip


class Service(Protocol):
    """What answers requests; `a3b.service` in a server, a script in tests."""

    model: str  # the name clients use
    context: int  # tokens

    def stream(self, request: Request) -> AsyncIterator[Event]:
        """Started, Reading*, deltas, Finished. A refusal is an A3BError before the first event; closing the iterator cancels."""

    async def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt that `stream` would read."""


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

    def need(self, key: str) -> str:
        """A text that must be there."""
        if self.body.get(key) is None:
            raise Refusal(400, f"{self.name(key)}: missing; expected text", field=self.name(key))
        return self.text(key) or ""

    def one_of(self, key: str, allowed: Sequence[str], default: str | None = None) -> str | None:
        value = self.text(key, default)
        if value is not None and value not in allowed:
            raise self.fail(key, "one of " + ", ".join(allowed))
        return value

    def number(self, key: str, default: float | None = None) -> float | None:
        value = self.get(key, (int, float), "a number", default)
        if value is not None and abs(value) > 1e300:
            raise self.fail(key, "a number")
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


async def read_json(request: HttpRequest) -> Any:
    """The body as JSON that can be sent back: no NaN, no half surrogate pairs, no endless nesting. Raises Refusal."""
    try:
        text = (await request.body()).decode()
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # pairs are joined by now; what is left is no text
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"body: not JSON ({why}); send a JSON object") from None
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level if isinstance(item, dict | list)
                 for child in (item.values() if isinstance(item, dict) else item)]  # fmt: skip
        if not level:
            return value
    raise Refusal(400, f"body: nested deeper than {MAX_DEPTH} levels; send flatter JSON")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event; text is sent as it is, anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ((f"event: {event}\n" if event else "") + f"data: {text}\n\n").encode("utf-8", "replace")


def comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection alive."""
    return f": {text}\n\n".encode()


def event_stream(chunks: AsyncIterator[bytes], headers: Mapping[str, str] | None = None, source: Any = None) -> Response:
    """An answer of server-sent events. source: what `chunks` are made from; it is closed when the answer ends, even before its first."""
    head = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
    response = _EventStream(chunks, media_type="text/event-stream", headers=head)
    response.source = source
    return response


class _EventStream(StreamingResponse):
    """Closes what it reads from however it ends, so that a client's leaving reaches the engine at once."""

    source: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _close(self.body_iterator)
            await _close(self.source)  # a generator that never began closes nothing


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(value, status, dict(headers or {}))


# -- driving a service

_END: Any = object()


async def alive(stream: AsyncIterator[Event], silence_s: float | None = None) -> AsyncIterator[Event | None]:
    """Events of a stream as they come, None after each silence. The stream is closed when this is."""
    pending: asyncio.Task | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(stream))
            done, _ = await asyncio.wait({pending}, timeout=KEEP_ALIVE_S if silence_s is None else silence_s)
            if not done:
                yield None
                continue
            task, pending = pending, None
            if (event := task.result()) is _END:
                return
            yield event
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        await _close(stream)


class Opened:
    """Events of a stream that has begun, None after each silence; closing it closes the stream."""

    def __init__(self, items: AsyncIterator[Event | None], first: Any):
        self._items, self._first = items, [] if first is _END else [first]

    def __aiter__(self) -> Opened:
        return self

    async def __anext__(self) -> Event | None:
        return self._first.pop() if self._first else await anext(self._items)

    async def aclose(self) -> None:
        await _close(self._items)


async def opened(stream: AsyncIterator[Event], silence_s: float | None = None) -> Opened:
    """`alive` that has already waited for its first event: a refusal is raised here, while a status of HTTP can still tell it.

    After a silence it waits no longer; a later refusal is raised where the events are read."""
    items = alive(stream, silence_s)
    return Opened(items, await anext(items, _END))


async def collect(request: HttpRequest, stream: AsyncIterator[Event]) -> list[Event]:
    """All events of a stream, which is closed if the client leaves before its end."""
    reading, leaving = asyncio.create_task(_all(stream)), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise Refusal(499, "the client left before the answer was complete")
        return reading.result()
    finally:
        for task in (reading, leaving):
            task.cancel()
        await asyncio.wait({reading, leaving})


async def _next(stream: AsyncIterator[Event]) -> Any:
    return await anext(stream, _END)


async def _all(stream: AsyncIterator[Event]) -> list[Event]:
    try:
        return [event async for event in stream]
    finally:
        await _close(stream)


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _close(stream: Any) -> None:
    if hasattr(stream, "aclose"):
        await stream.aclose()


def finish_of(events: Sequence[Event]) -> Finished:
    """The last event of a complete answer. Raises Refusal for an answer that broke off."""
    last = events[-1] if events else None
    if not isinstance(last, Finished) or last.reason == "cancelled":
        raise Refusal(503, "the answer broke off on the server; send the request again", "overloaded")
    return last


def as_refusal(error: A3BError) -> Refusal:
    """Any of our errors as an answer of HTTP."""
    match error:
        case Refusal():
            return error
        case OverloadedError():
            return Refusal(429, str(error), "rate_limit_exceeded", headers={"retry-after": str(RETRY_AFTER_S)})
        case ContextError():
            return Refusal(400, str(error), "context_length_exceeded")
        case UsageError() | ConversationError() | TemplateError() | TokenizerError():
            return Refusal(400, str(error))
    return Refusal(500, str(error), "server_error")


Handler = Callable[[HttpRequest], Awaitable[Response]]


def guarded(handler: Handler, answer: Callable[[HttpRequest, Refusal], Response]) -> Handler:
    """A handler whose refusals become answers in the form of its API."""

    @functools.wraps(handler)
    async def guard(request: HttpRequest) -> Response:
        try:
            return await handler(request)
        except A3BError as error:
            return answer(request, as_refusal(error))

    return guard


# -- what we tell beyond an API


def report(usage: Usage, thinking_stop: str, warnings: Sequence[str]) -> dict[str, Any]:
    """The `a3b` object of an answer."""
    return {"cache": asdict(usage.cache), "thinking_in_context": asdict(usage.thinking),
            "thinking_stop_reason": thinking_stop or None, "warnings": list(warnings)}  # fmt: skip


def warning_headers(warnings: Sequence[str], most: int = 5) -> dict[str, str]:
    """The header x-a3b-warnings: the first few, in ASCII on one line; none without warnings."""
    if not warnings:
        return {}
    told = [*warnings[:most], *([f"and {len(warnings) - most} more"] if len(warnings) > most else [])]
    line = re.sub(r"[^ -~]", "?", "; ".join(text[:200] for text in told))
    return {"x-a3b-warnings": line}
