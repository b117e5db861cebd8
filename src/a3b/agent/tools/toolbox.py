"""The tools of a session: their schemas, and how a call of the model becomes a run of a tool. Enter at `Toolbox`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from a3b.agent.tools.tool import Tool, ToolError, function_schema
from a3b.errors import did_you_mean

MAX_ARGUMENTS = 4 << 20  # characters
KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class Toolbox:
    """Tools by name; the order is that of the schemas and never changes in a session."""

    def __init__(self, tools: Sequence[Tool]):
        self._tools = {tool.name: tool for tool in tools}

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def schemas(self) -> list[dict[str, Any]]:
        return [function_schema(tool) for tool in self]

    def tool(self, name: str) -> Tool:
        """Raises ToolError that names the tools that exist."""
        if name not in self._tools:
            near = did_you_mean(name, self._tools)
            raise ToolError(f"no tool is called {name[:80]!r}{near or ';'} the tools are {', '.join(self._tools)}")
        return self._tools[name]

    def read_call(self, name: str, text: str) -> tuple[Tool, dict[str, Any]]:
        """The tool of a call, and arguments that fit its schema. Raises ToolError that says what was expected."""
        tool = self.tool(name)
        if len(text) > MAX_ARGUMENTS:
            raise ToolError(f"the arguments have {len(text):,} characters; expected at most {MAX_ARGUMENTS:,}")
        try:
            given = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ToolError(f"the arguments are not JSON ({error}); {expected(tool)}") from None
        if not isinstance(given, dict):
            raise ToolError(f"the arguments are {_kind(given)}; {expected(tool)}")
        return tool, self.checked(tool, given)

    def checked(self, tool: Tool, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments that fit: what is unmistakable is put right ("12" for 12), null for what may be left out is left
        out. Raises ToolError."""
        properties, required = tool.parameters.get("properties", {}), tool.parameters.get("required", [])
        found = {}
        for name, value in given.items():
            if name not in properties:
                if tool.parameters.get("additionalProperties", False) is False:
                    raise ToolError(f"{name[:80]!r} is no argument of {tool.name}; {expected(tool)}")
                found[name] = value
            elif value is not None or name in required or _allows_null(properties[name]):
                found[name] = _fit(tool, name, value, properties[name])
        if missing := [name for name in required if name not in found]:
            raise ToolError(f"{', '.join(missing)} is missing; {expected(tool)}")
        return found


def expected(tool: Tool) -> str:
    """What a tool takes, for a model that got it wrong."""
    required = tool.parameters.get("required", [])
    parts = [
        f"{name}: {schema.get('type', 'any') if isinstance(schema, dict) else 'any'}"
        + ("" if name in required else " (may be left out)")
        for name, schema in tool.parameters.get("properties", {}).items()
    ]
    return f"{tool.name} takes {', '.join(parts) or 'no arguments'}"


def _fit(tool: Tool, name: str, value: Any, schema: Any) -> Any:
    """The value, as its schema wants it. Raises ToolError."""
    schema = schema if isinstance(schema, dict) else {}
    wanted = schema.get("type")
    kinds = (
        [wanted]
        if isinstance(wanted, str)
        else [kind for kind in wanted if isinstance(kind, str)]
        if isinstance(wanted, list)
        else []
    )
    value = _put_right(value, kinds)
    allowed = tuple(kind for name in kinds for kind in KINDS.get(name, (object,)))
    if allowed and (
        not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed and object not in allowed)
    ):
        raise ToolError(f"{name} is {_kind(value)}; expected {' or '.join(kinds)}; {expected(tool)}")
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        raise ToolError(f"{name} is {str(value)[:80]!r}; expected one of {', '.join(map(str, choices))[:400]}")
    return value


def _put_right(value: Any, kinds: list[str]) -> Any:
    if isinstance(value, float) and "integer" in kinds and "number" not in kinds and value.is_integer():
        return int(value)
    if isinstance(value, str) and kinds and "string" not in kinds and len(value) < 40:
        word = value.strip().lower()
        if "boolean" in kinds and word in ("true", "false"):
            return word == "true"
        if "integer" in kinds and word.lstrip("-").isdecimal() and word.isascii():
            return int(word)
    return value


def _allows_null(schema: Any) -> bool:
    wanted = schema.get("type") if isinstance(schema, dict) else None
    return wanted == "null" or (isinstance(wanted, list) and "null" in wanted)


def _kind(value: Any) -> str:
    names = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")
