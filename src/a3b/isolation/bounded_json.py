"""JSON from a client, parsed in bounded time and memory, whether it is a body or a string inside one.

Python's parser holds the interpreter's lock until it is done: 30 MB of empty lists take seconds and a gigabyte.
Knows no schema. Enter at `loads`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from a3b.isolation import deadlines

MAX_DEPTH = 100  # levels of nested values; later steps are recursive
MAX_VALUES = 200_000
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class TooMuchJSON(Exception):
    """JSON that is nested too deeply or has too many values; the text says which."""


def loads(
    text: str, *, parse_float: Callable[[str], Any] | None = None, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """The value of a JSON text, as `json.loads` returns it. Raises TooMuchJSON, and ValueError for anything that is not
    JSON."""
    check_size(text)
    try:
        value = json.loads(text, parse_float=parse_float, parse_constant=parse_constant)
    except RecursionError:
        raise _too_deep() from None
    check_depth(value)
    return value


def check_size(text: str) -> None:
    """Raises TooMuchJSON for more than MAX_VALUES values."""
    if _separators(text) <= MAX_VALUES:
        return
    num = at = 0  # separators outside of strings, up to `at`
    for i, string in enumerate(_STRING.finditer(text)):
        num += _separators(text[at : string.start()])
        at = string.end()
        if num > MAX_VALUES:
            break
        if i % 1000 == 0:
            deadlines.check()
    if num + _separators(text[at:]) > MAX_VALUES:
        raise TooMuchJSON(f"more than {MAX_VALUES:,} values; send fewer")


def check_depth(value: Any) -> None:
    """Raises TooMuchJSON for values nested deeper than MAX_DEPTH."""
    level, depth = [value], 0
    while level:
        if depth == MAX_DEPTH:
            raise _too_deep()
        children = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [item for items in children for item in items if isinstance(item, dict | list)]
        depth += 1


def _separators(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def _too_deep() -> TooMuchJSON:
    return TooMuchJSON(f"nested deeper than {MAX_DEPTH} levels; send flatter JSON")
