"""Ways to ask a server in tests: over a real socket, and straight into the application."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from a3b.interface.events import Event
from a3b.server.connections import ConnectionManager, uvicorn_config
from a3b.server.limits import ServerLimits
from tests.support.scripted_service import ScriptedService


@contextmanager
def served(app: Any, connections: ConnectionManager | None = None) -> Iterator[int]:
    """The port of a real server of `app`, on its own thread, with connections as in `a3b serve`."""
    config = uvicorn_config(app, connections or ConnectionManager(ServerLimits()), port=0, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.002)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    chunks_read: int  # of the request

    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Any,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
    chunks: list[bytes] | None = None,
) -> Reply:
    """What the application answers. body: sent as JSON unless it is bytes; chunks: the body in pieces, without a
    length."""
    if body is not None:
        chunks = [body if isinstance(body, bytes) else json.dumps(body).encode()]
    given = {"host": "localhost:8000", **(headers or {})}
    scope = {
        "type": "http",
        "method": method or ("GET" if chunks is None else "POST"),
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "query_string": b"",
        "scheme": "http",
        "http_version": "1.1",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }
    left, reply, never = list(chunks or [b""]), Reply(0, {}, b"", 0), asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not left:
            await never.wait()
        reply.chunks_read += 1
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            reply.body += message["body"]

    await app(scope, receive, send)
    return reply


class Hanging(ScriptedService):
    """Gives its events and then nothing, until it is closed."""

    def __init__(self, events: list[Event]):
        super().__init__(events)
        self.is_hanging, self.is_closed = threading.Event(), threading.Event()

    async def stream(self, request):
        self.requests.append(request)
        try:
            for event in self.events:
                yield event
            self.is_hanging.set()
            await asyncio.Event().wait()
        finally:
            self.is_closed.set()
