"""What changed, as unified diffs for people, from the contents that the journal keeps. Enter at `diff_of`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from a3b.agent.journal.changes import PathChange
from a3b.agent.journal.contents import ContentDamaged, ContentStore
from a3b.agent.journal.entries import FILE, LINK, NOUNS, PathState

MAX_BYTES = 1 << 20  # of a file that is compared
MAX_COMPARED = 2_000  # lines between the first and the last that differ; comparing takes their square
MAX_LINES = 5_000  # of all diffs together
SNIFFED = 8_000
CONTEXT = 3
UNENDED = "\n\\ No newline at end of file"


@dataclass(frozen=True)
class WorkspaceDiff:
    """text: unified diffs one after the other; files: how many differ; added, removed: lines; left_out: files for which
    there was no room."""

    text: str = ""
    files: int = 0
    added: int = 0
    removed: int = 0
    left_out: int = 0


def diff_of(items: Iterable[PathChange], contents: ContentStore) -> WorkspaceDiff:
    """The diffs of paths that changed, in their order; directories count by what is in them."""
    out: list[str] = []
    files = left_out = added = removed = 0
    for item in items:
        if _kinds(item) <= {"d", "u"}:
            continue
        files += 1
        if len(out) >= MAX_LINES:
            left_out += 1
            continue
        lines = list(_one(item, contents))
        added += sum(line.startswith("+") for line in lines[2:])
        removed += sum(line.startswith("-") for line in lines[2:])
        room = MAX_LINES - len(out)
        out += lines if len(lines) <= room else [*lines[:room], f"@@ {len(lines) - room:,} more lines @@"]
    return WorkspaceDiff("\n".join(out), files, added, removed, left_out)


def _kinds(item: PathChange) -> set[str]:
    return {state.kind for state in (item.before, item.after) if state is not None}


def _one(item: PathChange, contents: ContentStore) -> Iterator[str]:
    """A head of two lines, and the pieces."""
    before, after = item.before, item.after
    yield f"--- {item.path if before is not None else '/dev/null'}"
    yield f"+++ {item.path if after is not None else '/dev/null'}"
    if before is not None and after is not None and before.mode != after.mode and before.kind == after.kind:
        yield f"@@ mode {before.mode:o} is now {after.mode:o} @@"
        if before.content == after.content:
            return
    old, why_old = _text(before, contents)
    new, why_new = _text(after, contents)
    if old is None or new is None:
        yield f"@@ {why_old or why_new}: {_size(before)} before, {_size(after)} now @@"
        return
    yield from _pieces(old, new)


def _text(state: PathState | None, contents: ContentStore) -> tuple[str | None, str]:
    """The text at a path, or None and why it is not shown."""
    if state is None:
        return "", ""
    if state.kind == LINK:
        return f"link to {state.content}\n", ""
    if state.kind != FILE or not state.is_kept:
        return None, state.why_not_kept if state.kind == FILE else NOUNS.get(state.kind, "no file")
    if state.size > MAX_BYTES:
        return None, f"more than {MAX_BYTES >> 20} MiB are not compared"
    try:
        data = b"".join(contents.pieces(state.content))
    except ContentDamaged as error:
        return None, str(error)
    if b"\0" in data[:SNIFFED]:
        return None, "not text"
    return data.decode(errors="replace"), ""


def _pieces(old: str, new: str) -> Iterator[str]:
    """What differs. A change of very many lines is shown as the old ones and the new ones."""
    a, b = _lines(old), _lines(new)
    first = 0
    while first < min(len(a), len(b)) and a[first] == b[first]:
        first += 1
    last = 0
    while last < min(len(a), len(b)) - first and a[-1 - last] == b[-1 - last]:
        last += 1
    if max(len(a), len(b)) - first - last > MAX_COMPARED:
        gone, come = a[first : len(a) - last], b[first : len(b) - last]
        yield f"@@ -{_range(first, len(gone))} +{_range(first, len(come))} @@"
        yield from (f"-{line}" for line in gone)
        yield from (f"+{line}" for line in come)
        return
    start, stop = max(first - CONTEXT, 0), max(last - CONTEXT, 0)
    a, b = a[start : len(a) - stop], b[start : len(b) - stop]
    groups = difflib.SequenceMatcher(None, a, b, autojunk=False).get_grouped_opcodes(CONTEXT)
    for group in groups:
        (_, i, _, k, _), (_, _, j, _, m) = group[0], group[-1]
        yield f"@@ -{_range(start + i, j - i)} +{_range(start + k, m - k)} @@"
        for tag, i, j, k, m in group:
            if tag == "equal":
                yield from (f" {line}" for line in a[i:j])
            else:
                yield from (f"-{line}" for line in a[i:j])
                yield from (f"+{line}" for line in b[k:m])


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1]:
        lines[-1] += UNENDED
    else:
        lines.pop()
    return lines


def _range(start: int, length: int) -> str:
    return f"{start + 1 if length else start},{length}"


def _size(state: PathState | None) -> str:
    return "nothing" if state is None else f"{state.size:,} bytes"
