"""Diffs of what a session changed: what people read of any file, in any state."""

from __future__ import annotations

import difflib
import hashlib
import random

import pytest

from a3b.agent.journal.changes import PathChange
from a3b.agent.journal.contents import ContentStore
from a3b.agent.journal.diffs import MAX_BYTES, MAX_LINES, WorkspaceDiff, diff_of
from a3b.agent.journal.entries import FILE, LINK, PathState


@pytest.fixture
def store(tmp_path):
    return ContentStore(tmp_path / "contents")


def kept(store, tmp_path, data: bytes, mode: int = 0o644) -> PathState:
    file = tmp_path / "file"
    file.write_bytes(data)
    with open(file, "rb") as source:
        digest, size = store.keep(source.fileno(), 1 << 30)
    return PathState(FILE, mode, size, 1, 1, 1, digest)


@pytest.fixture
def diff(store, tmp_path):
    def work(before: bytes | PathState | None, after: bytes | PathState | None) -> WorkspaceDiff:
        states = [kept(store, tmp_path, s) if isinstance(s, bytes) else s for s in (before, after)]
        return diff_of([PathChange("a.txt", *states)], store)

    return work


def body(found: WorkspaceDiff) -> list[str]:
    return found.text.split("\n")[2:]


@pytest.mark.parametrize("seed", range(8))
def test_a_diff_is_that_of_the_standard_library_whatever_surrounds_the_change(diff, seed):
    draw = random.Random(seed)
    a = [f"line {draw.randrange(40)}\n" for _ in range(draw.randrange(1, 200))]
    b = [line for line in a if draw.random() < 0.95]
    b.insert(draw.randrange(len(b) + 1), "new\n")
    found = body(diff("".join(a).encode(), "".join(b).encode()))
    theirs = [line.rstrip("\n") for line in difflib.unified_diff(a, b)][2:]
    assert sum(line[0] in "+-" for line in found) <= sum(line[0] in "+-" for line in theirs)
    patched: list[str] = []
    at = 0
    for line in found:  # applied, it gives the new text
        if line.startswith("@@"):
            start, length = map(int, line.split()[1][1:].split(","))
            start -= length > 0
            patched += a[at:start]
            at = start
        elif line[0] == "+":
            patched.append(line[1:] + "\n")
        else:
            assert a[at] == line[1:] + "\n"
            patched += [a[at]] if line[0] == " " else []
            at += 1
    assert patched + a[at:] == b


def test_a_missing_end_of_the_last_line_is_said(diff):
    assert body(diff(b"one\n", b"one")) == ["@@ -1,1 +1,1 @@", "-one", "+one", "\\ No newline at end of file"]


def test_what_is_not_text_not_kept_or_too_large_is_told_by_its_size(diff):
    lost = PathState(FILE, 0o644, 40 << 20, 1, 1, 1, "!large")
    assert body(diff(b"\0\1", b"text")) == ["@@ not text: 2 bytes before, 4 bytes now @@"]
    assert body(diff(lost, None)) == ["@@ it is larger than what is kept: 41,943,040 bytes before, nothing now @@"]
    assert "are not compared" in diff(b"x" * (MAX_BYTES + 1), b"").text


def test_a_content_that_is_damaged_is_told(diff, tmp_path):
    digest = hashlib.sha256(b"gone").hexdigest()
    assert "the kept content" in diff(PathState(FILE, 0o644, 4, 1, 1, 1, digest), b"here\n").text


def test_permissions_and_links_are_shown(diff, store, tmp_path):
    script = kept(store, tmp_path, b"#!/bin/sh\n", 0o755)
    assert body(diff(b"#!/bin/sh\n", script)) == ["@@ mode 644 is now 755 @@"]
    link = PathState(LINK, 0o777, 1, 1, 1, 1, "target")
    assert body(diff(None, link)) == ["@@ -0,0 +1,1 @@", "+link to target"]


def test_very_many_changed_lines_are_shown_unpaired_and_bounded(diff):
    rows = [f"{i}\n" for i in range(4_000)]
    found = diff("".join(rows).encode(), "".join(reversed(rows)).encode())
    assert (found.added, found.removed) == (4_000, 4_000)
    assert len(found.text.split("\n")) == MAX_LINES + 1
    assert found.text.endswith("more lines @@")
