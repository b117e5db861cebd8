"""Which model is served, and its tokens: /v1/models, /tokenize, /detokenize. Enter at `routes`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from a3b.server.chat_request import read_chat
from a3b.server.exchange import Api, namespace, read_json, request_id
from a3b.server.wire import Fields, Refusal, json_response

MAX_ID = 1 << 31


def routes(api: Api) -> list[Route]:
    service, started = api.service, int(time.time())

    def model() -> dict[str, Any]:
        """For the clients of OpenAI (object, created), Anthropic (type, display_name, created_at) and vLLM (max_model_len)."""
        return {
            "id": service.model, "object": "model", "created": started, "owned_by": "a3b", "type": "model",
            "display_name": service.model, "created_at": datetime.fromtimestamp(started, UTC).isoformat(),
            "max_model_len": service.context, "context_length": service.context,
        }  # fmt: skip

    async def models(_: Request) -> Response:
        ends = {"has_more": False, "first_id": service.model, "last_id": service.model}
        return json_response({"object": "list", "data": [model()], **ends})

    async def one_model(http: Request) -> Response:
        if (name := http.path_params["id"]) != service.model:
            raise Refusal(404, f"model {name[:200]!r} is not served here; there is {service.model!r}", "model_not_found", "model")
        return json_response(model())

    async def tokenize(http: Request) -> Response:
        body = await read_json(http)
        fields = Fields(body)
        texts = [text for key in ("content", "prompt", "text") if (text := fields.text(key)) is not None]
        if "messages" in fields.body:
            ids = await service.render(read_chat(body, namespace(http), request_id(http)).requests[0])
        elif texts:
            ids = await asyncio.to_thread(service.encode, texts[0])
        else:
            raise Refusal(400, "body: expected content, prompt or text, or messages", field="content")
        return json_response({"tokens": ids, "count": len(ids), "max_model_len": service.context})

    async def detokenize(http: Request) -> Response:
        fields = Fields(await read_json(http))
        ids = fields.items("tokens")
        if not all(type(id) is int and 0 <= id < MAX_ID for id in ids):
            raise fields.fail("tokens", "a list of ids of tokens")
        text = await asyncio.to_thread(service.decode, ids)
        return json_response({"content": text, "prompt": text, "text": text})

    return [
        Route("/v1/models", models),
        Route("/v1/models/{id:path}", one_model),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]
