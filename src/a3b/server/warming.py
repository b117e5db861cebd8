"""/v1/warm: reads what the first requests of a client have in common, so that its next first request finds it.

A client's instructions are the same in every directory and on every day up to a point, and a state can be restored only
where it was kept. So the requests that this client would send (two, from different directories) are made into tokens as
their own endpoint would do it. The beginning that they share, cut at the start of a line, is read, and the state is
kept right there, as that of a system turn is. Nothing is answered, and no request is remembered. `WARM` says what
happens to each field. Enter at `routes`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.interface.events import Event, Reading, Started, Usage
from a3b.interface.request import Request
from a3b.server.anthropic.messages_request import read_request
from a3b.server.anthropic.threads import Threads
from a3b.server.context import ApiContext, namespace, recording_usage, request_id, routes_at_both_roots
from a3b.server.errors import ApiError, error_body, to_api_error
from a3b.server.event_streams import (
    EventStream,
    PrimedStream,
    collect,
    finish_of,
    prime_stream,
    while_connected,
)
from a3b.server.fields import FieldRules, Fields
from a3b.server.openai.chat_request import read_chat
from a3b.server.openai.responses_request import read_response_request
from a3b.server.request_body import read_json
from a3b.server.sse import json_response, sse

LEAST_REQUESTS, MOST_REQUESTS = 2, 8
LEAST_TOKENS = 64  # in common; fewer are no instructions
LINE_TOKENS = 512  # within which the start of a line is looked for
WRITING_S = 60.0  # waited until the state is on the disk
LOOK_S = 0.02
PATHS = ("/v1/messages", "/v1/chat/completions", "/v1/responses")
WARM = FieldRules(
    read={
        "requests": "2 to 8 requests of one client, as they would be sent from different directories",
        "read": "false: nothing is read; the answer says what is there already. Default true",
        "stream": "true: server-sent events tell how far it is",
    }
)
WARM_REQUEST = FieldRules(
    read={
        "path": "`/v1/messages`, `/v1/chat/completions` or `/v1/responses`",
        "body": "the request, as that endpoint takes it",
    }
)


@dataclass(frozen=True)
class _Warming:
    """What was asked, and the prompts' tokens."""

    prompts: tuple[int, ...]  # tokens of each
    request: Request  # that reads what they share
    look: Request  # that has one more token: states are looked for before the last one
    stream: bool
    reads: bool

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt or ())


def routes(api: ApiContext) -> list[Route]:
    threads = Threads(api.stored.recorder)

    async def warm(http: HttpRequest) -> Response:
        """Reads what the first requests of a client have in common, and keeps the state right there"""
        fields, requests = await read_json(http, lambda body: _read(body, api, threads, http))
        begun = time.perf_counter()
        warming = await while_connected(http.receive, _common(api, fields, requests, http))
        known = await while_connected(http.receive, _started(api.service.stream(warming.look)))
        if not warming.reads or known.cached_tokens >= warming.num_tokens:
            return json_response(_told(warming, known, begun))
        stream = recording_usage(http, api.service.stream(warming.request))
        if warming.stream:
            items = await prime_stream(http.receive, stream)
            return EventStream(_server_sent(api, warming, items, begun, request_id(http)), source=items)
        finished = finish_of(await collect(http.receive, stream))
        on_disk = await while_connected(http.receive, _written(api))
        return json_response(_told(warming, finished.usage, begun, on_disk))

    return routes_at_both_roots([("/warm", warm, "POST")])


def _read(body: Any, api: ApiContext, threads: Threads, http: HttpRequest) -> tuple[Fields, list[Request]]:
    fields = Fields(body)
    WARM.check(fields)
    given = fields.items("requests")
    if not LEAST_REQUESTS <= len(given) <= MOST_REQUESTS:
        told = f"requests: {len(given)}; expected {LEAST_REQUESTS} to {MOST_REQUESTS} of one client"
        raise ApiError(400, told, field="requests")
    requests = []
    for i, one in enumerate(given):
        item = Fields(one, f"requests[{i}]")
        WARM_REQUEST.check(item)
        path = item.one_of("path", PATHS)
        inner = item.object("body")
        if path is None or inner is None:
            raise ApiError(400, f"{item.where}: expected a path and a body", field=item.where)
        if path == "/v1/messages":
            requests.append(read_request(dict(inner), api, threads, http).request)
        elif path == "/v1/chat/completions":
            requests.append(read_chat(dict(inner), namespace(http), request_id(http)).requests[0])
        else:
            requests.append(read_response_request(dict(inner), api, http).request)
    return fields, requests


async def _common(api: ApiContext, fields: Fields, requests: Sequence[Request], http: HttpRequest) -> _Warming:
    prompts = [await api.service.render(request) for request in requests]
    num = _shared_tokens(api, prompts)
    if num < LEAST_TOKENS:
        told = f"requests: their prompts share {num} tokens; expected requests of one client, at least {LEAST_TOKENS}"
        raise ApiError(400, told, field="requests")
    request = Request(
        prompt=prompts[0][:num],
        only_reads=True,
        begins_many=True,
        namespace=namespace(http),
        request_id=request_id(http),
    )
    look = replace(request, prompt=prompts[0][: num + 1], begins_many=False)
    lengths = tuple(len(ids) for ids in prompts)
    return _Warming(lengths, request, look, fields.boolean("stream"), fields.boolean("read", True))


def _shared_tokens(api: ApiContext, prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, up to the start of a line: what follows in the line may become part of the
    last token."""
    num = next((i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), min(map(len, prompts)))
    num = min(num, len(prompts[0]) - 1)
    for end in range(num, max(num - LINE_TOKENS, 0), -1):
        if api.service.decode(prompts[0][end - 1 : end]).endswith("\n"):
            return end
    return max(num - 1, 0)


async def _started(stream: AsyncGenerator[Event, None]) -> Usage:
    """What the cache has; nothing is computed after that."""
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, Started):
                return event.usage
    raise ApiError(503, "the request broke off on the server; send it again", "overloaded")


async def _written(api: ApiContext) -> bool:
    """Wait until the store has written everything; whether it has, and there is one."""
    deadline = time.monotonic() + WRITING_S
    while (pending := api.service.metrics().get("store_pending")) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)
    return pending == 0 and not api.service.metrics().get("store_trouble")


def _told(warming: _Warming, usage: Usage, begun: float, on_disk: bool | None = None) -> dict[str, Any]:
    """on_disk: whether what was read survives a restart; None if nothing was read."""
    return {
        "object": "warm",
        "prompt_tokens": list(warming.prompts),
        "shared_tokens": warming.num_tokens,
        "cached_tokens": usage.cached_tokens,
        "read_tokens": 0 if on_disk is None else warming.num_tokens - usage.cached_tokens,
        "on_disk": on_disk,
        "seconds": round(time.perf_counter() - begun, 3),
    }


async def _server_sent(
    api: ApiContext, warming: _Warming, items: PrimedStream, begun: float, id: str
) -> AsyncGenerator[bytes, None]:
    last: Event | None = None
    try:
        async for item in items:
            last = item if item is not None else last
            if isinstance(item, Reading):
                yield sse({"object": "warm.progress", "read": item.done, "of": item.total})
        finished = finish_of([last] if last else [])
        yield sse(_told(warming, finished.usage, begun, await _written(api)))
    except Exception as error:
        yield sse(error_body(to_api_error(error, id), "/v1/warm", id))
