"""The transport to a server on the network: streamable HTTP of the SDK, with bounded bodies and refusals kept.

Redirects are followed within the same origin only (the SDK's rule). Enter at `http_transport`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from a3b.agent.mcp.config import McpServerConfig, is_loopback
from a3b.agent.mcp.guard import MAX_MESSAGE, GuardedStream, MessageGuard
from a3b.agent.mcp.schemas import clean_text

CONNECT_SECONDS = 10.0


@dataclass
class HttpTrouble:
    """The last answer that was a refusal or led elsewhere, in words; "" if there was none."""

    text: str = ""


@asynccontextmanager
async def http_transport(server: McpServerConfig, guard: MessageGuard, trouble: HttpTrouble) -> AsyncIterator[Any]:
    """The streams that the SDK's client takes."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async def look(response: httpx2.Response) -> None:
        trouble.text = _trouble(response, server) or trouble.text
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx2.ReadError(str(guard.fail("compresses its answers although it was asked not to")))
        if "text/event-stream" not in response.headers.get("content-type", ""):  # the SDK bounds single events
            response.stream = _bounded(response.stream, guard)

    async with (
        httpx2.AsyncClient(
            headers={"accept-encoding": "identity", **server.headers},
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=server.call_seconds + 30),
            trust_env=not is_loopback(server.url),
            event_hooks={"response": [look]},
        ) as client,
        streamable_http_client(server.url, http_client=client, max_sse_event_size=MAX_MESSAGE) as (read, write),
    ):
        yield GuardedStream(read, guard), write


def _trouble(response: Any, server: McpServerConfig) -> str:
    status = response.status_code
    if status in (401, 403):
        named = ", ".join(server.headers) or "none"
        return (
            f'refuses access (HTTP {status}); headers sent from its entry: {named}. Expected a valid key in "headers"'
        )
    if response.has_redirect_location:
        place = clean_text(response.headers.get("location", ""), 200)
        return f"leads elsewhere (HTTP {status} to {place}), which is not followed"
    if status >= 500 or status == 429:
        return f"answers HTTP {status}"
    return ""


def _bounded(stream: Any, guard: MessageGuard) -> Any:
    import httpx2

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            num_bytes = 0
            async for piece in stream:
                num_bytes += len(piece)
                if num_bytes > MAX_MESSAGE:
                    raise httpx2.ReadError(str(guard.fail(f"sent a message of more than {MAX_MESSAGE >> 20} MiB")))
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Body()
