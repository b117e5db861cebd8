"""Rewrites a schema so that the grammar's compiler can enforce it, and reports what cannot be enforced.

Owns the list of keywords that the compiler knows. Strict schemas are refused, with the path. For others there is a
note, and the keyword is left out: the caller that runs the tool checks it. Expects a valid schema
(`json_schema/validity.py`). Enter at `Report` and `enforceable`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from a3b.errors import UsageError
from a3b.json_schema.pattern_search import Finder, is_simple
from a3b.json_schema.regex_terminals import FORMATS, plain
from a3b.json_schema.types import follow, kinds_of_names, kinds_of_schema, kinds_of_value, values_of
from a3b.json_schema.validity import ANNOTATIONS, DEFINITIONS, LISTS, MAPS, SINGLE, shown

_FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())  # others are annotations
_UNKNOWN = frozenset(  # to the compiler
    "uniqueItems contains minContains maxContains propertyNames dependentRequired "
    "dependentSchemas dependencies not if then else "
    "unevaluatedItems unevaluatedProperties $dynamicRef $recursiveRef".split()
)
_BOUNDS = (
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("minProperties", "maxProperties"),
    ("minimum", "maximum"),
)
_RANGES = frozenset(
    "pattern format minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum items prefixItems".split()
)
MAX_BRANCHES = 64  # of a oneOf that are compared with each other


@dataclass
class Report:
    """What of one schema cannot be enforced. where: its name in errors and notes. strict: refuse it."""

    where: str
    strict: bool
    notes: list[str] = field(default_factory=list)

    def at(self, path: str, keyword: str, why: str) -> None:
        """Raises UsageError if strict."""
        text = f"{self.where}: {f'{path}.' if path else ''}{keyword}{why}"
        if self.strict:
            raise UsageError(f"{text}; expected a schema that can be enforced")
        if (note := f"{text}: not enforced") not in self.notes:
            self.notes.append(note)

    def contradiction(self, path: str, keyword: str, why: str) -> None:
        """No value satisfies the keyword. Raises UsageError if strict."""
        text = f"{self.where}: {f'{path}.' if path else ''}{keyword}{why}"
        if self.strict:
            raise UsageError(f"{text}: no answer can satisfy it")
        self.notes.append(f"{text}: not enforced")


def enforceable(schema: Any, root: Any, report: Report) -> Any:
    """The schema with its own `$defs`; `root` is what its references start from."""
    return _Rewriter(root, report).document(schema)


class _Rewriter:
    def __init__(self, root: Any, report: Report):
        self.root, self.report, self.finder = root, report, Finder()
        self.names: dict[str, str] = {}  # of definitions, by reference
        self.todo: list[str] = []

    def document(self, schema: Any) -> Any:
        found, definitions = self.schema(schema, ""), {}
        while self.todo:
            reference = self.todo.pop()
            definitions[self.names[reference]] = self.schema(
                follow(reference, self.root), reference.removeprefix("#/").replace("/", ".")
            )
        return {**found, "$defs": definitions} if definitions and isinstance(found, dict) else found

    def schema(self, schema: Any, path: str) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        schema = self._named(_numeric(schema), path)
        self._contradictions(schema, path)
        result: dict[str, Any] = {}
        for key, value in schema.items():
            step = f"{path}.{key}" if path else key
            if key in DEFINITIONS or key in ANNOTATIONS:
                continue
            if key in _UNKNOWN:
                if not _is_void(key, value, schema):
                    self.report.at(path, key, "")
            elif key == "$ref":
                result |= self._reference(value, path)
            elif key == "required" and isinstance(value, bool):
                self.report.at(path, key, f": {shown(value)}")
            elif key == "pattern":
                result |= self._pattern(value, path)
            elif key == "format":
                result |= {key: value} if value in _FORMATS else {}
            elif key == "type":
                result[key] = self._type(value)
            elif key == "oneOf":
                result |= self._one_of(schema, path, step)
            elif key == "patternProperties":
                result[key] = self._patterns(value, step)
            elif key in MAPS:
                result[key] = {name: self.schema(child, f"{step}.{name}") for name, child in value.items()}
            elif key in LISTS or (key == "items" and isinstance(value, list)):
                result[key] = [self.schema(child, f"{step}.{index}") for index, child in enumerate(value)]
            elif key in SINGLE:
                result[key] = self.schema(value, step)
            else:
                result[key] = value
        return result

    def _type(self, value: Any) -> Any:
        """Replace type names that only we understand by the standard's."""
        kinds = sorted(kinds_of_names(value))
        return kinds[0] if len(kinds) == 1 else kinds

    def _reference(self, reference: str, path: str) -> dict[str, Any]:
        if reference != "#" and not reference.startswith("#/"):
            self.report.at(path, "$ref", f": {reference[:100]!r}")
            return {}
        if reference not in self.names:
            self.names[reference] = f"d{len(self.names)}"
            self.todo.append(reference)
        return {"$ref": f"#/$defs/{self.names[reference]}"}

    def _pattern(self, pattern: str, path: str) -> dict[str, str]:
        try:
            return {"pattern": plain(pattern)}
        except UsageError as error:
            self.report.at(path, "pattern", f" {pattern[:100]!r}: {error}")
            return {}

    def _patterns(self, patterns: Mapping[str, Any], step: str) -> dict[str, Any]:
        found = {}
        for pattern, child in patterns.items():
            if is_simple(pattern):
                found[plain(pattern)] = self.schema(child, f"{step}.{pattern}")
            else:
                self.report.at(step, pattern[:100], ": a pattern for names that cannot be enforced")
        return found

    def _one_of(self, schema: Mapping[str, Any], path: str, step: str) -> dict[str, Any]:
        """If no two branches can hold together, oneOf means anyOf."""
        value = schema["oneOf"]
        branches = [self.schema(branch, f"{step}.{index}") for index, branch in enumerate(value)]
        if (is_disjoint := are_disjoint(value, self.root)) is False and (tag := tag_of(value, self.root)) is not None:
            is_disjoint, branches = True, [{"allOf": [branch, {"required": [tag]}]} for branch in branches]
        if not self._is_disjoint(value) and not is_disjoint:
            self.report.at(path, "oneOf", ": branches may hold together")
        return {"oneOf" if "anyOf" in schema or (self.report.strict and not is_disjoint) else "anyOf": branches}

    def _is_disjoint(self, branches: list[Any]) -> bool:
        """Whether at most one branch can hold, or the compiler may find so."""
        return are_disjoint(branches, self.root) or all(
            isinstance(branch, Mapping) and not _RANGES.isdisjoint(branch) for branch in branches
        )

    def _named(self, schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        """Replace `propertyNames` if other keywords can say the same."""
        names = schema.get("propertyNames")
        names = follow(names["$ref"], self.root) if isinstance(names, Mapping) and "$ref" in names else names
        if names is None or not isinstance(names, Mapping | bool):
            return schema
        rest = {key: value for key, value in schema.items() if key != "propertyNames"}
        limits = (
            {}
            if isinstance(names, bool)
            else {key: value for key, value in names.items() if key not in ANNOTATIONS | {"type"}}
        )
        if names is True or (
            names is not False and not limits and "string" in kinds_of_names(names.get("type", "string"))
        ):
            return rest
        declared, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        values = values_of(limits)
        if "patternProperties" in schema or others is False or names is False:
            return schema
        if len(limits) == 1 and isinstance(values, list):
            found = {name: declared.get(name, others) for name in values if isinstance(name, str)}
            return {**rest, "properties": found, "additionalProperties": False}
        pattern = _name_pattern(limits)
        if pattern is None or not is_simple(pattern):
            return schema
        found = {name: child for name, child in declared.items() if self.finder.found(pattern, name)}
        others = {} if others is True else others
        return (
            {**rest, "properties": found, "patternProperties": {pattern: others}, "additionalProperties": False}
            if not found
            else schema
        )

    def _contradictions(self, schema: Mapping[str, Any], path: str) -> None:
        report = self.report
        for low, high in _BOUNDS:
            if low in schema and high in schema and schema[low] > schema[high]:
                report.contradiction(path, low, f": {schema[low]} > {high} {schema[high]}")
        kinds = kinds_of_names(schema.get("type"))
        values = values_of(schema)
        if values is not None and not any(_fits(value, kinds) for value in values):
            why = " is empty" if values == [] else " has no value of its type"
            report.contradiction(path, "const" if "const" in schema else "enum", why)
        if schema.get("additionalProperties") is False and isinstance(schema.get("required"), list):
            for name in schema["required"]:
                if name not in schema.get("properties", {}) and not schema.get("patternProperties"):
                    report.contradiction(
                        path, "required", f": {name[:100]!r} is not among the properties, and no others are allowed"
                    )


def _numeric(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn the boolean exclusive bounds of draft 4 into numbers."""
    result = dict(schema)
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(flag), bool):
            if result.pop(flag) and bound in result:
                result[flag] = result.pop(bound)
    return result


def _fits(value: Any, kinds: frozenset[str]) -> bool:
    return not kinds or bool(kinds_of_value(value) & kinds)


def _is_void(key: str, value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a keyword that the compiler does not know restricts nothing here."""
    match key:
        case "uniqueItems":
            return value is False or schema.get("maxItems", 2) <= 1
        case "minContains" | "maxContains":
            return "contains" not in schema
        case "then" | "else":
            return "if" not in schema
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return not value
        case "not":
            return value is False
        case "unevaluatedProperties" | "unevaluatedItems" | "propertyNames":
            return value is True or value == {}
    return False


def _name_pattern(limits: Mapping[str, Any]) -> str | None:
    """One pattern for names that must satisfy these keywords."""
    match sorted(limits):
        case ["pattern"]:
            return str(limits["pattern"])
        case ["format"] if limits["format"] in FORMATS:
            return f"^(?:{FORMATS[limits['format']]})$"
        case ["maxLength"] | ["minLength"] | ["maxLength", "minLength"]:
            most = int(limits["maxLength"]) if "maxLength" in limits else ""
            return f"^[\\s\\S]{{{int(limits.get('minLength', 0))},{most}}}$"
    return None


def are_disjoint(branches: list[Any], root: Any) -> bool:
    """Whether no value can satisfy two of the branches: types, values or a required constant keep them apart."""
    if (is_apart := _are_apart_by_values(map(_values, branches))) is not None:
        return is_apart
    if len(branches) > MAX_BRANCHES:
        return False
    flat = [(branch, _plain_kinds(branch, root)) for branch in (_flat(branch, root) for branch in branches)]
    return all(
        _are_apart(one, other, kinds, others, root) for (one, kinds), (other, others) in itertools.combinations(flat, 2)
    )


def _plain_kinds(schema: Any, root: Any) -> frozenset[str]:
    return frozenset("integer" if kind == "number" else kind for kind in kinds_of_schema(schema, root))


def tag_of(branches: list[Any], root: Any) -> str | None:
    """A property with different values in each branch, None if there is none. Once it is required, no two branches can
    hold together."""
    flat = [_flat(branch, root) for branch in branches]
    if not all(isinstance(branch, Mapping) and "object" in kinds_of_schema(branch, root) for branch in flat):
        return None
    for key in flat[0].get("properties", {}):
        if _are_apart_by_values(_values(_flat(branch.get("properties", {}).get(key), root)) for branch in flat):
            return str(key)
    return None


def _are_apart_by_values(listed: Iterable[set[str] | None]) -> bool | None:
    """Whether no value is listed twice; None if one of the schemas lists none."""
    seen: set[str] = set()
    num = 0
    for values in listed:
        if values is None:
            return None
        seen |= values
        num += len(values)
    return len(seen) == num


def _flat(schema: Any, root: Any) -> Any:
    for _ in range(8):
        if not (isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str)):
            break
        schema = follow(schema["$ref"], root)
    return schema


def _are_apart(one: Any, other: Any, kinds: frozenset[str], others: frozenset[str], root: Any) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    if kinds and others and kinds.isdisjoint(others):
        return True
    values, other_values = _values(one), _values(other)
    if values is not None and other_values is not None:
        return values.isdisjoint(other_values)
    if kinds == others == {"object"}:
        for key in set(_required(one)) & set(_required(other)):
            first, second = (_values(_flat(each.get("properties", {}).get(key), root)) for each in (one, other))
            if first is not None and second is not None and first.isdisjoint(second):
                return True
    return False


def _required(schema: Mapping[str, Any]) -> list[str]:
    return schema["required"] if isinstance(schema.get("required"), list) else []


def _values(schema: Any) -> set[str] | None:
    """The values that a schema allows, as JSON, if it lists them."""
    if not isinstance(schema, Mapping):
        return None
    values = values_of(schema)
    return {json.dumps(value, sort_keys=True) for value in values} if isinstance(values, list) else None
