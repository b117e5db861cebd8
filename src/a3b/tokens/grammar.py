"""Which answers a request allows, as the text of a grammar in llguidance's dialect of Lark.

Owns the syntax of constrained answers: JSON by a schema, and calls of the declared tools as chat templates write them.
Knows no tokens and no library. What a call may hold is narrower than what `tokens/stream.py` understands: a free text ends
nowhere but where that parser ends it. (A string inside a JSON value is not looked at for closing tags.) Enter at
`answer_grammar`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a3b.errors import UsageError
from a3b.tokens.tags import MAX_NAME
from a3b.tokens.toolcalls import dumps, kinds_of_schema

MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH = 100_000, 64  # of one schema; a compiler's time is bounded by its input
MAX_PARAMETERS = 64  # of one tool: the bits of a set of names
_LITERAL_DEPTH = 8  # unions in unions of literal values

# White space inside JSON: one blank, or a new line with its indentation. Without a bound a model can go on with blanks for ever.
_BLANK = r" |\n[ \t]{0,64}"
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())  # others are annotations
_DATA = frozenset(("const", "enum", "default", "examples"))  # keys of a schema that hold values, not schemas
_NAME = re.compile(rf"""[^\s<>"']{{1,{MAX_NAME}}}\Z""")
_HEAD = r"""%llguidance {}
lead: /\n{1,2}/
free[suffix="\n</parameter>\n"]: FREE
FREE: /(?s:.*)/ & ~/(?s:.*)(<\/parameter>[ \t\r\n]*<|<\/function>[ \t\r\n]*<|\n<parameter=)(?s:.*)/
"""  # a value is lazy: it ends at the first closing tag on a line of its own; the parser would end it at the others too


@dataclass(frozen=True)
class Grammar:
    """text: Lark. fields: by line of the text, from 1, the field of the request that it was made of."""

    text: str
    fields: Mapping[int, str]


def answer_grammar(schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]] | None, parallel: bool = True) -> Grammar:
    """JSON by `schema`, one or more calls of `tools` (OpenAI form), or either if both are given.

    parallel: more than one call may follow another. Raises UsageError for what no grammar can be made of."""
    lines: list[str] = _HEAD.splitlines()
    fields: dict[int, str] = {}
    options = []
    if schema is not None:
        options.append("document")
        lines.append(f"document: {_json(strict_schema(schema))}")
        fields[len(lines)] = "schema"
    if tools is not None:
        options.append('call ("\\n" call)*' if parallel else "call")
        names = []
        for index, (name, parameters) in enumerate(_declared(tools).items()):
            names.append(f"f{index}")
            for line, field in _Tool(f"f{index}", name, parameters).lines():
                lines.append(line)
                fields[len(lines)] = field
        lines.append(f'call: <tool_call> "\\n" ({" | ".join(names)}) </tool_call>')
    lines.append(f"start: lead? ({' | '.join(options)})")
    return Grammar("\n".join(lines) + "\n", fields)


def strict_schema(schema: Mapping[str, Any], blank: str = _BLANK) -> dict[str, Any]:
    """`schema` as the compiler takes it: any object for {}; keywords that it does not know are refused, not ignored."""
    return {**(_checked(schema, "schema") or {"type": "object"}), "x-guidance": {"whitespace_pattern": blank}}


def document_grammar(schema: Mapping[str, Any]) -> str:
    """Documents of `schema` with any white space between their parts."""
    return "%llguidance {}\nstart: " + _json(strict_schema(schema, r"[ \t\r\n]+")) + "\n"


def _json(schema: Any) -> str:
    return f"%json {json.dumps(schema)}"


def _declared(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names of tools -> their parameters' schema, None without one."""
    declared = {}
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.match(name):
            raise UsageError(f"tools[{index}]: name {name!r}; expected 1 to {MAX_NAME} characters without blanks, quotes, < and >")
        declared[name] = function.get("parameters")
    if not declared:
        raise UsageError("tools: none; expected at least one, because tool_choice asks for a call")
    return declared


class _Tool:
    """The rules of one tool's calls: parameters in any order, each at most once, the required ones at least once."""

    def __init__(self, rule: str, name: str, parameters: Any):
        self.rule, self.name, self.where = rule, name, f"tools: {name}"
        parameters = {"properties": {}} if parameters is None else parameters
        if not isinstance(parameters, Mapping):
            raise UsageError(f"{self.where}: parameters: {str(parameters)[:100]!r}; expected a JSON schema of an object")
        self.root = _checked(parameters, f"{self.where}: parameters")
        declared = self.root.get("properties")
        self.properties = dict(declared) if isinstance(declared, Mapping) else {}
        self.extra = self.root.get("additionalProperties", declared is None)
        required = self.root.get("required")
        self.required = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
        for key in self.required:
            self.properties.setdefault(key, self.extra or {})
        for key in self.properties:
            if not _NAME.match(key):
                raise UsageError(f"{self.where}: parameter {key!r}; expected a name without blanks, quotes, < and >")
        if len(self.properties) > MAX_PARAMETERS:
            raise UsageError(f"{self.where}: {len(self.properties)} parameters; expected at most {MAX_PARAMETERS}")

    def lines(self) -> Iterator[tuple[str, str]]:
        """(line of the grammar, field it stands for)."""
        rule, required = self.rule, set(self.required)
        keys = sorted(self.properties, key=lambda key: key not in required)  # the required ones have the lowest bits
        options = [f'"" %if is_ones([0:{len(required)}])' if required else '""']
        for bit, key in enumerate(keys):
            tag = json.dumps(f"<parameter={key}>\n", ensure_ascii=False)
            yield f"{rule}v{bit}: {self._parameter(tag, self.properties[key])}", f"{self.where}: parameter {key}"
            options.append(f"{rule}v{bit} {rule}p::set_bit({bit}) %if bit_clear({bit})")
        if self.extra is not False:
            others = "|".join(map(_escaped, keys))  # a declared name has its own type
            but = f" & ~/<parameter=({others})>\\n/" if keys else ""
            yield f"{rule.upper()}X: /<parameter=[^\\s<>\"']{{1,{MAX_NAME}}}>\\n/{but}", self.where
            yield f"{rule}x: {self._parameter(f'{rule.upper()}X', self.extra)}", f"{self.where}: additionalProperties"
            options.append(f"{rule}x {rule}p::_")
        body = f"{rule}x*" if self.extra is not False else ""
        if keys:
            yield f"{rule}p::_: " + " | ".join(options), self.where
            body = f"{rule}p::0x0"
        start = json.dumps(f"<function={self.name}>\n", ensure_ascii=False)
        yield f'{rule}: {start} {body} "</function>\\n"', self.where

    def _parameter(self, tag: str, schema: Any) -> str:
        literals = _literals(schema, self.root)
        if literals:
            values = " | ".join(json.dumps(f"{text}\n</parameter>\n", ensure_ascii=False) for text in literals)
            return f"{tag} ({values})"
        kinds = kinds_of_schema(schema, self.root)
        if not kinds or "string" in kinds:
            return f"{tag} free"
        names = schema.get("type")
        if names and not set(names if isinstance(names, list) else [names]) <= kinds:  # names like "int", which only we know
            schema = {**schema, "type": sorted(kinds)}
        definitions = {key: self.root[key] for key in ("$defs", "definitions") if key in self.root}
        # A tool checks its arguments itself, so what cannot be enforced is no reason to refuse it.
        value = {**definitions, **schema, "x-guidance": {"whitespace_pattern": _BLANK, "lenient": True}}
        return f'{tag} {_json(value)} "\\n</parameter>\\n"'


def _literals(schema: Any, root: Any, depth: int = 0) -> list[str] | None:
    """All values of an enumeration as a call spells them, or None if the schema is none."""
    if not isinstance(schema, Mapping) or depth > _LITERAL_DEPTH:
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return [value if isinstance(value, str) else dumps(value) for value in values]
    if schema.get("type") == "null":
        return ["null"]
    reference = schema.get("$ref")
    branches = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        definitions = root.get("$defs")
        branches = [definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, Mapping) else None]
    if not isinstance(branches, list):
        return None
    found = [_literals(branch, root, depth + 1) for branch in branches]
    return None if None in found else [text for texts in found for text in texts]


def _escaped(name: str) -> str:
    """A name inside a regular expression of the grammar."""
    return re.sub(r"[^\w]", lambda found: f"\\x{{{ord(found[0]):x}}}", name)


def _checked(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy without annotations that the compiler would stumble over. Raises UsageError if it is too large or not JSON."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for value in level for child in _children(value)]
        if len(level) > MAX_SCHEMA_CHARS:
            break
    if level:
        raise UsageError(f"{where}: nested deeper than {MAX_SCHEMA_DEPTH} or of more than {MAX_SCHEMA_CHARS} parts; expected a smaller one")
    try:
        num_chars = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}; expected JSON") from None
    if num_chars > MAX_SCHEMA_CHARS:
        raise UsageError(f"{where}: {num_chars} characters of JSON; expected at most {MAX_SCHEMA_CHARS}")
    return _cleaned(schema)


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, list | tuple) else []


def _cleaned(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return [_cleaned(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {key: value if key in _DATA else _cleaned(value) for key, value in schema.items() if not _is_annotation(key, value)}


def _is_annotation(key: str, value: Any) -> bool:
    return (
        (key == "format" and isinstance(value, str) and value not in _FORMATS)
        or (key == "$schema" and isinstance(value, str) and "json-schema.org" not in value)
        or (key == "uniqueItems" and value is False)
    )
