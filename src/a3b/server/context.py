"""What a request carries between middleware and handlers. Enter at `ApiContext`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.requests import Request

from a3b.interface.events import Event, Finished, Started, Usage
from a3b.server.response_store import ResponseStore
from a3b.server.service_protocol import ServiceProtocol
from a3b.server.thinking_signatures import ThinkingSigner


@dataclass(frozen=True)
class ApiContext:
    """What the routes of a wire format are made from."""

    service: ServiceProtocol
    signer: ThinkingSigner
    stored: ResponseStore


def request_id(request: Request) -> str:
    return getattr(request.state, "request_id", "")


def namespace(request: Request) -> str:
    """Whose cache and thinking: nothing of one namespace is seen in another."""
    return getattr(request.state, "namespace", "")


def record_usage(request: Request, usage: Usage) -> None:
    """Remember what a call cost in all, for its line in the log."""
    request.state.tokens = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)


async def recording_usage(request: Request, stream: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events; what the answer cost is remembered."""
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, Started | Finished):
                record_usage(request, event.usage)
            yield event
