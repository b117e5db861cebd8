"""Routes behind a real server: for tests of wire formats with the clients people use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from a3b.server.seals import Seals

SECRET = b"a secret of tests"


class Identified:
    """What the server's middleware does for the routes: a request has a namespace (here: its key) and an id."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        key = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        scope.setdefault("state", {}).update(namespace=key.decode(), request_id="req_1")
        await self.app(scope, receive, send)


def app_of(module: Any, service: Any, **parts: Any) -> Starlette:
    """An app of the module's routes alone."""
    api = SimpleNamespace(service=service, seals=Seals(SECRET), **parts)
    return Starlette(routes=module.routes(api), middleware=[Middleware(Identified)])


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The app behind a port of this machine, as a URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    started = threading.Event()
    startup = server.startup

    async def tell(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = tell  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert started.wait(10), "the server did not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
