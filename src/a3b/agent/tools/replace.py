"""Finds the one place in a text that an edit means. Runs inside the sandbox: standard library only.

An exact match wins. A place that differs in nothing but line ends, blanks at line ends or a consistent indentation is
taken if it is the only one, and said; anything further is explained, not guessed. Enter at `place_of`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from a3b.agent.tools.closest import BLANKS, explain_miss
from a3b.agent.tools.text_file import FileToolError

MAX_NAMED = 5  # places that a message names
MAX_COUNTED = 1000
TABS = (4, 2, 8, 3)  # spaces that a tab may stand for


@dataclass(frozen=True)
class EditPlace:
    """What to replace by what: text[start:end] by `new`; said: in what the match was not exact."""

    start: int
    end: int
    new: str
    said: str = ""


def place_of(path: str, text: str, old: str, new: str) -> EditPlace:
    """Where `old` is, and what takes its place. Raises FileToolError if it is nowhere, or in several places."""
    spans = _exact(text, old)
    if not spans and ("\r" in text or "\r" in old):
        old, new = old.replace("\r\n", "\n"), new.replace("\r\n", "\n")
        spans = _with_any_line_ends(text, old)
    if len(spans) == 1:
        return EditPlace(*spans[0], new)
    if spans:
        raise FileToolError(_several(path, text, spans))
    return _but_for_blanks(path, text, old, new)


def _exact(text: str, old: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    at = text.find(old)
    while at >= 0 and len(spans) < MAX_COUNTED:
        spans.append((at, at + len(old)))
        at = text.find(old, at + 1)
    return spans


def _with_any_line_ends(text: str, old: str) -> list[tuple[int, int]]:
    pattern = re.compile(re.escape(old).replace("\\\n", "\r?\n"))
    spans: list[tuple[int, int]] = []
    found = pattern.search(text)
    while found and len(spans) < MAX_COUNTED:
        spans.append(found.span())
        found = pattern.search(text, found.start() + 1)
    return spans


def _several(path: str, text: str, spans: list[tuple[int, int]], but: str = "") -> str:
    lines = [text.count("\n", 0, start) + 1 for start, _ in spans[:MAX_NAMED]]
    more = "" if len(spans) <= MAX_NAMED else ", ..."
    count = f"{len(spans)}" if len(spans) < MAX_COUNTED else f"{MAX_COUNTED} or more"
    return (
        f"old occurs {count} times in {path}{but}, in lines {', '.join(map(str, lines))}{more}. "
        "Take in lines around the one you mean, so that it occurs once."
    )


def _but_for_blanks(path: str, text: str, old: str, new: str) -> EditPlace:
    """The one place whose lines differ from those of `old` only in blanks around them."""
    ends_line = old.endswith("\n")
    wanted = (old[:-1] if ends_line else old).split("\n")
    key = "\n" + "\n".join(line.strip(BLANKS) for line in wanted) + "\n"
    lines = text.split("\n")
    flat = "\n" + "\n".join(line.strip(BLANKS) for line in lines) + "\n"
    firsts = [flat.count("\n", 0, start) for start, _ in _exact(flat, key)] if key.strip() else []
    starts = _line_starts(lines)
    if len(firsts) > 1:
        spans = [(starts[i], starts[i]) for i in firsts]
        raise FileToolError(_several(path, text, spans, " if blanks are left out of account"))
    if firsts:
        found = lines[firsts[0] : firsts[0] + len(wanted)]
        change = _indentation(wanted, found)
        moved = change.apply(new) if change else None
        if change and moved is not None:
            start = starts[firsts[0]]
            end = start + len("\n".join(found)) - (1 if found[-1].endswith("\r") else 0)
            if ends_line and not moved.endswith("\n"):
                end = min(len(text), starts[firsts[0] + len(wanted)] if firsts[0] + len(wanted) < len(lines) else end)
            elif ends_line:
                moved = moved[:-1]
            return EditPlace(start, end, moved, change.said)
    raise FileToolError(f"old is not in {path}. {explain_miss(text, old)}")


def _line_starts(lines: list[str]) -> list[int]:
    starts, at = [], 0
    for line in lines:
        starts.append(at)
        at += len(line) + 1
    return starts


@dataclass(frozen=True)
class _Indentation:
    """How the indentation of a file follows from that of `old`: a prefix more or less, or tabs for so many spaces."""

    said: str
    more: str = ""
    less: str = ""
    tab: int = 0  # spaces; negative: a tab becomes so many spaces

    def apply(self, text: str) -> str | None:
        """The text with the indentation that the file has; None if it cannot be told."""
        moved = []
        for line in text.split("\n"):
            body = line.lstrip(" \t")
            indent = self.of(line[: len(line) - len(body)]) if body.strip(BLANKS) else ""
            if indent is None:
                return None
            moved.append(indent + body)
        return "\n".join(moved)

    def of(self, indent: str) -> str | None:
        if not indent.startswith(self.less):
            return None
        indent = self.more + indent[len(self.less) :]
        if self.tab > 0:
            return "\t" * (len(indent) // self.tab) if set(indent) <= {" "} and len(indent) % self.tab == 0 else None
        return indent.replace("\t", " " * -self.tab) if self.tab < 0 else indent


def _indentation(wanted: list[str], found: list[str]) -> _Indentation | None:
    """What leads from the indentation of `wanted` to that of `found`, the same in all lines; None if nothing does."""
    pairs = [(_indent(a), _indent(b)) for a, b in zip(wanted, found, strict=True) if a.strip(BLANKS)]
    if all(a == b for a, b in pairs):
        return _Indentation("The match is exact but for blanks at line ends.")
    shift = "The match is exact but for its indentation; new is indented like the file."
    a, b = pairs[0]
    choices = [
        *(_Indentation("The file is indented with tabs, and so is new now.", tab=n) for n in TABS),
        *(_Indentation("The file is indented with spaces, and so is new now.", tab=-n) for n in TABS),
        *([_Indentation(shift, more=b.removesuffix(a))] if b.endswith(a) else []),
        *([_Indentation(shift, less=a.removesuffix(b))] if a.endswith(b) else []),
    ]
    return next((choice for choice in choices if all(choice.of(a) == b for a, b in pairs)), None)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
