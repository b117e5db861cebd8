"""The forms that the arguments of one tool may take: its parameters, the required ones, and which others are allowed.

A form has no union and no reference at its root: those of the schema are multiplied out. Knows no grammar. Enter at
`shapes_of`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from a3b.constrain.enforceable import Report, are_disjoint, tag_of
from a3b.errors import UsageError
from a3b.json_schema.pattern_search import Finder, is_simple
from a3b.json_schema.types import follow, kinds_of_names
from a3b.json_schema.validity import ANNOTATIONS, DEFINITIONS

MAX_SHAPES, MAX_DEPTH, MAX_PATTERNS = 16, 16, 3
MAX_STEPS = 500  # schemas read for all forms of one tool, repeats included
_HANDLED = frozenset("type properties required additionalProperties patternProperties $ref anyOf oneOf allOf".split())
_KNOWN = frozenset(
    "propertyNames minProperties maxProperties dependentRequired dependentSchemas "
    "dependencies not if then else const enum "
    "unevaluatedProperties $dynamicRef $recursiveRef".split()
)


@dataclass
class Shape:
    """properties: for each parameter the schemas that must all hold. required: names, in order. patterns: for
    undeclared names in which they are found. extra: schemas of other parameters, None if there may be none. is_open:
    nothing was said about others. declares: any."""

    properties: dict[str, list[Any]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    patterns: list[tuple[str, list[Any]]] = field(default_factory=list)
    extra: list[Any] | None = field(default_factory=list)
    is_open: bool = True
    declares: bool = False

    def of(self, key: str, finder: Finder) -> list[Any] | None:
        """The schemas that must hold for a parameter, None if it is forbidden."""
        if key in self.properties:
            return self.properties[key]
        found = [schemas for pattern, schemas in self.patterns if finder.found(pattern, key)]
        return list(itertools.chain(*found)) if found else self.extra


def shapes_of(root: Mapping[str, Any], report: Report) -> list[Shape]:
    """The forms that satisfy `root`, at least one. Raises UsageError if there is none, and by the report's rule for
    what is left out."""
    one = _Shapes(root, report)
    try:
        found = one.expand(root, "", 0)
    except _TooMany as error:
        report.at(error.path, error.key, f": more than {MAX_SHAPES} forms of the arguments")
        return [one.loosest()]
    if not (found := one.completed(found)):
        raise UsageError(f"{report.where}: no arguments can satisfy it; expected a JSON schema of an object")
    return found


class _TooMany(Exception):
    def __init__(self, path: str, key: str):
        self.path, self.key = path, key


class _Shapes:
    def __init__(self, root: Mapping[str, Any], report: Report):
        self.root, self.report, self.finder = root, report, Finder()
        self.num_steps = 0
        self.seen: dict[str, list[Any]] = {}  # schemas of each parameter, wherever it is declared

    def expand(self, schema: Any, path: str, depth: int) -> list[Shape]:
        if not isinstance(schema, Mapping):
            return [] if schema is False else [Shape()]
        kinds = kinds_of_names(schema.get("type"))
        if kinds and "object" not in kinds:
            return []
        self.num_steps += 1
        if depth > MAX_DEPTH or self.num_steps > MAX_STEPS:
            raise _TooMany(path, "$ref")
        found = [self.own(schema, path)]
        for key in schema:
            where = f"{path}.{key}" if path else key
            if key == "$ref":
                if not schema[key].startswith("#"):
                    self.report.at(path, key, f": {schema[key][:100]!r}")
                else:
                    found = self.product(
                        found, self.expand(follow(schema[key], self.root), where, depth + 1), path, key
                    )
            elif key == "allOf":
                for index, branch in enumerate(schema[key]):
                    found = self.product(found, self.expand(branch, f"{where}.{index}", depth + 1), path, key)
            elif key in ("anyOf", "oneOf"):
                found = self.product(found, self.union(key, schema[key], path, where, depth), path, key)
        return found

    def union(self, key: str, branches: list[Any], path: str, where: str, depth: int) -> list[Shape]:
        """The forms of anyOf and oneOf. Of a oneOf a property that tells the branches apart becomes required."""
        tag = None
        if key == "oneOf" and not are_disjoint(branches, self.root):
            tag = tag_of(branches, self.root)
            if tag is None:
                self.report.at(path, key, ": branches may hold together")
        found: list[Shape] = []
        for index, branch in enumerate(branches):
            found += self.expand(branch, f"{where}.{index}", depth + 1)
        for shape in found:
            shape.required += [] if tag is None or tag in shape.required else [tag]
        return found

    def own(self, schema: Mapping[str, Any], path: str) -> Shape:
        """The form that the schema's own keywords describe, without those it joins."""
        for key in schema:
            if key in _KNOWN or (
                self.report.strict and key not in _HANDLED | ANNOTATIONS | DEFINITIONS and key[:2] != "x-"
            ):
                is_void = key in ("propertyNames", "unevaluatedProperties") and schema[key] in (
                    True,
                    {},
                    {"type": "string"},
                )
                if not is_void and not (key == "minProperties" and schema[key] == 0):
                    self.report.at(path, key, "")
        properties = {name: [child] for name, child in schema.get("properties", {}).items() if child is not False}
        for name, schemas in properties.items():
            self.seen.setdefault(name, []).extend(schemas)
        if isinstance(schema.get("required"), bool):
            self.report.at(path, "required", f": {schema['required']}")
        required = schema["required"] if isinstance(schema.get("required"), list) else []
        patterns: list[tuple[str, list[Any]]] = []
        for pattern, child in schema.get("patternProperties", {}).items():
            if not is_simple(pattern) or len(patterns) == MAX_PATTERNS:
                self.report.at(path, f"patternProperties {pattern[:100]!r}", "")
            else:
                patterns.append((pattern, [child]))
        extra = schema.get("additionalProperties", True)
        for name in properties:
            properties[name] += [
                child for pattern, children in patterns if self.finder.found(pattern, name) for child in children
            ]
        return Shape(
            properties,
            list(dict.fromkeys(required)),
            patterns,
            None if extra is False else [] if extra is True else [extra],
            "additionalProperties" not in schema,
            "properties" in schema or bool(patterns),
        )

    def product(self, shapes: list[Shape], others: list[Shape], path: str, key: str) -> list[Shape]:
        if len(shapes) * len(others) > MAX_SHAPES:
            raise _TooMany(path, key)
        return [self.joined(one, other, path) for one in shapes for other in others]

    def joined(self, one: Shape, other: Shape, path: str) -> Shape:
        """Both at once."""
        properties = {}
        for key in dict.fromkeys([*one.properties, *other.properties]):
            schemas, more = one.of(key, self.finder), other.of(key, self.finder)
            if schemas is not None and more is not None:
                properties[key] = [*schemas, *(schema for schema in more if schema not in schemas)]
        extra = None if one.extra is None or other.extra is None else one.extra + other.extra
        patterns = [
            (pattern, schemas + (b.extra or []))
            for a, b in ((one, other), (other, one))
            if b.extra is not None or b.patterns
            for pattern, schemas in a.patterns
        ]
        if one.patterns and other.patterns:
            self.report.at(path, "patternProperties", " in schemas that are joined")
        required = list(dict.fromkeys(one.required + other.required))
        return Shape(
            properties,
            required,
            patterns[:MAX_PATTERNS],
            extra,
            one.is_open and other.is_open,
            one.declares or other.declares,
        )

    def completed(self, shapes: list[Shape]) -> list[Shape]:
        """Give each required parameter a schema, and close forms that declare parameters and say nothing about
        others."""
        found = []
        for shape in shapes:
            missing = [key for key in shape.required if shape.of(key, self.finder) is None]
            shape.properties |= {key: shape.of(key, self.finder) or [] for key in shape.required}
            if shape.is_open and shape.declares:
                shape.extra = None
            found += [] if missing else [shape]
        if shapes and not found:
            self.report.contradiction(
                "", "required", f": {missing[0][:100]!r} is not among the properties, and no others are allowed"
            )
        return found or shapes

    def loosest(self) -> Shape:
        """One form with all parameters that were seen, none of them required."""
        return Shape(
            {name: [{"anyOf": schemas}] if len(schemas) > 1 else schemas for name, schemas in self.seen.items()},
            extra=None,
        )


def name_sets(shape: Shape) -> Iterator[tuple[list[str], list[str], list[Any]]]:
    """For undeclared names: (patterns that are found in them, patterns that are not, schemas), one for each case."""
    for chosen in itertools.product((True, False), repeat=len(shape.patterns)):
        inside = [pattern for (pattern, _), is_in in zip(shape.patterns, chosen, strict=True) if is_in]
        outside = [pattern for (pattern, _), is_in in zip(shape.patterns, chosen, strict=True) if not is_in]
        schemas = [
            schema for (_, schemas), is_in in zip(shape.patterns, chosen, strict=True) if is_in for schema in schemas
        ]
        if inside or shape.extra is not None:
            yield inside, outside, schemas if inside else shape.extra or []
