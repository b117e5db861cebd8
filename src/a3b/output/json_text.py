"""JSON as models write it. Knows no schema.

Enter at `loads`, or at `read`, which also understands Python's spelling of values.
"""

from __future__ import annotations

import json
import math
import re
import sys
from typing import Any

from a3b.json_schema.types import Kinds

_SURROGATE = re.compile("[\ud800-\udfff]")
# strings, closed or not, matched whole to leave their content alone; words; a comma before a bracket
_PYTHON = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z))|\b(?:True|False|None)\b|,(?=\s*[}\]])""",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null", ",": ""}
_ESCAPE = re.compile(r"\\x[0-9a-fA-F]{2}|\\.|\"", re.DOTALL)


def loads(text: str, bounded: bool = False) -> Any:
    """`json.loads` for text from a model: NaN, infinities and nesting that is too deep raise ValueError; a string may
    hold a line break.

    Lone surrogates, which no UTF-8 can carry, become U+FFFD. bounded: a number too large for a float becomes
    the largest float."""
    try:
        written = dumps(json.loads(text, strict=False, parse_float=_bounded if bounded else None))
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    return json.loads(_SURROGATE.sub("\ufffd", written))


def read(text: str) -> Any:
    """JSON, or the same in Python's spelling: single quotes, True, False, None, a comma after the last item. Raises
    ValueError."""
    try:
        return loads(text, bounded=True)
    except ValueError:
        return loads(_PYTHON.sub(_as_json, text), bounded=True)


def _bounded(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else math.copysign(sys.float_info.max, value)


def dumps(value: Any) -> str:
    """JSON as templates write it: Unicode unescaped, ", " and ": " as separators."""
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


MAX_JSON_DEPTH = 500  # of nested brackets; less than json.loads can follow


class JsonText:
    """Tells whether growing text is the beginning of a JSON object or array, or a whole one. Reads each character once.

    Until the brackets are closed, what is between strings is only checked roughly; `is_valid` then decides.
    """

    _BETWEEN_STOP = re.compile(r"[^ \t\r\n:,.+\-0-9A-Za-z]")
    _STRING_STOP = re.compile(r'["\\]')

    def __init__(self, kinds: Kinds):
        """kinds: what the value may be."""
        self._openers = "{" * ("object" in kinds) + "[" * ("array" in kinds)
        self._closers: list[str] = []
        self._begun = self._escaped = False
        self.is_dead = not self._openers  # nothing that follows can make it valid
        self.in_string = self.is_whole = self.was_valid = False

    def push(self, text: str) -> None:
        """Append text."""
        if self.is_dead:
            return
        if not self._begun:
            text = text.lstrip()
            self._begun = text != ""
            self.is_dead = self._begun and text[0] not in self._openers
        pos = 0
        while pos < len(text) and not self.is_dead:
            pos = (
                self._escape(text, pos)
                if self._escaped
                else self._string(text, pos)
                if self.in_string
                else self._between(text, pos)
            )
        self.in_string = self.in_string and not self.is_dead
        self.is_whole = self._begun and not self._closers and not self.is_dead

    def _escape(self, text: str, pos: int) -> int:
        self._escaped = False
        self.is_dead = text[pos] not in '"\\/bfnrtu'
        return pos + 1

    def _string(self, text: str, pos: int) -> int:
        stop = self._STRING_STOP.search(text, pos)
        pos = stop.start() if stop else len(text)
        if pos < len(text):
            self._escaped = text[pos] == "\\"
            self.in_string = text[pos] != '"'
            self.is_dead = self.in_string and not self._escaped
        return pos + 1

    def _between(self, text: str, pos: int) -> int:
        if self.is_whole:
            self.is_dead = text[pos:].strip() != ""
            return len(text)
        stop = self._BETWEEN_STOP.search(text, pos)
        pos = stop.start() if stop else len(text)
        if pos < len(text):
            char = text[pos]
            self.in_string = char == '"'
            if char in "{[":
                self._closers.append("}" if char == "{" else "]")
                self.is_dead = len(self._closers) > MAX_JSON_DEPTH
            elif char != '"':
                self.is_dead = not self._closers or self._closers.pop() != char
            self.is_whole = not self._closers
        return pos + 1

    def is_valid(self, text: str) -> bool:
        """Whether the text, whose brackets are closed, is JSON. Ask once: only whitespace can follow."""
        try:
            loads(text.strip(), bounded=True)
        except ValueError:
            self.is_dead, self.is_whole = True, False
        self.was_valid = self.is_whole
        return self.was_valid


class JsonSpan:
    """Finds the end of a JSON object or array in growing text. Reads each character once.

    `marks` are characters that stand for control tokens: inside a string they are ordinary, outside they
    end the search. Strings may be in single quotes.
    """

    def __init__(self, marks: str):
        self._token = re.compile(rf"""["'\\{{}}\[\]{marks}]""")
        self._pos = 0
        self._closers: list[str] = []
        self._quote = ""  # of the string that is open

    def find_end(self, text: str, start: int, end_mark: str) -> tuple[int, str] | None:
        """Return (offset after the span, text that would complete it), or None while more text is needed.

        `text[start]` is the opening bracket. The second part is "" for a complete span; otherwise a mark was
        hit outside a string, or `end_mark` anywhere, and it holds the quote and brackets that are missing.
        """
        self._pos = max(self._pos, start)
        while match := self._token.search(text, self._pos):
            token, self._pos = match.group(), match.end()
            if token == end_mark or (token not in "\"'\\{}[]" and not self._quote):
                self._pos = match.start()
                return self._pos, self._quote + "".join(reversed(self._closers))
            if token == "\\" and self._quote:
                if self._pos == len(text):
                    self._pos = match.start()
                    return None
                self._pos += text[self._pos] != end_mark
            elif token in "\"'":
                self._quote = "" if token == self._quote else self._quote or token
            elif not self._quote and token in "{[":
                self._closers.append("}" if token == "{" else "]")
            elif not self._quote and token in "}]":
                self._closers.pop()
                if not self._closers:
                    return self._pos, ""
        self._pos = max(self._pos, len(text))
        return None
