"""Sentinels: one character for each control token, which no data can hold.

Owns the alphabet. In a template with marks every control token that it spells in its own literals is one lone
surrogate. Data is made valid Unicode first and holds none. So a surrogate in the output is a control token of
the template, and all else is text: what loses its mark on the way becomes text, never the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from a3b.prompt.segments import Control, Prompt, Text, well_formed

MAX_CONTROLS = 1024  # surrogates from U+DC00 on are free for the caller
_FIRST_MARK = 0xD800
_SURROGATE = re.compile("[\ud800-\udfff]")


class ControlSentinels:
    """One surrogate for each control token."""

    def __init__(self, names: Iterable[str] = ()):
        self.names = tuple(dict.fromkeys(names))
        if len(self.names) > MAX_CONTROLS:
            raise ValueError(f"{len(self.names)} control tokens, at most {MAX_CONTROLS} can be marked")
        self._mark = {name: chr(_FIRST_MARK + i) for i, name in enumerate(self.names)}
        self._spelling = {ord(mark): name for name, mark in self._mark.items()}
        longest_first = sorted(self.names, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first))) if self.names else None
        self._split = re.compile("([" + "".join(self._mark.values()) + "])") if self.names else None

    def of(self, name: str) -> str | None:
        return self._mark.get(name)

    def mark(self, text: str) -> str:
        """A literal of the template with its control tokens marked."""
        text = well_formed(text)
        return self._find.sub(lambda found: self._mark[found.group()], text) if self._find else text

    def unmark(self, value: Any) -> Any:
        """Sentinels spelled out again, in a string or the strings of a list or tuple; anything else as it is."""
        if isinstance(value, str):
            return str(value).translate(self._spelling) if _SURROGATE.search(value) else value
        if isinstance(value, (list, tuple)) and any(
            isinstance(item, str) and _SURROGATE.search(item) for item in value
        ):
            return type(value)(map(self.unmark, value))
        return value

    def needle(self, value: Any, haystack: str) -> Any:
        """What to look for in `haystack` for a literal: its marks if the haystack has them, else spelled."""
        if isinstance(value, str) and any(mark in haystack for mark in _SURROGATE.findall(value)):
            return value
        return self.unmark(value)

    def split(self, text: str) -> Prompt:
        pieces = self._split.split(text) if self._split else [text]
        return [
            Control(self._spelling[ord(piece)]) if odd else Text(piece)
            for odd, piece in ((i % 2, piece) for i, piece in enumerate(pieces))
            if piece
        ]
