"""The answer of the Responses API: the response that grows by events, and its stream. Enter at `ResponseBuilder` and
`server_sent`."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from a3b.interface.events import Event, Finished, Reading, Started, Usage
from a3b.server.context import ApiContext
from a3b.server.errors import to_api_error
from a3b.server.event_streams import PrimedStream, finish_of
from a3b.server.openai.responses_output import OutputBuilder
from a3b.server.openai.responses_request import ResponsesRequest
from a3b.server.report import report
from a3b.server.response_store import StoredResponse
from a3b.server.sse import sse

PROGRESS_S = 2.0  # between two messages on how much of the prompt was read


class ResponseBuilder:
    """A response in the making."""

    def __init__(self, api: ApiContext, parsed: ResponsesRequest):
        self.api, self.parsed = api, parsed
        self.id, self.created_at = f"resp_{uuid.uuid4().hex}", int(time.time())
        self.usage = Usage()  # so far
        self.output = OutputBuilder(
            parsed.tools, api.signer, parsed.request.namespace, parsed.has_summary, parsed.is_encrypted
        )

    def object(self, status: str, **rest: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": None,
            "status": status,
            "background": False,
            "model": self.parsed.model,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": usage_json(self.usage),
            **self.parsed.echo,
            **rest,
        }

    def whole(self, events: Sequence[Event]) -> dict[str, Any]:
        """The response to all events of an answer. Raises ApiError if it broke off."""
        finished = finish_of(events)
        for event in events:
            for _ in self.output.push(event):
                pass
        return self.end(finished)

    def end(self, finished: Finished) -> dict[str, Any]:
        """The response after its last event. It is stored unless the request declined that."""
        warnings = [*self.parsed.warnings, *self.output.warnings]
        self.usage = finished.usage
        rest = {"output": self.output.items, "a3b": report(finished, warnings)}
        if finished.reason == "length":
            response = self.object("incomplete", incomplete_details={"reason": "max_output_tokens"}, **rest)
        else:
            response = self.object("completed", completed_at=int(time.time()), **rest)
        if self.parsed.echo["store"]:
            self.api.stored.put(self.parsed.request.namespace, StoredResponse(response, self.parsed.items))
        return response


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


async def server_sent(items: PrimedStream, builder: ResponseBuilder) -> AsyncGenerator[bytes, None]:
    """The answer as server-sent events. An error becomes the last event, `response.failed`."""
    number = itertools.count()
    clock = asyncio.get_running_loop().time
    last, progress_at = None, -PROGRESS_S

    def numbered(event: dict[str, Any]) -> bytes:
        return sse({**event, "sequence_number": next(number)}, event["type"])

    def state(status: str, **rest: Any) -> bytes:
        return numbered({"type": f"response.{status}", "response": builder.object("in_progress", **rest)})

    def failure(code: str, message: str) -> bytes:
        response = builder.object("failed", error={"code": code, "message": message}, output=builder.output.items)
        return numbered({"type": "response.failed", "response": response})

    try:
        yield state("created")
        yield state("in_progress")
        async for item in items:
            if item is None:
                yield state("in_progress")
            elif isinstance(item, Reading):
                if clock() - progress_at >= PROGRESS_S:
                    progress_at = clock()
                    yield state("in_progress", a3b={"read": item.done, "total": item.total})
            elif isinstance(item, Started):
                builder.usage = item.usage
            else:
                for event in builder.output.push(item):
                    yield numbered(event)
            last = item if item is not None else last
        response = builder.end(finish_of([last] if last else []))
        yield numbered({"type": f"response.{response['status']}", "response": response})
    except Exception as error:
        answered = to_api_error(error, builder.parsed.request.request_id)
        yield failure(answered.code if answered.status < 500 else "server_error", str(answered))
