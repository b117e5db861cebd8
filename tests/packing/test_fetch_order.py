"""In which order bytes are fetched, and how many wait at most."""

from __future__ import annotations

import pytest

from a3b.packing import fetch_order as module
from a3b.packing.fetch_order import CHUNK, fetch_order, largest_spill
from a3b.packing.intervals import Intervals
from a3b.packing.pieces import PackedPiece

MB = 16 * CHUNK


def piece(*reads: tuple[int, int, int]) -> PackedPiece:
    return PackedPiece(0, 0, 0, 1, "file", 0, 1, reads)


def covered(order: list[tuple[int, int, int]], sizes: list[int]) -> None:
    """Check that each byte is there once."""
    for file, size in enumerate(sizes):
        parts = sorted((start, stop) for f, start, stop in order if f == file)
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])] and parts[-1][1] == size


def test_files_come_one_after_the_other_from_their_first_byte_on():
    sizes = [3 * MB, 2 * MB + 5]
    assert fetch_order(sizes, [piece((0, 0, MB)), piece((1, MB, 2 * MB))]) == [(0, 0, 3 * MB), (1, 0, 2 * MB + 5)]


def test_an_empty_file_is_no_range():
    assert fetch_order([0, MB], []) == [(1, 0, MB)]


def test_a_scale_that_would_come_much_later_is_fetched_ahead_of_its_file():
    sizes = [200 * MB, 100 * MB]
    far, near = (1, 50 * MB, 50 * MB + 100), (0, 100 * MB, 100 * MB + 100)
    order = fetch_order(sizes, [piece((0, 0, MB), far), piece((0, 90 * MB, 91 * MB), near)])
    assert order[:2] == [(1, 50 * MB, 50 * MB + CHUNK), (0, 0, 200 * MB)]
    covered(order, sizes)


def test_scales_that_lie_close_together_are_fetched_in_one_range():
    sizes = [100 * MB, 100 * MB]
    pieces = [
        piece((0, i * MB, (i + 1) * MB), (1, 90 * MB + i * 4 * CHUNK, 90 * MB + i * 4 * CHUNK + 9)) for i in range(20)
    ]
    order = fetch_order(sizes, pieces)
    assert order[0] == (1, 90 * MB, 90 * MB + 19 * 4 * CHUNK + CHUNK)
    covered(order, sizes)


def test_pieces_that_need_one_place_let_nothing_wait():
    pieces = [piece((0, i * MB, (i + 1) * MB)) for i in range(50)]
    assert largest_spill([50 * MB], pieces, []) <= 2 * MB


def test_what_is_needed_until_the_end_waits_until_then():
    pieces = [piece((0, i * MB, (i + 1) * MB)) for i in range(10, 50)]
    assert 10 * MB <= largest_spill([50 * MB], pieces, [(0, 0, 10 * MB)]) <= 12 * MB


def test_partners_at_both_ends_wait_for_each_other(monkeypatch):
    pieces = [piece((0, i * MB, (i + 1) * MB), (0, (99 - i) * MB, (100 - i) * MB)) for i in range(50)]
    assert 49 * MB <= largest_spill([100 * MB], pieces, []) <= 52 * MB


@pytest.mark.parametrize("near", [0, module.NEAR])
def test_scales_in_another_file_cost_no_more_than_themselves(monkeypatch, near):
    monkeypatch.setattr(module, "NEAR", near)
    sizes = [400 * MB, 10 * MB]
    pieces = [piece((0, i * MB, (i + 1) * MB), (1, i * 100, (i + 1) * 100)) for i in range(400)]
    assert largest_spill(sizes, pieces, []) <= 3 * MB


def test_intervals_join_where_they_touch_and_tell_what_is_missing():
    found = Intervals([(0, 3), (5, 8), (10, 12)])
    assert found.missing(0, 14) == [(3, 5), (8, 10), (12, 14)]
    assert found.missing(6, 7) == [] and found.missing(4, 6) == [(4, 5)]
    assert found.end_of(0) == 3 and found.end_of(3) == 3 and found.end_of(6) == 8
    assert found.add(3, 5) == (0, 8) and list(found) == [(0, 8), (10, 12)]
    assert found.add(2, 11) == (0, 12) and found.total == 12


def test_intervals_are_a_set_of_numbers_whatever_order_they_come_in():
    import random

    rng = random.Random(3)
    for _ in range(200):
        pairs = [(start, start + rng.randint(1, 6)) for start in (rng.randint(0, 40) for _ in range(8))]
        found, numbers = Intervals(pairs), {n for start, stop in pairs for n in range(start, stop)}
        assert {n for start, stop in found for n in range(start, stop)} == numbers and found.total == len(numbers)
        assert all(stop < start for (_, stop), (start, _) in zip(list(found), list(found)[1:], strict=False))
        missing = {n for start, stop in found.missing(5, 30) for n in range(start, stop)}
        assert missing == set(range(5, 30)) - numbers
