"""Events become updates that every client can read, whatever models and tools write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a3b.agent.acp.updates import SessionUpdates, diff_hunks, plan_entries
from a3b.agent.events import (
    Compacted,
    Notice,
    Steered,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    TokenUsage,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    TurnFinished,
)

HALF = "half \ud800 \x1b]0;t\x07"
USAGE = TokenUsage(1, 2, 3)


def test_halves_of_surrogate_pairs_and_odd_numbers_never_reach_the_wire():
    updates = SessionUpdates(Path("/w"), 1000)
    events = [
        ThinkingChunk(HALF),
        TextChunk(HALF),
        Steered(HALF),
        ToolStarted(HALF, HALF, {"path": HALF, HALF: [float("nan"), float("inf"), HALF]}, HALF),
        ToolOutput(HALF, HALF),
        ToolOutput("unknown", HALF),
        ToolFinished(HALF, HALF, HALF, True, f"--- {HALF}\n+++ {HALF}\n@@ -1 +1 @@\n-{HALF}\n+{HALF}\n"),
        ToolFinished("never started", "plan", HALF, False),
        TurnFinished(1, HALF, USAGE),
        Notice(HALF, HALF),
        Compacted(2, 1, HALF),
        TaskFinished("stuck", HALF, 1, USAGE),
    ]
    for event in events:
        for update in updates.of(event):
            text = json.dumps(update.model_dump(mode="json", by_alias=True), allow_nan=False)
            assert "\\ud800" not in text


def test_a_long_output_is_told_now_and_then_and_only_its_end():
    now = [0.0]
    updates = SessionUpdates(Path("/w"), 1000, lambda: now[0])
    list(updates.of(ToolStarted("c", "bash", {}, "bash")))
    told = []
    for i in range(100):
        now[0] += 0.1
        told += updates.of(ToolOutput("c", f"{i}\n" * 1000))
    assert 30 <= len(told) <= 40 and len(told[-1].content[0].content.text) == 16_000


def test_each_hunk_of_a_diff_is_told_with_its_lines_and_place():
    diff = "--- a.py\n+++ a.py\n@@ -1,2 +1,2 @@\n x\n--- y\n+++ y\n@@ -9 +9,2 @@\n-old\n+new\n+newer\n"
    diff += "--- n\n+++ n\n@@ -0,0 +1 @@\n+all"
    assert [(hunk.path, hunk.old, hunk.new, hunk.line) for hunk in diff_hunks(diff)] == [
        ("a.py", "x\n-- y", "x\n++ y", 1),
        ("a.py", "old", "new\nnewer", 9),
        ("n", None, "all", 1),
    ]


@pytest.mark.parametrize(
    "diff", ["", "@@", "@@ -1,99999 +1,99999 @@\n x", "--- a\n+++ a\n@@ 9 lines before @@\n", "\n" * 9]
)
def test_a_diff_that_is_cut_or_none_is_told_as_far_as_it_goes(diff):
    assert len(list(diff_hunks(diff))) <= 1


def test_notes_are_entries_line_by_line_or_as_their_list():
    assert [(e.content, e.status) for e in plan_entries("Plan:\n1. a\n2) [x] b\n* c")] == [
        ("a", "pending"),
        ("b", "completed"),
        ("c", "pending"),
    ]
    assert [e.content for e in plan_entries("first\n\nsecond")] == ["first", "second"]
    assert len(plan_entries("- x\n" * 1000)) == 100
