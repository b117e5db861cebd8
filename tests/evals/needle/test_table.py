"""Scores by depth and length, as text and as a picture; records of any origin."""

from __future__ import annotations

import sys

import pytest

from a3b.evals.benchmarks.needle.table import PICTURE, by_cell, draw, finish, table
from a3b.evals.records import CaseRecord, RecordFile
from a3b.evals.runs import RunDirectory


def record(kind, length, depth, score, number=0):
    facts = {"kind": kind, "length": length, "depth": depth}
    return CaseRecord(
        f"{kind}-{length}-{depth}-{number}", 1, 0, score, "" if score is not None else "broke", facts=facts
    )


def run_of(path, records):
    """A run's directory with these records."""
    path.mkdir()
    found = RunDirectory(path, {})
    file = RecordFile(found.cases_file)
    for one in records:
        file.add(one)
    file.close()
    return found


RECORDS = [
    record("exact", 1024, 0, 1.0),
    record("exact", 1024, 0, 0.0, 1),
    record("exact", 1024, 100, 1.0),
    record("exact", 512, 0, 1.0),
    record("exact", 512, 100, None),
    record("several", 512, 0, 0.25),
]


def test_a_line_for_each_length_and_a_column_for_each_depth():
    lines = table(RECORDS)
    assert lines[1].split() == ["exact", "0", "%", "100", "%", "all", "cases"]
    assert lines[2].split() == ["512", "100%", "-", "100%", "1"]
    assert lines[3].split() == ["1,024", "50%", "100%", "67%", "3"]
    assert lines[5].split()[0] == "several" and lines[6].split() == ["512", "25%", "25%", "1"]


def test_records_without_the_facts_are_left_out():
    wrong = [
        CaseRecord("a", 1, 0, 1.0),
        CaseRecord("b", 1, 0, 1.0, facts={"kind": "exact", "length": "512", "depth": 0}),
        CaseRecord("c", 1, 0, 1.0, facts={"kind": "exact", "length": True, "depth": 0}),
        CaseRecord("d", 1, 0, 1.0, facts={"kind": "\x1b[2J", "length": 512, "depth": 0}),
        CaseRecord("e", 1, 0, 1.0, facts={"kind": ["exact"], "length": 512, "depth": 0}),
    ]
    assert by_cell(wrong) == {} and table(wrong) == []


def test_without_matplotlib_the_table_stays_and_says_how_to_get_the_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    lines = finish(run_of(tmp_path / "a", RECORDS))
    assert lines[:-2] == table(RECORDS) and "pip install 'a3b[bench]'" in lines[-1]
    assert finish(run_of(tmp_path / "b", [])) == []


def test_a_picture_is_drawn_of_several_runs_with_gaps(tmp_path):
    pytest.importorskip("matplotlib", reason="extra bench")
    draw([("native", RECORDS), ("YaRN", RECORDS[:3])], tmp_path / "two.png")
    assert (tmp_path / "two.png").read_bytes()[:4] == b"\x89PNG"
    run = run_of(tmp_path / "run", RECORDS)
    assert finish(run)[-1] == f"picture    {run.path / PICTURE}"
    assert (run.path / PICTURE).read_bytes()[:4] == b"\x89PNG"
    (run.path / PICTURE).unlink()
    (run.path / PICTURE).mkdir()  # nothing can be written there
    assert finish(run)[-1].startswith("picture    none: ")
