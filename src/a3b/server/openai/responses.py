"""OpenAI's Responses API: create, look up, delete, list the input, count tokens, compact. Enter at `routes`.

What is done with a request, beyond the plain:

* `previous_response_id` puts the stored conversation in front; instructions of earlier responses are not carried over.
* `reasoning.effort` is a limit of thinking tokens (`wire.EFFORTS`), `reasoning.budget_tokens` (ours) sets one;
  `reasoning.context` is the policy for earlier thinking: `current_turn` or `all_turns`.
* `reasoning.summary` asks for the thinking as a summary too: it is the thinking itself.
* While the prompt is read, a stream repeats `response.in_progress`, which resets the clocks of clients that count
  events.
* `truncation: auto` is treated as `disabled`: what does not fit is refused, not cut.
* A response repeats its request with what was used where the request said nothing: it has all the fields of the
  published schema.
* `/compact`: the model sums up a conversation; the summary is encrypted into an item that only this server can read,
  and only for this key.
* `RESPONSE` says what becomes of each field.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.interface.events import Event, Finished, Reading, Started, TextDelta, Usage
from a3b.interface.request import Request
from a3b.interface.sampling_params import SamplingParams
from a3b.prompt.tool_results import result_warnings
from a3b.server import response_format
from a3b.server.context import ApiContext, recording_usage
from a3b.server.errors import ApiError, to_api_error
from a3b.server.event_streams import (
    EventStream,
    PrimedStream,
    collect,
    finish_of,
    prime_stream,
    warnings_of,
    while_connected,
)
from a3b.server.fields import FieldRules, Fields, is_empty
from a3b.server.openai.chat_request import SHORTER, STREAM_OPTIONS
from a3b.server.openai.responses_input import (
    ConversationReader,
    ToolTable,
    listed,
    new_id,
    read_choice,
    read_tools,
    told_tool,
)
from a3b.server.openai.responses_output import OutputBuilder
from a3b.server.report import report, warning_headers
from a3b.server.request_body import read_json
from a3b.server.response_format import read_form, read_schema
from a3b.server.response_store import ResponseItem, StoredResponse
from a3b.server.sampling_fields import NUMBERS, read_bias, read_numbers
from a3b.server.sse import json_response, sse
from a3b.server.thinking_signatures import ThinkingSigner

MAX_METADATA = 16  # keys, as the published API has it
PROGRESS_S = 2.0  # how often a stream says how much of the prompt was read
RESPONSE = FieldRules(
    read=(
        "model",
        "input",
        "instructions",
        "previous_response_id",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning",
        "text",
        "include",
        "stream",
        "stream_options",
        "store",
        "max_output_tokens",
        *NUMBERS,
        "logit_bias",
        "top_logprobs",
        "truncation",
        "thinking_policy",
        "task_thinking_budget",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "max_tool_calls",
        "service_tier",
        *response_format.FIELDS,
    ),
    refused={
        "background": lambda value: value is False,
        "conversation": None,
        "prompt": None,
        "moderation": None,
        **response_format.UNSUPPORTED,
    },
    warned={
        "context_management": (is_empty, "nothing is compacted here; the history stays whole"),
        "personality": (None, "this model has no such setting; describe it in the instructions"),
    },
    harmless={
        "prompt_cache_options": "all prompts are cached",
        "prompt_cache_retention": "all prompts are cached",
        "image": "no images are read",
        "access_programs": "there are none",
        "background_options": "nothing runs in the background",
    },
)
COMPACT = FieldRules(
    read=("model", "input", "instructions", "previous_response_id"),
    harmless={**RESPONSE.harmless, "prompt_cache_key": "all prompts are cached", "service_tier": "there is one"},
)
SUMMARISE = (
    "Sum up the conversation above for yourself, so that you can go on "
    "without it: the task and its state, what was decided, "
    "names, numbers and paths that matter, and what is left to do. Write the summary and nothing else."
)
SUMMARY_TOKENS = 4096
REASONING = FieldRules(
    read=("effort", "summary", "generate_summary", "context", "budget_tokens"),
    refused={"mode": lambda value: value == "standard"},
)
TEXT = FieldRules(read=("format",), warned={"verbosity": (lambda value: value == "medium", SHORTER)})
SUMMARIES = ("auto", "concise", "detailed", "none")
POLICIES = {"auto": None, "current_turn": "current-task", "all_turns": "all"}


@dataclass(frozen=True)
class ResponsesRequest:
    """A request as it was understood."""

    request: Request
    tools: ToolTable
    items: list[ResponseItem]  # the conversation, to be stored
    echo: dict[str, Any]  # fields that the response repeats
    warnings: list[str]
    stream: bool
    has_summary: bool
    is_encrypted: bool
    model: str  # the name that was asked for


def routes(api: ApiContext) -> list[Route]:
    """The routes of this API."""

    async def create(request: HttpRequest) -> Response:
        parsed = await read_json(request, lambda body: _read(body, api, request))
        builder = ResponseBuilder(api, parsed)
        stream = recording_usage(request, api.service.stream(parsed.request))
        if parsed.stream:
            items = await prime_stream(request.receive, stream)
            parsed.warnings.extend(items.warnings)
            return EventStream(_server_sent(items, builder), warning_headers(parsed.warnings), items)
        events = await collect(request.receive, stream)
        parsed.warnings.extend(warnings_of(events))
        headers = warning_headers(parsed.warnings)
        finished = finish_of(events)
        for event in events:
            for _ in builder.output.push(event):
                pass
        return json_response(builder.end(finished), headers=headers)

    async def count_tokens(request: HttpRequest) -> Response:
        parsed = await read_json(request, lambda body: _read(body, api, request))
        num = await while_connected(request.receive, api.service.count_tokens(parsed.request))
        return json_response(
            {"object": "response.input_tokens", "input_tokens": num}, headers=warning_headers(parsed.warnings)
        )

    async def compact(request: HttpRequest) -> Response:
        parsed = _read_compaction(await read_json(request), api, request)
        events = await collect(request.receive, recording_usage(request, api.service.stream(parsed.request)))
        compacted = _compacted(parsed, events, api.signer)
        return json_response(compacted, headers=warning_headers(parsed.warnings))

    def find(request: HttpRequest) -> StoredResponse:
        response_id = request.path_params["id"]
        stored = api.stored.get(request.state.namespace, response_id)
        if stored is None:
            raise ApiError(404, f"Response with id '{response_id[:100]}' not found.", "response_not_found")
        return stored

    async def retrieve(request: HttpRequest) -> Response:
        if request.query_params.get("stream", "false") != "false":
            raise ApiError(
                400,
                "stream: not supported for a response that is complete; leave it out",
                "unsupported_parameter",
                "stream",
            )
        return json_response(find(request).response)

    async def delete(request: HttpRequest) -> Response:
        response_id = find(request).response["id"]
        api.stored.delete(request.state.namespace, response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(request: HttpRequest) -> Response:
        return json_response(_page(find(request).items, request.query_params))

    found = [
        ("", create, "POST"),
        ("/input_tokens", count_tokens, "POST"),
        ("/compact", compact, "POST"),
        ("/{id}", retrieve, "GET"),
        ("/{id}", delete, "DELETE"),
        ("/{id}/input_items", input_items, "GET"),
    ]
    return [
        Route(f"{root}/responses{path}", handler, methods=[method])
        for root in ("/v1", "")
        for path, handler, method in found
    ]


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


# -- the request


def _read(body: Any, api: Any, http: HttpRequest) -> ResponsesRequest:
    fields, namespace = Fields(body), http.state.namespace
    reasoning, text = Fields(fields.object("reasoning") or {}, "reasoning"), Fields(fields.object("text") or {}, "text")
    options = Fields(fields.object("stream_options") or {}, "stream_options")
    warnings = [*RESPONSE.check(fields), *REASONING.check(reasoning), *TEXT.check(text), *STREAM_OPTIONS.check(options)]
    fields.one_of("truncation", ("auto", "disabled"))
    tools = read_tools(fields, warnings)
    choice, name = read_choice(fields, tools)
    conversation = ConversationReader(api.signer, api.stored, namespace, tools)
    for i, item in enumerate(_earlier(fields, api, namespace)):
        conversation.add(item, f"previous_response_id[{i}]")
    for i, item in enumerate(_input(fields)):
        conversation.add(item, f"input[{i}]")
    instructions = fields.string("instructions")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    messages += conversation.messages
    if not messages:
        raise ApiError(400, "input: empty; expected text or a list of items", field="input")
    think, budget = reasoning.effort("effort")
    budget = reasoning.integer("budget_tokens", least=1) or budget
    include = fields.items("include")
    top_logprobs = fields.integer("top_logprobs")
    if top_logprobs is None and "message.output_text.logprobs" in include:
        top_logprobs = 0
    policy = fields.policy("thinking_policy") or POLICIES[reasoning.one_of("context", tuple(POLICIES), "auto")]
    older = reasoning.string("generate_summary")
    summary = reasoning.one_of("summary", SUMMARIES)
    if summary is None and older is not None:
        summary = reasoning.one_of("generate_summary", SUMMARIES)
    request = Request(
        messages=messages,
        tools=tools.functions,
        tool_choice=choice,
        tool_name=name,  # type: ignore[arg-type]
        parallel_tool_calls=fields.boolean("parallel_tool_calls", True),
        schema=_schema(fields),
        sampling=_sampling(fields),
        top_logprobs=top_logprobs,
        think=think,
        thinking_budget=budget,
        policy=policy,
        task_budget=fields.integer("task_thinking_budget"),
        namespace=namespace,
        request_id=http.state.request_id,
    )
    warnings += [*conversation.warnings, *result_warnings(messages)]
    echo = _echo(fields, request, api.service.sampling(request))
    return ResponsesRequest(
        request,
        tools,
        conversation.items,
        echo,
        warnings,
        fields.boolean("stream"),
        summary not in (None, "none"),
        "reasoning.encrypted_content" in include,
        fields.model(api.service.model),
    )


def _earlier(fields: Fields, api: Any, namespace: str) -> list[ResponseItem]:
    """Items of the conversation that `previous_response_id` continues."""
    previous = fields.string("previous_response_id")
    if previous is None:
        return []
    stored = api.stored.get(namespace, previous)
    if stored is None:
        raise ApiError(
            400,
            f"Previous response with id '{previous[:100]}' not found; send the whole conversation as input",
            "previous_response_not_found",
            "previous_response_id",
        )
    return stored.conversation


def _input(fields: Fields) -> list[Any]:
    given = fields.get("input", (str, list), "text or a list of items", [])
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def _schema(fields: Fields) -> Mapping[str, Any] | None:
    given = Fields(fields.object("text") or {}, "text").object("format")
    return read_schema(fields, [("text.format", None if given is None else read_form(Fields(given, "text.format")))])


def _sampling(fields: Fields) -> dict[str, Any]:
    sampling = read_numbers(fields)
    if (limit := fields.integer("max_output_tokens", least=1)) is not None:
        sampling["max_tokens"] = limit
    if bias := read_bias(fields):
        sampling["logit_bias"] = bias
    return sampling


def _echo(fields: Fields, request: Request, params: SamplingParams) -> dict[str, Any]:
    """What a response repeats of its request, with what was used where that says nothing."""
    reasoning, text = fields.object("reasoning") or {}, fields.object("text") or {}
    return {
        "instructions": fields.string("instructions"),
        "max_output_tokens": fields.integer("max_output_tokens"),
        "max_tool_calls": fields.integer("max_tool_calls"),
        "metadata": _metadata(fields),
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": fields.string("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        "store": fields.boolean("store", True),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "text": {"format": _format(text.get("format")), "verbosity": "medium"},
        "tool_choice": fields.body.get("tool_choice") or "auto",
        "tools": [told_tool(tool) for tool in fields.items("tools")],
        "top_logprobs": request.top_logprobs or 0,
        "truncation": "disabled",
        **({} if fields.string("user") is None else {"user": fields.string("user")}),
        "safety_identifier": fields.string("safety_identifier"),
        "prompt_cache_key": fields.string("prompt_cache_key"),
    }


def _metadata(fields: Fields) -> dict[str, Any]:
    found = fields.object("metadata") or {}
    if len(found) > MAX_METADATA:
        raise ApiError(400, f"metadata: {len(found)} keys; expected at most {MAX_METADATA}", field="metadata")
    return dict(found)


def _format(given: Mapping[str, Any] | None) -> dict[str, Any]:
    if not given:
        return {"type": "text"}
    if given["type"] != "json_schema":
        return dict(given)
    return {"name": "answer", "description": "", **given, "strict": bool(given.get("strict"))}


# -- compaction


def _read_compaction(body: Any, api: Any, http: HttpRequest) -> ResponsesRequest:
    """The conversation, and a last message of ours that asks for its summary."""
    fields = Fields(body)
    warnings = COMPACT.check(fields)
    fields.required("model")
    items = _input(fields)
    if not items and fields.string("previous_response_id") is None:
        raise ApiError(400, "input: empty; expected text or a list of items", field="input")
    given = {key: fields.body.get(key) for key in ("model", "instructions", "previous_response_id")}
    last = {"type": "message", "role": "user", "content": SUMMARISE}
    whole = {**given, "input": [*items, last], "max_output_tokens": SUMMARY_TOKENS, "reasoning": {"effort": "none"}}
    parsed = _read(whole, api, http)
    return replace(parsed, warnings=[*warnings, *parsed.warnings])


def _compacted(parsed: ResponsesRequest, events: list[Event], signer: ThinkingSigner) -> dict[str, Any]:
    """What the user said, and the summary of all."""
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
        "usage": _usage(finished.usage),
        "a3b": report(finished, parsed.warnings),
    }


# -- the answer


class ResponseBuilder:
    """The response that is being made."""

    def __init__(self, api: Any, parsed: ResponsesRequest):
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
            "usage": _usage(self.usage),
            **self.parsed.echo,
            **rest,
        }

    def end(self, finished: Finished) -> dict[str, Any]:
        """The response as it is after its last event, stored if that was not declined."""
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


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


async def _server_sent(items: PrimedStream, builder: ResponseBuilder) -> AsyncIterator[bytes]:
    """The answer as server-sent events; whatever goes wrong is told in the last of them."""
    number = itertools.count()
    clock = asyncio.get_running_loop().time
    last, told_at = None, -PROGRESS_S

    def tell(event: dict[str, Any]) -> bytes:
        return sse({**event, "sequence_number": next(number)}, event["type"])

    def state(status: str, **rest: Any) -> bytes:
        return tell({"type": f"response.{status}", "response": builder.object("in_progress", **rest)})

    def failure(code: str, message: str) -> bytes:
        response = builder.object("failed", error={"code": code, "message": message}, output=builder.output.items)
        return tell({"type": "response.failed", "response": response})

    try:
        yield state("created")
        yield state("in_progress")
        async for item in items:
            if item is None:
                yield state("in_progress")
            elif isinstance(item, Reading):
                if clock() - told_at >= PROGRESS_S:
                    told_at = clock()
                    yield state("in_progress", a3b={"read": item.done, "total": item.total})
            elif isinstance(item, Started):
                builder.usage = item.usage
            else:
                for event in builder.output.push(item):
                    yield tell(event)
            last = item if item is not None else last
        response = builder.end(finish_of([last] if last else []))
        yield tell({"type": f"response.{response['status']}", "response": response})
    except Exception as error:
        answered = to_api_error(error, builder.parsed.request.request_id)
        yield failure(answered.code if answered.status < 500 else "server_error", str(answered))
