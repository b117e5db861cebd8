"""What the handlers of a request share: the server's parts, and what the middleware knows about the request. Enter at
`ApiContext`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from a3b.interface.events import Event, Finished, Started, Usage
from a3b.server.response_store import ResponseStore
from a3b.server.service_protocol import ServiceProtocol
from a3b.server.thinking_signatures import ThinkingSigner

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ApiContext:
    """What the routes of an API are made from."""

    service: ServiceProtocol
    signer: ThinkingSigner
    stored: ResponseStore


def routes_at_both_roots(handlers: Sequence[tuple[str, Handler, str]]) -> list[Route]:
    """Routes of (path, handler, method), under /v1 and without it, as clients use either."""
    return [
        Route(f"{root}{path}", handler, methods=[method]) for root in ("/v1", "") for path, handler, method in handlers
    ]


def request_id(request: Request) -> str:
    value: str = request.state.request_id
    return value


def namespace(request: Request) -> str:
    """The owner of cache and thinking: nothing in one namespace is visible in another."""
    value: str = request.state.namespace
    return value


def record_usage(request: Request, usage: Usage) -> None:
    """Remember the tokens of a call for its line in the log."""
    request.state.tokens = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)


async def recording_usage(request: Request, stream: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events; `record_usage` gets the usage of the answer."""
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, Started | Finished):
                record_usage(request, event.usage)
            yield event
