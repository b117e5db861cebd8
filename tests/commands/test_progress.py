"""A line of progress fits the terminal, and counts what is left of all the work."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from a3b.commands import progress
from a3b.commands.progress import Progress
from a3b.commands.streamed_pack import progress_line
from a3b.packing.conductor import StreamProgress

GB = 1_000_000_000
TASK = SimpleNamespace(download_bytes=40 * GB, packed_bytes=20 * GB)


def told(arrived: float, packed: float, seconds: float, first: tuple[float, float] = (0, 0)):
    """(text, share, seconds left) of a run that began with `first`, in GB."""
    begun, now = (StreamProgress(int(a * GB), int(b * GB)) for a, b in (first, (arrived, packed)))
    return progress_line(TASK, begun, now, seconds)


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_a_line_is_shorter_than_the_terminal_is_wide(columns, capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    Progress("fetching", 1).draw(*told(12.34, 5.67, 100))
    Progress("a file with a name of some length", 35_000)(12_345)
    shown = [line.replace("\x1b[K", "") for line in capsys.readouterr().err.split("\r") if line]
    assert len(shown) == 2 and all(len(line) < columns for line in shown)
    assert all(line.startswith("[") == (columns == 200) for line in shown) or columns == 80


def test_the_time_left_is_that_of_the_slower_of_fetching_and_packing():
    assert told(20, 5, 100)[2] == 300  # a quarter is packed
    assert told(10, 10, 100)[2] == 300  # a quarter is fetched


def test_when_all_is_fetched_the_time_left_is_that_of_packing():
    text, share, left = told(40, 15, 300)
    assert (left, share) == (100, 55 / 60)
    assert text == "fetched 40.00 GB, packed 15.00 of 20.00 GB"


def test_what_an_earlier_run_has_done_is_no_part_of_the_rates():
    text, _, left = told(30, 15, 100, first=(20, 10))
    assert left == 100 and "100.0 MB/s" in text


def test_before_anything_has_arrived_no_time_is_told():
    assert told(0, 0, 5)[2] is None and told(20, 10, 5, first=(20, 10))[2] is None
