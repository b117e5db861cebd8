"""Where the lines of a growing text begin, outside blocks of code.

Knows no dialect: which characters may begin a call, and which lines enclose an example of one, are arguments. Enter at
`LineStarts.find`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_INDENT = 3  # spaces before the text of a line; four make it code
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)\Z", re.DOTALL)
_KEPT = 200  # characters kept of a line that may open or close a block of code


class LineStarts:
    """Takes the characters of a text in order. `find` gives the places where a line begins with one of `starts`."""

    def __init__(self, starts: str = "", fences: Mapping[str, str] | None = None):
        """fences: lines that open a block of code in addition to those of Markdown, and the line that closes each."""
        self._starts, self._fences = starts, fences or {}
        self._heads = "`~" + starts + "".join(fence[0] for fence in self._fences)
        self._line = ""  # the current line, while it may still matter
        self._is_open = True  # whether the line may still matter
        self._fence = ""  # what opened the block of code

    @property
    def begins(self) -> bool:
        """Whether the next character begins a line outside blocks of code."""
        return self._is_open and not self._fence and self._line.strip(" ") == "" and len(self._line) <= MAX_INDENT

    def find(self, text: str, end: int, at: int = 0) -> int:
        """The first place from `at` and before `end` at which a line of `text` begins with one of the characters,
        otherwise `end`; takes what is before it."""
        while at < end:
            if self.begins and text[at] in self._starts:
                return at
            if self._is_open:
                self._add(text[at])
                at += 1
            else:
                at = text.find("\n", at, end) + 1 or end
                if text[at - 1] == "\n":
                    self._line, self._is_open = "", True
        return end

    def skip(self, text: str) -> None:
        """Take text without looking for line starts."""
        at = self.find(text, len(text))
        while at < len(text):
            self._add(text[at])
            at = self.find(text, len(text), at + 1)

    def _add(self, char: str) -> None:
        if char == "\n":
            self._end_line()
            self._line, self._is_open = "", True
            return
        self._line += char
        head = self._line.lstrip(" ")[:1]
        self._is_open = len(self._line) <= _KEPT and (head in self._heads if head else len(self._line) <= MAX_INDENT)

    def _end_line(self) -> None:
        line = self._line.strip()
        if self._fence in self._fences:
            self._fence = "" if line == self._fences[self._fence] else self._fence
        elif match := _FENCE.match(self._line):
            if not self._fence:
                self._fence = "" if "`" in match[2] and match[1][0] == "`" else match[1]
            elif match[1].startswith(self._fence) and not match[2].strip():
                self._fence = ""
        elif not self._fence and line in self._fences:
            self._fence = line
