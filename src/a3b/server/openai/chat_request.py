"""The body of a chat or text completion, as OpenAI's clients and those of other servers send it, to what the service is
asked.

`CHAT` says what becomes of each field. Enter at `read_chat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from a3b.interface.request import Request
from a3b.prompt.chat_template import REPLAY_KEY, is_reserved
from a3b.prompt.media import media_in
from a3b.prompt.normalise_messages import KNOWN, REMINDER_KEY, ROLES
from a3b.prompt.tool_results import NO_RESULT_KEY, result_warnings
from a3b.server import response_format
from a3b.server.errors import ApiError
from a3b.server.fields import FieldRules, Fields, HarmlessIf, is_empty
from a3b.server.sampling_fields import COMPLETION_SAMPLING, check_number, read_completion_sampling

MAX_CHOICES, MAX_LOGPROBS, MAX_NAME = 8, 20, 256
OWN_KEYS = (REPLAY_KEY, REMINDER_KEY, NO_RESULT_KEY)  # marks in messages that only this server sets
MEDIA = (
    "image",
    "image_url",
    "input_image",
    "audio",
    "audio_url",
    "input_audio",
    "video",
    "video_url",
    "input_video",
    "file",
    "input_file",
)


UNSUPPORTED: dict[str, HarmlessIf] = {
    "audio": None,
    "web_search_options": None,
    "moderation": None,
    "modalities": lambda value: value == ["text"],
    # of vLLM, SGLang and llama.cpp
    "bad_words": is_empty,
    "stop_token_ids": is_empty,
    "min_tokens": is_empty,
    "ignore_eos": is_empty,
    "use_beam_search": is_empty,
    "continue_final_message": is_empty,
    "add_generation_prompt": lambda value: value is True,
    "skip_special_tokens": lambda value: value is True,
    **dict.fromkeys(
        (
            "allowed_token_ids",
            "prompt_logprobs",
            "truncate_prompt_tokens",
            "chat_template",
            "documents",
            "logits_processors",
            "include_stop_str_in_output",
            "lora",
            "mirostat",
            "mirostat_mode",
            "dynatemp_range",
            "xtc_probability",
            "dry_multiplier",
            "top_a",
            "smoothing_factor",
        ),
        is_empty,
    ),
    **dict.fromkeys(("typical_p", "tfs_z", "length_penalty"), lambda value: value == 1),
    **dict.fromkeys(("top_n_sigma", "t_max_predict_ms"), lambda value: value in (0, -1)),
}
HARMLESS = {
    "user": "says who asks",
    "safety_identifier": "says who asks",
    "metadata": "is for lists of completions, which are not kept",
    "store": "as metadata",
    "service_tier": "there is one",
    "prompt_cache_key": "all prompts are cached",
    "prompt_cache_options": "as prompt_cache_key",
    "prompt_cache_retention": "as prompt_cache_key",
    "cache_prompt": "as prompt_cache_key",
    "prediction": "would only save time",
}
SHORTER = "this model has no such setting; ask for short or long answers in the instructions"
CHAT = FieldRules(
    read=(
        *COMPLETION_SAMPLING,
        "model",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        *response_format.FIELDS,
        "n",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "enable_thinking",
        "include_reasoning",
        "thinking_budget",
        "thinking_token_budget",
        "task_thinking_budget",
        "preserve_thinking",
        "thinking_policy",
        "chat_template_kwargs",
    ),
    refused={**UNSUPPORTED, **response_format.UNSUPPORTED},
    warned={"verbosity": (lambda value: value == "medium", SHORTER)},
    harmless=HARMLESS,
)
STREAM_OPTIONS = FieldRules(
    read=("include_usage",), harmless={"include_obfuscation": "pads against listeners, which TLS is for"}
)
REASONING = FieldRules(
    read=("effort", "max_tokens", "exclude", "enabled"), harmless={"summary": "the thinking is told in full"}
)
THINKING = FieldRules(read=("type", "budget_tokens", "clear_thinking"))
# marks of other servers on a last message that the model shall continue
UNFINISHED = {"prefix": is_empty, "partial": is_empty}


@dataclass(frozen=True)
class CompletionRequest:
    """What one call of an API asks for: a request for each choice, and how to show the answers."""

    requests: list[Request]
    stream: bool
    include_usage: bool
    show_thinking: bool = True
    legacy_functions: bool = False  # the caller reads `function_call`, not `tool_calls`
    prompts: int = 1  # different ones, of as many choices each
    echo: bool = False  # text is given back with its prompt
    model: str = ""  # the name that was asked for
    warnings: tuple[str, ...] = ()


def read_chat(body: Any, namespace: str = "", request_id: str = "") -> CompletionRequest:
    """Raises ApiError or UsageError, naming the field."""
    fields = Fields(body)
    warnings = CHAT.check(fields)
    legacy = fields.body.get("tools") is None and fields.body.get("functions") is not None
    tools = _functions(fields) if legacy else _tools(fields)
    tools = tools if legacy else _allowed(fields, tools)
    choice, name = _tool_choice(fields, "function_call" if legacy else "tool_choice", tools)
    reasoning = Fields(fields.object("reasoning") or {}, "reasoning")
    warnings += REASONING.check(reasoning)
    request = Request(
        messages=_messages(fields, warnings),
        tools=tools,
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=not legacy and fields.boolean("parallel_tool_calls", True),
        schema=response_format.read_schema(fields),
        sampling=read_completion_sampling(fields),
        top_logprobs=_top_logprobs(fields),
        namespace=namespace,
        request_id=request_id,
        **_thinking(fields, reasoning, warnings),
    )
    shown = fields.boolean("include_reasoning", True) and not reasoning.boolean("exclude")
    stream = read_stream(fields, warnings)
    return CompletionRequest(
        expand_choices([request], read_count(fields)),
        *stream,
        shown,
        legacy,
        model=fields.model(""),
        warnings=tuple(warnings),
    )


def read_stream(fields: Fields, warnings: list[str]) -> tuple[bool, bool]:
    """Whether to stream, and whether the usage is wanted at the end."""
    options = Fields(fields.object("stream_options") or {}, "stream_options")
    warnings += STREAM_OPTIONS.check(options)
    return fields.boolean("stream"), options.boolean("include_usage")


def read_count(fields: Fields) -> int:
    n = fields.integer("n", least=1) or 1
    if n > MAX_CHOICES:
        raise fields.invalid("n", f"at most {MAX_CHOICES}")
    return n


def expand_choices(requests: list[Request], n: int) -> list[Request]:
    """Each request `n` times, with seeds that follow each other if one was given."""
    found = []
    for request in requests:
        for i in range(n):
            seed = request.sampling.get("seed")
            sampling = request.sampling
            if seed is not None:
                sampling = {**sampling, "seed": check_number("seed", seed + i)}
            found.append(replace(request, sampling=sampling))
    if len(found) == 1:
        return found
    return [replace(request, request_id=f"{request.request_id}.{i}") for i, request in enumerate(found)]


# -- what to say


def _messages(fields: Fields, warnings: list[str]) -> list[dict[str, Any]]:
    messages = fields.items("messages")
    if not messages:
        raise fields.invalid("messages", "a list of at least one message")
    for i, message in enumerate(messages):
        one = Fields(message, f"messages[{i}]")
        one.refuse(UNFINISHED)
        role = one.string("role")
        if role is None or role.strip().lower() not in (*KNOWN, *ROLES):
            raise one.invalid("role", "system, developer, user, assistant or tool")
        content = one.get("content", (str, list, Mapping), "text or a list of parts", "")
        parts = [content] if isinstance(content, Mapping) else content if isinstance(content, list) else []
        for j, part in enumerate(parts):
            where = one.name("content") + (f"[{j}]" if isinstance(content, list) else "")
            # what a tool saw stays in all later requests, and refuses none of them
            if role.strip().lower() in ("tool", "function"):
                if (left := media_in(part)) is not None:
                    warnings.append(f"{where}: {left} left out: this model reads text only")
            elif isinstance(part, Mapping):
                _refuse_media(part, where)
    if any(
        message.get("name") is not None and message["role"] in ("user", "system", "developer") for message in messages
    ):
        warnings.append("messages[].name: the model sees roles, no names; put a name into the content")
    if any(message.get("audio") is not None for message in messages):
        warnings.append("messages[].audio: left out, as this model reads text only")
    own = [_own(message) for message in messages]
    warnings += result_warnings(own)
    return own


def _own(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message without marks that only this server sets; a refusal is what the assistant said, if it said nothing
    else."""
    own = {key: value for key, value in message.items() if key not in OWN_KEYS}
    if isinstance(own.get("refusal"), str) and not own.get("content"):
        own["content"] = own["refusal"]
    return own


def _refuse_media(part: Mapping[str, Any], where: str) -> None:
    kind = part.get("type")
    found = kind if kind in MEDIA else next((key for key in MEDIA if part.get(key) is not None), None)
    if found is not None:
        field = f"{where}.type" if found == kind else f"{where}.{found}"
        raise ApiError(
            400, f"{field}: {found} is not supported by this server; send text", "unsupported_parameter", field
        )


# -- tools


def _tools(fields: Fields) -> list[dict[str, Any]]:
    return [_tool(Fields(tool, f"tools[{i}]")) for i, tool in enumerate(fields.items("tools"))]


def _tool(tool: Fields) -> dict[str, Any]:
    if tool.string("type") != "function":
        raise tool.invalid("type", '"function"')
    _check_function(tool.body.get("function"), tool.name("function"))
    if tool.boolean("strict"):
        return {**tool.body, "function": {**tool.body["function"], "strict": True}}
    return dict(tool.body)


def _functions(fields: Fields) -> list[dict[str, Any]]:
    found = fields.items("functions")
    for i, function in enumerate(found):
        _check_function(function, f"functions[{i}]")
    return [{"type": "function", "function": function} for function in found]


def _check_function(value: Any, where: str) -> None:
    function = Fields(value, where)
    name = function.string("name")
    if not name or len(name) > MAX_NAME:
        raise function.invalid("name", f"a name of at most {MAX_NAME} characters")
    function.string("description")
    function.object("parameters")
    function.boolean("strict")


def _allowed(fields: Fields, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools that `tool_choice` leaves."""
    value = fields.body.get("tool_choice")
    if not isinstance(value, Mapping) or value.get("type") != "allowed_tools":
        return tools
    allowed = Fields(value.get("allowed_tools"), "tool_choice.allowed_tools")
    offered, names = {tool["function"]["name"] for tool in tools}, set()
    for i, given in enumerate(allowed.items("tools")):
        one = Fields(
            Fields(given, f"{allowed.name('tools')}[{i}]").object("function") or {},
            f"{allowed.name('tools')}[{i}].function",
        )
        if one.required("name") not in offered:
            raise one.invalid("name", "the name of one of the tools")
        names.add(one.body["name"])
    return [tool for tool in tools if tool["function"]["name"] in names]


def _tool_choice(fields: Fields, key: str, tools: list[dict[str, Any]]) -> tuple[str, str | None]:
    value = fields.get(key, (str, Mapping), "auto, none, required or the name of a function", "auto")
    if isinstance(value, Mapping):
        one = Fields(value, key)
        if key == "tool_choice" and one.string("type") == "allowed_tools":
            mode = Fields(value.get("allowed_tools"), f"{key}.allowed_tools").one_of(
                "mode", ("auto", "required"), "auto"
            )
            return _with_tools(mode, fields, key, tools)
        if key == "tool_choice":
            if one.string("type") != "function":
                raise one.invalid("type", "function or allowed_tools")
            one = Fields(value.get("function"), "tool_choice.function")
        name = one.string("name")
        if name not in [tool["function"]["name"] for tool in tools]:
            raise one.invalid("name", "the name of one of the tools")
        return "named", name
    if value not in ("auto", "none", "required"):
        raise fields.invalid(key, "auto, none, required or the name of a function")
    return _with_tools(value, fields, key, tools)


def _with_tools(choice: str, fields: Fields, key: str, tools: list[dict[str, Any]]) -> tuple[str, None]:
    if choice == "required" and not tools:
        raise fields.invalid(key, "auto or none, because there are no tools")
    return choice, None


# -- the rest


def _top_logprobs(fields: Fields) -> int | None:
    top = fields.integer("top_logprobs")
    if not fields.boolean("logprobs"):
        if top:
            raise fields.invalid("top_logprobs", "logprobs to be true")
        return None
    if top is not None and top > MAX_LOGPROBS:
        raise fields.invalid("top_logprobs", f"at most {MAX_LOGPROBS}")
    return top or 0


# -- thinking, in the words of all the servers and clients that have some


def _thinking(fields: Fields, reasoning: Fields, warnings: list[str]) -> dict[str, Any]:
    """The fields of Request about thinking. Of several that say the same, the most explicit wins."""
    kwargs = fields.object("chat_template_kwargs") or {}
    template = Fields(kwargs, "chat_template_kwargs")
    thinking = Fields(fields.object("thinking") or {}, "thinking")
    warnings += THINKING.check(thinking)
    efforts = (fields.effort("reasoning_effort"), reasoning.effort("effort"))
    kind = thinking.one_of("type", ("enabled", "disabled", "adaptive"))
    think = _first(
        fields.optional_boolean("enable_thinking"),
        template.optional_boolean("enable_thinking"),
        {"enabled": True, "disabled": False}.get(kind),
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
    clear = thinking.optional_boolean("clear_thinking")
    keep = _first(
        fields.optional_boolean("preserve_thinking"),
        template.optional_boolean("preserve_thinking"),
        None if clear is None else not clear,
    )
    policy = fields.policy("thinking_policy")
    if policy is None and keep is not None:
        policy = "all" if keep else "current-task"
    others = {key: value for key, value in kwargs.items() if key not in ("enable_thinking", "preserve_thinking")}
    for name in others:
        if is_reserved(name):
            raise ApiError(
                400,
                f"chat_template_kwargs.{name[:80]}: the server sets this itself; "
                "leave it out, and give messages and tools "
                "in their own fields",
                field=f"chat_template_kwargs.{name[:80]}",
            )
    return {
        "think": think,
        "thinking_budget": budget,
        "task_budget": _budget(fields, "task_thinking_budget"),
        "policy": policy,
        "template_kwargs": others,
    }


def _budget(fields: Fields, key: str) -> int | None:
    budget = fields.integer(key, least=-1)
    return None if budget == -1 else budget


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
