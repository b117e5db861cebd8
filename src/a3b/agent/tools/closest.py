"""Why a text that is to be replaced is not in a file: the region that comes closest, and what differs there.

Runs inside the sandbox: standard library only. Enter at `explain_miss`."""

from __future__ import annotations

import difflib
import time
import unicodedata

BLANKS = " \t\r\f\v"
NO_BLANKS = dict.fromkeys(map(ord, BLANKS))
MAX_SHOWN = 12  # lines of the region
MAX_LINE = 160  # characters of a line in a message
MAX_LOOKED_AT = 200  # lines of the text that was not found
SECONDS = 1.0  # for the search of a similar line
SIMILAR = 0.6
ALIKE = str.maketrans("‘’‚‛“”„‟‐‑‒–—−×", "''''\"\"\"\"------x")


def explain_miss(text: str, old: str) -> str:
    """What to say of `old`, which does not occur in `text`; both may have any size."""
    if hint := _written_otherwise(text, old):
        return hint
    lines = text.split("\n")
    wanted = old.strip("\n").split("\n")
    start = _closest(lines, wanted)
    if start is None:
        return "Nothing in the file is close to it."
    pairs = [(start + i, line) for i, line in enumerate(wanted[:MAX_LOOKED_AT])]
    differing = [(at, line) for at, line in pairs if at >= len(lines) or lines[at].rstrip("\r") != line.rstrip("\r")]
    at, line = differing[0] if differing else (start + len(wanted), "")
    first = max(start, at - MAX_SHOWN // 2)
    last = min(start + len(wanted), first + MAX_SHOWN, len(lines))
    shown = [f"{i + 1}: {_short(lines[i])}" for i in range(first, last)]
    place = f"line {first + 1}" if last == first + 1 else f"lines {first + 1}-{last}"
    found = lines[at].rstrip("\r") if at < len(lines) else None
    return "\n".join([f"Closest, {place}:", *shown, *([_difference(at + 1, line, found)] if differing else [])])


def visible(line: str) -> str:
    """A line with its tabs as arrows and its spaces as dots."""
    return _short(line).replace("\t", "→").replace(" ", "·")


def _short(line: str) -> str:
    line = line.rstrip("\r")
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + "..."


def _plain(line: str) -> str:
    """A line with characters that look like ASCII replaced by it."""
    return unicodedata.normalize("NFKC", line.translate(ALIKE))


def _difference(number: int, old: str, found: str | None) -> str:
    if found is None:
        return "old goes on beyond the end of the file."
    if old.translate(NO_BLANKS) == found.translate(NO_BLANKS) != "":
        return f"Line {number} differs only in blanks (tab →, space ·):\nold:  {visible(old)}\nfile: {visible(found)}"
    a, b = next((a, b) for a, b in zip(old + "\0", found + "\0", strict=False) if a != b)
    if _plain(old) == _plain(found) or (len(old) == len(found) and a.isascii() != b.isascii()):
        return f"Line {number}: old has {_named(a)}, the file {_named(b)}."
    return f"Line {number} differs, old has: {_short(old)}"


def _named(character: str) -> str:
    if character == "\0":
        return "its end"
    return f"{character} (U+{ord(character):04X} {unicodedata.name(character, '?')})"


def _written_otherwise(text: str, old: str) -> str:
    """A hint if `old` is in the file but for the way in which it was written down."""
    from a3b.agent.tools.text_file import number_prefixes

    without_numbers = number_prefixes().sub("", old)
    if without_numbers != old and without_numbers.strip() and without_numbers in text:
        return "It is there without the line numbers: leave them out of old and new."
    unescaped = old.replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')
    if unescaped != old and unescaped in text:
        return "It is there with real newlines, tabs or quotes: old has a backslash before them."
    return ""


def _closest(lines: list[str], wanted: list[str]) -> int | None:
    """The line at which the region begins that has most lines in common with `wanted`, counting rare ones more."""
    keys = [_plain(line).strip(BLANKS) for line in wanted[:MAX_LOOKED_AT]]
    places: dict[str, list[int]] = {key: [] for key in keys if key}
    for i, line in enumerate(lines):
        if (found := places.get(_plain(line).strip(BLANKS) if not line.isascii() else line.strip(BLANKS))) is not None:
            if len(found) <= MAX_LOOKED_AT:
                found.append(i)
    votes: dict[int, float] = {}
    for offset, key in enumerate(keys):
        for i in places.get(key, ())[:MAX_LOOKED_AT]:
            votes[i - offset] = votes.get(i - offset, 0.0) + len(key) / len(places[key])
    if votes:
        return max(0, max(votes, key=lambda start: (votes[start], -start)))
    return _similar(lines, keys)


def _similar(lines: list[str], keys: list[str]) -> int | None:
    """As `_closest` where no line is equal: by the line that resembles the longest wanted one most."""
    anchor = max(range(len(keys)), key=lambda i: min(len(keys[i]), MAX_LINE))
    key = keys[anchor][:MAX_LINE]
    if not key:
        return None
    matcher = difflib.SequenceMatcher(None, "", key, autojunk=False)
    best, best_ratio, deadline = None, SIMILAR, time.monotonic() + SECONDS
    for i, line in enumerate(lines):
        if i % 64 == 0 and time.monotonic() > deadline:
            break
        stripped = line.strip(BLANKS)[: 4 * MAX_LINE]
        if len(key) > 3 and key in stripped:
            return max(0, i - anchor)
        matcher.set_seq1(stripped[:MAX_LINE])
        if matcher.real_quick_ratio() > best_ratio and matcher.quick_ratio() > best_ratio:
            if (ratio := matcher.ratio()) > best_ratio:
                best, best_ratio = max(0, i - anchor), ratio
    return best
