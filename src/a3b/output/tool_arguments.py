"""Arguments of tool calls: from the text the model wrote to JSON values of the types a tool declares.

Owns the conversion of one value, and the JSON object that is written piece by piece while a call is generated. Does not
know how a dialect writes a call. What the tools' schemas say is in `json_schema/types.py`. Enter at `ToolSchemas` and
`ArgumentsWriter`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from a3b.json_schema.types import STRING, Kinds, Parameters, kinds_of_value
from a3b.output.json_text import JsonText, dumps, loads, read

SCALARS: Kinds = frozenset({"integer", "number", "boolean", "null"})
TEXT_OR_NULL: Kinds = frozenset({"string", "null"})
NUMBERS: Kinds = frozenset({"integer", "number"})
CONTAINERS: Kinds = frozenset({"object", "array"})
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")


class ToolSchemas:
    """The parameters of each tool, and their types.

    Takes tools in OpenAI form, with or without the outer "function", or with "input_schema" (Anthropic).
    Entries with no name are skipped: they cannot be called, and the parser does not validate them.
    """

    def __init__(self, tools: Sequence[Any] | None = None):
        self._tools: dict[str, Parameters] = {}
        self._strict: set[str] = set()
        for tool in tools or ():
            if not isinstance(tool, Mapping):
                continue
            function = tool["function"] if isinstance(tool.get("function"), Mapping) else tool
            if isinstance(name := function.get("name"), str):
                self._tools[name] = Parameters(function.get("parameters") or function.get("input_schema"))
                self._strict |= {name} if function.get("strict") is True else set()

    def offers(self, tool: str) -> bool:
        """Whether there is a tool of that name."""
        return tool in self._tools

    def offers_loose(self, tool: str) -> bool:
        """Whether there is a tool of that name that is not strict: nothing has held its arguments to its schema."""
        return tool in self._tools and tool not in self._strict

    def __bool__(self) -> bool:
        return bool(self._tools)

    def kinds(self, tool: str, key: str) -> Kinds:
        """Allowed types of a parameter; empty for an unknown tool or parameter."""
        return self._tools[tool].kinds(key) if tool in self._tools else frozenset()

    def may_have(self, tool: str, key: str) -> bool:
        """Whether `key` can be a parameter of `tool`; always for a tool that declares none or is unknown."""
        return tool not in self._tools or self._tools[tool].may_have(key)


def coerce(text: str, kinds: Kinds, is_quoted: bool = False) -> Any:
    """The value that `text` stands for: a JSON value of one of `kinds`, otherwise `text` itself.

    If only a string is allowed, the raw text. "null" is None unless strings are allowed and null is not. Otherwise
    JSON, if its type is allowed; true and false in any case. Where no string is allowed, null and None in any case,
    numbers like 007 and +5, values in quotes, and objects and arrays in Python's spelling are understood too. A value
    of a wrong type stays text."""
    if not kinds or kinds == STRING:
        return text
    word, is_text = text.strip(), "string" in kinds
    if word == "null" or (word.lower() in ("null", "none") and not is_text):
        return None if "null" in kinds or not is_text else text
    if "boolean" in kinds and word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        value = _value(word, kinds)
    except ValueError:
        return text
    if isinstance(value, str) and not is_text and not is_quoted:
        quoted = coerce(value, kinds, is_quoted=True)
        return text if quoted is value else quoted
    if isinstance(value, str) or not kinds_of_value(value) & kinds:
        return text
    if isinstance(value, float) and "number" not in kinds:
        return int(value)
    return value


def _value(word: str, kinds: Kinds) -> Any:
    """A value that may be of `kinds`, as models write it. Raises ValueError."""
    try:
        return (
            loads(word, bounded=not kinds <= SCALARS)
            if "string" in kinds or kinds.isdisjoint(CONTAINERS)
            else read(word)
        )
    except ValueError:
        if "string" in kinds or kinds.isdisjoint(NUMBERS) or not _NUMBER.fullmatch(word):
            raise
        value = float(word) if "." in word else int(word)
        if value in (math.inf, -math.inf):  # JSON has none
            raise
        return value


class ArgumentsWriter:
    """Writes the JSON object of one call's arguments as they come; the returned fragments, joined, are the object.

    Strings are written piece by piece, everything else when the value is complete. If a key comes twice, the last
    value counts, as in most JSON readers. `arguments` is the object so far,
    `key` the key last opened.
    """

    def __init__(self, schemas: ToolSchemas, tool: str):
        self._schemas, self._tool = schemas, tool
        self.key = ""
        self._kinds: Kinds = STRING
        self._pieces: list[str] = []
        self._is_text = False  # the opening quote has been written
        self._num_written = 0
        self._json = JsonText(STRING)
        self.arguments: dict[str, Any] = {}

    @property
    def is_scalar(self) -> bool:
        """Whether no value of the open key can hold a tag: it is a number, a boolean or null."""
        return bool(self._kinds) and self._kinds <= SCALARS

    @property
    def in_json_string(self) -> bool:
        """Whether the value so far is the beginning of an object or array that the tool takes, and ends inside one of
        its strings."""
        return self._json.in_string

    @property
    def is_no_json(self) -> bool:
        """Whether the value can no longer become an object or array that the tool takes."""
        return self._json.is_dead

    @property
    def is_whole_json(self) -> bool:
        """Whether the value so far is a whole object or array that the tool takes."""
        return self._json.is_whole and (self._json.was_valid or self._json.is_valid("".join(self._pieces)))

    @property
    def num_pieces(self) -> int:
        """The number of calls of `write` for this value."""
        return len(self._pieces)

    def cut(self, num_pieces: int) -> None:
        """Take back all but the first pieces of a value that is not a string; none of it has been written yet."""
        del self._pieces[num_pieces:]

    def open(self, key: str) -> str:
        """Begin the value of `key`."""
        self.key, self._pieces = key, []
        self._kinds = self._schemas.kinds(self._tool, key)
        self._is_text = not self._kinds or self._kinds == STRING
        self._json = JsonText(STRING if self._kinds == TEXT_OR_NULL else self._kinds)
        start = ", " if self._num_written else "{"
        self._num_written += 1
        return f"{start}{dumps(key)}: " + ('"' if self._is_text else "")

    def write(self, piece: str) -> str:
        """Append to the value; the result is empty while its type depends on what follows."""
        self._pieces.append(piece)
        self._json.push(piece)
        if not self._is_text and self._kinds == TEXT_OR_NULL:
            piece = "".join(self._pieces)
            self._is_text = not "null".startswith(piece.strip())
            return '"' + dumps(piece)[1:-1] if self._is_text else ""
        return dumps(piece)[1:-1] if self._is_text else ""

    def close(self) -> str:
        """End the value."""
        text = "".join(self._pieces)
        value = text if self._is_text else coerce(text, self._kinds)
        self.arguments[self.key] = value
        return '"' if self._is_text else dumps(value)

    def put(self, key: str, value: Any) -> str:
        """Write a value that came as JSON; a string is still converted where the tool wants no string."""
        kinds = self._schemas.kinds(self._tool, key)
        value = coerce(value, kinds) if isinstance(value, str) and "string" not in kinds else value
        start = ", " if self._num_written else "{"
        self._num_written += 1
        self.arguments[key] = value
        return f"{start}{dumps(key)}: {dumps(value)}"

    def end(self) -> str:
        """End the object."""
        return "}" if self._num_written else "{}"
