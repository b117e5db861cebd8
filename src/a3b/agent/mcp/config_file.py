"""Reads one configuration file of MCP servers as JSON: comments allowed, keys that stand twice found.

Enter at `read_config_file`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.files import read_bytes

MAX_BYTES, MAX_DEPTH = 1 << 20, 32
_STRING = r'"(?:\\.|[^"\\])*(?:"|\Z)'  # an open one runs to the end, so that each pattern takes linear time
_COMMENT = re.compile(_STRING + r"|//[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/|\Z)", re.DOTALL)
_LAST_COMMA = re.compile(_STRING + r"|,(?=\s*[}\]])", re.DOTALL)


class JsonObject(dict[str, Any]):
    """An object of a file. doubles: keys that stand in it more than once."""

    doubles: tuple[str, ...] = ()


def read_config_file(path: Path) -> JsonObject:
    """The object in a file, with comments and last commas as editors allow them. Raises OSError, and UsageError whose
    text begins with the path."""
    data = read_bytes(path, MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; expected JSON") from None
    try:
        found = _parse(text)
    except ValueError as error:
        try:
            found = _parse(_LAST_COMMA.sub(_kept, _COMMENT.sub(_kept, text)))
        except ValueError:
            raise UsageError(f'{path}: {error}; expected JSON such as {{"mcpServers": {{}}}}') from None
    if not isinstance(found, JsonObject):
        raise UsageError(
            f'{path}: {type(found).__name__} at the top; expected an object such as {{"mcpServers": {{}}}}'
        )
    return found


def as_objects(value: dict[str, Any]) -> JsonObject:
    """JSON that came another way, as a file would give it."""
    found = _parse(json.dumps(value))
    assert isinstance(found, JsonObject)
    return found


def _parse(text: str) -> Any:
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [found]
    for _ in range(MAX_DEPTH):
        level = [child for one in level for child in _children(one)]
    if level:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = JsonObject(pairs)
    if len(found) < len(pairs):
        found.doubles = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return found


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _kept(found: re.Match[str]) -> str:
    """Strings stay; what is not a string goes, but for its line ends, so that positions in errors stay right."""
    return found[0] if found[0].startswith('"') else "\n" * found[0].count("\n") or " "
