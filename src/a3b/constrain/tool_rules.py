"""The rules for the arguments of one tool, in whichever form its dialect writes them.

Knows no tag. Enter at `ToolRules.raw_parameters` and `ToolRules.json_object`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from a3b.constrain.argument_forms import Shape, name_sets, shapes_of
from a3b.constrain.enforceable import Report
from a3b.constrain.lark import name_regex, quoted
from a3b.constrain.raw_values import RawValues, json_arguments
from a3b.errors import UsageError
from a3b.json_schema.regex_terminals import search_terminal
from a3b.json_schema.types import Kinds, Parameters, kinds_of_schema
from a3b.json_schema.validity import check_schema, without_never
from a3b.output.dialects.dialect import Dialect, RawParameters

MAX_PARAMETERS = 64  # of one tool: the bits of a set of names
_OBJECT: Kinds = frozenset({"object"})


@dataclass(frozen=True)
class DeclaredTool:
    """A tool that can be called. parameters: the schema of its arguments. strict: all of it must be enforced."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool

    @property
    def where(self) -> str:
        """Its name in errors."""
        return f"tools: {self.name}"


def declared_tools(tools: Sequence[Any], dialect: Dialect) -> list[DeclaredTool]:
    """The tools (OpenAI form); of two with the same name the last. Raises UsageError for a name that the dialect cannot
    write, and for parameters that are not the schema of an object."""
    declared: dict[str, DeclaredTool] = {}
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not dialect.tool_names.pattern.match(name):
            raise UsageError(f"tools[{index}]: name {name!r}; expected {dialect.tool_names.expected}")
        parameters = _parameters(function.get("parameters"), name, dialect)
        declared[name] = DeclaredTool(name, parameters, function.get("strict") is True)
    return list(declared.values())


def _parameters(parameters: Any, name: str, dialect: Dialect) -> Mapping[str, Any]:
    where = f"tools: {name}: parameters"
    parameters = {"properties": {}} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise UsageError(f"{where}: {str(parameters)[:100]!r}; expected a JSON schema of an object")
    check_schema(parameters, where, f"tools: {name}: parameter")
    checked = without_never(parameters)
    if not isinstance(checked, Mapping):
        raise UsageError(f"{where}: not: no arguments can satisfy it")
    if (kinds := kinds_of_schema(checked, checked)) and "object" not in kinds:
        raise UsageError(f"{where}: type {', '.join(sorted(kinds))}; expected a JSON schema of an object")
    for key in Parameters(checked).names:
        if not dialect.parameter_names.pattern.match(key):
            raise UsageError(f"tools: {name}: parameter {key[:100]!r}; expected {dialect.parameter_names.expected}")
    return checked


class ToolRules:
    """Adds the rules of one tool to a grammar as they are asked for. parts: by field of the request, grammars that must
    be satisfiable alone. notes: what is not enforced."""

    def __init__(
        self,
        rule: str,
        tool: DeclaredTool,
        raw: RawParameters | None,
        head: list[str],
        add: Callable[[str, str], None],
    ):
        """rule: what the names of its rules begin with. raw: how the dialect writes parameters outside of JSON. head:
        the first lines of a grammar. add: takes (line, the field of the request it stands for)."""
        self._rule, self._tool, self._raw, self._head, self._add = rule, tool, raw, head, add
        self._report = Report(f"{tool.where}: parameters", tool.strict)
        self.parts: dict[str, str] = {}
        self.notes = self._report.notes

    def json_object(self) -> str:
        """All arguments as one JSON object."""
        return json_arguments(self._tool.parameters, self._tool.parameters, _OBJECT, self._report)

    def raw_parameters(self) -> str:
        """Parameters in any order, each at most once, the required ones exactly once."""
        if self._raw is None:
            raise RuntimeError("the dialect does not say how it writes parameters outside of JSON (`Dialect.raw`)")
        forms = _RawForms(self._tool, self._raw, self._report, self._head, self._add)
        bodies = []
        for index, shape in enumerate(forms.shapes):
            rule = f"{self._rule}s{index}" if len(forms.shapes) > 1 else self._rule
            forms.add(rule, shape)
            bodies.append(f"{rule}b")
        self.parts |= forms.values.parts
        return f"({' | '.join(bodies)})"


class _RawForms:
    """The forms that raw arguments of one tool may have."""

    def __init__(
        self, tool: DeclaredTool, raw: RawParameters, report: Report, head: list[str], add: Callable[[str, str], None]
    ):
        self._raw, self._where, self._add = raw, tool.where, add
        self.values = RawValues(raw, tool.parameters, report, head, add)
        self.parameters = Parameters(tool.parameters)
        self.shapes = shapes_of(tool.parameters, report)
        if (num := max(len(shape.properties) for shape in self.shapes)) > MAX_PARAMETERS:
            raise UsageError(f"{tool.where}: {num} parameters; expected at most {MAX_PARAMETERS}")
        others = [schemas for shape in self.shapes for _, _, schemas in name_sets(shape)]
        self.other_kinds = frozenset().union(*(kinds_of_schema(_both(schemas), tool.parameters) for schemas in others))

    def add(self, rule: str, shape: Shape) -> None:
        """Add the rule `{rule}b` of one form, and before it those that it needs."""
        required = set(shape.required)
        keys = sorted(shape.properties, key=lambda key: key not in required)  # the required ones have the lowest bits
        options = [f'"" %if is_ones([0:{len(required)}])' if required else '""']
        for bit, key in enumerate(keys):
            tag, where = quoted(f"{self._raw.before}{key}{self._raw.after}"), f"{self._where}: parameter {key}"
            schema, read = _both(shape.properties[key]), self.parameters.kinds(key)
            self.values.add_rule(f"{rule}v{bit}", tag, schema, read, where)
            options.append(f"{rule}v{bit} {rule}p::set_bit({bit}) %if bit_clear({bit})")
        others = self._undeclared(rule, shape, keys)
        options += [f"{one} {rule}p::_" for one in others]
        if keys:
            self._add(f"{rule}p::_: " + " | ".join(options), self._where)
        body = f"{rule}p::0x0" if keys else f"({' | '.join(others)})*" if others else '""'
        self._add(f"{rule}b: {body}", self._where)

    def _undeclared(self, rule: str, shape: Shape, keys: list[str]) -> list[str]:
        """Add rules for parameters that the form does not name; their names."""
        found, where = [], f"{self._where}: additionalProperties"
        # a declared name has its own type
        declared = "|".join(map(name_regex, sorted(self.parameters.names | set(keys))))
        before, after = quoted(self._raw.before), quoted(self._raw.after)
        for index, (inside, outside, schemas) in enumerate(name_sets(shape)):
            names = [f"/{self._raw.any_key}/", *map(search_terminal, inside)]
            names += [f"~{search_terminal(pattern)}" for pattern in outside]
            names += [f"~/({declared})/"] if declared else []
            one = f"{rule}x{index}"
            self._add(f"{one.upper()}N: {' & '.join(names)}", where)
            self._add(f"{one.upper()}: {before} {one.upper()}N {after}", where)
            self.values.add_rule(one, one.upper(), _both(schemas), self.other_kinds, where)
            found.append(one)
        return found


def _both(schemas: list[Any]) -> Any:
    """One schema for several that must all hold."""
    return {} if not schemas else schemas[0] if len(schemas) == 1 else {"allOf": list(schemas)}
