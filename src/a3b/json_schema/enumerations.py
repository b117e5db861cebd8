"""The values and keywords of a schema, over all schemas that it joins.

Each schema is read once, however often it is referenced. Enter at `listed_values`, `keywords_of` and
`accepts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from a3b.json_schema.types import follow, kinds_of_names, kinds_of_value, values_of

MAX_LISTED = 5000  # values of one enumeration that is made of others


def listed_values(schema: Any, root: Any, known: dict[int, list[Any] | None] | None = None) -> list[Any] | None:
    """All values of an enumeration, or None if the schema is not one. known: schemas visited so far, by identity."""
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
    is_reference = isinstance(schema.get("$ref"), str)
    branches = [follow(schema["$ref"], root)] if is_reference else schema.get("anyOf", schema.get("oneOf"))
    if not isinstance(branches, list):
        return None
    listed = [listed_values(branch, root, known) for branch in branches]
    found = [values for values in listed if values is not None]
    if len(found) < len(listed) or sum(map(len, found)) > MAX_LISTED:
        return None
    return [value for values in found for value in values]


def keywords_of(schema: Any, root: Any, more: Callable[[Mapping[str, Any]], set[str]]) -> set[str]:
    """Keywords of a schema and of all that it joins. more: what else counts as one of them for one schema."""
    found: set[str] = set()
    level, seen = [schema], set()
    while level:
        one = level.pop()
        if isinstance(one, Mapping) and id(one) not in seen:
            seen.add(id(one))
            found |= one.keys() | more(one)
            level += [
                branch for key in ("anyOf", "oneOf", "allOf") if isinstance(one.get(key), list) for branch in one[key]
            ]
            level += [follow(one["$ref"], root)] if isinstance(one.get("$ref"), str) else []
    return found


def accepts(schema: Any, value: bool | None, root: Any, known: dict[int, bool] | None = None) -> bool:
    """Whether null, true or false satisfies a schema; one that refers to itself does not. known: schemas visited so
    far, by identity."""
    known = {} if known is None else known
    if not isinstance(schema, Mapping):
        return schema is not False
    if id(schema) not in known:
        known[id(schema)] = False
        known[id(schema)] = _accepts(schema, value, root, known)
    return known[id(schema)]


def _accepts(schema: Mapping[str, Any], value: bool | None, root: Any, known: dict[int, bool]) -> bool:
    kinds = kinds_of_names(schema["type"]) if "type" in schema else frozenset()
    if kinds and not kinds_of_value(value) & kinds:
        return False
    values = values_of(schema)
    if values is not None and not any(one is value for one in values):
        return False
    joined = [*schema.get("allOf", []), *([follow(schema["$ref"], root)] if "$ref" in schema else [])]
    return (
        all(accepts(branch, value, root, known) for branch in joined)
        and any(accepts(branch, value, root, known) for branch in schema.get("anyOf", [True]))
        and sum(accepts(branch, value, root, known) for branch in schema.get("oneOf", [True])) == 1
        and not ("not" in schema and accepts(schema["not"], value, root, known))
    )
