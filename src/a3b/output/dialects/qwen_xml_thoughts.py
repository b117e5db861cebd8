"""A call in Qwen's XML inside the thinking and without `<tool_call>`: it counts as one only if the output ends after
it.

Enter at `ThoughtCall`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from a3b.output.buffer import NeedMore, skip_blank
from a3b.output.dialects.qwen_xml_tags import (
    CALL_END,
    FUNCTION,
    FUNCTION_END,
    SPELLED_CALL_END,
    read_closer,
    read_name,
    tag_at,
)
from a3b.output.marks import END, MARKS, is_mark

_STOP = re.compile(f"[{MARKS}]|\n{FUNCTION}|</")


class ThoughtCall:
    """Reads a text that begins with `<function=NAME>` and grows; looks at each character a few times at most."""

    def __init__(self, begin: int, is_offered: Callable[[str], bool]):
        """begin: the offset after the first tag. is_offered: whether a function of that name can be called."""
        self._seen, self._is_offered = begin, is_offered
        self._is_closed = False  # the function that was begun last

    def decide(self, buffer: str) -> int:
        """0 for a call, or several; otherwise how many characters are thinking. Raises NeedMore while that is open."""
        while True:
            if not self._is_closed and (num := self._find_close(buffer)):
                return num
            at = skip_blank(buffer, self._seen)
            tag, end = tag_at(buffer, at)
            if tag == END:
                return 0
            if tag == FUNCTION and self._is_offered(read_name(buffer, end)[0]):
                self._is_closed = False
            elif tag not in (CALL_END, FUNCTION_END, SPELLED_CALL_END):
                return at
            self._seen = end

    def _find_close(self, buffer: str) -> int:
        """Advance past what closes the function and return 0; or the number of characters before what shows that
        nothing does."""
        while not self._is_closed:
            match = _STOP.search(buffer, self._seen)
            self._seen = match.start() if match else max(self._seen, len(buffer) - len(FUNCTION))
            if match is None:
                raise NeedMore
            kind, end = read_closer(buffer, match.start()) if match.group() == "</" else ("", match.end())
            if match.group() not in ("</", CALL_END):
                return match.start() + (not is_mark(match.group()))
            self._is_closed, self._seen = (
                match.group() == CALL_END or kind in ("function", "call"),
                max(end, match.end()),
            )
        return 0
