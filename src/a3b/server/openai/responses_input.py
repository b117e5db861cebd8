"""Items and tools of the Responses API as messages and tools of a chat. Enter at `read_tools` and `ConversationReader`.

Neighbouring items of the assistant (reasoning, message, calls) are one message: that is what the model wrote in one
turn.

Reasoning is taken from, in this order: `encrypted_content`, which must be ours (otherwise the item is left out, with a
warning); `content`; the stored item of that id; `summary`.

A tool inside a namespace is shown to the model as `namespace__name`, and its calls are given back with their namespace.
A custom tool is a function of one text, `input`; a grammar for it is told in its description and not enforced."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from a3b.prompt.media import left_out, media_in
from a3b.server.errors import ApiError
from a3b.server.fields import FieldRules, Fields, is_empty
from a3b.server.foreign_items import CLIENT_CALLS, CLIENT_OUTPUTS, READ_AS_TEXT, SUMMARIES, SUMMARY, item_text, plain
from a3b.server.response_store import ResponseItem, ResponseStore
from a3b.server.thinking_signatures import ThinkingSigner

TOOL = FieldRules(
    read=("type", "name", "description", "parameters", "strict", "format", "tools", "external_web_access"),
    refused={
        "allowed_callers": lambda value: value == [] or (isinstance(value, list) and "direct" in value),
        "async": is_empty,
    },
    warned={
        "defer_loading": (is_empty, "the tool is offered from the beginning"),
        "output_schema": (is_empty, "not told to the model; describe the output in the description"),
    },
)
TEXT_PARTS = ("input_text", "output_text", "text")
THOUGHT_PARTS = ("reasoning_text", "text")
PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
    "compaction": "cmp",
}


def new_id(kind: str) -> str:
    """An id for an item of this type."""
    return f"{PREFIXES.get(kind, 'item')}_{uuid.uuid4().hex}"


# -- tools


@dataclass(frozen=True)
class ToolOrigin:
    """What a function of the chat is in this API."""

    name: str
    namespace: str | None
    is_custom: bool


@dataclass
class ToolTable:
    """functions: in the form of a Request. origins: by the name the model sees."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    origins: dict[str, ToolOrigin] = field(default_factory=dict)

    def shown(self, name: str, namespace: str | None) -> str:
        """The name the model sees for a tool, whether it is offered now or was once."""
        for shown, origin in self.origins.items():
            if (origin.name, origin.namespace) == (name, namespace):
                return shown
        return f"{namespace.rstrip('_')}__{name}" if namespace else name

    def origin(self, shown: str) -> ToolOrigin:
        return self.origins.get(shown, ToolOrigin(shown, None, False))

    def add(self, tool: Fields, namespace: str | None, preface: str) -> None:
        name, is_custom = tool.required("name"), tool.body["type"] == "custom"
        if not name or any((name, namespace) == (origin.name, origin.namespace) for origin in self.origins.values()):
            raise tool.invalid("name", "a name that is not empty and not used twice")
        shown = self.shown(name, namespace)
        while shown in self.origins:
            shown += "_"
        self.origins[shown] = ToolOrigin(name, namespace, is_custom)
        texts = [preface, tool.string("description", ""), _grammar(tool) if is_custom else ""]
        function: dict[str, Any] = {"name": shown, "description": "\n\n".join(text for text in texts if text)}
        if is_custom:
            function["parameters"] = {
                "type": "object",
                "properties": {"input": {"type": "string"}},
                "required": ["input"],
            }
        else:
            function["parameters"] = dict(tool.object("parameters") or {})
            if tool.boolean("strict"):
                function["strict"] = True
        self.functions.append({"type": "function", "function": function})


def _grammar(tool: Fields) -> str:
    given = tool.object("format")
    if given is None:
        return ""
    form = Fields(given, tool.name("format"))
    if form.one_of("type", ("text", "grammar"), "text") == "text":
        return ""
    return f"The input must follow this grammar ({form.string('syntax', 'lark')}):\n{form.required('definition')}"


def read_tools(fields: Fields, warnings: list[str]) -> ToolTable:
    tools = ToolTable()
    for i, given in enumerate(fields.items("tools")):
        tool = Fields(given, f"tools[{i}]")
        kind = tool.required("type")
        if kind in ("function", "custom"):
            warnings += TOOL.check(tool)
            tools.add(tool, None, "")
        elif kind == "namespace":
            _add_namespace(tools, tool, warnings)
        # what clients send without meaning it
        elif kind == "web_search" and tool.body.get("external_web_access") is False:
            warnings.append(f"{tool.where}: web_search is not offered to the model")
        else:
            raise _no_such_tool(tool, kind)
    return tools


def _add_namespace(tools: ToolTable, given: Fields, warnings: list[str]) -> None:
    """The namespace's own description goes to its first tool."""
    name, preface = given.required("name"), given.string("description", "")
    for i, member in enumerate(given.items("tools")):
        tool = Fields(member, f"{given.name('tools')}[{i}]")
        if (kind := tool.required("type")) not in ("function", "custom"):
            raise _no_such_tool(tool, kind)
        warnings += TOOL.check(tool)
        tools.add(tool, name, "" if i else preface)


def told_tool(given: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as a response repeats it: with every field of its kind."""
    match given["type"]:
        case "function":
            return {"description": None, "parameters": None, **given, "strict": bool(given.get("strict"))}
        case "namespace":
            return {"description": "", **given, "tools": [told_tool(tool) for tool in given.get("tools") or []]}
    return dict(given)


def _no_such_tool(tool: Fields, kind: str) -> ApiError:
    return ApiError(
        400,
        f"{tool.where}: {kind[:60]} is a tool of OpenAI's servers; this server "
        "offers only function, custom and namespace "
        "tools, which the client runs",
        "unsupported_parameter",
        tool.name("type"),
    )


def read_choice(fields: Fields, tools: ToolTable) -> tuple[str, str | None]:
    """(tool_choice, tool_name) of a Request; a list of allowed tools takes the others away from `tools`."""
    given = fields.body.get("tool_choice")
    if given is None or isinstance(given, str):
        kind = fields.one_of("tool_choice", ("auto", "none", "required"), "auto")
        return _needs_tools(kind, tools), None
    choice = Fields(given, "tool_choice")
    match choice.string("type"):
        case "function" | "custom":
            return "named", _named(choice, tools)
        case "allowed_tools":
            mode = choice.one_of("mode", ("auto", "required"), "auto")
            allowed = [
                _named(Fields(tool, f"tool_choice.tools[{i}]"), tools) for i, tool in enumerate(choice.items("tools"))
            ]
            if mode == "required" and len(allowed) == 1:
                return "named", allowed[0]
            tools.functions = [tool for tool in tools.functions if tool["function"]["name"] in allowed]
            return _needs_tools(mode, tools), None
    raise choice.invalid("type", "function, custom or allowed_tools")


def _needs_tools(kind: str, tools: ToolTable) -> str:
    if kind == "required" and not tools.functions:
        raise ApiError(400, "tool_choice: required needs tools; none were given", field="tool_choice")
    return kind


def _named(choice: Fields, tools: ToolTable) -> str:
    shown = tools.shown(choice.required("name"), choice.string("namespace"))
    if shown not in tools.origins:
        raise choice.invalid("name", "the name of one of the tools")
    return shown


# -- items


def listed(item: ResponseItem) -> ResponseItem:
    """An item as lists of items have it, however the client spelled it: with a status, its content a list of parts of
    known types."""
    if item["type"] == "message":
        is_output = item.get("role") == "assistant"
        parts = _parts(item.get("content") or [], "output_text" if is_output else "input_text")
        whole = {"annotations": [], "logprobs": []} if is_output else {}
        content = [{**whole, **part} if part.get("type") == "output_text" else part for part in parts]
        return {"status": "completed", **item, "content": content}
    if item["type"] == "reasoning":
        return {"summary": [], **item}
    if item["type"] in ("function_call_output", "custom_tool_call_output"):
        match item.get("output"):
            case list() as parts:
                item = {**item, "output": _parts(parts, "input_text")}
            case dict() as value:
                item = {**item, "output": json.dumps(value, ensure_ascii=False)}
    return {"status": "completed", **item}


def _parts(content: str | list[Any], kind: str) -> list[dict[str, Any]]:
    given = [{"text": content}] if isinstance(content, str) else content
    return [{**part, "type": kind if part.get("type") in (None, "text") else part["type"]} for part in given]


class ConversationReader:
    """Items, one by one, as messages. `items` are those to be stored: each with an id, references resolved."""

    def __init__(self, signer: ThinkingSigner, store: ResponseStore, namespace: str, tools: ToolTable):
        self.signer, self.store, self.namespace, self.tools = signer, store, namespace, tools
        self.messages: list[dict[str, Any]] = []
        self.items: list[ResponseItem] = []
        self.warnings: list[str] = []

    def add(self, given: Any, where: str) -> None:
        item = Fields(given, where)
        kind = item.string("type") or ("message" if "role" in item.body else "item_reference")
        if kind == "item_reference":
            kept = self.store.item(self.namespace, item.required("id"))
            if kept is None:
                raise ApiError(
                    400,
                    f"{item.name('id')}: no such item is stored; send the item itself",
                    "item_not_found",
                    item.name("id"),
                )
            item = Fields(kept, where)
            kind = kept["type"]
        match kind:
            case "message":
                self._message(item)
            case "reasoning":
                self._reasoning(item)
            case "function_call":
                self._call(item, item.required("arguments"))
            case "custom_tool_call":
                self._call(item, {"input": item.required("input")})
            case "function_call_output" | "custom_tool_call_output":
                content = _output_text(item, self.warnings)
                self.messages.append({"role": "tool", "tool_call_id": item.required("call_id"), "content": content})
            case _:
                self._foreign(item, kind)
        self.items.append({**item.body, "type": kind, "id": item.string("id") or new_id(kind)})

    def _foreign(self, item: Fields, kind: str) -> None:
        """What a tool of OpenAI's left: run by a client, it is a call and its output as others are; run by a server, it
        is text."""
        if kind in CLIENT_CALLS:
            arguments = plain(item.body.get(CLIENT_CALLS[kind]) or {})
            function = {
                "name": kind.removesuffix("_call"),
                "arguments": arguments if isinstance(arguments, dict) else {"input": arguments},
            }
            id = item.string("call_id") or item.required("id")
            self._turn().setdefault("tool_calls", []).append({"id": id, "type": "function", "function": function})
        elif kind in CLIENT_OUTPUTS:
            output = plain(item.body.get(CLIENT_OUTPUTS[kind]) or item.string("status") or "")
            content = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            self.messages.append(
                {"role": "tool", "tool_call_id": item.string("call_id") or item.required("id"), "content": content}
            )
        elif kind in SUMMARIES:
            verified = self.signer.verify(item.string("encrypted_content") or "", self.namespace)
            texts = [
                text for key in ("content", "summary") for text in _texts(item, key, (*TEXT_PARTS, "summary_text"))
            ]
            text = verified if verified is not None else "\n".join(texts)
            self._turn()["content"] += f"{SUMMARY}{text}\n" if text else ""
            if verified is None:
                self.warnings.append(
                    f"{item.where}: {kind} {READ_AS_TEXT if text else 'left out: only its maker can read it'}"
                )
            return
        elif (text := item_text(item, kind)) is not None:
            lines = [self._turn()["content"], text]
            self._turn()["content"] = "\n".join(line for line in lines if line)
        else:
            told = f"{item.where}: items of type {kind[:60]} are not supported by this server"
            raise ApiError(400, told, "unsupported_content", item.where)
        self.warnings.append(f"{item.where}: {kind} {READ_AS_TEXT}")

    def _message(self, item: Fields) -> None:
        role = item.one_of("role", ("user", "assistant", "system", "developer"))
        if role is None:
            raise item.invalid("role", "user, assistant, system or developer")
        texts = _texts(item, "content")
        if role == "assistant":
            self._turn()["content"] += "".join(texts)
        elif role == "user" and len(texts) > 1:
            self.messages.append({"role": "user", "content": [{"type": "text", "text": text} for text in texts]})
        else:
            self.messages.append({"role": "user" if role == "user" else "system", "content": "".join(texts)})

    def _call(self, item: Fields, arguments: Any) -> None:
        function = {"name": self.tools.shown(item.required("name"), item.string("namespace")), "arguments": arguments}
        self._turn().setdefault("tool_calls", []).append(
            {"id": item.required("call_id"), "type": "function", "function": function}
        )

    def _reasoning(self, item: Fields) -> None:
        text = self._thinking(item)
        if text is not None:
            turn = self._turn()
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def _thinking(self, item: Fields) -> str | None:
        """The thinking of a reasoning item; None, with a warning, if there is none that this server can read."""
        content, summary = _texts(item, "content", THOUGHT_PARTS), _texts(item, "summary", ("summary_text",))
        if encrypted := item.string("encrypted_content"):
            text = self.signer.verify(encrypted, self.namespace)
            if text is None:
                why = "its encrypted_content is not of this server, for this key"
                self.warnings.append(f"{item.where}: reasoning left out: {why}")
            return text
        if content:
            return "".join(content)
        kept = self.store.item(self.namespace, item.string("id") or "")
        if kept is not None and kept["type"] == "reasoning":
            if known := "".join(_texts(Fields(kept, item.where), "content", THOUGHT_PARTS)):
                return known
        if summary:
            return "\n\n".join(summary)
        why = "it has no text, and this server has none stored under its id"
        self.warnings.append(f"{item.where}: reasoning left out: {why}")
        return None

    def _turn(self) -> dict[str, Any]:
        """The assistant's message that is being put together."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def _texts(
    item: Fields, key: str, kinds: tuple[str, ...] = (*TEXT_PARTS, "refusal"), left: list[str] | None = None
) -> list[str]:
    """Texts of content, which is a string, a list of parts of these types, or null.

    left: gets a warning for each image or file, in the place of which a note stands; None: they are refused."""
    value = item.body.get(key)
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise item.invalid(key, "text or a list of parts")
    found = []
    for i, given in enumerate(value):
        part = Fields(given, f"{item.name(key)}[{i}]")
        if left is not None and (media := media_in(part.body)) is not None:
            left.append(f"{part.where}: {media} left out: this model reads text only")
            found.append(left_out(media))
            continue
        kind = part.string("type") or "text"
        if kind not in kinds:
            raise ApiError(
                400,
                f"{part.where}: content of type {kind[:60]} is not supported here; expected {kinds[0]}",
                "unsupported_content",
                part.where,
            )
        found.append(part.required("refusal" if kind == "refusal" else "text"))
    return found


def _output_text(item: Fields, warnings: list[str]) -> str:
    """A tool's output; several parts are lines of their own."""
    value = item.body.get("output")
    if isinstance(value, dict):
        if media_in(value) is not None:
            return _output_text(Fields({"output": [value]}, item.where), warnings)
        return json.dumps(value, ensure_ascii=False)  # older clients send {"content", "success"}
    return "\n".join(_texts(item, "output", left=warnings))
