"""Tools of the Responses API as tools of a chat. Enter at `read_tools` and `read_choice`.

A tool inside a namespace is shown to the model as `namespace__name`, and its calls are given back with their namespace.
A custom tool is a function of one text, `input`; its grammar is part of its description and not enforced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from a3b.interface.request import ToolChoice
from a3b.server.errors import ApiError
from a3b.server.fields import EMPTY, FieldRules, Fields
from a3b.server.shared_fields import CALLED_DIRECTLY

TOOL = FieldRules(
    read={
        "type": "`function`, `custom` or `namespace`",
        "name": "what the model calls; not empty, not used twice",
        "description": "shown to the model",
        "parameters": "JSON schema of a function's arguments",
        "strict": "true: the arguments follow the schema",
        "format": "of a custom tool: its grammar becomes part of the description and is not enforced",
        "tools": "of a namespace: its functions and custom tools",
        "external_web_access": "of `web_search`: false, as nothing is searched here",
    },
    refused={"allowed_callers": CALLED_DIRECTLY, "async": EMPTY},
    warned={
        "defer_loading": (EMPTY, "the tool is offered from the beginning"),
        "output_schema": (EMPTY, "not told to the model; describe the output in the description"),
    },
)


@dataclass(frozen=True)
class ToolOrigin:
    """The tool of this API that a function of the chat represents."""

    name: str
    namespace: str | None
    is_custom: bool


@dataclass
class ToolTable:
    """functions: the tools of a Request. origins: by the name that the model sees."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    origins: dict[str, ToolOrigin] = field(default_factory=dict)

    def shown(self, name: str, namespace: str | None) -> str:
        """The name that the model sees for a tool, whether it is on offer or only in the history."""
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
        # some clients always send it, switched off
        elif kind == "web_search" and tool.body.get("external_web_access") is False:
            warnings.append(f"{tool.where}: web_search is not offered to the model")
        else:
            raise _no_such_tool(tool, kind)
    return tools


def _add_namespace(tools: ToolTable, given: Fields, warnings: list[str]) -> None:
    """Add the tools of a namespace. Its own description goes to the first of them."""
    name, preface = given.required("name"), given.string("description", "")
    for i, member in enumerate(given.items("tools")):
        tool = Fields(member, f"{given.name('tools')}[{i}]")
        if (kind := tool.required("type")) not in ("function", "custom"):
            raise _no_such_tool(tool, kind)
        warnings += TOOL.check(tool)
        tools.add(tool, name, "" if i else preface)


def full_tool(given: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as a response repeats it, with every field of its kind."""
    match given["type"]:
        case "function":
            return {"description": None, "parameters": None, **given, "strict": bool(given.get("strict"))}
        case "namespace":
            return {"description": "", **given, "tools": [full_tool(tool) for tool in given.get("tools") or []]}
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


def read_choice(fields: Fields, tools: ToolTable) -> tuple[ToolChoice, str | None]:
    """(tool_choice, tool_name) of a Request. A list of allowed tools removes the others from `tools`."""
    given = fields.body.get("tool_choice")
    if given is None or isinstance(given, str):
        return _needs_tools(fields.one_of("tool_choice", ("auto", "none", "required"), "auto"), tools), None
    choice = Fields(given, "tool_choice")
    match choice.string("type"):
        case "function" | "custom":
            return "named", _named(choice, tools)
        case "allowed_tools":
            mode: ToolChoice = choice.one_of("mode", ("auto", "required"), "auto")
            allowed = [
                _named(Fields(tool, f"tool_choice.tools[{i}]"), tools) for i, tool in enumerate(choice.items("tools"))
            ]
            if mode == "required" and len(allowed) == 1:
                return "named", allowed[0]
            tools.functions = [tool for tool in tools.functions if tool["function"]["name"] in allowed]
            return _needs_tools(mode, tools), None
    raise choice.invalid("type", "function, custom or allowed_tools")


def _needs_tools(kind: ToolChoice, tools: ToolTable) -> ToolChoice:
    if kind == "required" and not tools.functions:
        raise ApiError(400, "tool_choice: required needs tools; none were given", field="tool_choice")
    return kind


def _named(choice: Fields, tools: ToolTable) -> str:
    shown = tools.shown(choice.required("name"), choice.string("namespace"))
    if shown not in tools.origins:
        raise choice.invalid("name", "the name of one of the tools")
    return shown
