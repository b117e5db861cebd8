"""Arguments of tool calls: from the text the model wrote to JSON values of the types a tool declares.

Owns the tools' schemas as far as argument types go, the conversion of one value, the JSON object written
piece by piece while a call is still being generated, and calls written as JSON instead of tags. Does not
know where in the output a call begins or ends; `tokens/stream.py` does.
Enter at `ToolSchemas` and `ArgumentsWriter`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Kinds = frozenset[str]
"""JSON schema type names a value may have; empty means that the schema does not say."""

STRING: Kinds = frozenset({"string"})
SCALARS: Kinds = frozenset({"integer", "number", "boolean", "null"})
TEXT_OR_NULL: Kinds = frozenset({"string", "null"})
MAX_SCHEMA_DEPTH = 16  # a "$ref" may point at itself
MAX_JSON_DEPTH = 500  # brackets in brackets; below what json.loads can follow
_SURROGATE = re.compile("[\ud800-\udfff]")
_OUTER_KEYS = {"function", "type", "id"}
_CALL_KEYS = ({"name", "arguments", "type", "id"}, {"name", "parameters", "type", "id"})
_TYPE_NAMES = {
    **dict.fromkeys(("string", "str", "text", "enum"), "string"),
    **dict.fromkeys(("integer", "int", "long"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("object", "dict"), "object"),
    **dict.fromkeys(("array", "list"), "array"),
    **dict.fromkeys(("null", "none"), "null"),
}


def kinds_of_value(value: Any) -> Kinds:
    """The JSON schema types that `value` satisfies; 3.0 is an integer too, as in the JSON schema standard."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset({"integer", "number"})
    if isinstance(value, float):
        return frozenset({"number"})
    if isinstance(value, str):
        return STRING
    return frozenset({"object" if isinstance(value, Mapping) else "array"})


def kinds_of_schema(schema: Any, root: Any, depth: int = 0, known: dict[int, Kinds] | None = None) -> Kinds:
    """The types a JSON schema allows: type (one or a list), anyOf/oneOf/allOf, enum, const, local $ref.

    `root` is the schema that a `$ref` of the form "#/a/b" starts from. What it does not know adds nothing.
    `known` holds the schemas met so far by identity: each is read once, however often it is referred to.
    """
    known = {} if known is None else known
    if not isinstance(schema, Mapping) or depth > MAX_SCHEMA_DEPTH:
        return frozenset()
    if id(schema) not in known:
        known[id(schema)] = frozenset()  # while it is being read: what refers to itself adds nothing
        known[id(schema)] = _kinds(schema, root, depth, known)
    return known[id(schema)]


def kinds_of_names(declared: Any) -> Kinds:
    """The types that the value of "type" names, one or a list."""
    names = declared if isinstance(declared, list) else [declared]
    return frozenset(_TYPE_NAMES[n.lower()] for n in names if isinstance(n, str) and n.lower() in _TYPE_NAMES)


def _kinds(schema: Mapping, root: Any, depth: int, known: dict[int, Kinds]) -> Kinds:
    if kinds := kinds_of_names(schema.get("type")):
        return kinds
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset().union(*map(kinds_of_value, values))
    unions = (schema.get(key) for key in ("anyOf", "oneOf", "allOf"))
    branches = [branch for union in unions if isinstance(union, list) for branch in union]
    if isinstance(schema.get("$ref"), str):
        branches.append(follow(schema["$ref"], root))
    kinds = frozenset().union(*(kinds_of_schema(branch, root, depth + 1, known) for branch in branches))
    if not kinds and "properties" in schema:
        return frozenset({"object"})
    return kinds or (frozenset({"array"}) if "items" in schema else kinds)


def follow(reference: str, root: Any) -> Any:
    """What a local "#/..." reference points at, or None."""
    node = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


class ToolSchemas:
    """Which parameters each tool has, and which types they take.

    Takes tools in OpenAI form, with or without the outer "function", or with "input_schema" (Anthropic).
    Entries with no name are skipped: they cannot be called, and refusing them is not the parser's office.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None = None):
        self._tools: dict[str, dict[str, Kinds]] = {}
        for tool in tools or ():
            if not isinstance(tool, Mapping):
                continue
            function = tool["function"] if isinstance(tool.get("function"), Mapping) else tool
            schema = function.get("parameters") or function.get("input_schema")
            properties = schema.get("properties") if isinstance(schema, Mapping) else None
            if isinstance(function.get("name"), str):
                fields = properties.items() if isinstance(properties, Mapping) else ()
                self._tools[function["name"]] = {key: kinds_of_schema(field, schema) for key, field in fields}

    def kinds(self, tool: str, key: str) -> Kinds:
        """Allowed types of a parameter; empty for an unknown tool or parameter."""
        return self._tools.get(tool, {}).get(key, frozenset())

    def may_have(self, tool: str, key: str) -> bool:
        """Whether `key` can be a parameter of `tool`; always for a tool that declares none or is unknown."""
        declared = self._tools.get(tool)
        return not declared or key in declared


def coerce(text: str, kinds: Kinds) -> Any:
    """The value that `text` stands for: a JSON value of one of `kinds`, else `text` itself.

    Only a string allowed: raw. "null" is None unless strings are allowed and null is not. Otherwise JSON,
    if its type is allowed; true and false in any case. A value of a wrong type stays the text it was.
    """
    if not kinds or kinds == STRING:
        return text
    word = text.strip()
    if word == "null":
        return None if "null" in kinds or "string" not in kinds else text
    if "boolean" in kinds and word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        value = loads(word)
    except ValueError:
        return text
    if isinstance(value, str) or not kinds_of_value(value) & kinds:
        return text
    if isinstance(value, float) and "number" not in kinds:
        return int(value)
    return value


def loads(text: str) -> Any:
    """`json.loads` for text from a model: NaN, infinities and too deep nesting are ValueErrors.

    Lone surrogates, which no UTF-8 can carry, become U+FFFD.
    """
    try:
        written = dumps(json.loads(text))
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    return json.loads(_SURROGATE.sub("\ufffd", written))


def dumps(value: Any) -> str:
    """JSON as templates write it: not escaped beyond need, ", " and ": " between items."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class ArgumentsWriter:
    """Writes the JSON object of one call's arguments as they come; returned fragments joined are the object.

    Strings are written piece by piece, all else when the value is complete. A key written twice: the last
    value counts, as in most JSON readers. `arguments` is the object so far,
    `key` the key last opened.
    """

    def __init__(self, schemas: ToolSchemas, tool: str):
        self._schemas, self._tool = schemas, tool
        self.key = ""
        self._kinds: Kinds = STRING
        self._pieces: list[str] = []
        self._is_text = False  # the opening quote is out
        self._num_written = 0
        self._json = JsonText(STRING)
        self.arguments: dict[str, Any] = {}

    @property
    def is_scalar(self) -> bool:
        """Whether no value of the open key can hold a tag: it is a number, a boolean or null."""
        return bool(self._kinds) and self._kinds <= SCALARS

    @property
    def in_json_string(self) -> bool:
        """Whether the value so far is the beginning of an object or array that the tool takes, and ends inside one of its strings."""
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
        """How often `write` was called for this value."""
        return len(self._pieces)

    def cut(self, num_pieces: int) -> None:
        """Take back all but the first pieces of a value that is no string; nothing of it is out yet."""
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
        """Go on with the value; the result is empty as long as its type depends on what follows."""
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


class JsonText:
    """Whether text that grows is the beginning of a JSON object or array, or a whole one; looks at each character once.

    What stands between strings is only checked roughly, until the brackets are closed: `is_valid` then decides.
    """

    _BETWEEN = re.compile(r"[ \t\r\n:,.+\-0-9A-Za-z]*")
    _WITHIN = re.compile(r'[^"\\\x00-\x1f]*')

    def __init__(self, kinds: Kinds):
        """kinds: what the value may be."""
        self._openers = "{" * ("object" in kinds) + "[" * ("array" in kinds)
        self._closers: list[str] = []
        self._begun = self._escaped = False
        self.is_dead = not self._openers  # it cannot become what it is to be
        self.in_string = self.is_whole = self.was_valid = False

    def push(self, text: str) -> None:
        """Go on with the text."""
        if self.is_dead:
            return
        if not self._begun:
            text = text.lstrip()
            self._begun = text != ""
            self.is_dead = self._begun and text[0] not in self._openers
        pos = 0
        while pos < len(text) and not self.is_dead:
            pos = self._escape(text, pos) if self._escaped else self._string(text, pos) if self.in_string else self._between(text, pos)
        self.in_string = self.in_string and not self.is_dead
        self.is_whole = self._begun and not self._closers and not self.is_dead

    def _escape(self, text: str, pos: int) -> int:
        self._escaped = False
        self.is_dead = text[pos] not in '"\\/bfnrtu'
        return pos + 1

    def _string(self, text: str, pos: int) -> int:
        pos = self._WITHIN.match(text, pos).end()
        if pos < len(text):
            self._escaped = text[pos] == "\\"
            self.in_string = text[pos] != '"'
            self.is_dead = self.in_string and not self._escaped
        return pos + 1

    def _between(self, text: str, pos: int) -> int:
        if self.is_whole:
            self.is_dead = text[pos:].strip() != ""
            return len(text)
        pos = self._BETWEEN.match(text, pos).end()
        if pos < len(text):
            char = text[pos]
            self.in_string = char == '"'
            if char in "{[":
                self._closers.append("}" if char == "{" else "]")
                self.is_dead = len(self._closers) > MAX_JSON_DEPTH
            elif char != '"':
                self.is_dead = not self._closers or self._closers.pop() != char
            self.is_whole = not self._closers
        return pos + 1

    def is_valid(self, text: str) -> bool:
        """Whether the text whose brackets are closed is JSON; to be asked once, because only white space can follow."""
        try:
            loads(text.strip())
        except ValueError:
            self.is_dead, self.is_whole = True, False
        self.was_valid = self.is_whole
        return self.was_valid


class JsonSpan:
    """Finds the end of a JSON object or array in text that grows; looks at each character once.

    `marks` are characters that stand for control tokens: inside a string they are ordinary, outside they
    end the search.
    """

    def __init__(self, marks: str):
        self._token = re.compile(rf'["\\{{}}\[\]{marks}]')
        self._pos = 0
        self._closers: list[str] = []
        self._in_string = False

    def find_end(self, text: str, start: int, end_mark: str) -> tuple[int, str] | None:
        """(offset after the span, text that would complete it), or None while more text is needed.

        `text[start]` is the opening bracket. The second part is "" for a complete span; otherwise a mark was
        hit outside a string, or `end_mark` anywhere, and it holds the quote and brackets that are missing.
        """
        self._pos = max(self._pos, start)
        while match := self._token.search(text, self._pos):
            token, self._pos = match.group(), match.end()
            if token == end_mark or (token not in '"\\{}[]' and not self._in_string):
                self._pos = match.start()
                return self._pos, '"' * self._in_string + "".join(reversed(self._closers))
            if token == "\\" and self._in_string:
                if self._pos == len(text):
                    self._pos = match.start()
                    return None
                self._pos += text[self._pos] != end_mark
            elif token == '"':
                self._in_string = not self._in_string
            elif not self._in_string and token in "{[":
                self._closers.append("}" if token == "{" else "]")
            elif not self._in_string and token in "}]":
                self._closers.pop()
                if not self._closers:
                    return self._pos, ""
        self._pos = max(self._pos, len(text))
        return None


def parse_json_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of a call written as {"name": ..., "arguments": {...}} (Hermes, Qwen2.5), else None.

    Also "parameters" for "arguments", arguments as a JSON string, and the OpenAI form with "function". An
    object with any other key is not taken for a call, because the text under that key would be lost.
    """
    try:
        call = loads(text)
        if isinstance(call, dict) and isinstance(call.get("function"), dict) and call.keys() <= _OUTER_KEYS:
            call = call["function"]
        if not isinstance(call, dict) or not any(call.keys() <= keys for keys in _CALL_KEYS):
            return None
        arguments = call.get("arguments", call.get("parameters")) or {}
        arguments = loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return None
    if not isinstance(call.get("name"), str) or not call["name"] or not isinstance(arguments, dict):
        return None
    return call["name"], arguments
