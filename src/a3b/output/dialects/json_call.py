"""Calls as JSON: `<tool_call>` {"name": …, "arguments": {…}} `</tool_call>`, as Hermes and Qwen2.5 write them.

Qwen3.6 drifts into it. Several objects may follow each other in one `<tool_call>`, or be a list. Enter at `JSON_CALL`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from a3b.output.buffer import Buffer, peek, skip_blank
from a3b.output.call_writer import CallWriter
from a3b.output.dialects.dialect import CallReader, Dialect, NameRule, Rules
from a3b.output.json_text import dumps, read
from a3b.output.marks import NAMES, mark_of

Call = tuple[str, dict[str, Any]]
_BETWEEN = re.compile(r"[ \t\r\n,;}\]]{0,64}")  # also excess brackets
_OUTER_KEYS = {"function", "type", "id"}
_CALL_KEYS = ({"name", "arguments", "type", "id"}, {"name", "parameters", "type", "id"})


class _JsonCall(Dialect):
    opener, closer, lead = "<tool_call>", "</tool_call>", "\n"
    head = '{"name": "', '", "arguments": '
    first_chars = "{["
    tool_names = NameRule(re.compile(r'[^"\\\x00-\x1f]{1,200}\Z'), "1 to 200 characters without quotes and backslashes")
    parameter_names = NameRule(re.compile(r"(?s:.*)\Z"), "text")

    def open(self, buffer: Buffer, at: int, calls: CallWriter, is_bare: bool = False) -> CallReader | None:
        """Waits until the object or list is complete."""
        text, inner = buffer.text, at
        if peek(text, at, *self.first_chars) == "":
            return None
        for bracket in "[{" if text[at] == "[" else "{":
            if peek(text, inner, bracket) == "":
                return None
            inner = skip_blank(text, inner + 1)
        if peek(text, inner, '"', "'") == "":
            return None
        end, missing = buffer.find_json_end(at)
        found = parse_json_calls(text[at:end].translate(NAMES) + missing)
        if found is None or not all(calls.may_call(name) for name, _ in found):
            return None
        buffer.take(end)
        return _JsonReader(buffer, calls, found, is_cut=missing != "")

    def skip_between(self, text: str) -> int:
        match = _BETWEEN.match(text)
        return match.end() if match else 0

    def arguments_rule(self, rules: Rules) -> str:
        return f'{rules.json_object()} "}}\\n"'

    def arguments_text(self, arguments: Mapping[str, Any]) -> str:
        return dumps(dict(arguments)) + "}\n"


JSON_CALL = _JsonCall()


class _JsonReader:
    """Writes calls that are already complete in the buffer."""

    def __init__(self, buffer: Buffer, calls: CallWriter, found: Sequence[Call], is_cut: bool):
        """is_cut: the output ended inside the last, or it was closed too early."""
        self._buffer, self._calls, self._found, self._is_cut = buffer, calls, found, is_cut

    def step(self) -> None:
        for number, (name, arguments) in enumerate(self._found, 1):
            is_whole = not self._is_cut or number < len(self._found)
            self._calls.begin(name)
            self._calls.put(arguments)
            self._calls.end(complete=is_whole or self._buffer.text[:1] == mark_of(JSON_CALL.closer))


def parse_json_calls(text: str) -> list[Call] | None:
    """Names and arguments of calls written as {"name": ..., "arguments": {...}} or as a list of them, None for
    anything else.

    Also "parameters" for "arguments", arguments as a JSON string, the OpenAI form with "function", and Python's
    spelling of values. An object with any other key is not taken for a call, because the text under that key would be
    lost."""
    try:
        value = read(text)
    except ValueError:
        return None
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    found = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else None


def _call(value: Any) -> Call | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict) and value.keys() <= _OUTER_KEYS:
        value = value["function"]
    if not isinstance(value, dict) or not any(value.keys() <= keys for keys in _CALL_KEYS):
        return None
    arguments = value.get("arguments", value.get("parameters")) or {}
    try:
        arguments = read(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return None
    if not isinstance(value.get("name"), str) or not value["name"] or not isinstance(arguments, dict):
        return None
    return value["name"], arguments
