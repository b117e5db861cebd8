"""JSON as models write it. Knows no schema. Enter at `loads`, or at `read` where Python's spelling of values is understood too."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_PYTHON = re.compile(  # strings, closed or not, so that nothing in them is taken for more; words; a comma before a bracket
    r"""(?P<string>"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z))|\b(?:True|False|None)\b|,(?=\s*[}\]])""", re.DOTALL
)
_WORDS = {"True": "true", "False": "false", "None": "null", ",": ""}
_ESCAPE = re.compile(r"\\x[0-9a-fA-F]{2}|\\.|\"", re.DOTALL)


def loads(text: str, bounded: bool = False) -> Any:
    """`json.loads` for text from a model: NaN, infinities and nesting that is too deep raise ValueError; a string may hold a line break.

    Lone surrogates, which no UTF-8 can carry, become U+FFFD. bounded: a number beyond all floats becomes the last of them.
    """
    try:
        written = dumps(json.loads(text, strict=False, parse_float=_bounded if bounded else None))
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    return json.loads(_SURROGATE.sub("\ufffd", written))


def read(text: str) -> Any:
    """JSON, or the same in Python's spelling: single quotes, True, False, None, a comma after the last item. Raises ValueError."""
    try:
        return loads(text, bounded=True)
    except ValueError:
        return loads(_PYTHON.sub(_as_json, text), bounded=True)


def _bounded(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else math.copysign(sys.float_info.max, value)


def dumps(value: Any) -> str:
    """JSON as templates write it: not escaped beyond need, ", " and ": " between items."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _as_json(found: re.Match[str]) -> str:
    token = found.group()
    if not found["string"]:
        return _WORDS[token]
    if len(token) < 2 or token[-1] != token[0]:
        return token
    return f'"{_ESCAPE.sub(_escape, token[1:-1])}"'


def _escape(found: re.Match[str]) -> str:
    token = found.group()
    if token == '"':
        return r"\""
    return {r"\'": "'"}.get(token) or (rf"\u00{token[2:]}" if token[1] == "x" and len(token) == 4 else token)
