"""A journal that is damaged or was written by somebody else: refused by name, never followed out of the workspace."""

from __future__ import annotations

import hashlib
import json
import os
import random

import pytest

from a3b.agent.journal.journal import Journal
from a3b.errors import JournalError
from tests.support.file_trees import shell, tree_of

SUM = hashlib.sha256(b"x").hexdigest()
FILE = ["f", 0o644, 1, 5, 5, 5, SUM]
HEAD = {"type": "journal", "version": 1, "workspace": "", "last": 0}
BEGIN = {"type": "begin", "step": 1, "label": "l", "session": "", "turn": 0, "kind": "call", "started": 0.5}
BEGIN |= {"writer": "", "undoes": [], "undone": ""}


@pytest.fixture
def work(tmp_path):
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "one").write_text("1")
    return directory


def write(tmp_path, work, records):
    """A journal with these records, its checksums right."""
    directory = tmp_path / "journal"
    directory.mkdir(mode=0o700)
    before, lines = "0" * 32, []
    for record in [HEAD | {"workspace": str(work)}, *records]:
        text = json.dumps(record).encode()
        before = hashlib.sha256(before.encode() + text).hexdigest()[:32]
        lines.append(before.encode() + b" " + text + b"\n")
    (directory / "records").write_bytes(b"".join(lines))
    kept = directory / "contents" / SUM[:2]
    kept.mkdir(mode=0o700, parents=True)
    (kept / SUM[2:]).write_bytes(b"x")


def opened(tmp_path, work):
    told = []
    return Journal(tmp_path / "journal", work, tell=told.append), told


@pytest.mark.parametrize(
    "path",
    [
        "../out",
        "/etc/a3b-test",
        "a/../../out",
        "a//b",
        "",
        ".",
        "a/.",
        "nul\0",
        ".git/config",
        "a/.git/hooks/x",
        7,
        None,
    ],
)
@pytest.mark.parametrize("kind", ["files", "items", "plan"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, work, kind, path):
    parts = [path, FILE] if kind == "files" else [path, None, FILE]
    record = {"type": kind, "step": 1, "files" if kind == "files" else "items": [parts]}
    write(tmp_path, work, [BEGIN, record])
    journal, told = opened(tmp_path, work)
    assert len(told) == 1 and "line 3: " in told[0] and "begins anew" in told[0]
    assert journal.steps() == []
    assert os.listdir(tmp_path / "work") == ["one"]
    journal.close()


@pytest.mark.parametrize(
    "entry",
    [
        "f",
        [],
        ["x", *FILE[1:]],
        ["f", 0o100644, *FILE[2:]],
        ["f", -1, *FILE[2:]],
        ["f", True, *FILE[2:]],
        ["f", 1.5, *FILE[2:]],
        [*FILE[:2], 10**30, *FILE[3:]],
        [*FILE[:-1], "../" + SUM],
        [*FILE[:-1], SUM.upper()],
        [*FILE[:-1], None],
        ["l", *FILE[1:-1], ""],
        ["l", *FILE[1:-1], "a\0b"],
    ],
    ids=repr,
)
def test_a_state_that_no_file_has_is_refused(tmp_path, work, entry):
    write(tmp_path, work, [{"type": "files", "files": [["two", entry]]}])
    journal, told = opened(tmp_path, work)
    assert len(told) == 1 and "line 2: " in told[0]
    journal.close()


@pytest.mark.parametrize(
    "records",
    [
        [{"type": "items", "step": 9, "items": []}],
        [{"type": "end", "step": 1}],
        [BEGIN, BEGIN],
        [BEGIN | {"kind": "other"}],
        [BEGIN | {"label": "x" * 1000}],
        [BEGIN | {"writer": "/../../x"}],
        [BEGIN | {"undoes": 7}],
        [BEGIN | {"started": "now"}],
        [BEGIN, {"type": "end", "step": 1, "undone": [[1, "never"]]}],
        [BEGIN, {"type": "renames", "step": 1, "renames": [["a", "../b", "d", 1]]}],
        [BEGIN, {"type": "renames", "step": 1, "renames": [["a", "b", "z", 1]]}],
        [{"type": "files", "files": [["two"]]}],
        [{"type": "files", "files": {"two": FILE}}],
        [{"type": "unheard of"}],
        [{}],
        [HEAD],
        [["list"]],
        [None],
    ],
    ids=lambda records: json.dumps(records)[:60],
)
def test_a_record_of_another_form_is_refused(tmp_path, work, records):
    write(tmp_path, work, records)
    journal, told = opened(tmp_path, work)
    assert len(told) == 1 and "records: line " in told[0]
    journal.close()


def test_a_journal_of_another_workspace_is_refused(tmp_path, work):
    write(tmp_path, tmp_path / "elsewhere", [])
    journal, told = opened(tmp_path, work)
    assert "is of the directory" in told[0]
    journal.close()


def test_an_undo_planned_by_somebody_else_writes_only_below_the_workspace(tmp_path, work):
    outside = tmp_path / "outside"
    outside.mkdir()
    (work / "out").symlink_to(outside)
    plan = [["out/evil", None, FILE], [".git", None, ["l", *FILE[1:-1], "/etc"]], ["fine", None, FILE]]
    write(tmp_path, work, [BEGIN | {"kind": "undo"}, {"type": "plan", "step": 1, "items": plan}])
    journal, _ = opened(tmp_path, work)
    assert os.listdir(outside) == []
    assert sorted(os.listdir(work)) == ["fine", "one", "out"]
    journal.close()


def test_a_wrong_byte_anywhere_is_told_and_the_workspace_stays(tmp_path, work):
    journal, _ = opened(tmp_path, work)
    for n in range(3):
        journal.begin(f"step {n}")
        shell(work, f"echo {n} > one; mkdir d{n}")
        journal.finish()
    journal.close()
    records, rng = tmp_path / "journal/records", random.Random(1)
    data, before = records.read_bytes(), tree_of(work)
    for _ in range(40):
        at = rng.randrange(len(data) - 1)
        records.write_bytes(data[:at] + bytes([data[at] ^ (1 + rng.randrange(255))]) + data[at + 1 :])
        journal, told = opened(tmp_path, work)
        assert any("moved to" in text for text in told)
        assert tree_of(work) == before
        journal.close()


def test_a_last_line_that_a_kill_cut_is_dropped(tmp_path, work):
    journal, _ = opened(tmp_path, work)
    journal.begin("step")
    shell(work, "echo 2 > one")
    journal.finish()
    journal.close()
    with open(tmp_path / "journal/records", "ab") as file:
        file.write(b"0123 {")
    journal, told = opened(tmp_path, work)
    journal.undo()
    journal.close()
    journal, told_again = opened(tmp_path, work)
    assert told + told_again == []
    assert (work / "one").read_text() == "1"
    journal.close()


@pytest.mark.parametrize("damage", ["other bytes", "gone", "a link"])
def test_a_damaged_content_is_told_and_not_restored(tmp_path, work, damage):
    journal, _ = opened(tmp_path, work)
    journal.begin("step")
    shell(work, "echo 2 > one")
    journal.finish()
    digest = hashlib.sha256(b"1").hexdigest()
    kept = tmp_path / "journal/contents" / digest[:2] / digest[2:]
    kept.unlink()
    if damage == "other bytes":
        kept.write_bytes(b"2")
    elif damage == "a link":
        kept.symlink_to("/etc/passwd")
    outcome = journal.undo()
    assert [trouble.path for trouble in outcome.troubles] == ["one"]
    assert (work / "one").read_text() == "2\n"
    assert os.listdir(work) == ["one"]
    journal.close()


def test_a_journal_without_a_private_place_names_it(tmp_path, work):
    (tmp_path / "journal").write_text("")
    with pytest.raises(JournalError, match="journal"):
        Journal(tmp_path / "journal", work)
