"""Foreign text as lines that a terminal shows literally, none of them endless. Enter at `fit_line` and `LineBuffer`."""

from __future__ import annotations

import re

from prompt_toolkit.utils import get_cwidth

from a3b.printable import printable

LONGEST_LINE = 2_000  # characters that are shown of one line
DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
COLOURS = re.compile("\x1b\\[[0-9;:]*m")  # what programs write for bold and colours


def fit_line(text: str, most: int = LONGEST_LINE) -> str:
    """One line for a terminal: tabs as blanks, control characters as escapes, and no more than `most` characters."""
    kept = printable(text[:most].expandtabs(4))
    left_out = len(text) - most
    return kept if left_out <= 0 else f"{kept} [... {left_out:,} more characters]"


def output_lines(text: str) -> list[str]:
    """What a tool printed, line by line, without its colours."""
    lines = COLOURS.sub("", text).replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [fit_line(line) for line in lines]


def rows_of(text: str, width: int, most: int) -> list[str]:
    """The last `most` rows that a text takes on a terminal of `width` columns. The text must be fit already."""
    rows: list[str] = []
    for line in text[-2 * width * most :].split("\n"):
        row, used = "", 0
        for char in line:
            cells = get_cwidth(char)
            if used + cells > width:
                rows.append(row)
                row, used = "", 0
            row, used = row + char, used + cells
        rows.append(row)
    return rows[-most:]


class LineBuffer:
    """Pieces of a text to complete lines. rest: of the line that is not complete yet."""

    def __init__(self, longest: int = 2 * LONGEST_LINE):
        self.rest, self._longest = "", longest

    def add(self, piece: str) -> list[str]:
        """The lines that are complete now. A line that is too long comes in parts."""
        *lines, rest = (self.rest + piece).split("\n")
        end = max(len(rest) - 1, 0) // self._longest * self._longest
        self.rest = rest[end:]
        return lines + [rest[start : start + self._longest] for start in range(0, end, self._longest)]

    def end(self) -> list[str]:
        """What is left."""
        rest, self.rest = self.rest, ""
        return [rest] if rest else []
