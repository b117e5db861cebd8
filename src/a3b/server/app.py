"""The ASGI application: one door that every request passes, then the routes of the APIs.

The door gives each request its id, asks for a key, limits the body, turns every error into JSON, writes one line into the
log and counts. Knows no model and no wire format. Enter at `create_app`.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from a3b.server import chat, completions, messages, models, responses
from a3b.server.exchange import Api, error_body, log_unexpected, logger, refusal_of
from a3b.server.metrics import CONTENT_TYPE, Metrics
from a3b.server.seals import Seals
from a3b.server.stored import ResponseStore
from a3b.server.wire import Refusal, Service, json_response

APIS = (chat.routes, completions.routes, responses.routes, messages.routes, models.routes)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health",)  # need no key
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_GONE = 499  # in log and metrics only: nobody is there to read it


@dataclass(frozen=True)
class Settings:
    """Who may ask, and how much.

    host: the address that is listened on. Where that is this machine alone and there are no keys, any page in a browser on it
    could ask too; so `Host` and `Origin` must then name this machine, one of `hosts` or one of `cors_origins`.
    """

    api_keys: tuple[str, ...] = ()  # none: everybody may ask
    max_body_bytes: int = 32 << 20
    secret: bytes = b""  # of signatures under thinking; none: a new one for each process
    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()  # pages that may ask from a browser; "*" is every page

    @property
    def checks_host(self) -> bool:
        return not self.api_keys and (self.host in LOCAL_HOSTS or self.host.startswith("127."))


def create_app(service: Service, settings: Settings | None = None, stored: ResponseStore | None = None) -> Starlette:
    settings = settings or Settings()
    metrics = Metrics(service)
    api = Api(service, Seals(settings.secret or secrets.token_bytes(32)), stored or ResponseStore())

    async def health(_: Request) -> Response:
        found = service.health()
        return json_response(found, 200 if found.get("status") == "ok" else 503)

    async def numbers(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    routes = [Route("/health", health), Route("/metrics", numbers)]
    for routes_of in APIS:
        routes += routes_of(api)
    middleware = [Middleware(_Door, settings=settings, metrics=metrics, paths=_Paths(routes))]
    if settings.cors_origins:
        middleware.insert(0, Middleware(CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"],
                                        expose_headers=["x-request-id", "retry-after"]))  # fmt: skip
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _raise})
    app.router.redirect_slashes = False
    return app


def namespace_of(key: bytes) -> str:
    """What stands for a key wherever answers and thinking are kept."""
    return blake2b(key, digest_size=8, person=b"a3b namespace").hexdigest()


async def _raise(_: Request, error: Exception) -> Response:
    raise error  # to the door: all errors get their form in one place


class _Paths:
    """Which route a path belongs to."""

    def __init__(self, routes: list[Route]):
        self.routes = routes

    def name(self, path: str) -> str:
        """The path of the route; "other" for what is none, so that there are not as many names as clients can think of."""
        return next((route.path for route in self.routes if route.path_regex.fullmatch(path)), "other")

    def hint(self, path: str) -> str:
        return f"; did you mean /v1{path}?" if self.name(f"/v1{path}") != "other" else ""


class _Door:
    """The middleware. Everything that goes wrong behind it is answered here."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: _Paths):
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths
        self.keys = [_digest(key.encode()) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self.settings.max_body_bytes)
        self.metrics.running.inc()
        try:
            await self._let_in(scope, visit)
        except ClientDisconnect:
            visit.status = CLIENT_GONE
        except Exception as error:
            await self._explain(scope, visit, error)
        except BaseException:  # the server stops
            visit.status = CLIENT_GONE
            raise
        finally:
            self.metrics.running.dec()
            seconds = time.perf_counter() - visit.begun
            self.metrics.count(self.paths.name(scope["path"]), visit.status, seconds)
            read, written = visit.state.get("tokens", (0, 0))
            path = scope.get("raw_path", b"").decode("latin-1")[:200]
            logger.info("%s %s %s %d %d+%d tokens %.3f s", visit.id, scope["method"], path, visit.status, read, written, seconds)

    async def _let_in(self, scope: Scope, visit: _Visit) -> None:
        if self.settings.checks_host:
            self._check_origin(visit.headers)
        visit.state["namespace"] = self._namespace(visit.headers, scope["path"])
        length = visit.headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > self.settings.max_body_bytes):
            raise visit.too_large()
        await self.app(scope, visit.receive, visit.send)

    async def _explain(self, scope: Scope, visit: _Visit, error: Exception) -> None:
        if visit.status:
            log_unexpected(error, visit.id)
            return
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            what = f"{scope['method']} {scope['path'][:200]}"
            message = f"{what}: no such path{self.paths.hint(scope['path'])}" if error.status_code == 404 else f"{what}: wrong method"
            error = Refusal(error.status_code, message, "not_found" if error.status_code == 404 else "method_not_allowed",
                            headers=error.headers)  # fmt: skip
        refusal = refusal_of(error, visit.id)
        response = json_response(error_body(refusal, scope["path"], visit.id), refusal.status, refusal.headers)
        await response(scope, visit.receive, visit.send)

    def _namespace(self, headers: dict[bytes, bytes], path: str) -> str:
        """Of the key that came along. Raises Refusal if it is none of ours."""
        if not self.keys or path in OPEN_PATHS:
            return ""
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [token.strip()] if scheme.lower() == b"bearer" else []
        given += [headers[b"x-api-key"]] if b"x-api-key" in headers else []
        for key in given:
            if any(hmac.compare_digest(_digest(key), known) for known in self.keys):
                return namespace_of(key)
        message = "the API key is not known here" if given else "an API key is needed, as Authorization: Bearer KEY or x-api-key: KEY"
        raise Refusal(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        allowed = (*LOCAL_HOSTS, self.settings.host, *map(str.lower, self.settings.hosts))
        host = headers.get(b"host", b"").decode("latin-1")
        if _hostname(f"//{host}") not in allowed:
            raise Refusal(403, f"Host: {host[:100]!r}; expected {', '.join(allowed)}. Use a key, or allow this host", "host_not_allowed")
        origin = headers.get(b"origin", b"").decode("latin-1")
        is_page = origin == "null" or origin.startswith(("http://", "https://"))
        if is_page and _hostname(origin) not in allowed and not {origin, "*"} & set(self.settings.cors_origins):
            raise Refusal(403, f"Origin: {origin[:100]!r}; pages from there may not ask this server", "origin_not_allowed")


class _Visit:
    """One request: its id, what was answered so far, and how much of its body came."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int):
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.id
        self.status = 0  # until the answer begins
        self.begun = time.perf_counter()
        self._receive, self._send = receive, send
        self._left = self._max = max_body_bytes

    def too_large(self) -> Refusal:
        return Refusal(413, f"body: larger than {self._max} bytes", "request_too_large", headers={"connection": "close"})

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise self.too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)


def _digest(key: bytes) -> bytes:
    return blake2b(key, person=b"a3b key").digest()


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
