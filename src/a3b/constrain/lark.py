"""Pieces of a grammar in llguidance's dialect of Lark. Knows no schema and no tags."""

from __future__ import annotations

import json
import re
from typing import Any

# Whitespace inside JSON: one space, or a new line with its indentation. Without a bound a model could write spaces
# forever.
JSON_BLANK = r" |\n[ \t]{0,64}"
ANY_BLANK = r"[ \t\r\n]"
_KEPT = re.compile(r"[\w<>=]")


def quoted(text: str) -> str:
    """A text as it is."""
    return json.dumps(text, ensure_ascii=False)


def json_value(schema: Any) -> str:
    """A JSON value of a schema."""
    return f"%json {json.dumps(schema)}"


def name_regex(name: str) -> str:
    """A name inside a regular expression."""
    return re.sub(r"[^\w]", lambda found: f"\\x{{{ord(found[0]):x}}}", name)


def regex(text: str) -> str:
    """A text inside a regular expression."""
    special = {"\n": r"\n", "/": r"\/"}
    return "".join(special.get(char) or (char if _KEPT.match(char) else name_regex(char)) for char in text)


def none_of(chars: str) -> str:
    """A class of characters that begin no head of a call and are not whitespace."""
    return r"[^ \t\r\n" + re.sub(r"[\[\]\\^&~-]", lambda found: f"\\{found[0]}", chars) + "]"
