"""Text from clients, models, files and hubs, made safe for a terminal or a log. All commands print through `say`.

A terminal obeys control characters, and reorders a line with bidirectional overrides. Each such character becomes its
JSON escape, so that readers see it and JSON stays JSON. Lone surrogates, which stand for undecodable bytes of file
names, become escapes too, because no encoding can write them. Enter at `say`, `report`, `printable`."""

from __future__ import annotations

import re
import sys
from typing import TextIO

# C0, DEL and C1; line and paragraph separators; embeddings, overrides and isolates; surrogates
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNFIT_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, lines: bool = False) -> str:
    """The text as one line that a terminal shows literally. lines: keep newlines and tabs."""
    text = str(text)
    if lines:
        return UNFIT_IN_LINES.sub(_escape, text.replace("\r\n", "\n"))
    return UNFIT.sub(_escape, text)


def fit_for(stream: TextIO, text: str) -> str:
    """An answer or a prompt as `stream` may get it: every character in a file or pipe, only harmless ones on a
    terminal."""
    return printable(text, lines=True) if stream.isatty() else text


def say(text: object = "", to: TextIO | None = None, end: str = "\n") -> None:
    """Print text for people, which may quote foreign text, to `to` or to stderr."""
    print(printable(text, lines=True), end=end, file=to or sys.stderr, flush=True)


def report(text: object = "") -> None:
    """Print the result of a command to stdout, as `say` does."""
    say(text, sys.stdout)


def _escape(found: re.Match[str]) -> str:
    return SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}"
