"""The body of a request of the Responses API, read into what the service is asked. `RESPONSE` says what becomes of each
field. Enter at `read_response_request`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest

from a3b.interface.request import Request
from a3b.interface.sampling_params import SAMPLING_FIELDS, SamplingParams
from a3b.prompt.tool_results import result_warnings
from a3b.server import response_format
from a3b.server.context import ApiContext
from a3b.server.errors import ApiError
from a3b.server.fields import EMPTY, FieldRules, Fields, only
from a3b.server.openai.chat_fields import MAX_LOGPROBS, SHORTER, STREAM_OPTIONS
from a3b.server.openai.responses_input import ConversationReader
from a3b.server.openai.responses_tools import ToolTable, full_tool, read_choice, read_tools
from a3b.server.response_format import read_form, read_schema
from a3b.server.response_store import ResponseItem
from a3b.server.sampling_fields import BIAS, NUMBERS, read_bias, read_numbers
from a3b.server.shared_fields import ANY_MODEL, BUDGET, CONVERSATION, EFFORT, POLICY, STREAM, TASK_BUDGET

MAX_METADATA = 16  # keys, as in the published API
ONLY_REPEATED = "comes back in the response and does nothing else"
RESPONSE = FieldRules(
    read={
        "model": ANY_MODEL,
        "input": "text, or a list of items; " + CONVERSATION,
        "instructions": "a system message before everything; those of earlier responses do not carry over",
        "previous_response_id": "the stored conversation that this one continues",
        "tools": "`function`, `custom` and `namespace` tools, which the client runs; `web_search` only switched off",
        "tool_choice": "`auto`, `none`, `required`, one `function` or `custom` tool, or `allowed_tools`",
        "parallel_tool_calls": "false: at most one call in an answer; default true",
        "reasoning": "`effort`, `summary`, `context`, `budget_tokens`: below",
        "text": "`format`: the answer follows a JSON schema",
        "include": "`reasoning.encrypted_content`, `message.output_text.logprobs`; other values do nothing",
        "stream": STREAM,
        "stream_options": "see chat completions",
        "store": "false: the response is not kept; default true",
        "max_output_tokens": SAMPLING_FIELDS["max_tokens"].meaning,
        **{name: SAMPLING_FIELDS[name].meaning for name in NUMBERS},
        "logit_bias": BIAS,
        "top_logprobs": f"so many likely tokens in the place of each, up to {MAX_LOGPROBS}",
        "truncation": "`auto` or `disabled`: either way, what does not fit is refused and not cut",
        **response_format.FIELDS,
        "thinking_policy": POLICY,
        "task_thinking_budget": TASK_BUDGET,
        "metadata": f"comes back in the response; up to {MAX_METADATA} keys",
        **dict.fromkeys(("user", "safety_identifier", "prompt_cache_key", "max_tool_calls"), ONLY_REPEATED),
        "service_tier": "the response says `default`",
    },
    refused={
        "background": only(False),
        "conversation": None,
        "prompt": None,
        "moderation": None,
        **response_format.UNSUPPORTED,
    },
    warned={
        "context_management": (EMPTY, "nothing is compacted here; the history stays whole"),
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
REASONING = FieldRules(
    read={
        "effort": EFFORT,
        "summary": "`auto`, `concise`, `detailed`: the thinking is shown as a summary too; `none`: it is not",
        "generate_summary": "the older name of `summary`",
        "context": "which earlier thinking stays: `all_turns` is the policy `all`, `current_turn` `current-task`",
        "budget_tokens": BUDGET,
    },
    refused={"mode": only("standard")},
)
TEXT = FieldRules(
    read={"format": "`text`, `json_object`, or `json_schema` with a `schema`"},
    warned={"verbosity": (only("medium"), SHORTER)},
)
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
    has_summary: bool  # show the thinking as a summary too
    is_encrypted: bool  # give reasoning items `encrypted_content`
    model: str  # the name that was asked for


def read_response_request(body: Any, api: ApiContext, http: HttpRequest) -> ResponsesRequest:
    """Raises ApiError or UsageError that names the field."""
    fields, namespace = Fields(body), http.state.namespace
    warnings = _check(fields)
    tools = read_tools(fields, warnings)
    choice, name = read_choice(fields, tools)
    conversation = ConversationReader(api.signer, api.stored, namespace, tools)
    messages = _messages(fields, conversation)
    request = Request(
        messages=messages,
        tools=tools.functions,
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=fields.boolean("parallel_tool_calls", True),
        schema=_schema(fields),
        sampling=_sampling(fields),
        top_logprobs=_top_logprobs(fields),
        task_budget=fields.integer("task_thinking_budget"),
        namespace=namespace,
        request_id=http.state.request_id,
        **_thinking(fields),
    )
    warnings += [*conversation.warnings, *result_warnings(messages)]
    return ResponsesRequest(
        request,
        tools,
        conversation.items,
        echo=_echo(fields, request, api.service.sampling(request)),
        warnings=warnings,
        stream=fields.boolean("stream"),
        has_summary=_has_summary(fields.nested("reasoning")),
        is_encrypted="reasoning.encrypted_content" in fields.items("include"),
        model=fields.model(api.service.model),
    )


def _check(fields: Fields) -> list[str]:
    """Warnings about fields that are not followed, the nested ones included."""
    warnings = RESPONSE.check(fields)
    for key, rules in (("reasoning", REASONING), ("text", TEXT), ("stream_options", STREAM_OPTIONS)):
        warnings += rules.check(fields.nested(key))
    fields.one_of("truncation", ("auto", "disabled"))
    return warnings


def _messages(fields: Fields, conversation: ConversationReader) -> list[dict[str, Any]]:
    """The instructions, then the items of the earlier conversation and of the input."""
    for i, item in enumerate(_earlier(fields, conversation)):
        conversation.add(item, f"previous_response_id[{i}]")
    for i, item in enumerate(input_items(fields)):
        conversation.add(item, f"input[{i}]")
    instructions = fields.string("instructions")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    messages += conversation.messages
    if not messages:
        raise ApiError(400, "input: empty; expected text or a list of items", field="input")
    return messages


def _earlier(fields: Fields, conversation: ConversationReader) -> list[ResponseItem]:
    """The items of the conversation that `previous_response_id` continues."""
    previous = fields.string("previous_response_id")
    if previous is None:
        return []
    stored = conversation.store.get(conversation.namespace, previous)
    if stored is None:
        message = f"Previous response with id '{previous[:100]}' not found; send the whole conversation as input"
        raise ApiError(400, message, "previous_response_not_found", "previous_response_id")
    return stored.conversation


def input_items(fields: Fields) -> list[Any]:
    """The items of `input`; text is one message of the user."""
    given: str | list[Any] = fields.get("input", (str, list), "text or a list of items", [])
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def _thinking(fields: Fields) -> dict[str, Any]:
    """The fields of Request about thinking. An explicit budget counts more than an effort."""
    reasoning = fields.nested("reasoning")
    think, budget = reasoning.effort("effort")
    return {
        "think": think,
        "thinking_budget": reasoning.integer("budget_tokens", least=1) or budget,
        "policy": fields.policy("thinking_policy") or POLICIES[reasoning.one_of("context", tuple(POLICIES), "auto")],
    }


def _has_summary(reasoning: Fields) -> bool:
    """generate_summary is the older name."""
    older = reasoning.string("generate_summary")
    summary = reasoning.one_of("summary", SUMMARIES)
    if summary is None and older is not None:
        summary = reasoning.one_of("generate_summary", SUMMARIES)
    return summary not in (None, "none")


def _top_logprobs(fields: Fields) -> int | None:
    top_logprobs = fields.integer("top_logprobs")
    if top_logprobs is not None and top_logprobs > MAX_LOGPROBS:
        raise fields.invalid("top_logprobs", f"at most {MAX_LOGPROBS}")
    if top_logprobs is None and "message.output_text.logprobs" in fields.items("include"):
        return 0
    return top_logprobs


def _schema(fields: Fields) -> Mapping[str, Any] | None:
    given = fields.nested("text").object("format")
    return read_schema(fields, [("text.format", None if given is None else read_form(Fields(given, "text.format")))])


def _sampling(fields: Fields) -> dict[str, Any]:
    sampling = read_numbers(fields)
    if (limit := fields.integer("max_output_tokens", least=1)) is not None:
        sampling["max_tokens"] = limit
    if bias := read_bias(fields):
        sampling["logit_bias"] = bias
    return sampling


def _echo(fields: Fields, request: Request, params: SamplingParams) -> dict[str, Any]:
    """What a response repeats of its request, with the values used where it gave none."""
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
        "tools": [full_tool(tool) for tool in fields.items("tools")],
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
