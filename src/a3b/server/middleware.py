"""What every request passes: checks of host, origin, key and size; its id, its log line and its errors. Enter at
`RequestMiddleware`."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from a3b.errors import OverloadedError
from a3b.server.body_limits import BodyLimiter, LimitedBody, too_large
from a3b.server.errors import ApiError, error_body, log_unexpected, to_api_error
from a3b.server.limits import ServerLimits, is_loopback, peer_of
from a3b.server.logs import logger, request_line
from a3b.server.metrics import Metrics
from a3b.server.sse import json_response

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health",)  # need no key
HOST_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_GONE = 499  # in the log and in metrics only; no client reads it
EXPOSED = ("x-request-id", "retry-after", "x-a3b-warnings")  # headers that pages of other origins may read


@dataclass(frozen=True)
class ServerSettings:
    """Who may use the server, and within which limits.

    host: the address that the server listens on. On a loopback address without keys, any page in a browser of this
    machine could send requests; so `Host` and `Origin` must then name this machine, one of `hosts` or one of
    `cors_origins`. The same holds wherever `hosts` are given."""

    api_keys: tuple[str, ...] = ()  # none: no key is needed
    max_body_bytes: int = 32 << 20
    limits: ServerLimits = ServerLimits()
    secret: bytes = b""  # signs thinking; empty: a new one for each process
    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()  # "*" is any
    cors_origins: tuple[str, ...] = ()  # pages that may use the server from a browser; "*" is every page

    @property
    def checks_host(self) -> bool:
        return bool(self.hosts) or (not self.api_keys and is_loopback(self.host))


def namespace_of(key: bytes) -> str:
    """The name under which the answers and the thinking of a key are kept."""
    return blake2b(key, digest_size=8, person=b"a3b namespace").hexdigest()


class RoutePaths:
    """Finds the route of a path."""

    def __init__(self, routes: list[Route]):
        self.routes = routes

    def name(self, path: str) -> str:
        """The path of the route, otherwise "other": only known names, to bound label cardinality."""
        return next((route.path for route in self.routes if route.path_regex.fullmatch(path)), "other")

    def suggestion(self, path: str) -> str:
        return f"; did you mean /v1{path}?" if self.name(f"/v1{path}") != "other" else ""


class RequestMiddleware:
    """Authorizes, identifies, limits, logs and counts each request, and answers every error from further inside."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, paths: RoutePaths):
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths
        self.keys = [_digest(key.encode()) for key in settings.api_keys]
        self.bodies = BodyLimiter(settings.limits, settings.max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = RequestContext(scope, receive, send)
        self.metrics.running.inc()
        try:
            await self._authorize(scope, context)
        except ClientDisconnect:
            context.status, context.reason = CLIENT_GONE, "the client left"
        except Exception as error:
            await self._send_error(scope, context, error)
        except asyncio.CancelledError:  # the server stops and no longer waits for this answer
            if not context.status:
                await self._send_error(
                    scope,
                    context,
                    OverloadedError("the server is shutting down; try another, or wait until it is back"),
                )
            context.status, context.reason = context.status or CLIENT_GONE, "the server stops"
            raise
        finally:
            if context.body is not None:
                self.bodies.release(context.body)
            self.metrics.running.dec()
            seconds = time.perf_counter() - context.begun
            self.metrics.count(self.paths.name(scope["path"]), context.status, seconds)
            path = scope.get("raw_path", b"").decode("latin-1")
            logger.info(
                "%s",
                request_line(
                    context.id,
                    scope["method"],
                    path,
                    context.status,
                    context.state.get("tokens"),
                    seconds,
                    context.reason,
                ),
            )

    async def _authorize(self, scope: Scope, context: RequestContext) -> None:
        if self.settings.checks_host:
            self._check_origin(context.headers)
        context.state["namespace"] = self._namespace(context.headers, scope["path"])
        length, most = context.headers.get(b"content-length", b""), self.settings.max_body_bytes
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise too_large(most)
        sender = context.state["namespace"] or peer_of((scope.get("client") or ("",))[0])
        context.body = self.bodies.expect(context.receive_next, sender)
        await self.app(scope, context.body.receive, context.send)

    async def _send_error(self, scope: Scope, context: RequestContext, error: Exception) -> None:
        if context.status:
            context.reason = type(error).__qualname__
            log_unexpected(error, context.id)
            return
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            what = f"{scope['method']} {scope['path'][:200]}"
            message = (
                f"{what}: no such path{self.paths.suggestion(scope['path'])}"
                if error.status_code == 404
                else f"{what}: wrong method"
            )
            error = ApiError(
                error.status_code,
                message,
                "not_found" if error.status_code == 404 else "method_not_allowed",
                headers=error.headers,
            )
        answered = to_api_error(error, context.id)
        context.reason = str(answered)
        response = json_response(error_body(answered, scope["path"], context.id), answered.status, answered.headers)
        await response(scope, context.receive_next, context.send)

    def _namespace(self, headers: dict[bytes, bytes], path: str) -> str:
        """The namespace of the request's key. Raises ApiError if it has no key, or an unknown one."""
        if not self.keys or path in OPEN_PATHS:
            return ""
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = [token.strip()] if scheme.lower() == b"bearer" else []
        given += [headers[b"x-api-key"]] if b"x-api-key" in headers else []
        for key in given:
            if any(hmac.compare_digest(_digest(key), known) for known in self.keys):
                return namespace_of(key)
        message = "unknown API key" if given else "an API key is needed, as Authorization: Bearer KEY or x-api-key: KEY"
        raise ApiError(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Raises ApiError for a foreign host or page, with the option that would allow it."""
        allowed = (*LOCAL_HOSTS, self.settings.host, *map(str.lower, self.settings.hosts))
        host = headers.get(b"host", b"").decode("latin-1")[:200]
        name = _hostname(f"//{host}")
        if "*" not in self.settings.hosts and name not in allowed:
            way = (
                f"start the server with --allow-host {name}"
                if name and HOST_NAME.fullmatch(name)
                else "send the name of this machine"
            )
            raise ApiError(
                403, f"Host: {host!r}; expected one of {', '.join(dict.fromkeys(allowed))}; {way}", "host_not_allowed"
            )
        origin = headers.get(b"origin", b"").decode("latin-1")[:200]
        is_page = origin == "null" or origin.startswith(("http://", "https://"))
        if is_page and _hostname(origin) not in allowed and not {origin, "*"} & set(self.settings.cors_origins):
            raise ApiError(
                403,
                f"Origin: {origin!r}; pages of this origin may not use this server; {origin_hint(origin)}",
                "origin_not_allowed",
            )


class RequestContext:
    """One request: its id, what was answered so far, and whether its body was read."""

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.id
        self.status, self.reason = 0, ""  # 0 until the answer begins; why it is an error
        self.body: LimitedBody | None = None
        self.begun = time.perf_counter()
        self._waits_to_send = self.headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive, self._send = receive, send

    async def receive_next(self) -> Message:
        self._waits_to_send = False
        return await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
            # the client may or may not send its body now
            if self._waits_to_send and (b"connection", b"close") not in headers:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def _digest(key: bytes) -> bytes:
    return blake2b(key, person=b"a3b key").digest()


def origin_hint(origin: str) -> str:
    return (
        f"start the server with --allow-origin {origin if ORIGIN.fullmatch(origin) else '*, which allows every page'}"
    )


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
