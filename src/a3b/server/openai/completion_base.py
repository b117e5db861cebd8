"""What chat and text completions share: from the parsed request to the response, whole or streamed. Enter at
`CompletionResponder.respond`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from a3b import __version__
from a3b.interface.events import Event, Reading
from a3b.server.context import record_usage, request_id
from a3b.server.errors import error_body, to_api_error
from a3b.server.event_streams import EventStream, Interleaved, interleave, prime, warnings_of, while_connected
from a3b.server.openai.chat_request import CompletionRequest
from a3b.server.openai.choices import Choice, total, usage_json
from a3b.server.report import report, warning_headers
from a3b.server.service_protocol import ServiceProtocol
from a3b.server.sse import comment, json_response, sse

MAX_TOGETHER = 8  # choices of one call that are written at the same time
READING_S = 1.0  # between two comments on how much of the prompt was read


async def _in_turn(places: asyncio.Semaphore, stream: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events, once there is a place for the stream."""
    async with places, aclosing(stream):
        async for event in stream:
            yield event


class CompletionResponder:
    """Turns one request into its response. The two APIs say what a choice of theirs looks like."""

    prefix: str  # of ids
    kind: str  # of a whole response
    chunk_kind: str

    def __init__(self, http: HttpRequest, parsed: CompletionRequest, model: str):
        """model: the name in the response if the request gave none."""
        self.http, self.parsed = http, parsed
        self.choices = [Choice() for _ in parsed.requests]
        self.begun = time.monotonic()
        self.warnings = list(parsed.warnings)
        self.with_logprobs = parsed.requests[0].top_logprobs is not None
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": parsed.model or model,
            "system_fingerprint": f"a3b-{__version__}",
        }

    def choice_json(self, index: int, choice: Choice) -> dict[str, Any]:
        """A choice of a whole response."""
        raise NotImplementedError

    def pieces(self, index: int, choice: Choice, event: Event) -> Iterable[dict[str, Any]]:
        """The choices of the chunks that an event becomes. The event has been added to `choice`."""
        raise NotImplementedError

    async def respond(self, service: ServiceProtocol) -> Response:
        places = asyncio.Semaphore(MAX_TOGETHER)
        events = interleave([_in_turn(places, service.stream(request)) for request in self.parsed.requests])
        if self.parsed.stream:
            first = prime(events, min(len(self.choices), MAX_TOGETHER), self.warnings)
            chunks = self._chunks(await while_connected(self.http.receive, first))
            return EventStream(chunks, warning_headers(self.warnings))
        whole = await while_connected(self.http.receive, self._whole(events))
        return json_response(whole, headers=warning_headers(self.warnings))

    async def _whole(self, events: Interleaved) -> dict[str, Any]:
        async with aclosing(events):
            async for item in events:
                if item is not None:
                    self.warnings += [text for text in warnings_of([item[1]]) if text not in self.warnings]
                    self.choices[item[0]].add(item[1])
        choices = [self.choice_json(i, choice) for i, choice in enumerate(self.choices)]
        return {**self.head, "object": self.kind, "choices": choices, **self._cost()}

    async def _chunks(self, events: Interleaved) -> AsyncGenerator[bytes, None]:
        """Server-sent events. An error becomes an event before [DONE]."""
        told = -READING_S
        async with aclosing(events):
            try:
                async for item in events:
                    match item:
                        case None:
                            yield comment("waiting")
                        case (i, Reading(done, total_)):
                            if (now := time.monotonic()) - told >= READING_S:
                                told = now
                                yield self._progress(i, done, total_)
                        case (i, event):
                            self.choices[i].add(event)
                            for piece in self.pieces(i, self.choices[i], event):
                                yield self._chunk([piece])
                cost = self._cost()
                if self.parsed.include_usage:
                    yield self._chunk([], **cost)
            except Exception as error:
                id = request_id(self.http)
                yield sse(error_body(to_api_error(error, id), self.http.url.path, id))
        yield sse("[DONE]")

    def _progress(self, index: int, done: int, total_: int) -> bytes:
        """How much of a prompt was read: a comment, or a chunk in llama.cpp's form, where `processed` has the cached
        tokens, too."""
        if not self.parsed.return_progress:
            return comment(f"reading {done}/{total_}")
        cached = self.choices[index].cached
        progress = {
            "total": cached + total_,
            "cache": cached,
            "processed": cached + done,
            "time_ms": round((time.monotonic() - self.begun) * 1e3),
        }
        piece = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
        return self._chunk([piece], prompt_progress=progress)

    def _chunk(self, choices: list[dict[str, Any]], **cost: Any) -> bytes:
        usage = {"usage": None} if self.parsed.include_usage else {}
        return sse({**self.head, "object": self.chunk_kind, "choices": choices, **usage, **cost})

    def _cost(self) -> dict[str, Any]:
        usage = total(self.choices, self.parsed.prompts)
        record_usage(self.http, usage)
        return {"usage": usage_json(usage), "a3b": report(self.choices[0].end, self.warnings)}
