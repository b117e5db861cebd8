"""Schemas of servers, made plain: what a model needs to fill in arguments, in a form that every server accepts.

References are replaced by what they lead to, down to a small depth, so that none goes round in circles. Patterns, which
can take exponential time, go, and so do unknown and malformed keywords. The MCP server checks arguments by its own
schema. Enter at `plain_schema`."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_SCHEMA_BYTES, MAX_DEPTH = 64 << 10, 40  # of a schema as it comes
MAX_PARTS, MAX_LEVELS, MAX_TEXT, MAX_PROPERTIES = 500, 10, 1_000, 64  # of one as the model gets it
TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PARAMETER = re.compile(r"""[^\s<>"'\x00-\x1f\x7f-\x9f]{1,64}""")


def is_small(value: Any) -> bool:
    """Whether a JSON value is neither deeper nor larger than a schema may be."""
    level, parts = [value], 0
    for _ in range(MAX_DEPTH):
        level = [
            c
            for one in level
            for c in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        parts += len(level)
        if parts > MAX_SCHEMA_BYTES:
            return False
    return not level and len(json.dumps(value, ensure_ascii=True)) <= MAX_SCHEMA_BYTES


def clean_text(text: str, longest: int = MAX_TEXT) -> str:
    """Text of a server for the model: no characters that terminals obey, at most `longest`."""
    text = UNFIT.sub("", text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def plain_schema(schema: Any) -> dict[str, Any]:
    """The schema of a tool's arguments as the model gets it; {"type": "object"} at least, whatever comes in."""
    plain = _Plain(schema).schema(schema, 0)
    if plain.get("type") != "object":
        plain = {"type": "object"} | {key: plain[key] for key in ("properties",) if key in plain}
    if "properties" not in plain:  # the agent takes only arguments that are named, unless this says otherwise
        plain |= {"properties": {}, "additionalProperties": True}
    return plain


class _Plain:
    def __init__(self, root: Any):
        self._root, self._parts = root, 0

    def schema(self, schema: Any, depth: int) -> dict[str, Any]:
        self._parts += 1
        if not isinstance(schema, dict) or self._parts > MAX_PARTS or depth == MAX_LEVELS:
            return {}
        if isinstance(reference := schema.get("$ref"), str):
            return self.schema(self._target(reference), depth + 1) | self._annotations(schema)
        plain: dict[str, Any] = {}
        if kinds := _kinds(schema.get("type")):
            plain["type"] = kinds
        plain |= self._annotations(schema)
        plain |= self._limits(schema)
        if isinstance(properties := schema.get("properties"), dict):
            names = [name for name in properties if isinstance(name, str) and _PARAMETER.fullmatch(name)]
            plain["properties"] = {name: self.schema(properties[name], depth + 1) for name in names[:MAX_PROPERTIES]}
            required = schema.get("required")
            if isinstance(required, list):
                kept = [name for name in dict.fromkeys(map(str, required)) if name in plain["properties"]]
                plain |= {"required": kept} if kept else {}
        if isinstance(schema.get("items"), dict):
            plain["items"] = self.schema(schema["items"], depth + 1)
        for key in ("anyOf", "oneOf"):
            if isinstance(forms := schema.get(key), list) and forms:
                plain["anyOf"] = [self.schema(form, depth + 1) for form in forms[:16]]
        if isinstance(others := schema.get("additionalProperties"), bool | dict):
            plain["additionalProperties"] = others if isinstance(others, bool) else self.schema(others, depth + 1)
        return plain

    def _annotations(self, schema: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if isinstance(text := schema.get("description"), str) and text.strip():
            found["description"] = clean_text(text.strip())
        if "default" in schema and _is_short(schema["default"]):
            found["default"] = schema["default"]
        return found

    def _limits(self, schema: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if isinstance(values := schema.get("enum"), list) and values and all(_is_short(v) for v in values):
            found["enum"] = values[:100]
        if "const" in schema and _is_short(schema["const"]):
            found["const"] = schema["const"]
        for key in NUMBERS:
            if _is_number(number := schema.get(key, "")) and (key != "multipleOf" or number > 0):
                found[key] = number
        for key in COUNTS:
            value = schema.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31:
                found[key] = value
        return found

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#"):
            return None
        found = self._root
        for step in reference[1:].strip("/").split("/")[:MAX_DEPTH]:
            if step:
                found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found


def _kinds(value: Any) -> str | list[str] | None:
    if isinstance(value, str):
        return value if value in TYPES else None
    if isinstance(value, list):
        kinds = [kind for kind in TYPES if kind in [v for v in value if isinstance(v, str)]]
        return sorted(kinds) if len(kinds) > 1 else kinds[0] if kinds else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT and not UNFIT.search(value)
    return value is None or isinstance(value, bool) or _is_number(value) or value == []
