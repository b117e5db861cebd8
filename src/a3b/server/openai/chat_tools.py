"""Tools and the choice among them in a chat completion, in the present form and in that of `functions`. Enter at
`read_tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from a3b.interface.request import ToolChoice
from a3b.server.fields import Fields

MAX_NAME = 256  # characters
Tool = dict[str, Any]


class ChatTools(NamedTuple):
    """The tools on offer and the choice among them, in the form of a Request."""

    tools: list[Tool]
    choice: ToolChoice
    name: str | None  # the tool of the choice "named"
    is_legacy: bool  # given as `functions`


def read_tools(fields: Fields) -> ChatTools:
    """Raises ApiError that names the field."""
    is_legacy = fields.body.get("tools") is None and fields.body.get("functions") is not None
    if is_legacy:
        tools = _functions(fields)
    else:
        given = [_tool(Fields(tool, f"tools[{i}]")) for i, tool in enumerate(fields.items("tools"))]
        tools = _allowed(fields, given)
    choice, name = _tool_choice(fields, "function_call" if is_legacy else "tool_choice", tools)
    return ChatTools(tools, choice, name, is_legacy)


def _tool(tool: Fields) -> Tool:
    if tool.string("type") != "function":
        raise tool.invalid("type", '"function"')
    _check_function(tool.body.get("function"), tool.name("function"))
    if tool.boolean("strict"):
        return {**tool.body, "function": {**tool.body["function"], "strict": True}}
    return dict(tool.body)


def _functions(fields: Fields) -> list[Tool]:
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


def _allowed(fields: Fields, tools: list[Tool]) -> list[Tool]:
    """The tools that `tool_choice` leaves."""
    value = fields.body.get("tool_choice")
    if not isinstance(value, Mapping) or value.get("type") != "allowed_tools":
        return tools
    allowed = Fields(value.get("allowed_tools"), "tool_choice.allowed_tools")
    offered, names = {tool["function"]["name"] for tool in tools}, set()
    for i, given in enumerate(allowed.items("tools")):
        one = Fields(given, f"{allowed.name('tools')}[{i}]").nested("function")
        if one.required("name") not in offered:
            raise one.invalid("name", "the name of one of the tools")
        names.add(one.body["name"])
    return [tool for tool in tools if tool["function"]["name"] in names]


def _tool_choice(fields: Fields, key: str, tools: list[Tool]) -> tuple[ToolChoice, str | None]:
    expected = "auto, none, required or the name of a function"
    value: str | Mapping[str, Any] = fields.get(key, (str, Mapping), expected, "auto")
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise fields.invalid(key, expected)
        return _needs_tools(fields.one_of(key, ("auto", "none", "required"), "auto"), fields, key, tools), None
    choice = Fields(value, key)
    if key == "tool_choice":
        kind = choice.string("type")
        if kind == "allowed_tools":
            allowed = Fields(value.get("allowed_tools"), f"{key}.allowed_tools")
            return _needs_tools(allowed.one_of("mode", ("auto", "required"), "auto"), fields, key, tools), None
        if kind != "function":
            raise choice.invalid("type", "function or allowed_tools")
        choice = Fields(value.get("function"), "tool_choice.function")
    name = choice.string("name")
    if name not in [tool["function"]["name"] for tool in tools]:
        raise choice.invalid("name", "the name of one of the tools")
    return "named", name


def _needs_tools(choice: ToolChoice, fields: Fields, key: str, tools: list[Tool]) -> ToolChoice:
    if choice == "required" and not tools:
        raise fields.invalid(key, "auto or none, because there are no tools")
    return choice
