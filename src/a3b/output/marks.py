"""Control tokens as single characters of an output that is still being read.

Each is a mark, a lone surrogate, which decoded text cannot contain; so the spelled name of a control token is never
taken for it. Enter at `mark_of`.
"""

from __future__ import annotations

MARKS = "\ud800-\udfff"
"""All marks, between the brackets of a regular expression."""
END = "\ud800"
"""Follows the last character of the output."""
NAMES: dict[int, str] = {ord(END): ""}
"""What each mark stands for, as `str.translate` takes it."""
_MARK_OF: dict[str, str] = {}


def mark_of(name: str) -> str:
    """The mark of the control token `name`, always the same. Only for names in the source: there are 2047 marks."""
    if name not in _MARK_OF:
        _MARK_OF[name] = chr(ord(END) + len(NAMES))
        NAMES[ord(_MARK_OF[name])] = name
    return _MARK_OF[name]


def is_mark(char: str) -> bool:
    return "\ud800" <= char <= "\udfff"
