"""Weights move into huge pages while they are read, and readers see the same bytes throughout."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest

from a3b.formats.mapped import map_file
from a3b.kernels import _native, huge_pages
from a3b.kernels.huge_pages import HugePages


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages, "PIECE", 2 * _native.HUGE_PAGE)
    monkeypatch.setattr(huge_pages, "LEAST_GAIN", 0.0)
    data = np.random.default_rng(0).integers(0, 256, 13 * _native.HUGE_PAGE + 4321, dtype=np.uint8)
    path = tmp_path / "weights"
    data.tofile(path)
    return path, data, np.frombuffer(map_file(path, "weights", 1), np.uint8)


@pytest.mark.slow
def test_bytes_and_addresses_stay_while_others_read(mapped):
    path, data, view = mapped
    wrong, done = [], threading.Event()

    def reader():
        while not done.is_set():
            if not np.array_equal(view, data):
                wrong.append(True)

    thread = threading.Thread(target=reader)
    thread.start()
    address = view.ctypes.data
    mover = HugePages([(path, view)], lambda piece: piece.sum()).start()
    mover.wait()
    done.set()
    thread.join()
    assert not wrong and np.array_equal(view, data) and view.ctypes.data == address
    assert mover.error == 0 and mover.gain is not None
    assert 12 * _native.HUGE_PAGE <= mover.moved_bytes <= 13 * _native.HUGE_PAGE  # the ends share a page with others
    with pytest.raises(ValueError):
        view[:1] = 0  # still read-only


def test_nothing_more_is_moved_if_the_judging_pieces_read_no_faster(mapped, monkeypatch):
    path, data, view = mapped
    monkeypatch.setattr(huge_pages, "LEAST_GAIN", 1e9)
    mover = HugePages([(path, view)], lambda piece: piece.sum()).start()
    mover.wait()
    assert mover.moved_bytes == huge_pages.JUDGED * huge_pages.PIECE and np.array_equal(view, data)


def resident_bytes(view: np.ndarray) -> int:
    """Of the mapping, in the page tables of this process."""
    resident = counts = 0
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, stop = (int(part, 16) for part in match.groups())
            counts = start < view.ctypes.data + view.size and stop > view.ctypes.data
        elif counts and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return resident


def test_what_is_not_worth_moving_is_brought_in(mapped, monkeypatch):
    path, data, view = mapped
    monkeypatch.setattr(huge_pages, "LEAST_GAIN", 1e9)
    monkeypatch.setattr(huge_pages, "JUDGED", 1)
    ready = threading.Event()

    def read(piece):
        ready.set()
        return piece.sum()

    before = resident_bytes(view)
    mover = HugePages([(path, view)], read).start()
    mover.wait()
    assert ready.is_set() and mover.moved_bytes == huge_pages.PIECE
    assert before < 2 * _native.HUGE_PAGE and resident_bytes(view) >= 12 * _native.HUGE_PAGE


def test_one_piece_does_not_judge_for_the_rest(mapped, monkeypatch):
    """The first pages of a file may be huge already, so that moving them gains nothing."""
    path, data, view = mapped
    monkeypatch.setattr(huge_pages, "LEAST_GAIN", 1.02)
    times, first = iter([2.0, 1.0] * huge_pages.JUDGED), view.ctypes.data + huge_pages.PIECE
    monkeypatch.setattr(HugePages, "_read_s", lambda self, piece: 1.0 if piece.ctypes.data < first else next(times))
    mover = HugePages([(path, view)], None).start()
    mover.wait()
    assert mover.gain == 2.0 and mover.moved_bytes >= 12 * _native.HUGE_PAGE and np.array_equal(view, data)


def test_no_more_is_moved_than_memory_has_room_for(mapped):
    path, data, view = mapped
    mover = HugePages([(path, view)], lambda piece: piece.sum())
    mover.most_bytes = 5 * _native.HUGE_PAGE + 99
    mover.start().wait()
    assert mover.moved_bytes == 5 * _native.HUGE_PAGE and mover.error == 0 and np.array_equal(view, data)


def test_a_file_of_less_than_a_huge_page_stays_where_it_is(tmp_path):
    data = np.arange(9999, dtype=np.uint8)
    data.tofile(tmp_path / "weights")
    mover = HugePages([(tmp_path / "weights", data)], lambda piece: piece.sum())
    mover._run()
    assert (mover.moved_bytes, mover.error, mover.gain) == (0, 0, None)


def test_stopping_leaves_every_byte_in_its_place(mapped):
    path, data, view = mapped
    mover = HugePages([(path, view)], lambda piece: piece.sum()).start()
    mover.stop()
    assert np.array_equal(view, data)


@pytest.mark.parametrize(("address", "size"), [(1, _native.HUGE_PAGE), (_native.HUGE_PAGE, 5), (_native.HUGE_PAGE, 0)])
def test_what_is_no_whole_huge_page_is_refused(address, size):
    with pytest.raises(ValueError, match="no multiple of a huge page"):
        _native.to_huge_pages(address, size, 0, 0)
    with pytest.raises(ValueError, match="no multiple of a huge page"):
        _native.populate(address, size)


def test_a_file_that_became_shorter_changes_nothing(mapped):
    """Such a file cannot be read through its mapping either; what counts is that the process survives and gets an
    error."""
    path, data, view = mapped
    with open(path, "r+b") as file:
        file.truncate(5 * _native.HUGE_PAGE)
        start = -view.ctypes.data % _native.HUGE_PAGE
        at = start + 4 * _native.HUGE_PAGE
        assert _native.to_huge_pages(view.ctypes.data + at, 2 * _native.HUGE_PAGE, file.fileno(), at) != 0
        assert np.array_equal(view[: 4 * _native.HUGE_PAGE], data[: 4 * _native.HUGE_PAGE])
