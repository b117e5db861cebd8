"""Which answers a request allows, as the text of a grammar in llguidance's dialect of Lark.

Owns the syntax of constrained answers: JSON by a schema, and calls of the declared tools as chat templates write them.
Knows no tokens and no library. What a call may hold is narrower than what `output/parser.py` understands: a free text
ends nowhere but where that parser ends it. A string in JSON may hold closing tags, because that parser reads JSON to
its real end. Enter at `answer_grammar` and `call_grammar`.

A tool with `strict: true` is refused if any keyword of its parameters cannot be enforced, and so is a schema of the
answer. What cannot be enforced of other tools is left to whoever runs them, and noted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a3b.constrain.absent_strings import absent, letters
from a3b.constrain.argument_forms import Shape, name_sets, shapes_of
from a3b.constrain.enforceable import Report, are_disjoint, enforceable
from a3b.constrain.string_terminals import StringTerminals
from a3b.errors import UsageError
from a3b.json_schema.regex_terminals import search_terminal
from a3b.json_schema.types import (
    NOTHING,
    STRING,
    Kinds,
    Parameters,
    follow,
    kinds_of_names,
    kinds_of_schema,
    kinds_of_value,
    values_of,
)
from a3b.json_schema.validity import ANNOTATIONS, DEFINITIONS, check_schema, without_never
from a3b.output.dialects.qwen_xml_tags import MAX_NAME
from a3b.output.json_text import dumps
from a3b.output.tool_arguments import SCALARS, coerce

MAX_PARAMETERS = 64  # of one tool: the bits of a set of names
MAX_GRAMMAR = 4_000_000  # characters, with its parts
MAX_LITERALS = 5000  # of one enumeration that is made of others

# White space inside JSON: one blank, or a new line with its indentation. Without a bound a model can go on with blanks
# for ever.
_CLOSE = "\n</parameter>\n"
_BLANK = r" |\n[ \t]{0,64}"
_NAME = re.compile(rf"""[^\s<>"']{{1,{MAX_NAME}}}\Z""")
_KEY = re.compile(rf"""[^\s<>"'](?:(?:[^\s<>"']| ){{0,{MAX_NAME - 2}}}[^\s<>"'])?\Z""")
_ANY_KEY = f"/[^\\s<>\"']{{1,{MAX_NAME}}}/"
_HEAD = r"""%llguidance {}
lead: /\n{1,2}/
free[suffix="\n</parameter>\n"]: FREE
FREE: /(?s:.*)/ & ~/(?s:.*)(<\/parameter>[ \t\r\n]*<|<\/function>[ \t\r\n]*<|\n<parameter=)(?s:.*)/
text[suffix="\n</parameter>\n"]: TEXT
TEXT: /(?s:.*)/ & ~/(?s:.*)(<\/parameter>|<\/function>[ \t\r\n]*<|\n<parameter=)(?s:.*)/
BESIDE: /{beside}/
"""  # a value is lazy: it ends at the first closing tag on a line of its own; the parser would end it at the others too
_HEAD = _HEAD.replace(
    "{beside}",
    absent(
        (  # TEXT beside lengths and patterns
            letters("</parameter>"),
            (*letters("</function>"), (" \t\r\n", True), ("<", False)),
            letters("\n<parameter="),
        )
    ),
)
_ENDS = re.compile(r"</parameter>[ \t\r\n]*<|</function>[ \t\r\n]*<|\n<parameter=")  # what FREE does not hold
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
_BOUNDS = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
_OVERLAP = "oneOf of branches that may hold together"
# no more than which values there are
_LISTING = ANNOTATIONS | DEFINITIONS | frozenset("type enum const anyOf oneOf $ref".split())
_PLAIN = ANNOTATIONS | DEFINITIONS | frozenset("type anyOf oneOf $ref".split())  # ... than which types


@dataclass(frozen=True)
class Grammar:
    """text: Lark. fields: by line of the text, from 1, the field of the request that it was made of. parts: by field,
    grammars of single values, each of which some text must satisfy: an answer must never come to a dead end. notes:
    what is not enforced."""

    text: str
    fields: Mapping[int, str]
    parts: Mapping[str, str]
    notes: tuple[str, ...] = ()


class _Lines:
    """A grammar while it is being written."""

    def __init__(self) -> None:
        self.lines = _HEAD.splitlines()
        self.fields: dict[int, str] = {}
        self.parts: dict[str, str] = {}
        self.notes: list[str] = []
        self.num_chars = 0

    def add(self, line: str, field: str | None = None) -> None:
        self.lines.append(line)
        self._count(line, field)
        if field is not None:
            self.fields[len(self.lines)] = field

    def add_tool(self, rule: str, name: str, parameters: Any, strict: bool, head: str = "") -> None:
        """head: what the call begins with, if not as templates write it."""
        tool = _Tool(rule, name, parameters, strict, head or _quoted(f"<function={name}>\n"))
        for line, field in tool.lines():
            self.add(line, field)
        for field, part in tool.parts.items():
            self._count(part, field)
            self.parts[field] = part
        self.notes += tool.report.notes

    def _count(self, text: str, field: str | None) -> None:
        self.num_chars += len(text)
        if self.num_chars > MAX_GRAMMAR:
            raise UsageError(
                f"{field or 'tools'}: a grammar of more than {MAX_GRAMMAR:,} "
                "characters; expected fewer or simpler schemas"
            )

    def grammar(self, start: str) -> Grammar:
        return Grammar("\n".join([*self.lines, f"start: {start}"]) + "\n", self.fields, self.parts, tuple(self.notes))


def answer_grammar(
    schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]] | None, parallel: bool = True
) -> Grammar:
    """JSON by `schema`, one or more calls of `tools` (OpenAI form), or either if both are given.

    parallel: more than one call may follow another. Raises UsageError for what no grammar can be made of."""
    lines, options = _Lines(), []
    if schema is not None:
        options.append("document")
        lines.add(f"document: {_json(strict_schema(schema))}", "schema")
    if tools is not None:
        options.append('call ("\\n" call)*' if parallel else "call")
        if not (declared := declared_tools(tools)):
            raise UsageError("tools: none; expected at least one, because tool_choice asks for a call")
        for index, (name, (parameters, strict)) in enumerate(declared.items()):
            lines.add_tool(f"f{index}", name, parameters, strict)
        lines.add(f'call: <tool_call> "\\n" ({" | ".join(f"f{index}" for index in range(len(declared)))}) </tool_call>')
    return lines.grammar(f"lead? ({' | '.join(options)})")


def call_grammar(tools: Sequence[Mapping[str, Any]]) -> Grammar:
    """What may follow a `<tool_call>` that the model wrote of its own accord: text that is not a call, a call of a
    strict tool to its end, or the name of another tool and anything. Raises UsageError for what no grammar can be made
    of."""
    lines = _Lines()
    lines.add(r"PROSE: /[ \t\r\n]*[^ \t\r\n<{\[](?s:.*)/")
    options = ["PROSE"]
    declared = declared_tools(tools)
    if loose := [_escaped(name) for name, (_, strict) in declared.items() if not strict]:
        lines.add(rf"LOOSE: /[ \t\r\n]*<function=({'|'.join(loose)})>(?s:.*)/")
        options.append("LOOSE")
    for index, (name, (parameters, strict)) in enumerate(declared.items()):
        if strict:
            # all begin alike: one terminal tells them apart
            lines.add(rf"HEAD{index}: /\n{{0,2}}<function={_escaped(name)}>\n/")
            lines.add_tool(f"f{index}", name, parameters, strict, f"HEAD{index}")
            options.append(f"f{index} </tool_call>")
    return lines.grammar(" | ".join(options))


def strict_schema(schema: Mapping[str, Any], blank: str = _BLANK) -> dict[str, Any]:
    """`schema` as the compiler takes it: any object for {}. Raises UsageError by the path of what it cannot enforce."""
    check_schema(schema, "schema")
    schema = without_never(schema)
    if schema is False:
        raise UsageError("schema: not: no answer can satisfy it")
    found = enforceable(schema, schema, Report("schema", strict=True))
    return {**(found or {"type": "object"}), "x-guidance": {"whitespace_pattern": blank}}


def document_grammar(schema: Mapping[str, Any]) -> str:
    """Documents of `schema` with any white space between their parts."""
    return "%llguidance {}\nstart: " + _json(strict_schema(schema, r"[ \t\r\n]+")) + "\n"


def _json(schema: Any) -> str:
    return f"%json {json.dumps(schema)}"


def declared_tools(tools: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Mapping[str, Any], bool]]:
    """Names of tools -> (their parameters' schema, whether it is strict). Raises UsageError for a name that cannot be
    called, and for parameters that are not the schema of an object."""
    declared = {}
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.match(name):
            raise UsageError(
                f"tools[{index}]: name {name!r}; expected 1 to {MAX_NAME} characters without blanks, quotes, < and >"
            )
        parameters, where = function.get("parameters"), f"tools: {name}: parameters"
        parameters = {"properties": {}} if parameters is None else parameters
        if not isinstance(parameters, Mapping):
            raise UsageError(f"{where}: {str(parameters)[:100]!r}; expected a JSON schema of an object")
        check_schema(parameters, where, f"tools: {name}: parameter")
        parameters = without_never(parameters)
        if parameters is False:
            raise UsageError(f"{where}: not: no arguments can satisfy it")
        if (kinds := kinds_of_schema(parameters, parameters)) and "object" not in kinds:
            raise UsageError(f"{where}: type {', '.join(sorted(kinds))}; expected a JSON schema of an object")
        for key in Parameters(parameters).names:
            if not _KEY.match(key):
                raise UsageError(
                    f"tools: {name}: parameter {key[:100]!r}; expected a name without line breaks, quotes, < and >"
                )
        declared[name] = (parameters, function.get("strict") is True)
    return declared


class _Tool:
    """The rules of one tool's calls: parameters in any order, each at most once, the required ones at least once."""

    def __init__(self, rule: str, name: str, root: Mapping[str, Any], strict: bool, head: str):
        self.rule, self.head, self.where, self.root = rule, head, f"tools: {name}", root
        self.parts: dict[str, str] = {}  # filled by `lines`
        self.report = Report(f"{self.where}: parameters", strict)
        self.parameters = Parameters(root)
        self.shapes = shapes_of(root, self.report)
        if (num := max(len(shape.properties) for shape in self.shapes)) > MAX_PARAMETERS:
            raise UsageError(f"{self.where}: {num} parameters; expected at most {MAX_PARAMETERS}")
        others = [schemas for shape in self.shapes for _, _, schemas in name_sets(shape)]
        self.other_kinds = frozenset().union(*(kinds_of_schema(_both(schemas), root) for schemas in others))

    def lines(self) -> Iterator[tuple[str, str]]:
        """(line of the grammar, field it stands for)."""
        bodies = []
        for index, shape in enumerate(self.shapes):
            rule = f"{self.rule}s{index}" if len(self.shapes) > 1 else self.rule
            yield from self._shape(rule, shape)
            bodies.append(f"{rule}b")
        yield f'{self.rule}: {self.head} ({" | ".join(bodies)}) "</function>\\n"', self.where

    def _shape(self, rule: str, shape: Shape) -> Iterator[tuple[str, str]]:
        required = set(shape.required)
        keys = sorted(shape.properties, key=lambda key: key not in required)  # the required ones have the lowest bits
        options = [f'"" %if is_ones([0:{len(required)}])' if required else '""']
        for bit, key in enumerate(keys):
            tag, schema = _quoted(f"<parameter={key}>\n"), _both(shape.properties[key])
            yield from self._parameter(
                f"{rule}v{bit}", tag, schema, self.parameters.kinds(key), f"{self.where}: parameter {key}"
            )
            options.append(f"{rule}v{bit} {rule}p::set_bit({bit}) %if bit_clear({bit})")
        others = []
        for index, (inside, outside, schemas) in enumerate(name_sets(shape)):
            # a declared name has its own type
            declared = "|".join(map(_escaped, sorted(self.parameters.names | set(keys))))
            names = [_ANY_KEY, *map(search_terminal, inside), *(f"~{search_terminal(pattern)}" for pattern in outside)]
            names += [f"~/({declared})/"] if declared else []
            one, where = f"{rule}x{index}", f"{self.where}: additionalProperties"
            yield f"{one.upper()}N: {' & '.join(names)}", where
            yield f'{one.upper()}: "<parameter=" {one.upper()}N ">\\n"', where
            yield from self._parameter(one, one.upper(), _both(schemas), self.other_kinds, where)
            others.append(one)
        options += [f"{one} {rule}p::_" for one in others]
        if keys:
            yield f"{rule}p::_: " + " | ".join(options), self.where
        body = f"{rule}p::0x0" if keys else f"({' | '.join(others)})*" if others else '""'
        yield f"{rule}b: {body}", self.where

    def _parameter(self, rule: str, tag: str, schema: Any, read: Kinds, where: str) -> Iterator[tuple[str, str]]:
        """The rule of one parameter, and before it those that it needs. read: the types by which the parser reads its
        value."""
        report = Report(where, self.report.strict, self.report.notes)
        kinds = kinds_of_schema(schema, self.root)
        if kinds == NOTHING or schema is False:
            raise UsageError(f"{where}: no answer can satisfy it; expected a schema that can be enforced")
        values, keywords = _literals(schema, self.root), _keywords(schema, self.root)
        texts = StringTerminals(f"{rule.upper()}T", self.root, report)
        allowed = texts.of(schema) if not kinds or "string" in kinds else None
        if values is not None and keywords <= _LISTING:
            body = self._listing(values, kinds, read, where)
        elif kinds and kinds <= SCALARS and keywords <= _PLAIN | {"allOf"}:
            body = f"({' | '.join(_WRITTEN[kind] for kind in sorted(kinds))}) {_quoted(_CLOSE)}"
        elif kinds and "string" not in kinds:
            body = f"{self._json(schema, kinds, report)} {_quoted(_CLOSE)}"
        elif allowed == "" and (read <= STRING or (keywords <= _PLAIN and read == kinds)):
            body = "text" if read & {"object", "array"} else "free"  # whole JSON would end at any closing tag
        elif allowed is None and not kinds and not self.report.strict:
            body = "free"  # all that it allows is of types that it does not name
        else:
            options, parsed = self._texts(allowed, schema, kinds or read, read, values, keywords)
            body = []
            if options:
                texts.lines.append(f"{rule.upper()}V: {' | '.join(options)}")
                texts.lines.append(f"{rule}s[suffix={_quoted(_CLOSE)}]: {rule.upper()}V")
                self.parts[where] = "\n".join([*_HEAD.splitlines(), *texts.lines, f"start: {rule}s", ""])
                body.append(f"{rule}s")
            if parsed:
                body.append(f"{self._json(schema, parsed, report)} {_quoted(_CLOSE)}")
            if not body:
                raise UsageError(f"{where}: no answer can satisfy it; expected a schema that can be enforced")
            body = f"({' | '.join(body)})"
        yield from ((line, where) for line in texts.lines)
        yield f"{rule}: {tag} {body}", where

    def _listing(self, values: list[Any], kinds: Kinds, read: Kinds, where: str) -> str:
        """An enumeration: those of its values that the parser reads as they were meant."""
        listed = {dumps(value) for value in values if kinds_of_value(value) & kinds}
        spelled = [
            text
            for text in dict.fromkeys(map(_spelled, values))
            if dumps(coerce(text, read)) in listed and not _ENDS.search(text)
        ]
        if not spelled:
            raise UsageError(f"{where}: no answer can satisfy it; expected a schema that can be enforced")
        return f"({' | '.join(_quoted(f'{text}{_CLOSE}') for text in spelled)})"

    def _texts(
        self, allowed: str | None, schema: Any, kinds: Kinds, read: Kinds, values: list[Any] | None, keywords: set[str]
    ) -> tuple[list[str], Kinds]:
        """(terminals for a value that may be a string, kinds that come as JSON instead).

        A text that the parser would read as another type is no string. The library tells texts from JSON by the first
        character alone, so none begins like JSON that may follow; numbers come as JSON only if they have bounds, so
        that texts may begin with digits."""
        others = kinds - STRING
        has_bounds = bool(keywords & _BOUNDS or (values is None and keywords & {"enum", "const", "not", _OVERLAP}))
        has_bounds = has_bounds and not others.isdisjoint(("integer", "number"))
        parsed = others & (frozenset(_FIRST) if has_bounds else frozenset({"object", "array"}))
        options = []
        if allowed is not None:
            barred = sorted({_READ[kind] for kind in read & frozenset(_READ) - parsed})
            first = "".join(sorted({_FIRST[kind] for kind in parsed | read & {"object", "array"}}))
            parts = [
                "BESIDE",
                allowed,
                f"/[{_AROUND}]*([^{_AROUND}{first}](?s:.*))?/" if first else "",
                f"~/[{_AROUND}]*({'|'.join(barred)})[{_AROUND}]*/" if barred else "",
            ]
            options.append(f"({' & '.join(part for part in parts if part)})")
        if values is not None and not has_bounds:
            return options + [_quoted(dumps(value)) for value in values if not isinstance(value, str)], frozenset()
        for kind in sorted(others - parsed):
            words = {"null": [None], "boolean": [True, False]}.get(kind)
            options += (
                [_WRITTEN[kind]]
                if words is None
                else [_quoted(dumps(word)) for word in words if _holds(word, schema, self.root)]
            )
        return options, parsed

    def _json(self, schema: Any, kinds: Kinds, report: Report) -> str:
        """Values of `kinds` as JSON."""
        schema = enforceable(schema, self.root, report)
        if isinstance(schema, Mapping) and kinds != kinds_of_schema(schema, schema):
            definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
            schema = {
                "allOf": [{key: value for key, value in schema.items() if key != "$defs"}],
                "type": sorted(kinds),
                **definitions,
            }
        # Unless it is strict a tool checks its arguments itself, so what cannot be enforced is no reason to refuse it.
        return _json(
            {
                **(schema if isinstance(schema, Mapping) else {}),
                "x-guidance": {"whitespace_pattern": _BLANK, "lenient": not self.report.strict},
            }
        )


def _holds(value: bool | None, schema: Any, root: Any, known: dict[int, bool] | None = None) -> bool:
    """Whether null, true or false satisfies a schema; what refers to itself does not. known: schemas met so far, by
    identity."""
    known = {} if known is None else known
    if not isinstance(schema, Mapping):
        return schema is not False
    if id(schema) not in known:
        known[id(schema)] = False
        known[id(schema)] = _satisfies(value, schema, root, known)
    return known[id(schema)]


def _satisfies(value: bool | None, schema: Mapping[str, Any], root: Any, known: dict[int, bool]) -> bool:
    kinds = kinds_of_names(schema["type"]) if "type" in schema else frozenset()
    if kinds and not kinds_of_value(value) & kinds:
        return False
    values = values_of(schema)
    if values is not None and not any(one is value for one in values):
        return False
    joined = [*schema.get("allOf", []), *([follow(schema["$ref"], root)] if "$ref" in schema else [])]
    return (
        all(_holds(value, branch, root, known) for branch in joined)
        and any(_holds(value, branch, root, known) for branch in schema.get("anyOf", [True]))
        and sum(_holds(value, branch, root, known) for branch in schema.get("oneOf", [True])) == 1
        and not ("not" in schema and _holds(value, schema["not"], root, known))
    )


def _both(schemas: list[Any]) -> Any:
    """One schema for several that must all hold."""
    return {} if not schemas else schemas[0] if len(schemas) == 1 else {"allOf": list(schemas)}


def _keywords(schema: Any, root: Any) -> set[str]:
    """Keywords of a schema and of all that it joins, and _OVERLAP if more than one branch of a oneOf may hold."""
    found: set[str] = set()
    level, seen = [schema], set()
    while level:
        one = level.pop()
        if isinstance(one, Mapping) and id(one) not in seen:
            seen.add(id(one))
            found |= one.keys()
            found |= (
                {_OVERLAP} if isinstance(one.get("oneOf"), list) and not are_disjoint(one["oneOf"], root) else set()
            )
            level += [
                branch for key in ("anyOf", "oneOf", "allOf") if isinstance(one.get(key), list) for branch in one[key]
            ]
            level += [follow(one["$ref"], root)] if isinstance(one.get("$ref"), str) else []
    return found


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literals(schema: Any, root: Any, known: dict[int, list[Any] | None] | None = None) -> list[Any] | None:
    """All values of an enumeration, or None if the schema is none. known: schemas met so far, by identity."""
    known = {} if known is None else known
    if not isinstance(schema, Mapping):
        return None
    if id(schema) not in known:
        known[id(schema)] = None
        known[id(schema)] = _listed(schema, root, known)
    return known[id(schema)]


def _listed(schema: Mapping[str, Any], root: Any, known: dict[int, list[Any] | None]) -> list[Any] | None:
    values = values_of(schema)
    if isinstance(values, list):
        return values
    if schema.get("type") == "null":
        return [None]
    branches = (
        [follow(schema["$ref"], root)]
        if isinstance(schema.get("$ref"), str)
        else schema.get("anyOf", schema.get("oneOf"))
    )
    if not isinstance(branches, list):
        return None
    found = [_literals(branch, root, known) for branch in branches]
    if None in found or sum(map(len, found)) > MAX_LITERALS:
        return None
    return [value for values in found for value in values]


def _escaped(name: str) -> str:
    """A name inside a regular expression of the grammar."""
    return re.sub(r"[^\w]", lambda found: f"\\x{{{ord(found[0]):x}}}", name)
