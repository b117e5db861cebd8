"""Long output is kept on disk, within bounds."""

from __future__ import annotations

import os
import random
import re
import tempfile

import pytest

from a3b.agent.tools import kept_output
from a3b.agent.tools.kept_output import HELD, KeptOutput, OutputRecord, sweep


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return KeptOutput()


def record_of(kept, text, size=1000):
    record = OutputRecord(kept)
    for i in range(0, len(text), size):
        record.add(text[i : i + size])
    record.close()
    return record


def test_short_output_makes_no_file(kept):
    record = record_of(kept, "a\nb\n")
    assert (record.text(), record.path) == ("a\nb", None)
    assert list(kept.directory.iterdir()) == []


@pytest.mark.parametrize("lines", [199, 200, 201, 5000, 40_000])
def test_long_output_is_all_in_the_file_and_its_ends_are_shown(kept, lines):
    text = "".join(f"line {i}\n" for i in range(lines))
    record = record_of(kept, text)
    shown = record.text().split("\n")
    assert shown[0] == "line 0" and shown[-1] == f"line {lines - 1}"
    if lines > 200:
        found = next(line for line in shown if line.startswith("[..."))
        assert found == f"[... {lines - 200:,} lines left out; all of it is in {record.path}]"
        assert record.path.read_text() == text


@pytest.mark.slow
def test_lines_left_out_are_counted_right_whatever_their_length(kept):
    rng = random.Random(1)
    for _ in range(30):
        text = "".join("x" * rng.choice([0, 5, 300, 3000, 70_000]) + "\n" for _ in range(rng.randrange(150, 400)))
        shown = record_of(kept, text, 5000).text().split("\n")
        left_out = next(re.search(r"([\d,]+) lines left out", line) for line in shown if line.startswith("[..."))
        assert int(left_out[1].replace(",", "")) + len(shown) - 1 == text.count("\n")


def test_one_line_of_megabytes_is_cut_and_kept(kept):
    record = record_of(kept, "x" * (3 * HELD), 10_000)
    first, last = record.text().split("\n")
    assert first.startswith("x" * 2000 + "[... ") and last == f"[long lines are cut; all of it is in {record.path}]"
    assert record.path.stat().st_size == 3 * HELD


def test_a_single_long_line_of_a_short_output_is_kept_too(kept):
    record = record_of(kept, "x" * 5000 + "\n")
    assert str(record.path) in record.text()
    assert record.path.read_text() == "x" * 5000 + "\n"


def test_a_file_does_not_grow_without_bound(kept, monkeypatch):
    monkeypatch.setattr(kept_output, "MAX_FILE", 50_000)
    record = record_of(kept, "x\n" * 100_000)
    assert record.path.stat().st_size < 50_100
    assert record.path.read_text().endswith("[more was printed and is not kept]\n")


def test_the_oldest_outputs_make_room(kept, monkeypatch):
    monkeypatch.setattr(kept_output, "MAX_FILE", 10_000)
    monkeypatch.setattr(kept_output, "MAX_ALL", 50_000)
    open_path, file = kept.new()
    file.close()
    paths = [kept.keep("x" * 9000) for _ in range(10)]
    assert sum(path.stat().st_size for path in kept.directory.iterdir()) <= 50_000
    assert open_path.exists() and paths[-1].exists() and not paths[0].exists()


def test_a_full_disk_is_no_trouble_but_for_the_file(kept, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "new", full)
    record = record_of(kept, "line\n" * 1000)
    assert "[... 800 lines left out]" in record.text()
    assert kept.cut("line\n" * 1000).count("left out") == 1


def test_a_result_of_another_tool_is_cut_and_kept(kept):
    assert kept.cut("a\nb") == "a\nb"
    text = kept.cut("a\n" * 1000)
    assert "all of it is in" in text
    assert (kept.directory / "1.txt").read_text() == "a\n" * 1000


def test_the_directory_is_private_and_goes_with_the_session(kept):
    assert kept.directory.stat().st_mode & 0o777 == 0o700
    kept.keep("x")
    kept.close()
    assert not kept.directory.exists()


def test_what_killed_sessions_left_is_swept_and_nothing_else(kept, tmp_path):
    dead = tmp_path / "a3b-output-4194999-abc"
    other = tmp_path / "a3b-output-x-4194999"
    link = tmp_path / "a3b-output-4194998-abc"
    dead.mkdir()
    other.mkdir()
    link.symlink_to(other)
    sweep()
    assert sorted(os.listdir(tmp_path)) == sorted([kept.directory.name, other.name, link.name])
