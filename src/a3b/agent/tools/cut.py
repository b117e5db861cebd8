"""The one rule by which results are cut before the model reads them, and where the rest is kept.

A result has at most `MAX_LINES` lines and `MAX_CHARACTERS` characters. Of a longer one the head and the tail stay, half
of the room each, and a line between them says what is missing and in which file all of it is. Enter at `cut`."""

from __future__ import annotations

MAX_LINES = 200
MAX_CHARACTERS = 16_000
MAX_LINE = 2_000  # characters of one line


def cut_line(line: str, most: int = MAX_LINE) -> str:
    """A line, or its beginning with how much more of it there is."""
    left_out = len(line) - most
    return line if left_out <= 0 else f"{line[:most]}[... {left_out:,} more characters of this line]"


def is_short(text: str) -> bool:
    """Whether a result stays as it is."""
    return len(text) <= MAX_CHARACTERS and text.count("\n") < MAX_LINES and longest_line(text) <= MAX_LINE


def longest_line(text: str) -> int:
    return max(map(len, text.split("\n")))


def cut(text: str, kept_in: str) -> str:
    """The text as the model reads it. kept_in: the file that holds all of it, or "" where none does."""
    return text if is_short(text) else join(text.split("\n"), 0, [], kept_in)


def join(head: list[str], left_out: int, tail: list[str], kept_in: str) -> str:
    """As `cut`, of lines from the beginning and from the end, with `left_out` lines between them that are gone."""
    if not left_out:
        head, tail = [*head, *tail], []
    first = _fitting(head[: MAX_LINES // 2])
    last = _fitting((tail or head[len(first) :])[::-1][: MAX_LINES // 2])[::-1]
    missing = len(head) + left_out + len(tail) - len(first) - len(last)
    where = f"; all of it is in {kept_in}" if kept_in else ""
    if missing:
        return "\n".join([*first, f"[... {missing:,} lines left out{where}]", *last])
    return "\n".join([*first, *last, *([f"[long lines are cut{where}]"] if where else [])])


def _fitting(lines: list[str]) -> list[str]:
    """As many lines as half of the characters hold, each cut."""
    taken, room = [], MAX_CHARACTERS // 2
    for line in map(cut_line, lines):
        if len(line) + 1 > room:
            break
        taken.append(line)
        room -= len(line) + 1
    return taken
