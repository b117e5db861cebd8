"""Sentinels: one character for each control token, which no data can hold.

A sentinel is a lone surrogate. In a marked template each control token in its own literals is one sentinel; data is
made valid Unicode first and holds none. So a surrogate in the output is a control token of the template, and everything
else is text: what loses its mark on the way becomes text, never the other way round. Knows no Jinja. Enter at
`ControlSentinels`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from a3b.prompt.segments import Control, Prompt, Text, well_formed

MAX_CONTROLS = 1024  # surrogates from U+DC00 on are left for the caller
_FIRST_MARK = 0xD800
_SURROGATE = re.compile("[\ud800-\udfff]")


class ControlSentinels:
    """The sentinels of a list of control tokens; without names, marking does nothing."""

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
        """The sentinel of a control token; None if it has none."""
        return self._mark.get(name)

    def mark(self, text: str) -> str:
        """A literal of the template with sentinels for its control tokens."""
        text = well_formed(text)
        return self._find.sub(lambda found: self._mark[found.group()], text) if self._find else text

    def unmark(self, value: Any) -> Any:
        """A string, or the strings of a list or tuple, with sentinels spelled out; anything else as it is."""
        if isinstance(value, str):
            return str(value).translate(self._spelling) if _SURROGATE.search(value) else value
        if isinstance(value, (list, tuple)) and any(
            isinstance(item, str) and _SURROGATE.search(item) for item in value
        ):
            return type(value)(map(self.unmark, value))
        return value

    def needle(self, value: Any, haystack: str) -> Any:
        """What to look for in `haystack` for a literal: its sentinels if the haystack has them, otherwise their
        spelling."""
        if isinstance(value, str) and any(mark in haystack for mark in _SURROGATE.findall(value)):
            return value
        return self.unmark(value)

    def split(self, text: str) -> Prompt:
        """Output as a prompt: sentinels become control tokens, the rest text."""
        pieces = self._split.split(text) if self._split else [text]
        return [
            Control(self._spelling[ord(piece)]) if odd else Text(piece)
            for odd, piece in ((i % 2, piece) for i, piece in enumerate(pieces))
            if piece
        ]
