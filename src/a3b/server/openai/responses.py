"""OpenAI's Responses API: create, look up, delete, list the input, count tokens, compact. Enter at `routes`.

Where it differs from what the published API suggests:

* `previous_response_id` puts the stored conversation first; the instructions of earlier responses do not carry over.
* `reasoning.effort` limits the tokens of thinking (`fields.EFFORTS`); `reasoning.budget_tokens`, an addition, sets the
  limit directly. `reasoning.context` chooses which earlier thinking stays: `current_turn` or `all_turns`.
* `reasoning.summary` asks for the thinking as a summary too: the summary is the thinking itself.
* While the prompt is read, a stream repeats `response.in_progress`, which resets the timeouts of clients that count
  events.
* `truncation: auto` is treated as `disabled`: what does not fit is refused, not cut.
* A response repeats its request, with the values used where the request gave none, so that it has every field of the
  published schema.
* `/compact` lets the model summarise a conversation and encrypts the summary into an item that only this server can
  read, and only for this key (`compaction`).

`responses_request` says what happens to each field, `responses_input` and `responses_tools` read items and tools,
`responses_builder` and `responses_output` make the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.server.context import ApiContext, recording_usage, routes_at_both_roots
from a3b.server.errors import ApiError
from a3b.server.event_streams import EventStream, collect, prime_stream, warnings_of, while_connected
from a3b.server.openai.compaction import compacted, read_compaction
from a3b.server.openai.responses_builder import ResponseBuilder, server_sent
from a3b.server.openai.responses_items import listed
from a3b.server.openai.responses_request import read_response_request
from a3b.server.report import warning_headers
from a3b.server.request_body import read_json
from a3b.server.response_store import ResponseItem, StoredResponse
from a3b.server.sse import json_response


def routes(api: ApiContext) -> list[Route]:
    """The routes of this API."""

    async def create(http: HttpRequest) -> Response:
        """The next items of a conversation (OpenAI responses)"""
        parsed = await read_json(http, lambda body: read_response_request(body, api, http))
        builder = ResponseBuilder(api, parsed)
        stream = recording_usage(http, api.service.stream(parsed.request))
        if parsed.stream:
            items = await prime_stream(http.receive, stream)
            parsed.warnings.extend(items.warnings)
            return EventStream(server_sent(items, builder), warning_headers(parsed.warnings), items)
        events = await collect(http.receive, stream)
        parsed.warnings.extend(warnings_of(events))
        headers = warning_headers(parsed.warnings)
        return json_response(builder.whole(events), headers=headers)

    async def count_tokens(http: HttpRequest) -> Response:
        """The number of tokens of the prompt of a response"""
        parsed = await read_json(http, lambda body: read_response_request(body, api, http))
        num = await while_connected(http.receive, api.service.count_tokens(parsed.request))
        return json_response(
            {"object": "response.input_tokens", "input_tokens": num}, headers=warning_headers(parsed.warnings)
        )

    async def compact(http: HttpRequest) -> Response:
        """A summary in place of a conversation"""
        parsed = read_compaction(await read_json(http), api, http)
        events = await collect(http.receive, recording_usage(http, api.service.stream(parsed.request)))
        compaction = compacted(parsed, events, api.signer)
        return json_response(compaction, headers=warning_headers(parsed.warnings))

    async def retrieve(http: HttpRequest) -> Response:
        """A stored response"""
        if http.query_params.get("stream", "false") != "false":
            message = "stream: not supported for a response that is complete; leave it out"
            raise ApiError(400, message, "unsupported_parameter", "stream")
        return json_response(_find(api, http).response)

    async def delete(http: HttpRequest) -> Response:
        """Forgets a stored response"""
        response_id = _find(api, http).response["id"]
        api.stored.delete(http.state.namespace, response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(http: HttpRequest) -> Response:
        """The conversation before a stored response; `limit`, `order`, `after`"""
        return json_response(_page(_find(api, http).items, http.query_params))

    return routes_at_both_roots(
        [
            ("/responses", create, "POST"),
            ("/responses/input_tokens", count_tokens, "POST"),
            ("/responses/compact", compact, "POST"),
            ("/responses/{id}", retrieve, "GET"),
            ("/responses/{id}", delete, "DELETE"),
            ("/responses/{id}/input_items", input_items, "GET"),
        ]
    )


def _find(api: ApiContext, http: HttpRequest) -> StoredResponse:
    response_id = http.path_params["id"]
    stored = api.stored.get(http.state.namespace, response_id)
    if stored is None:
        raise ApiError(404, f"Response with id '{response_id[:100]}' not found.", "response_not_found")
    return stored


def _page(items: list[ResponseItem], query: Mapping[str, str]) -> dict[str, Any]:
    """Some of the items, the latest first unless asked otherwise."""
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= 100):
        raise ApiError(400, f"limit: {limit[:40]!r}; expected a whole number from 1 to 100", field="limit")
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order: {order[:40]!r}; expected asc or desc", field="order")
    ordered = items if order == "asc" else items[::-1]
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise ApiError(400, f"after: {after[:100]!r}; expected the id of an item of this response", field="after")
        ordered = ordered[ids.index(after) + 1 :]
    data = [listed(item) for item in ordered[: int(limit)]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(ordered) > len(data),
    }
