"""/tokenize, /detokenize and /apply-template in the forms of llama.cpp and vLLM. Enter at `routes`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.interface.request import Request
from a3b.isolation.deadlines import in_thread
from a3b.server.context import ApiContext, namespace, request_id, routes_at_both_roots
from a3b.server.errors import ApiError
from a3b.server.event_streams import while_connected
from a3b.server.fields import Fields, is_token_id
from a3b.server.openai.chat_request import read_chat
from a3b.server.report import warning_headers
from a3b.server.request_body import read_json
from a3b.server.sse import json_response

MAX_IDS = 1 << 19  # in one answer
WORK_S = 60  # for one text


def routes(api: ApiContext) -> list[Route]:
    service, threads = api.service, ThreadPoolExecutor(4, "tokens")

    async def tokenize(http: HttpRequest) -> Response:
        """The token ids of a text, or of the prompt of a conversation"""

        def read(body: Any) -> tuple[list[str], Request | None]:
            fields = Fields(body)
            parsed = (
                read_chat(body, namespace(http), request_id(http)).requests[0] if "messages" in fields.body else None
            )
            return [text for key in ("content", "prompt", "text") if (text := fields.string(key)) is not None], parsed

        texts, parsed = await read_json(http, read)
        if parsed is not None:
            ids = await while_connected(http.receive, service.render(parsed))
        elif texts:
            ids = await while_connected(http.receive, in_thread(threads, "text", WORK_S, service.encode, texts[0]))
        else:
            raise ApiError(400, "body: expected content, prompt or text, or messages", field="content")
        if len(ids) > MAX_IDS:
            raise ApiError(400, f"body: {len(ids)} tokens; expected at most {MAX_IDS}. count_tokens gives their number")
        return json_response({"tokens": ids, "count": len(ids), "max_model_len": service.context})

    async def detokenize(http: HttpRequest) -> Response:
        """The text of token ids"""
        fields = Fields(await read_json(http))
        ids = fields.items("tokens")
        if not all(map(is_token_id, ids)):
            raise fields.invalid("tokens", "a list of ids of tokens")
        text = await while_connected(http.receive, in_thread(threads, "tokens", WORK_S, service.decode, ids))
        return json_response({"content": text, "prompt": text, "text": text})

    async def apply_template(http: HttpRequest) -> Response:
        """The prompt of a conversation, as text"""
        parsed = await read_json(http, lambda body: read_chat(body, namespace(http), request_id(http)))
        ids = await while_connected(http.receive, service.render(parsed.requests[0]))
        prompt = await while_connected(http.receive, in_thread(threads, "tokens", WORK_S, service.decode, ids))
        return json_response({"prompt": prompt}, headers=warning_headers(parsed.warnings))

    return routes_at_both_roots(
        [
            ("/tokenize", tokenize, "POST"),
            ("/detokenize", detokenize, "POST"),
            ("/apply-template", apply_template, "POST"),
        ]
    )
