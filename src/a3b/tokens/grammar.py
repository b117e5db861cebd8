"""Which answers a request allows, as the text of a grammar in llguidance's dialect of Lark.

Owns the syntax of constrained answers: JSON by a schema, and calls of the declared tools as chat templates write them.
Knows no tokens and no library. What a call may hold is narrower than what `tokens/stream.py` understands: a free text ends
nowhere but where that parser ends it. A string in JSON may hold closing tags, because that parser reads JSON to its real end.
Enter at `answer_grammar`.

A tool with `strict: true` is refused if any keyword of its parameters cannot be enforced. Of others, whose calls are checked by
whoever runs the tool, keywords that are unknown here are left to that; a value of a known one that cannot be enforced is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a3b.errors import UsageError
from a3b.tokens.tags import MAX_NAME
from a3b.tokens.texts import Texts
from a3b.tokens.toolcalls import STRING, Kinds, dumps, follow, kinds_of_schema

MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH = 100_000, 64  # of one schema; a compiler's time is bounded by its input
MAX_PARAMETERS = 64  # of one tool: the bits of a set of names
_LITERAL_DEPTH = 8  # unions in unions of literal values
_MAX_LITERALS = 10_000  # unions of unions that refer to one another multiply

# White space inside JSON: one blank, or a new line with its indentation. Without a bound a model can go on with blanks for ever.
_CLOSE = "\n</parameter>\n"
_BLANK = r" |\n[ \t]{0,64}"
_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())  # others are annotations
_DATA = frozenset(("const", "enum", "default", "examples"))  # keys of a schema that hold values, not schemas
_NAME = re.compile(rf"""[^\s<>"']{{1,{MAX_NAME}}}\Z""")
_HEAD = r"""%llguidance {}
lead: /\n{1,2}/
free[suffix="\n</parameter>\n"]: FREE
FREE: /(?s:.*)/ & ~/(?s:.*)(<\/parameter>[ \t\r\n]*<|<\/function>[ \t\r\n]*<|\n<parameter=)(?s:.*)/
text[suffix="\n</parameter>\n"]: TEXT
TEXT: /(?s:.*)/ & ~/(?s:.*)(<\/parameter>|<\/function>[ \t\r\n]*<|\n<parameter=)(?s:.*)/
"""  # a value is lazy: it ends at the first closing tag on a line of its own; the parser would end it at the others too
_ENDS = re.compile(r"</parameter>[ \t\r\n]*<|</function>[ \t\r\n]*<|\n<parameter=")  # what FREE does not hold
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+\-]?[0-9]+)?"
_READ = {"null": "null", "boolean": "(?i:true|false)", "integer": _NUMBER, "number": _NUMBER}  # what the parser takes for such a value
_FIRST = {"object": r"\{", "array": r"\[", "integer": r"\-0-9", "number": r"\-0-9"}  # characters that JSON of a type begins with
_AROUND = r"\s\x{1c}-\x{1f}"  # characters that the parser strips before it looks for another type
_WRITTEN = {
    "null": '"null"', "boolean": '"true" | "false"', "integer": "/-?(0|[1-9][0-9]{0,17})/",
    "number": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+\-]?[0-9]{1,2})?/",
}  # fmt: skip
_BOUNDS = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
_ANNOTATIONS = frozenset("$schema $id $anchor $comment $defs definitions title description default examples deprecated".split())
_ROOT = frozenset("type properties required additionalProperties".split())  # keywords of a tool's parameters as a whole


@dataclass(frozen=True)
class Grammar:
    """text: Lark. fields: by line of the text, from 1, the field of the request that it was made of. parts: by field, grammars of single
    values, each of which some text must satisfy, lest an answer come to a dead end."""

    text: str
    fields: Mapping[int, str]
    parts: Mapping[str, str]


def answer_grammar(schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]] | None, parallel: bool = True) -> Grammar:
    """JSON by `schema`, one or more calls of `tools` (OpenAI form), or either if both are given.

    parallel: more than one call may follow another. Raises UsageError for what no grammar can be made of."""
    lines: list[str] = _HEAD.splitlines()
    fields: dict[int, str] = {}
    parts: dict[str, str] = {}
    options = []
    if schema is not None:
        options.append("document")
        lines.append(f"document: {_json(strict_schema(schema))}")
        fields[len(lines)] = "schema"
    if tools is not None:
        options.append('call ("\\n" call)*' if parallel else "call")
        names = []
        for index, (name, (parameters, strict)) in enumerate(_declared(tools).items()):
            names.append(f"f{index}")
            tool = _Tool(f"f{index}", name, parameters, strict)
            for line, field in tool.lines():
                lines.append(line)
                fields[len(lines)] = field
            parts |= tool.parts
        lines.append(f'call: <tool_call> "\\n" ({" | ".join(names)}) </tool_call>')
    lines.append(f"start: lead? ({' | '.join(options)})")
    return Grammar("\n".join(lines) + "\n", fields, parts)


def strict_schema(schema: Mapping[str, Any], blank: str = _BLANK) -> dict[str, Any]:
    """`schema` as the compiler takes it: any object for {}; keywords that it does not know are refused, not ignored."""
    return {**(_checked(schema, "schema") or {"type": "object"}), "x-guidance": {"whitespace_pattern": blank}}


def document_grammar(schema: Mapping[str, Any]) -> str:
    """Documents of `schema` with any white space between their parts."""
    return "%llguidance {}\nstart: " + _json(strict_schema(schema, r"[ \t\r\n]+")) + "\n"


def _json(schema: Any) -> str:
    return f"%json {json.dumps(schema)}"


def _declared(tools: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, bool]]:
    """Names of tools -> (their parameters' schema, None without one; whether it is strict)."""
    declared = {}
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.match(name):
            raise UsageError(f"tools[{index}]: name {name!r}; expected 1 to {MAX_NAME} characters without blanks, quotes, < and >")
        declared[name] = (function.get("parameters"), function.get("strict") is True)
    if not declared:
        raise UsageError("tools: none; expected at least one, because tool_choice asks for a call")
    return declared


class _Tool:
    """The rules of one tool's calls: parameters in any order, each at most once, the required ones at least once."""

    def __init__(self, rule: str, name: str, parameters: Any, strict: bool = False):
        self.rule, self.name, self.where, self.strict = rule, name, f"tools: {name}", strict
        self.parts: dict[str, str] = {}  # filled by `lines`
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
        if strict and (others := self.root.keys() - _ROOT - _ANNOTATIONS):
            raise UsageError(f"{self.where}: parameters: {min(others)}; expected a keyword that can be enforced")

    def lines(self) -> Iterator[tuple[str, str]]:
        """(line of the grammar, field it stands for)."""
        rule, required = self.rule, set(self.required)
        keys = sorted(self.properties, key=lambda key: key not in required)  # the required ones have the lowest bits
        options = [f'"" %if is_ones([0:{len(required)}])' if required else '""']
        for bit, key in enumerate(keys):
            tag = _quoted(f"<parameter={key}>\n")
            yield from self._parameter(f"{rule}v{bit}", tag, self.properties[key], f"{self.where}: parameter {key}")
            options.append(f"{rule}v{bit} {rule}p::set_bit({bit}) %if bit_clear({bit})")
        if self.extra is not False:
            others = "|".join(map(_escaped, keys))  # a declared name has its own type
            but = f" & ~/<parameter=({others})>\\n/" if keys else ""
            yield f"{rule.upper()}X: /<parameter=[^\\s<>\"']{{1,{MAX_NAME}}}>\\n/{but}", self.where
            yield from self._parameter(f"{rule}x", f"{rule.upper()}X", self.extra, f"{self.where}: additionalProperties")
            options.append(f"{rule}x {rule}p::_")
        body = f"{rule}x*" if self.extra is not False else ""
        if keys:
            yield f"{rule}p::_: " + " | ".join(options), self.where
            body = f"{rule}p::0x0"
        start = _quoted(f"<function={self.name}>\n")
        yield f'{rule}: {start} {body} "</function>\\n"', self.where

    def _parameter(self, rule: str, tag: str, schema: Any, where: str) -> Iterator[tuple[str, str]]:
        """The rule of one parameter, and before it those that it needs."""
        kinds = kinds_of_schema(schema, self.root)
        values = _literals(schema, self.root)
        texts = Texts(f"{rule.upper()}T", self.root, where, self.strict)
        allowed = texts.of(schema) if not kinds or "string" in kinds else None
        if values is not None and not texts.restricts:
            spelled = [text for value in values if not _ENDS.search(text := _spelled(value)) or not isinstance(value, str)]
            if not spelled:
                raise UsageError(f"{where}: no answer can satisfy it; expected a schema that can be enforced")
            body = f"({' | '.join(_quoted(f'{text}{_CLOSE}') for text in spelled)})"
        elif kinds and "string" not in kinds:
            body = f"{self._json(schema, kinds)} {_quoted(_CLOSE)}"
        elif allowed == "" and (not self.strict or kinds <= STRING):
            body = "text" if kinds & {"object", "array"} else "free"  # whole JSON would end at any closing tag
        elif allowed is None and not kinds and not self.strict:
            body = "free"  # all that it allows is of types that it does not name
        else:
            options, parsed = self._texts(allowed, schema, kinds, values)
            body = []
            if options:
                texts.lines.append(f"{rule.upper()}V: {' | '.join(options)}")
                texts.lines.append(f"{rule}s[suffix={_quoted(_CLOSE)}]: {rule.upper()}V")
                self.parts[where] = "\n".join([*_HEAD.splitlines(), *texts.lines, f"start: {rule}s", ""])
                body.append(f"{rule}s")
            if parsed:
                body.append(f"{self._json(schema, parsed)} {_quoted(_CLOSE)}")
            if not body:
                raise UsageError(f"{where}: no answer can satisfy it; expected a schema that can be enforced")
            body = f"({' | '.join(body)})"
        yield from ((line, where) for line in texts.lines)
        yield f"{rule}: {tag} {body}", where

    def _texts(self, allowed: str | None, schema: Any, kinds: Kinds, values: list[Any] | None) -> tuple[list[str], Kinds]:
        """(terminals for a value that may be a string, kinds that come as JSON instead).

        A text that the parser would read as another type is no string. The library tells texts from JSON by the first character alone,
        so none begins like JSON that may follow; numbers come as JSON only if they have bounds, so that texts may begin with digits."""
        others = kinds - STRING
        has_bounds = bool(_BOUNDS & _keywords(schema, self.root)) and not others.isdisjoint(("integer", "number"))
        parsed = others & (frozenset(_FIRST) if has_bounds else frozenset({"object", "array"}))
        options = []
        if allowed is not None:
            read = "|".join(sorted({_READ[kind] for kind in others - parsed}))
            first = "".join(sorted({_FIRST[kind] for kind in parsed}))
            parts = ["TEXT", allowed, f"/[{_AROUND}]*([^{_AROUND}{first}](?s:.*))?/" if first else "",
                     f"~/[{_AROUND}]*({read})[{_AROUND}]*/" if read else ""]  # fmt: skip
            options.append(f"({' & '.join(part for part in parts if part)})")
        if values is not None:
            return options + [_quoted(dumps(value)) for value in values if not isinstance(value, str)], frozenset()
        return options + [_WRITTEN[kind] for kind in sorted(others - parsed)], parsed

    def _json(self, schema: Mapping[str, Any], kinds: Kinds) -> str:
        """Values of `kinds` as JSON."""
        declared = schema.get("type")
        if kinds != kinds_of_schema(schema, self.root) and not declared:
            schema = {"allOf": [schema, {"type": sorted(kinds)}]}
        elif declared and not set(declared if isinstance(declared, list) else [declared]) <= kinds:
            # also names like "int", which only we know
            schema = {**schema, "type": sorted(kinds)}
        definitions = {key: self.root[key] for key in ("$defs", "definitions") if key in self.root}
        # Unless it is strict a tool checks its arguments itself, so what cannot be enforced is no reason to refuse it.
        return _json({**definitions, **schema, "x-guidance": {"whitespace_pattern": _BLANK, "lenient": not self.strict}})


def _keywords(schema: Any, root: Any) -> set[str]:
    """Keywords of a schema and of all that it joins."""
    found: set[str] = set()
    level, seen = [schema], set()
    while level:
        one = level.pop()
        if isinstance(one, Mapping) and id(one) not in seen:
            seen.add(id(one))
            found |= one.keys()
            level += [branch for key in ("anyOf", "oneOf", "allOf") if isinstance(one.get(key), list) for branch in one[key]]
            level += [follow(one["$ref"], root)] if isinstance(one.get("$ref"), str) else []
    return found


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literals(schema: Any, root: Any, depth: int = 0, known: dict[int, list[Any] | None] | None = None) -> list[Any] | None:
    """All values of an enumeration, or None if the schema is none. Each schema is read once, however often it is referred to."""
    known = {} if known is None else known
    if not isinstance(schema, Mapping) or depth > _LITERAL_DEPTH:
        return None
    if id(schema) not in known:
        known[id(schema)] = None  # while it is being read: what refers to itself lists nothing
        known[id(schema)] = _listed(schema, root, depth, known)
    return known[id(schema)]


def _listed(schema: Mapping[str, Any], root: Any, depth: int, known: dict[int, list[Any] | None]) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return values
    if schema.get("type") == "null":
        return [None]
    reference = schema.get("$ref")
    branches = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        definitions = root.get("$defs")
        branches = [definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, Mapping) else None]
    if not isinstance(branches, list):
        return None
    found: list[Any] = []
    for branch in branches:
        values = _literals(branch, root, depth + 1, known)
        if values is None or len(found) + len(values) > _MAX_LITERALS:
            return None
        found += values
    return found


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
