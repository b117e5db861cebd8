"""Which model is served, its tokens and its prompts: /v1/models, /props, /tokenize, /detokenize, /apply-template. Enter at `routes`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b import __version__
from a3b.requests import Request
from a3b.server.chat_request import read_chat
from a3b.server.exchange import Api, namespace, read_json, request_id, warning_headers
from a3b.server.streams import while_connected
from a3b.server.wire import Fields, Refusal, is_token_id, json_response
from a3b.work import in_thread

MAX_IDS = 1 << 19  # in one answer
WORK_S = 60  # for one text


def routes(api: Api) -> list[Route]:
    service, started = api.service, int(time.time())
    threads = ThreadPoolExecutor(4, "tokens")

    def model() -> dict[str, Any]:
        """For the clients of OpenAI (object, created), Anthropic (type, display_name, created_at) and vLLM (max_model_len)."""
        return {
            "id": service.model, "object": "model", "created": started, "owned_by": "a3b", "type": "model",
            "display_name": service.model, "created_at": datetime.fromtimestamp(started, UTC).isoformat(),
            "max_model_len": service.context, "context_length": service.context,
        }  # fmt: skip

    async def models(_: HttpRequest) -> Response:
        ends = {"has_more": False, "first_id": service.model, "last_id": service.model}
        return json_response({"object": "list", "data": [model()], **ends})

    async def one_model(http: HttpRequest) -> Response:
        if (name := http.path_params["id"]) != service.model:
            raise Refusal(404, f"model {name[:200]!r} is not served here; there is {service.model!r}", "model_not_found", "model")
        return json_response(model())

    async def tokenize(http: HttpRequest) -> Response:
        def read(body: Any) -> tuple[list[str], Request | None]:
            fields = Fields(body)
            asked = read_chat(body, namespace(http), request_id(http)).requests[0] if "messages" in fields.body else None
            return [text for key in ("content", "prompt", "text") if (text := fields.text(key)) is not None], asked

        texts, asked = await read_json(http, read)
        if asked is not None:
            ids = await while_connected(http.receive, service.render(asked))
        elif texts:
            ids = await while_connected(http.receive, in_thread(threads, "text", WORK_S, service.encode, texts[0]))
        else:
            raise Refusal(400, "body: expected content, prompt or text, or messages", field="content")
        if len(ids) > MAX_IDS:
            raise Refusal(400, f"body: {len(ids)} tokens; expected at most {MAX_IDS}. count_tokens gives their number")
        return json_response({"tokens": ids, "count": len(ids), "max_model_len": service.context})

    async def detokenize(http: HttpRequest) -> Response:
        fields = Fields(await read_json(http))
        ids = fields.items("tokens")
        if not all(map(is_token_id, ids)):
            raise fields.fail("tokens", "a list of ids of tokens")
        text = await while_connected(http.receive, in_thread(threads, "tokens", WORK_S, service.decode, ids))
        return json_response({"content": text, "prompt": text, "text": text})

    async def apply_template(http: HttpRequest) -> Response:
        asked = await read_json(http, lambda body: read_chat(body, namespace(http), request_id(http)))
        ids = await while_connected(http.receive, service.render(asked.requests[0]))
        prompt = await while_connected(http.receive, in_thread(threads, "tokens", WORK_S, service.decode, ids))
        return json_response({"prompt": prompt}, headers=warning_headers(asked.warnings))

    async def props(_: HttpRequest) -> Response:
        """What clients of llama.cpp's server look for."""
        params = asdict(service.sampling(Request(messages=[])))
        settings = {"n_ctx": service.context, "params": {**params, "n_predict": -1, "max_tokens": -1}}
        return json_response({
            "default_generation_settings": settings, "total_slots": service.places, "model_alias": service.model,
            "model_path": service.model, "chat_template": service.template,
            "modalities": {"vision": False, "audio": False}, "build_info": f"a3b-{__version__}",
        })  # fmt: skip

    async def embeddings(_: HttpRequest) -> Response:
        raise Refusal(404, "embeddings: this server writes text and makes no embeddings; use an embedding model", "not_supported")

    found = [
        ("/models", models, "GET"), ("/models/{id:path}", one_model, "GET"), ("/tokenize", tokenize, "POST"),
        ("/detokenize", detokenize, "POST"), ("/apply-template", apply_template, "POST"), ("/props", props, "GET"),
        ("/embeddings", embeddings, "POST"),
    ]  # fmt: skip
    return [Route(f"{root}{path}", handler, methods=[method]) for root in ("/v1", "") for path, handler, method in found]
