"""Anthropic's Messages API: /v1/messages and /v1/messages/count_tokens. Enter at `routes`.

Where it does more than translate:

* Lines of the system prompt that begin with `x-anthropic-billing-header:` are left out (`a3b.thinking.stable_dates`),
  and so is a block with nothing else.
* Tool results become tool messages, in the order of the calls and before the other text of their turn
  (`prompt/tool_results.py`). An error begins with "Error: ". An image, a sound or a file in a result is left out, which
  the result and a warning say (`prompt/media.py`); in a message of the user it is refused.
* Neighbouring assistant messages are one turn, as in the published API.
* Thinking is restored if its signature is ours, and left out with a warning if it is not. Without a signature it counts
  as the client's own text. `redacted_thinking` is decrypted if it is ours.
* What other servers left in a history (searches, documents with text, summaries) is read as text, with a warning
  (`foreign_items`).
* `thread`: the server holds the conversation (`threads`). `max_tokens: 0` reads the prompt and writes nothing.

`messages_fields` says what happens to each field, `messages_output` makes the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.server.anthropic.messages_output import MessageBuilder
from a3b.server.anthropic.messages_request import read_request
from a3b.server.anthropic.threads import Threads
from a3b.server.context import ApiContext, recording_usage, routes_at_both_roots
from a3b.server.errors import error_body, to_api_error
from a3b.server.event_streams import (
    EventStream,
    PrimedStream,
    collect,
    finish_of,
    prime_stream,
    warnings_of,
    while_connected,
)
from a3b.server.report import warning_headers
from a3b.server.request_body import read_json
from a3b.server.sse import json_response, sse


def routes(api: ApiContext) -> list[Route]:
    """The routes of this API."""
    threads = Threads(api.stored.recorder)

    async def create(request: HttpRequest) -> Response:
        """The next message of a conversation (Anthropic messages)"""
        parsed = await read_json(request, lambda body: read_request(body, api, threads, request))
        builder = MessageBuilder(api.signer, parsed, threads)
        stream = recording_usage(request, api.service.stream(parsed.request))
        if parsed.stream:
            items = await prime_stream(request.receive, stream)
            return EventStream(
                _server_sent(items, builder), warning_headers([*parsed.warnings, *items.warnings]), items
            )
        events = await collect(request.receive, stream)
        headers = warning_headers([*parsed.warnings, *warnings_of(events)])
        finished = finish_of(events)
        for event in events:
            for _ in builder.push(event):
                pass
        return json_response(builder.whole(finished), headers=headers)

    async def count_tokens(request: HttpRequest) -> Response:
        """The number of tokens of its prompt"""
        parsed = await read_json(request, lambda body: read_request(body, api, threads, request, is_count=True))
        num = await while_connected(request.receive, api.service.count_tokens(parsed.request))
        return json_response({"input_tokens": num}, headers=warning_headers(parsed.warnings))

    return routes_at_both_roots([("/messages", create, "POST"), ("/messages/count_tokens", count_tokens, "POST")])


async def _server_sent(items: PrimedStream, builder: MessageBuilder) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. An error becomes one more event."""
    request_id, last = builder.parsed.request.request_id, None
    try:
        async for item in items:
            told = builder.alive() if item is None else builder.push(item)
            last = item if item is not None else last
            for event in told:
                yield sse(event, event["type"])
        for event in builder.end(finish_of([last] if last else [])):
            yield sse(event, event["type"])
    except Exception as error:
        yield sse(error_body(to_api_error(error, request_id), "/v1/messages", request_id), "error")
