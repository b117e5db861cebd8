"""Checks that a JSON schema is valid: keywords have values of the right type, references resolve, patterns are regular
expressions.

Unknown keywords pass, and so does what is valid but cannot be enforced (`constrain/enforceable.py`). Enter at
`check_schema`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from a3b.errors import UsageError
from a3b.json_schema.regex_terminals import check_pattern
from a3b.json_schema.types import follow, kinds_of_names

MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH = 100_000, 64  # of one schema; a compiler's time is bounded by its input
ANNOTATIONS = frozenset(  # restrict nothing
    (
        "$schema $id $anchor $comment title description default example "
        "examples deprecated readOnly writeOnly discriminator"
    ).split()
)
DEFINITIONS = frozenset(("$defs", "definitions"))
MAPS = frozenset("properties patternProperties $defs definitions dependentSchemas".split())
LISTS = frozenset("anyOf oneOf allOf prefixItems".split())
SINGLE = frozenset(
    (
        "items additionalItems additionalProperties contains propertyNames not "
        "if then else unevaluatedItems unevaluatedProperties"
    ).split()
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (
        lambda value: (
            bool(kinds_of_names(value))
            and len(value if isinstance(value, list) else [value])
            == sum(bool(kinds_of_names(one)) for one in (value if isinstance(value, list) else [value]))
        ),
        "the name of a type, or a list of them",
    ),
    "required": (lambda value: _is_names(value) or isinstance(value, bool), "a list of names"),  # draft 3: true
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    "pattern": (lambda value: isinstance(value, str), "text"),
    "format": (lambda value: isinstance(value, str), "text"),
    "$ref": (lambda value: isinstance(value, str), "text"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(("minimum", "maximum"), (_is_number, "a number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (lambda value: _is_number(value) or isinstance(value, bool), "a number"),
    ),
    **dict.fromkeys(
        "minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains".split(),
        (_is_count, "a whole number of at least 0"),
    ),
    **dict.fromkeys(MAPS, (lambda value: isinstance(value, Mapping), "an object of schemas")),
    **dict.fromkeys(LISTS, (lambda value: isinstance(value, list) and value != [], "a list of schemas")),
}


def check_schema(schema: Any, where: str, parameter: str | None = None) -> None:
    """Raise UsageError, with the path, for an invalid schema, and for one that is too large or nested too deeply.

    where: its name in errors. parameter: that of its properties, before their own names."""
    _check_size(schema, where)
    todo: list[tuple[Any, str, str]] = [(schema, where, "")]
    while todo:
        one, where_, steps = todo.pop()
        if isinstance(one, bool):
            continue
        path = f"{where_}: {steps}" if steps else where_
        if not isinstance(one, Mapping):
            raise UsageError(f"{path}: {shown(one)}; expected a JSON schema")
        for key, value in one.items():
            is_right, expected = _EXPECTED.get(key, (None, ""))
            if is_right is not None and not is_right(value):
                raise UsageError(f"{path}: {key}: {shown(value)}; expected {expected}")
        if "pattern" in one:
            check_pattern(one["pattern"], path)
        if "$ref" in one:
            _check_reference(one["$ref"], schema, path)
        for step, child in children(one):
            if parameter and one is schema and step.startswith("properties."):
                todo.append((child, f"{parameter} {step.removeprefix('properties.')}", ""))
            else:
                todo.append((child, where_, f"{steps}.{step}" if steps else step))


def without_never(schema: Any) -> Any:
    """The same schema with `false` for `{"not": {}}`, which libraries write for "no value". Expects one that was
    checked."""
    if isinstance(schema, list):
        return [without_never(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("not", False) in ({}, True):
        return False
    found = {key: without_never(value) if key in SINGLE or key in LISTS else value for key, value in schema.items()}
    return found | {
        key: {name: without_never(child) for name, child in schema[key].items()} for key in MAPS & schema.keys()
    }


def _check_reference(reference: str, root: Any, path: str) -> None:
    seen = [reference]
    while isinstance(seen[-1], str) and seen[-1][:1] == "#":
        target = follow(seen[-1], root)
        if seen[-1].startswith("#/") and target is None:
            raise UsageError(f"{path}: $ref: {reference[:100]!r} leads nowhere; expected the path of a schema")
        if not (isinstance(target, Mapping) and "$ref" in target):
            break
        if target["$ref"] in seen or len(seen) == MAX_SCHEMA_DEPTH:
            raise UsageError(
                f"{path}: $ref: {reference[:100]!r} leads back to itself, or "
                f"through more than {MAX_SCHEMA_DEPTH} others; "
                "expected a schema at its end"
            )
        seen.append(target["$ref"])


def children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path from here, schema) of the schemas right inside one."""
    for key, value in schema.items():
        if key in MAPS and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", child) for name, child in value.items())
        elif (key in LISTS or key == "items") and isinstance(value, list):
            yield from ((f"{key}.{index}", child) for index, child in enumerate(value))
        elif key in SINGLE:
            yield key, value


def shown(value: Any) -> str:
    """A value as errors show it."""
    return json.dumps(value, default=str)[:100]


def _check_size(schema: Any, where: str) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for value in level for child in _parts(value)]
        if len(level) > MAX_SCHEMA_CHARS:
            break
    if level:
        raise UsageError(
            f"{where}: nested deeper than {MAX_SCHEMA_DEPTH} or of more than "
            f"{MAX_SCHEMA_CHARS} parts; expected a smaller one"
        )
    try:
        num_chars = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}; expected JSON") from None
    if num_chars > MAX_SCHEMA_CHARS:
        raise UsageError(f"{where}: {num_chars} characters of JSON; expected at most {MAX_SCHEMA_CHARS}")


def _parts(value: Any) -> list[Any]:
    return (
        list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, list | tuple) else []
    )
