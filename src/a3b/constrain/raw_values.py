"""Rules for values that are verbatim in a call, between the tags of a parameter.

A grammar may only allow what the parser reads as intended: a text ends only where the parser ends it, and no text
spells a value of another type that the parser would take it for. Owns these rules; the tags are the dialect's. Enter at
`RawValues.add_rule`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from a3b.constrain.absent_strings import absent
from a3b.constrain.enforceable import Report, are_disjoint, enforceable
from a3b.constrain.lark import ANY_BLANK, JSON_BLANK, json_value, quoted, regex
from a3b.constrain.string_terminals import StringTerminals
from a3b.errors import UsageError
from a3b.json_schema.enumerations import accepts, keywords_of, listed_values
from a3b.json_schema.types import NOTHING, STRING, Kinds, kinds_of_schema, kinds_of_value
from a3b.json_schema.validity import ANNOTATIONS, DEFINITIONS
from a3b.output.dialects.dialect import RawParameters
from a3b.output.json_text import dumps
from a3b.output.tool_arguments import CONTAINERS, NUMBERS, SCALARS, coerce

_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+\-]?[0-9]+)?"
# what the parser takes for such a value
_READ = {"null": "null", "boolean": "(?i:true|false)", "integer": _NUMBER, "number": _NUMBER}
# characters that JSON of a type begins with
_FIRST = {"object": r"\{", "array": r"\[", "integer": r"\-0-9", "number": r"\-0-9"}
_AROUND = r"\s\x{1c}-\x{1f}"  # characters that the parser strips before it looks for another type
_WRITTEN = {
    "null": '"null"',
    "boolean": '"true" | "false"',
    "integer": "/-?(0|[1-9][0-9]{0,17})/",
    "number": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+\-]?[0-9]{1,2})?/",
}
_WORDS: Mapping[str, tuple[bool | None, ...]] = {"null": (None,), "boolean": (True, False)}
_BOUNDS = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
_OVERLAP = "oneOf of branches that may hold together"
# no more than which values there are
_LISTING = ANNOTATIONS | DEFINITIONS | frozenset("type enum const anyOf oneOf $ref".split())
_PLAIN = ANNOTATIONS | DEFINITIONS | frozenset("type anyOf oneOf $ref".split())  # ... than which types


@cache
def definitions(raw: RawParameters) -> tuple[str, ...]:
    """Lines that every grammar with raw parameters has.

    `free` is a text that the parser never reads as JSON, `text` one that it may; BESIDE is the text when combined with
    lengths and patterns. A value is lazy: it ends at the first closing tag on a line of its own."""
    close = quoted(raw.close)
    return (
        f"free[suffix={close}]: FREE",
        f"FREE: {_without(raw.free_ends)}",
        f"text[suffix={close}]: TEXT",
        f"TEXT: {_without(raw.text_ends)}",
        f"BESIDE: /{absent([_steps(ending) for ending in raw.text_ends])}/",
    )


def _without(endings: tuple[str, ...]) -> str:
    found = "|".join(f"{ANY_BLANK}*".join(map(regex, ending.split(" "))) for ending in endings)
    return f"/(?s:.*)/ & ~/(?s:.*)({found})(?s:.*)/"


def _steps(ending: str) -> list[tuple[str, bool]]:
    return [(" \t\r\n", True) if char == " " else (char, False) for char in ending]


@cache
def _ends_of(raw: RawParameters) -> re.Pattern[str]:
    return re.compile("|".join(f"{ANY_BLANK}*".join(map(re.escape, one.split(" "))) for one in raw.free_ends))


@dataclass(frozen=True)
class _Value:
    """A parameter. schema: what it must satisfy. where: its name in errors. kinds: types that the schema allows, empty
    if it does not say. read: types by which the parser reads it. values: all, if the schema lists them. keywords: of
    the schema and all that it joins."""

    schema: Any
    where: str
    kinds: Kinds
    read: Kinds
    values: list[Any] | None
    keywords: set[str]

    def unsatisfiable(self) -> UsageError:
        return UsageError(f"{self.where}: no answer can satisfy it; expected a schema that can be enforced")


class RawValues:
    """The values of one tool. parts: by parameter, grammars of single values, which must be satisfiable alone."""

    def __init__(self, raw: RawParameters, root: Any, report: Report, head: list[str], add: Callable[[str, str], None]):
        """root: the schema of all parameters. head: the first lines of a grammar. add: takes (line, the parameter it
        stands for)."""
        self._raw, self._root, self._report, self._head, self._add = raw, root, report, head, add
        self._close = quoted(raw.close)
        self.parts: dict[str, str] = {}

    def add_rule(self, rule: str, tag: str, schema: Any, read: Kinds, where: str) -> None:
        """Add the rule of one parameter, and before it those that it needs.

        tag: what precedes the value, as an expression. read: the types by which the parser reads it. where: its name in
        errors, of which it raises UsageError."""
        report = Report(where, self._report.strict, self._report.notes)
        kinds = kinds_of_schema(schema, self._root)
        value = _Value(schema, where, kinds, read, None, set())
        if kinds == NOTHING or schema is False:
            raise value.unsatisfiable()
        values, keywords = listed_values(schema, self._root), keywords_of(schema, self._root, self._overlap)
        value = _Value(schema, where, kinds, read, values, keywords)
        strings = StringTerminals(f"{rule.upper()}T", self._root, report)
        body = self._body(rule, value, strings, report)
        for line in strings.lines:
            self._add(line, where)
        self._add(f"{rule}: {tag} {body}", where)

    def _body(self, rule: str, value: _Value, strings: StringTerminals, report: Report) -> str:
        """An expression for the value and what closes it."""
        kinds, read, keywords = value.kinds, value.read, value.keywords
        allowed = strings.of(value.schema) if not kinds or "string" in kinds else None
        if value.values is not None and keywords <= _LISTING:
            return self._listing(value, value.values)
        if kinds and kinds <= SCALARS and keywords <= _PLAIN | {"allOf"}:
            return f"({' | '.join(_WRITTEN[kind] for kind in sorted(kinds))}) {self._close}"
        if kinds and "string" not in kinds:
            return f"{json_arguments(value.schema, self._root, kinds, report)} {self._close}"
        if allowed == "" and (read <= STRING or (keywords <= _PLAIN and read == kinds)):
            return "text" if read & CONTAINERS else "free"  # whole JSON would end at any closing tag
        if allowed is None and not kinds and not self._report.strict:
            return "free"  # all that it allows is of types that it does not name
        return self._mixed(rule, value, allowed, strings, report)

    def _overlap(self, schema: Mapping[str, Any]) -> set[str]:
        branches = schema.get("oneOf")
        return {_OVERLAP} if isinstance(branches, list) and not are_disjoint(branches, self._root) else set()

    def _listing(self, value: _Value, values: list[Any]) -> str:
        """An enumeration: those of its values that the parser reads as they were meant."""
        listed = {dumps(one) for one in values if kinds_of_value(one) & value.kinds}
        spelled = [
            text
            for text in dict.fromkeys(one if isinstance(one, str) else dumps(one) for one in values)
            if dumps(coerce(text, value.read)) in listed and not _ends_of(self._raw).search(text)
        ]
        if not spelled:
            raise value.unsatisfiable()
        return f"({' | '.join(quoted(text + self._raw.close) for text in spelled)})"

    def _mixed(self, rule: str, value: _Value, allowed: str | None, strings: StringTerminals, report: Report) -> str:
        """A string within bounds, or a string among other types. allowed: the terminal of the strings.

        The library tells texts from JSON by the first character alone, so no text begins like JSON that may follow.
        Numbers come as JSON only if they have bounds, so that texts may begin with digits."""
        others = (value.kinds or value.read) - STRING
        has_bounds = self._has_bounds(value) and not others.isdisjoint(NUMBERS)
        in_json = others & (frozenset(_FIRST) if has_bounds else CONTAINERS)
        options = [] if allowed is None else [_texts(allowed, value.read, in_json)]
        if value.values is not None and not has_bounds:
            options += [quoted(dumps(one)) for one in value.values if not isinstance(one, str)]
            in_json = frozenset()
        else:
            options += [form for kind in sorted(others - in_json) for form in self._forms(kind, value.schema)]
        body = []
        if options:
            strings.lines.append(f"{rule.upper()}V: {' | '.join(options)}")
            strings.lines.append(f"{rule}s[suffix={self._close}]: {rule.upper()}V")
            self.parts[value.where] = "\n".join([*self._head, *strings.lines, f"start: {rule}s", ""])
            body.append(f"{rule}s")
        if in_json:
            body.append(f"{json_arguments(value.schema, self._root, in_json, report)} {self._close}")
        if not body:
            raise value.unsatisfiable()
        return f"({' | '.join(body)})"

    def _has_bounds(self, value: _Value) -> bool:
        """Whether a number must be held to more than its type."""
        if value.keywords & _BOUNDS:
            return True
        return value.values is None and not value.keywords.isdisjoint(("enum", "const", "not", _OVERLAP))

    def _forms(self, kind: str, schema: Any) -> list[str]:
        """How values of types other than string are written, one terminal each."""
        if kind not in _WORDS:
            return [_WRITTEN[kind]]
        return [quoted(dumps(word)) for word in _WORDS[kind] if accepts(schema, word, self._root)]


def _texts(allowed: str, read: Kinds, in_json: Kinds) -> str:
    """The strings of a terminal that the parser reads as strings. in_json: types that may take their place as JSON."""
    barred = sorted({_READ[kind] for kind in read & frozenset(_READ) - in_json})
    first = "".join(sorted({_FIRST[kind] for kind in in_json | read & CONTAINERS}))
    parts = ["BESIDE", allowed]
    if first:
        parts.append(f"/[{_AROUND}]*([^{_AROUND}{first}](?s:.*))?/")
    if barred:
        parts.append(f"~/[{_AROUND}]*({'|'.join(barred)})[{_AROUND}]*/")
    return f"({' & '.join(part for part in parts if part)})"


def json_arguments(schema: Any, root: Any, kinds: Kinds, report: Report) -> str:
    """Values of `kinds` as JSON.

    Unless it is strict, a tool checks its arguments itself, so what cannot be enforced is no reason to refuse it."""
    schema = enforceable(schema, root, report)
    if isinstance(schema, Mapping) and kinds != kinds_of_schema(schema, schema):
        definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
        own = {key: value for key, value in schema.items() if key != "$defs"}
        schema = {"allOf": [own], "type": sorted(kinds), **definitions}
    guidance = {"whitespace_pattern": JSON_BLANK, "lenient": not report.strict}
    return json_value({**(schema if isinstance(schema, Mapping) else {}), "x-guidance": guidance})
