"""The ASGI application: one middleware that every request passes, then the routes of the APIs.

The middleware gives each request its id, asks for a key, limits the body, turns every error into JSON, writes one line
to the log and counts. `a3b.server.connections` owns what is below a request. Knows no model and no wire format. Enter
at `create_app`."""

from __future__ import annotations

import secrets

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from a3b.server.anthropic import messages
from a3b.server.connections import ConnectionManager
from a3b.server.context import ApiContext
from a3b.server.logs import logger, logging_progress, request_line
from a3b.server.metrics import CONTENT_TYPE, Metrics
from a3b.server.middleware import EXPOSED, RequestMiddleware, RoutePaths, ServerSettings, origin_hint
from a3b.server.openai import chat, completions, models, responses, tokenizing
from a3b.server.response_store import ResponseStore
from a3b.server.service_protocol import ServiceProtocol
from a3b.server.sse import json_response
from a3b.server.thinking_signatures import ThinkingSigner
from a3b.server.warming import routes as warming_routes

APIS = (
    chat.routes,
    completions.routes,
    responses.routes,
    messages.routes,
    models.routes,
    tokenizing.routes,
    warming_routes,
)


def create_app(
    service: ServiceProtocol,
    settings: ServerSettings | None = None,
    stored: ResponseStore | None = None,
    connections: ConnectionManager | None = None,
) -> Starlette:
    """The application. connections: those that /metrics counts."""
    settings = settings or ServerSettings()
    metrics = Metrics(service, connections)
    api = ApiContext(
        logging_progress(service), ThinkingSigner(settings.secret or secrets.token_bytes(32)), stored or ResponseStore()
    )

    async def health(_: Request) -> Response:
        """Whether requests can be answered: 200, or 503; needs no key"""
        found = service.health()
        return json_response(found, 200 if found.get("status") == "ok" else 503)

    async def numbers(_: Request) -> Response:
        """Counters and gauges for Prometheus"""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    routes = [Route("/health", health), Route("/metrics", numbers)]
    for routes_of in APIS:
        routes += routes_of(api)
    middleware = [Middleware(RequestMiddleware, settings=settings, metrics=metrics, paths=RoutePaths(routes))]
    if settings.cors_origins:
        middleware.insert(
            0,
            Middleware(
                _Pages,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
            ),
        )
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _raise})
    app.router.redirect_slashes = False
    return app


async def _raise(_: Request, error: Exception) -> Response:
    raise error  # to RequestMiddleware: all errors get their form in one place


class _Pages(CORSMiddleware):
    """Answers the preflight requests of browsers. Those that it refuses never reach RequestMiddleware: logged here."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            origin = request_headers.get("origin", "")[:200]
            reason = f"{bytes(response.body).decode()}: {origin!r}; {origin_hint(origin)}"
            logger.info("%s", request_line("-", "OPTIONS", "-", response.status_code, None, 0.0, reason))
        return response
