"""The body of a request of the Messages API, read into what the service is asked. Enter at `read_request`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request as HttpRequest

from a3b.interface.request import Request, ToolChoice
from a3b.interface.sampling_params import too_many_stops
from a3b.prompt.media import left_out, media_in
from a3b.prompt.tool_results import result_warnings
from a3b.server.anthropic import messages_fields
from a3b.server.anthropic.messages_output import MessagesRequest
from a3b.server.anthropic.threads import Threads
from a3b.server.context import ApiContext
from a3b.server.errors import ApiError
from a3b.server.fields import Fields
from a3b.server.foreign_items import READ_AS_TEXT, block_text
from a3b.server.response_format import read_form, read_schema
from a3b.server.sampling_fields import read_numbers
from a3b.server.thinking_signatures import ThinkingSigner
from a3b.thinking.stable_dates import without_billing

UNREADABLE = ("image", "document")
CHOICES: dict[str, ToolChoice] = {"auto": "auto", "any": "required", "none": "none"}


def read_request(
    body: Any, api: ApiContext, threads: Threads, http: HttpRequest, is_count: bool = False
) -> MessagesRequest:
    """is_count: the request only counts tokens. Raises ApiError that names the field."""
    fields, num_held = threads.resolve(Fields(body), http.state.namespace)
    warnings = messages_fields.check(fields)
    max_tokens = fields.integer("max_tokens")
    if max_tokens is None and not is_count:
        raise ApiError(400, "max_tokens: missing; expected a whole number of at least 0", field="max_tokens")
    history = _History(api.signer, http.state.namespace)
    history.system(fields)
    for i, message in enumerate(fields.items("messages")):
        history.add(Fields(message, f"messages[{i - num_held}]" if i >= num_held else f"thread.messages[{i}]"))
    if not fields.items("messages"):
        raise ApiError(400, "messages: empty; expected at least one message of the user", field="messages")
    if history.messages[-1]["role"] == "assistant" and not is_count:
        raise ApiError(
            400,
            "messages: the last one is the assistant's, and this server does not continue an answer that was begun by "
            "the client; end with a message of the user",
            field="messages",
        )
    tools = _tools(fields)
    choice, name, is_parallel = _tool_choice(fields, [tool["function"]["name"] for tool in tools])
    think, budget, hide = _thinking(fields)
    request = Request(
        messages=history.messages,
        tools=tools,
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=is_parallel,
        schema=_schema(fields),
        sampling=_sampling(fields, max_tokens),
        think=think,
        thinking_budget=budget,
        policy=messages_fields.policy_of(fields, warnings),
        only_reads=max_tokens == 0,
        task_budget=fields.integer("task_thinking_budget"),
        namespace=http.state.namespace,
        request_id=http.state.request_id,
    )
    warnings += [*history.warnings, *result_warnings(history.messages)]
    return MessagesRequest(
        request,
        fields.boolean("stream"),
        hide,
        warnings,
        fields.model(api.service.model),
        fields.body,
        fields.object("thread") is not None,
    )


class _History:
    """Reads messages of this API one by one into messages of a chat."""

    def __init__(self, signer: ThinkingSigner, namespace: str):
        self.signer, self.namespace = signer, namespace
        self.messages: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def system(self, fields: Fields) -> None:
        if fields.body.get("system") is not None:
            texts = [without_billing(_text_of(block)) for block in _blocks(fields, "system")]
            if told := "\n\n".join(text for text in texts if text.strip()):
                self.messages.append({"role": "system", "content": told})

    def add(self, message: Fields) -> None:
        match message.one_of("role", ("user", "assistant", "system")):
            case "user":
                self._user(message)
            case "assistant":
                self._assistant(message)
            case "system":
                self.messages.append(
                    {"role": "system", "content": "\n\n".join(map(_text_of, _blocks(message, "content")))}
                )
            case _:
                raise message.invalid("role", "user or assistant")

    def _user(self, message: Fields) -> None:
        texts, results = [], []
        for block in _blocks(message, "content"):
            if block.string("type") == "tool_result":
                results.append(
                    {"role": "tool", "tool_call_id": block.required("tool_use_id"), "content": self._result(block)}
                )
            else:
                texts.append({"type": "text", "text": self._readable(block)})
        self.messages += results
        if texts or not results:
            content = texts if len(texts) > 1 else "".join(part["text"] for part in texts)
            self.messages.append({"role": "user", "content": content})

    def _result(self, block: Fields) -> str:
        texts = []
        for part in _blocks(block, "content") if block.body.get("content") is not None else []:
            kind = part.string("type")
            left = kind if kind in UNREADABLE else media_in(part.body)
            if left is not None and block_text(part) is None:
                self.warnings.append(f"{part.where}: {left} left out: this model reads text only")
                texts.append(left_out(left))
            else:
                texts.append(self._readable(part))
        text = "\n".join(texts)
        if block.boolean("is_error") and not text.lower().startswith(("error", "<tool_use_error>")):
            return f"Error: {text}".strip()
        return text

    def _assistant(self, message: Fields) -> None:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        turn = self.messages[-1]
        for block in _blocks(message, "content"):
            match block.string("type"):
                case "thinking":
                    self._add_thinking(turn, block, block.string("signature", ""), block.string("thinking", ""))
                case "redacted_thinking":
                    self._add_thinking(turn, block, block.required("data"), "")
                case "tool_use":
                    function = {"name": block.required("name"), "arguments": dict(block.object("input") or {})}
                    turn.setdefault("tool_calls", []).append(
                        {"id": block.required("id"), "type": "function", "function": function}
                    )
                case "text":
                    turn["content"] += _text_of(block)
                case _:
                    lines = [turn["content"], self._readable(block)]
                    turn["content"] = "\n".join(line for line in lines if line)

    def _readable(self, block: Fields) -> str:
        """The text of a block; for what another server left, with a warning."""
        text = block_text(block)
        if text is None:
            return _text_of(block)
        self.warnings.append(f"{block.where}: {block.body['type']} {READ_AS_TEXT}")
        return text

    def _add_thinking(self, turn: dict[str, Any], block: Fields, signature: str, text: str) -> None:
        if signature:
            verified = self.signer.verify(signature, self.namespace, text)
            if verified is None:
                self.warnings.append(
                    f"{block.where}: thinking left out: its signature is not one of this server for this key and text"
                )
                return
            text = verified
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text


def _blocks(fields: Fields, key: str) -> list[Fields]:
    """Content blocks; a string is one block of text."""
    value = fields.body.get(key)
    if isinstance(value, str):
        return [Fields({"type": "text", "text": value}, fields.name(key))]
    if not isinstance(value, list):
        raise fields.invalid(key, "text or a list of content blocks")
    return [Fields(block, f"{fields.name(key)}[{i}]") for i, block in enumerate(value)]


def _text_of(block: Fields) -> str:
    kind = block.string("type")
    if kind == "text":
        return block.required("text")
    raise ApiError(
        400,
        f"{block.where}: content of type {str(kind)[:60]} is not supported here; expected text",
        "unsupported_content",
        block.where,
    )


def _tools(fields: Fields) -> list[dict[str, Any]]:
    tools: dict[str, dict[str, Any]] = {}
    for i, given in enumerate(fields.items("tools")):
        tool = Fields(given, f"tools[{i}]")
        kind = tool.string("type", "custom")
        if kind != "custom":
            raise ApiError(
                400,
                f"{tool.where}: {kind[:60]} is a tool of Anthropic's servers; this server offers only tools with an "
                "input_schema, which the client runs",
                "unsupported_parameter",
                tool.name("type"),
            )
        name = tool.required("name")
        if not name or name in tools:
            raise tool.invalid("name", "a name that is not empty and not used twice")
        function: dict[str, Any] = {
            "name": name,
            "description": _description(tool),
            "parameters": dict(tool.object("input_schema") or {}),
        }
        if tool.boolean("strict"):
            function["strict"] = True
        tools[name] = {"type": "function", "function": function}
    return list(tools.values())


def _description(tool: Fields) -> str:
    """The description with the examples of the input, if there are any."""
    examples = [json.dumps(example, ensure_ascii=False) for example in tool.items("input_examples")]
    told = "\n".join(["Examples of its input:", *examples]) if examples else ""
    return "\n\n".join(part for part in (tool.string("description", ""), told) if part)


def _tool_choice(fields: Fields, names: list[str]) -> tuple[ToolChoice, str | None, bool]:
    """(tool_choice, tool_name, parallel_tool_calls) of a Request."""
    given = fields.object("tool_choice")
    if given is None:
        return "auto", None, True
    choice = Fields(given, "tool_choice")
    is_parallel = not choice.boolean("disable_parallel_tool_use")
    kind = choice.one_of("type", ("auto", "any", "tool", "none"), "auto")
    if kind in ("any", "tool") and not names:
        raise ApiError(400, f"tool_choice: {kind} needs tools; none were given", field="tool_choice")
    if kind == "tool":
        if (name := choice.required("name")) not in names:
            raise choice.invalid("name", "the name of one of the tools")
        return "named", name, is_parallel
    return CHOICES[kind], None, is_parallel


def _thinking(fields: Fields) -> tuple[bool | None, int | None, bool]:
    """(think, thinking_budget, hide_thinking). An explicit budget counts more than an effort."""
    given = fields.object("thinking")
    think, budget = fields.nested("output_config").effort("effort")
    if given is None:
        return think, budget, False
    thinking = Fields(given, "thinking")
    kind = thinking.one_of("type", ("enabled", "disabled", "adaptive"))
    hide = thinking.one_of("display", ("summarized", "omitted", "updates")) == "omitted"
    match kind:
        case "disabled":
            return False, None, False
        case "enabled":
            return True, thinking.integer("budget_tokens", least=1) or budget, hide
        case "adaptive":
            return True, budget, hide
    raise thinking.invalid("type", "enabled, disabled or adaptive")


def _schema(fields: Fields) -> Mapping[str, Any] | None:
    """The JSON schema of the answer: output_config.format, or output_format as it was called before."""
    output = fields.nested("output_config")
    found = []
    for holder, key in ((output, "format"), (fields, "output_format")):
        if (given := holder.object(key)) is not None:
            form = Fields(given, holder.name(key))
            if form.one_of("type", ("json_schema",)) is None:
                raise form.invalid("type", "json_schema")
            found.append((holder.name(key), read_form(form)))
    return read_schema(fields, found)


def _sampling(fields: Fields, max_tokens: int | None) -> dict[str, Any]:
    stops = fields.items("stop_sequences")
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise fields.invalid("stop_sequences", "a list of texts that are not empty")
    if refused := too_many_stops(stops):
        raise ApiError(400, f"stop_sequences: {refused}", field="stop_sequences")
    sampling = read_numbers(fields, messages_fields.NUMBERS)
    if max_tokens:
        sampling["max_tokens"] = max_tokens
    if stops:
        sampling["stop"] = tuple(stops)
    return sampling
