"""Which answers a request allows, as the text of a grammar in llguidance's dialect of Lark.

Owns the grammars of constrained answers: JSON by a schema, and calls of the declared tools as their dialect writes
them. Knows no tokens, no library and no tag. What a call may hold is narrower than what the parser of outputs
understands: free text ends only where that parser ends it. A string in JSON may hold closing tags, because
that parser reads JSON to its real end. Enter at `answer_grammar` and `call_grammar`.

A tool with `strict: true` is refused if any keyword of its parameters cannot be enforced, and so is a schema of the
answer. What cannot be enforced of other tools is left to the caller that runs them, and noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a3b.constrain.enforceable import Report, enforceable
from a3b.constrain.lark import ANY_BLANK, JSON_BLANK, json_value, name_regex, none_of, quoted, regex
from a3b.constrain.raw_values import definitions
from a3b.constrain.tool_rules import DeclaredTool, ToolRules, declared_tools
from a3b.errors import UsageError
from a3b.json_schema.validity import check_schema, without_never
from a3b.output.dialects import DIALECTS
from a3b.output.dialects.dialect import Dialect

MAX_GRAMMAR = 4_000_000  # characters, with its parts


@dataclass(frozen=True)
class Grammar:
    """text: Lark. fields: by line of the text, from 1, the field of the request that it was made of. parts: by field,
    grammars of single values, each of which some text must satisfy: an answer must never come to a dead end. notes:
    what is not enforced."""

    text: str
    fields: Mapping[int, str]
    parts: Mapping[str, str]
    notes: tuple[str, ...] = ()


class _GrammarWriter:
    """A grammar while it is being written, with calls in one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lines = ["%llguidance {}", r"lead: /\n{1,2}/", *(definitions(dialect.raw) if dialect.raw else ())]
        self._head = list(self._lines)
        self._fields: dict[int, str] = {}
        self._parts: dict[str, str] = {}
        self._notes: list[str] = []
        self._num_chars = 0

    def add(self, line: str, field: str | None = None) -> None:
        """field: of the request, which the line stands for."""
        self._lines.append(line)
        self._count(line, field)
        if field is not None:
            self._fields[len(self._lines)] = field

    def add_tool(self, rule: str, tool: DeclaredTool, head: str = "") -> None:
        """The rule of a call from its head on, without the closer. head: an expression for the head, if not as chat
        templates write it."""
        rules = ToolRules(rule, tool, self._dialect.raw, self._head, self.add)
        before, after = self._dialect.head
        arguments = self._dialect.arguments_rule(rules)
        self.add(f"{rule}: {head or quoted(before + tool.name + after)} {arguments}", tool.where)
        for field, part in rules.parts.items():
            self._count(part, field)
            self._parts[field] = part
        self._notes += rules.notes

    def _count(self, text: str, field: str | None) -> None:
        self._num_chars += len(text)
        if self._num_chars > MAX_GRAMMAR:
            raise UsageError(
                f"{field or 'tools'}: a grammar of more than {MAX_GRAMMAR:,} "
                "characters; expected fewer or simpler schemas"
            )

    def grammar(self, start: str) -> Grammar:
        text = "\n".join([*self._lines, f"start: {start}"]) + "\n"
        return Grammar(text, self._fields, self._parts, tuple(self._notes))


def answer_grammar(
    schema: Mapping[str, Any] | None,
    tools: Sequence[Any] | None,
    parallel: bool = True,
    dialect: Dialect = DIALECTS[0],
) -> Grammar:
    """JSON by `schema`, one or more calls of `tools` (OpenAI form), or either if both are given.

    parallel: more than one call may follow another. Raises UsageError for anything that has no grammar."""
    writer, options = _GrammarWriter(dialect), []
    if schema is not None:
        options.append("document")
        writer.add(f"document: {json_value(strict_schema(schema))}", "schema")
    if tools is not None:
        between = quoted(dialect.between) if dialect.between else ""
        options.append(f"call ({_joined(between, 'call')})*" if parallel else "call")
        if not (declared := declared_tools(tools, dialect)):
            raise UsageError("tools: none; expected at least one, because tool_choice asks for a call")
        for index, tool in enumerate(declared):
            writer.add_tool(f"f{index}", tool)
        names = " | ".join(f"f{index}" for index in range(len(declared)))
        lead = quoted(dialect.lead) if dialect.lead else ""
        writer.add(f"call: {_joined(dialect.opener, lead, f'({names})', dialect.closer)}")
    return writer.grammar(f"lead? ({' | '.join(options)})")


def call_grammar(tools: Sequence[Any], dialects: Sequence[Dialect] = DIALECTS) -> Grammar:
    """What may follow an opener that the model wrote of its own accord: text that is not a call, a whole call of a
    strict tool, or the name of another tool and then anything. Raises UsageError for anything that has no grammar.

    dialects: the first is that of the calls; text may begin like a call in none that has the same opener."""
    dialect, options = dialects[0], []
    writer, (before, after) = _GrammarWriter(dialect), map(regex, dialect.head)
    if dialect.first_chars:
        first_chars = "".join(one.first_chars for one in dialects if one.opener == dialect.opener)
        writer.add(f"PROSE: /{ANY_BLANK}*{none_of(first_chars)}(?s:.*)/")
        options.append("PROSE")
    declared = declared_tools(tools, dialect)
    if loose := [name_regex(tool.name) for tool in declared if not tool.strict]:
        after_loose = regex(dialect.head[1].rstrip())
        writer.add(f"LOOSE: /{ANY_BLANK}*{before}({'|'.join(loose)}){after_loose}(?s:.*)/")
        options.append("LOOSE")
    for index, tool in enumerate(declared):
        if tool.strict:
            # all begin alike, and one terminal distinguishes them
            writer.add(rf"HEAD{index}: /\n{{0,2}}{before}{name_regex(tool.name)}{after}/")
            writer.add_tool(f"f{index}", tool, f"HEAD{index}")
            options.append(_joined(f"f{index}", dialect.closer))
    return writer.grammar(" | ".join(options))


def _joined(*expressions: str) -> str:
    return " ".join(expression for expression in expressions if expression)


def strict_schema(schema: Mapping[str, Any], blank: str = JSON_BLANK) -> dict[str, Any]:
    """`schema` as the compiler takes it: any object for {}. Raises UsageError by the path of what it cannot enforce."""
    check_schema(schema, "schema")
    checked = without_never(schema)
    if checked is False:
        raise UsageError("schema: not: no answer can satisfy it")
    found = enforceable(checked, checked, Report("schema", strict=True))
    return {**(found or {"type": "object"}), "x-guidance": {"whitespace_pattern": blank}}


def document_grammar(schema: Mapping[str, Any]) -> str:
    """Documents of `schema` with any whitespace between their parts."""
    return "%llguidance {}\nstart: " + json_value(strict_schema(schema, r"[ \t\r\n]+")) + "\n"
