"""Routes behind a server: for tests of wire formats, by raw requests and with the clients people use."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

from a3b.errors import A3BError
from a3b.server.errors import error_body, to_api_error
from a3b.server.response_store import ResponseStore
from a3b.server.sse import json_response
from a3b.server.thinking_signatures import ThinkingSigner
from tests.support.scripted_service import ScriptedService

SECRET = b"a secret of tests"


class Identified:
    """What the server's middleware does for the routes: a request has a namespace (here: its key) and an id."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        key = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        scope.setdefault("state", {}).update(namespace=key.decode(), request_id="req_1")
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            pass
        except A3BError as error:
            answered = to_api_error(error, "req_1")
            answer = json_response(error_body(answered, scope["path"], "req_1"), answered.status, answered.headers)
            await answer(scope, receive, send)


def app_of(module: Any, service: Any, **parts: Any) -> Starlette:
    """An app of the module's routes alone."""
    api = SimpleNamespace(**{"service": service, "signer": ThinkingSigner(SECRET), "stored": ResponseStore(), **parts})
    return Starlette(routes=module.routes(api), middleware=[Middleware(Identified)])


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The URL of the app on a port of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    )
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


class ChosenService:
    """Answers from the script that a test chose last."""

    model, context, positions = "a3b-nano", 8192, "native positions"

    def __init__(self) -> None:
        self.script = ScriptedService([])

    def choose(self, events: Any) -> ScriptedService:
        self.script = ScriptedService(events)
        return self.script

    def stream(self, request: Any) -> Any:
        return self.script.stream(request)

    async def count_tokens(self, request: Any) -> int:
        return await self.script.count_tokens(request)

    def sampling(self, request: Any) -> Any:
        return self.script.sampling(request)


def exchange(
    app: Any, method: str, path: str, body: Any = None, key: str = "alice", raw: bytes | None = None
) -> httpx2.Response:
    """One request without a network; an exception in the server is one of the test."""

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://a3b") as client:
            content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
            return await client.request(method, path, content=content, headers={"x-api-key": key})

    return asyncio.run(ask())


def content_of(reply: httpx2.Response) -> Any:
    """The JSON of a reply; of a stream, its events as (name, data) with comments left out."""
    if reply.headers["content-type"] == "application/json":
        return reply.json()
    blocks = [block.split("\n") for block in reply.text.strip().split("\n\n") if not block.startswith(":")]
    lines = [dict(line.split(": ", 1) for line in block) for block in blocks]
    return [(found["event"], json.loads(found["data"])) for found in lines]


class Endless(ScriptedService):
    """Writes until it is closed."""

    def __init__(self, begin: Any, piece: Any):
        super().__init__([begin])
        self.piece, self.was_begun, self.was_closed = piece, asyncio.Event(), asyncio.Event()

    def stream(self, request: Any) -> Any:
        self.written = self._write()  # held, so that only closing it can end it
        return self.written

    async def _write(self) -> Any:
        try:
            self.was_begun.set()
            yield self.events[0]
            while True:
                await asyncio.sleep(0.001)
                yield self.piece
        finally:
            self.was_closed.set()


async def leave(app: Any, path: str, body: Any, when: asyncio.Event | None = None) -> bool:
    """Ask, and leave when an event happens, or, without one, when the first piece of the answer comes. Whether a piece
    came."""
    is_sent: list[bool] = []
    has_come = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not is_sent:
            is_sent.append(True)
            return {"type": "http.request", "body": json.dumps(body).encode()}
        await (when or has_come).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            has_come.set()

    await app({"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}, receive, send)
    return has_come.is_set()


# -- noise: any JSON value in any place

NOISE = [
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "\ud800",
    [],
    [None],
    ["a"],
    [[]],
    [{}],
    {},
    {"type": None},
    {"type": "text"},
    {"type": []},
    [{"type": "text", "text": None}],
    [{"role": "user", "content": {}}],
    {"a": {"b": []}},
]
DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
NO_OBJECTS = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff", "not UTF-8"),
    (b'{"a": NaN}', "not JSON: NaN"),
    (DEEP, "nested deeper"),
    (b'{"a": 1e999}', "not JSON: 1e999"),
    (DEEP.replace(b'{"a":' * 4800, b"").replace(b"}" * 4800, b""), "nested deeper"),
    (b"[]", "expected"),
]
no_objects = pytest.mark.parametrize(
    ("raw", "told"), NO_OBJECTS, ids=["empty", "cut", "utf-8", "nan", "deep", "inf", "200 deep", "list"]
)


def changed(value: Any, noise: Any) -> Iterator[Any]:
    """Every copy of `value` with one place of it replaced by `noise`, or taken out."""
    if isinstance(value, dict):
        for key in value:
            yield {**value, key: noise}
            yield {other: item for other, item in value.items() if other != key}
            yield from ({**value, key: other} for other in changed(value[key], noise))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield [*value[:i], noise, *value[i + 1 :]]
            yield from ([*value[:i], other, *value[i + 1 :]] for other in changed(value[i], noise))


def statuses(app: Any, path: str, bodies: list[bytes]) -> list[int]:
    """How the server answers each body; an exception in the server is one of the test."""

    async def ask() -> list[int]:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://a3b", headers={"x-api-key": "alice"}
        ) as client:
            return [(await client.post(path, content=body)).status_code for body in bodies]

    return asyncio.run(ask())


def noisy(full: Any) -> list[bytes]:
    """Bodies to try: `full` with each noise in each place, and each noise alone."""
    bodies = [json.dumps(body).encode() for noise in NOISE for body in changed(full, noise)]
    return list(dict.fromkeys([*bodies, *(json.dumps(noise).encode() for noise in NOISE)]))
