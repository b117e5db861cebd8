"""What is wrong with messages or tools, and where, for callers that show a template's refusal to people.

A template refuses in its own words and order: for an unknown role it may say that no user query was found. Knows no
template. Enter at `message_fault` and `check_tools`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from a3b.errors import UsageError, did_you_mean
from a3b.prompt.tool_results import KNOWN

PARTS = ("text", "image", "image_url", "video", "video_url")


def message_fault(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The first thing in the messages that templates do not accept, such as "messages[1].role: 'usr'; expected ...";
    None if there is nothing."""
    if not messages:
        return "messages: the list is empty; expected at least one message"
    for index, message in enumerate(messages):
        if fault := _fault(message):
            key, text = fault
            return f"messages[{index}]{key}: {text}"
    return None


def missing_fault(messages: Sequence[Mapping[str, Any]], roles: Collection[str] | None = None) -> str | None:
    """The first message without what every message needs; templates render some of those as an empty turn.

    roles: the known ones; None leaves them to the template."""
    for index, message in enumerate(messages):
        if message.get("role") is None or (roles is not None and message["role"] not in roles):
            return f"messages[{index}].role: {_role(message)}"
        if "content" not in message and message["role"] != "assistant":
            meant = did_you_mean("content", [key for key in message if isinstance(key, str) and key != "role"])
            return f"messages[{index}].content: missing; expected text or a list of parts" + meant.replace(
                "did you mean", "found"
            )
    return None


def check_tools(tools: Any, where: str = "tools") -> list[Mapping[str, Any]] | None:
    """`tools` as a list if they are objects with names, or None. Raises UsageError."""
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise UsageError(f"{where}: expected a list of tools, found {_kind(tools)}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise UsageError(f"{where}[{index}]: expected an object, found {_kind(tool)}")
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UsageError(
                f'{where}[{index}].function.name: missing or not text; expected {{"type": "function", "function": '
                '{"name": ..., "parameters": {...}}}'
            )
    return list(tools)


def _fault(message: Mapping[str, Any]) -> tuple[str, str] | None:
    role, content = message.get("role"), message.get("content")
    if role not in KNOWN:
        return ".role", _role(message)
    if content is not None and not isinstance(content, str | list | tuple):
        return ".content", f"{_kind(content)}; expected text or a list of parts"
    for index, part in enumerate(content if isinstance(content, list | tuple) else ()):
        if not isinstance(part, Mapping):
            return f".content[{index}]", f'{_kind(part)}; expected an object such as {{"type": "text", "text": ...}}'
        kind = part.get("type")
        if kind not in PARTS and not any(key in part for key in PARTS):
            return f".content[{index}].type", f"{repr(kind)[:60]}; expected {_one_of(PARTS)}"
        if kind == "text" and not isinstance(part.get("text"), str):
            return f".content[{index}].text", f"{_kind(part.get('text'))}; expected text"
    return _call_fault(message.get("tool_calls")) if role == "assistant" else None


def _role(message: Mapping[str, Any]) -> str:
    found = repr(message["role"])[:60] if message.get("role") is not None else "missing"
    return f"{found}; expected {_one_of(KNOWN)}"


def _call_fault(calls: Any) -> tuple[str, str] | None:
    if calls is None:
        return None
    if not isinstance(calls, list | tuple):
        return ".tool_calls", f"{_kind(calls)}; expected a list of calls"
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return f".tool_calls[{index}]", "not a call; expected an object with function.name and function.arguments"
        if not isinstance(function.get("arguments", {}), Mapping):
            found = _kind(function["arguments"])
            return (
                f".tool_calls[{index}].function.arguments",
                f"{found}; templates expect an object (--fit parses JSON text)",
            )
    return None


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _kind(value: Any) -> str:
    return {
        "NoneType": "null",
        "dict": "object",
        "str": "text",
        "bool": "boolean",
        "int": "number",
        "float": "number",
    }.get(type(value).__name__, type(value).__name__)
