"""Which model is served: /v1/models, /props. Enter at `routes`."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b import __version__
from a3b.interface.request import Request
from a3b.server.context import ApiContext, routes_at_both_roots
from a3b.server.errors import ApiError
from a3b.server.service_protocol import ServiceProtocol
from a3b.server.sse import json_response


def routes(api: ApiContext) -> list[Route]:
    service, started = api.service, int(time.time())

    async def models(_: HttpRequest) -> Response:
        """The served model, in the forms of OpenAI, Anthropic and vLLM"""
        ends = {"has_more": False, "first_id": service.model, "last_id": service.model}
        return json_response({"object": "list", "data": [_model(service, started)], **ends})

    async def one_model(http: HttpRequest) -> Response:
        """The same; 404 for another name"""
        if (name := http.path_params["id"]) != service.model:
            raise ApiError(
                404,
                f"model {name[:200]!r} is not served here; this server has {service.model!r}",
                "model_not_found",
                "model",
            )
        return json_response(_model(service, started))

    async def props(_: HttpRequest) -> Response:
        """Properties that clients of llama.cpp's server read"""
        params = asdict(service.sampling(Request(messages=[])))
        settings = {"n_ctx": service.context, "params": {**params, "n_predict": -1, "max_tokens": -1}}
        return json_response(
            {
                "default_generation_settings": settings,
                "total_slots": service.places,
                "model_alias": service.model,
                "model_path": service.model,
                "chat_template": service.template,
                "modalities": {"vision": False, "audio": False},
                "build_info": f"a3b-{__version__}",
            }
        )

    async def embeddings(_: HttpRequest) -> Response:
        """404: this server makes no embeddings"""
        raise ApiError(
            404, "embeddings: this server writes text and makes no embeddings; use an embedding model", "not_supported"
        )

    return routes_at_both_roots(
        [
            ("/models", models, "GET"),
            ("/models/{id:path}", one_model, "GET"),
            ("/props", props, "GET"),
            ("/embeddings", embeddings, "POST"),
        ]
    )


def _model(service: ServiceProtocol, started: int) -> dict[str, Any]:
    """With the fields of OpenAI (object, created), Anthropic (type, display_name, created_at) and vLLM."""
    return {
        "id": service.model,
        "object": "model",
        "created": started,
        "owned_by": "a3b",
        "type": "model",
        "display_name": service.model,
        "created_at": datetime.fromtimestamp(started, UTC).isoformat(),
        "max_model_len": service.context,
        "context_length": service.context,
        "positions": service.positions,
    }
