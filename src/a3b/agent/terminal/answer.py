"""Markdown of an answer, line by line: every character stays, some get a style. Enter at `AnswerStyle`."""

from __future__ import annotations

import re

from rich.text import Text

from a3b.agent.terminal.lines import LONGEST_LINE, fit_line

FENCE = re.compile(r" {0,3}(```+|~~~+)")
HEADING = re.compile(r" {0,3}#{1,6} ")
SPANS = ((re.compile(r"`[^`\n]+`"), "cyan"), (re.compile(r"\*\*[^*\n]+\*\*"), "bold"))


class AnswerStyle:
    """Styles the lines of one answer in order; knows whether they are code."""

    def __init__(self) -> None:
        self._fence = ""

    @property
    def is_code(self) -> bool:
        return bool(self._fence)

    def line(self, line: str) -> Text:
        """A line, of any origin, as it may be shown."""
        fence = FENCE.match(line)
        text = Text(fit_line(line, 2 * LONGEST_LINE))
        if fence and (
            not self._fence or line.strip().rstrip(self._fence[0]) == "" and len(fence[1]) >= len(self._fence)
        ):
            self._fence = "" if self._fence else fence[1]
            text.stylize("dim")
        elif self._fence:
            text.stylize("cyan")
        elif HEADING.match(line):
            text.stylize("bold")
        else:
            for pattern, style in SPANS:
                text.highlight_regex(pattern, style)
        return text
