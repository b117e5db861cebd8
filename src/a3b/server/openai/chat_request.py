"""The body of a chat completion, read into what the service is asked; what text completions share. `chat_fields` says
what happens to each field. Enter at `read_chat`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from a3b.interface.request import Request
from a3b.prompt.chat_template import is_reserved
from a3b.server.errors import ApiError
from a3b.server.fields import Fields
from a3b.server.openai.chat_fields import (
    CHAT,
    MAX_CHOICES,
    MAX_LOGPROBS,
    REASONING,
    STREAM_OPTIONS,
    THINKING,
)
from a3b.server.openai.chat_messages import read_messages
from a3b.server.openai.chat_tools import read_tools
from a3b.server.response_format import read_schema
from a3b.server.sampling_fields import check_number, read_completion_sampling


@dataclass(frozen=True)
class CompletionRequest:
    """What a call asks for: a Request for each choice, and how to show the answers."""

    requests: list[Request]
    stream: bool
    include_usage: bool
    show_thinking: bool = True
    legacy_functions: bool = False  # the caller reads `function_call`, not `tool_calls`
    return_progress: bool = False  # chunks say how much of the prompt was read
    prompts: int = 1  # different ones, each with the same number of choices
    echo: bool = False  # answers begin with their prompt
    model: str = ""  # the name that was asked for
    warnings: tuple[str, ...] = ()


def read_chat(body: Any, namespace: str = "", request_id: str = "") -> CompletionRequest:
    """Raises ApiError or UsageError that names the field."""
    fields = Fields(body)
    warnings = CHAT.check(fields)
    tools = read_tools(fields)
    reasoning = fields.nested("reasoning")
    warnings += REASONING.check(reasoning)
    request = Request(
        messages=read_messages(fields, warnings),
        tools=tools.tools,
        tool_choice=tools.choice,
        tool_name=tools.name,
        parallel_tool_calls=not tools.is_legacy and fields.boolean("parallel_tool_calls", True),
        schema=read_schema(fields),
        sampling=read_completion_sampling(fields),
        top_logprobs=_top_logprobs(fields),
        task_budget=_budget(fields, "task_thinking_budget"),
        template_kwargs=_template_kwargs(fields),
        namespace=namespace,
        request_id=request_id,
        **_thinking(fields, reasoning, warnings),
    )
    stream, include_usage = read_stream(fields, warnings)
    return CompletionRequest(
        expand_choices([request], read_count(fields)),
        stream,
        include_usage,
        show_thinking=fields.boolean("include_reasoning", True) and not reasoning.boolean("exclude"),
        legacy_functions=tools.is_legacy,
        return_progress=fields.boolean("return_progress"),
        model=fields.model(""),
        warnings=tuple(warnings),
    )


def read_stream(fields: Fields, warnings: list[str]) -> tuple[bool, bool]:
    """Whether to stream, and whether the last chunk reports the usage."""
    options = fields.nested("stream_options")
    warnings += STREAM_OPTIONS.check(options)
    return fields.boolean("stream"), options.boolean("include_usage")


def read_count(fields: Fields) -> int:
    """How many choices to write for each prompt."""
    n = fields.integer("n", least=1) or 1
    if n > MAX_CHOICES:
        raise fields.invalid("n", f"at most {MAX_CHOICES}")
    return n


def expand_choices(requests: list[Request], n: int) -> list[Request]:
    """Each request `n` times. A given seed counts up from choice to choice."""
    found = []
    for request in requests:
        for i in range(n):
            sampling = request.sampling
            if (seed := sampling.get("seed")) is not None:
                sampling = {**sampling, "seed": check_number("seed", seed + i)}
            found.append(replace(request, sampling=sampling))
    if len(found) == 1:
        return found
    return [replace(request, request_id=f"{request.request_id}.{i}") for i, request in enumerate(found)]


def _top_logprobs(fields: Fields) -> int | None:
    top = fields.integer("top_logprobs")
    if not fields.boolean("logprobs"):
        if top:
            raise fields.invalid("top_logprobs", "logprobs to be true")
        return None
    if top is not None and top > MAX_LOGPROBS:
        raise fields.invalid("top_logprobs", f"at most {MAX_LOGPROBS}")
    return top or 0


# -- thinking: servers and clients have many names for it


def _thinking(fields: Fields, reasoning: Fields, warnings: list[str]) -> dict[str, Any]:
    """Whether to think, for how long, and which earlier thinking stays. The most explicit field counts."""
    template, thinking = fields.nested("chat_template_kwargs"), fields.nested("thinking")
    warnings += THINKING.check(thinking)
    efforts = (fields.effort("reasoning_effort"), reasoning.effort("effort"))
    kind = thinking.one_of("type", ("enabled", "disabled", "adaptive"))
    think = _first(
        fields.optional_boolean("enable_thinking"),
        template.optional_boolean("enable_thinking"),
        {"enabled": True, "disabled": False}.get(kind or ""),
        reasoning.optional_boolean("enabled"),
        *(think for think, _ in efforts),
    )
    budget = _first(
        _budget(fields, "thinking_budget"),
        _budget(fields, "thinking_token_budget"),
        _budget(thinking, "budget_tokens"),
        _budget(reasoning, "max_tokens"),
        *(budget for _, budget in efforts),
    )
    return {"think": think, "thinking_budget": budget, "policy": _policy(fields, template, thinking)}


def _policy(fields: Fields, template: Fields, thinking: Fields) -> str | None:
    clear = thinking.optional_boolean("clear_thinking")
    keep = _first(
        fields.optional_boolean("preserve_thinking"),
        template.optional_boolean("preserve_thinking"),
        None if clear is None else not clear,
    )
    policy = fields.policy("thinking_policy")
    if policy is None and keep is not None:
        return "all" if keep else "current-task"
    return policy


def _template_kwargs(fields: Fields) -> dict[str, Any]:
    """Variables for the chat template, without those about thinking. Raises ApiError for names that are reserved."""
    kwargs = fields.object("chat_template_kwargs") or {}
    others = {key: value for key, value in kwargs.items() if key not in ("enable_thinking", "preserve_thinking")}
    for name in filter(is_reserved, others):
        field = f"chat_template_kwargs.{name[:80]}"
        message = "the server sets this itself; leave it out, and give messages and tools in their own fields"
        raise ApiError(400, f"{field}: {message}", field=field)
    return others


def _budget(fields: Fields, key: str) -> int | None:
    """A limit of tokens; -1 is none."""
    budget = fields.integer(key, least=-1)
    return None if budget == -1 else budget


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
