"""Compaction of a conversation: the model summarises it, and the summary is encrypted into an item. Enter at
`read_compaction` and `compacted`."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest

from a3b.interface.events import Event, TextDelta
from a3b.server.context import ApiContext
from a3b.server.errors import ApiError
from a3b.server.event_streams import finish_of
from a3b.server.fields import FieldRules, Fields
from a3b.server.openai.responses_builder import usage_json
from a3b.server.openai.responses_items import listed, new_id
from a3b.server.openai.responses_request import RESPONSE, ResponsesRequest, input_items, read_response_request
from a3b.server.report import report
from a3b.server.thinking_signatures import ThinkingSigner

COMPACT = FieldRules(
    read={
        "model": "must be given",
        "input": "the conversation, as for a response",
        "instructions": "a system message before everything",
        "previous_response_id": "the stored conversation that the input follows",
    },
    harmless={**RESPONSE.harmless, "prompt_cache_key": "all prompts are cached", "service_tier": "there is one"},
)
SUMMARISE = (
    "Sum up the conversation above for yourself, so that you can go on "
    "without it: the task and its state, what was decided, "
    "names, numbers and paths that matter, and what is left to do. Write the summary and nothing else."
)
SUMMARY_TOKENS = 4096


def read_compaction(body: Any, api: ApiContext, http: HttpRequest) -> ResponsesRequest:
    """The conversation with one more message, which asks for its summary. Raises ApiError that names the field."""
    fields = Fields(body)
    warnings = COMPACT.check(fields)
    fields.required("model")
    items = input_items(fields)
    if not items and fields.string("previous_response_id") is None:
        raise ApiError(400, "input: empty; expected text or a list of items", field="input")
    given = {key: fields.body.get(key) for key in ("model", "instructions", "previous_response_id")}
    last = {"type": "message", "role": "user", "content": SUMMARISE}
    whole = {**given, "input": [*items, last], "max_output_tokens": SUMMARY_TOKENS, "reasoning": {"effort": "none"}}
    parsed = read_response_request(whole, api, http)
    return replace(parsed, warnings=[*warnings, *parsed.warnings])


def compacted(parsed: ResponsesRequest, events: list[Event], signer: ThinkingSigner) -> dict[str, Any]:
    """The compacted conversation: what the user said, and the summary. Raises ApiError if the model wrote none."""
    finished = finish_of(events)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    if not text.strip():
        raise ApiError(503, "the model wrote no summary; send the request again", "no_summary")
    said = [listed(item) for item in parsed.items[:-1] if item["type"] == "message" and item.get("role") == "user"]
    summary = {
        "id": new_id("compaction"),
        "type": "compaction",
        "encrypted_content": signer.encrypt(text, parsed.request.namespace),
    }
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*said, summary],
        "usage": usage_json(finished.usage),
        "a3b": report(finished, parsed.warnings),
    }
