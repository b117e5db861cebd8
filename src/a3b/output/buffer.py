"""Output that has been written but not yet parsed, with lookahead.

A reader of the buffer either knows what is at an offset, whatever follows, or raises `NeedMore`; so the result does not
depend on how the output was cut into pieces. Knows no dialect. Enter at `Buffer` and `peek`.
"""

from __future__ import annotations

import re
from collections import deque

from a3b.output.json_text import JsonSpan
from a3b.output.marks import END, MARKS, NAMES

MAX_BLANK = 64  # characters of whitespace between two tags
CHUNK = 2048  # characters looked at together; bounds the copying when a long text comes in one piece


class NeedMore(Exception):
    """The buffer ends before its meaning is clear."""


def peek(text: str, at: int, *options: str) -> str:
    """The option found at `at`, "" for none. Raises NeedMore while the text may still become one."""
    for option in options:
        if text.startswith(option, at):
            return option
    rest = text[at : at + MAX_BLANK]
    if any(option.startswith(rest) for option in options):
        raise NeedMore
    return ""


def skip_blank(text: str, at: int) -> int:
    """The offset of what follows whitespace; after MAX_BLANK characters the rest counts as text."""
    for offset in range(at, at + MAX_BLANK):
        if offset == len(text):
            raise NeedMore
        if text[offset] not in " \t\r\n":
            return offset
    return at + MAX_BLANK


class Buffer:
    """`text` is the part that is looked at now; control tokens in it are marks."""

    def __init__(self) -> None:
        self.text = ""
        self._ahead: deque[str] = deque()  # what follows the text
        self._span: JsonSpan | None = None  # searches that continue when more text arrives
        self._searched = 0

    def add(self, text: str) -> None:
        self._ahead += _chunks(text)

    def advance(self) -> bool:
        """Look at the next chunk too; False if there is none."""
        if not self._ahead:
            return False
        self.text += self._ahead.popleft()
        return True

    def take(self, num_chars: int) -> str:
        """Remove that much; marks come as the names they stand for."""
        taken, self.text = self.text[:num_chars], self.text[num_chars:]
        self._span, self._searched = None, 0
        return taken.translate(NAMES)

    def put_back(self, text: str) -> None:
        """Read `text`, with marks, before what is still to come. Nothing else may be in the buffer."""
        self._ahead.extendleft(reversed(_chunks(text)))

    def take_all(self) -> str:
        """Remove all that is looked at; marks stay marks."""
        taken, self.text = self.text, ""
        self._span, self._searched = None, 0
        return taken

    def find_json_end(self, at: int) -> tuple[int, str]:
        """(offset after the JSON object or array that begins at `at`, what would complete it, "" if nothing is
        missing).

        Looks at each character once, as long as nothing is taken. Raises NeedMore."""
        self._span = self._span or JsonSpan(MARKS)
        found = self._span.find_end(self.text, at, END)
        if found is None:
            raise NeedMore
        return found

    def search(self, pattern: re.Pattern[str], at: int, max_len: int) -> re.Match[str]:
        """The first match of `pattern`, of at most `max_len` characters, from `at` on.

        Looks at each character once, as long as nothing is taken and the pattern stays the same. Raises NeedMore."""
        match = pattern.search(self.text, max(at, self._searched))
        if match is None:
            self._searched = max(at, len(self.text) - max_len + 1)
            raise NeedMore
        return match


def _chunks(text: str) -> list[str]:
    return [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
