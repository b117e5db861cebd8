"""Which nodes and records are evicted from a full disk, and whose they are."""

from __future__ import annotations

import pytest

from a3b.cache.disk_index import Index
from a3b.cache.disk_store import DAY
from a3b.cache.identity import path_hash, root_id
from a3b.cache.index_rows import Row, row_of
from tests.support.cached_states import IDENTITY, numbers


def make_row(
    namespace: str, num: int, last_used: int, parent: Row | None = None, size: int = 100, state: int = 50, kind="turn"
) -> Row:
    root = root_id(IDENTITY, namespace)
    tokens = numbers(10, seed=num)
    data = b"".join(int(token).to_bytes(4, "little") for token in tokens)
    total = path_hash(root)
    ids = data if parent is None else PATHS[parent.id] + data
    total.update(ids)
    PATHS[total.digest()] = ids
    return Row(
        total.digest(),
        parent.id if parent else root,
        root,
        IDENTITY,
        namespace,
        kind,
        "",
        parent.num_tokens if parent else 0,
        data,
        0,
        size,
        state,
        b"",
        b"",
        True,
        last_used,
    )


PATHS: dict[bytes, bytes] = {}


@pytest.fixture
def empty(tmp_path):
    index = Index.open(tmp_path)
    yield index
    index.close()


def put(index: Index, *rows: Row) -> None:
    with index.transaction():
        for row in rows:
            assert (
                row_of((*(v.encode() if isinstance(v, str) else v for v in row.sealed), row.seal, 1, row.last_used))
                == row
            )
            index.add(row)


def left(index: Index, namespace: str) -> int:
    return sum(row.num_bytes for row in index.rows()[0] if row.namespace == namespace)


def test_what_an_end_grew_from_keeps_its_state_longest(empty):
    chain = [make_row("a", 0, 10)]
    for num in range(1, 5):
        chain.append(make_row("a", num, 10, chain[-1]))
    put(empty, *chain)
    gone, thinned = empty.shrink(5 * 150 - 150, now=20)
    assert gone == set() and thinned == {row.id for row in chain[:3]}
    gone, thinned = empty.shrink(5 * 150 - 151, now=20)
    assert (gone, thinned) == ({chain[4].id}, set())


def row_chain(*last_used: int, kind: str = "turn", seed: int = 0, after: Row | None = None) -> list[Row]:
    """Rows of 150 bytes, each the parent of the next; 50 of them are the state. kind: of the first."""
    rows: list[Row] = []
    for i, used in enumerate(last_used):
        rows.append(make_row("a", seed + i, used, rows[-1] if rows else after, kind="turn" if rows else kind))
    return rows


def test_the_state_of_a_system_prompt_outlives_ends(empty):
    chain = row_chain(10, 10, 10, kind="system")
    put(empty, *chain)
    assert empty.shrink(3 * 150 - 1, now=20) == ({chain[2].id}, set())


def test_the_state_of_a_fork_outlives_ends(empty):
    (fork,) = row_chain(10)
    old, new = row_chain(5, 5, seed=10, after=fork), row_chain(10, 10, seed=20, after=fork)
    put(empty, fork, *old, *new)
    assert empty.shrink(5 * 150 - 1, now=20) == ({old[1].id}, set())


def test_states_used_longest_ago_go_first_however_much_came_before_them(empty):
    old, new = row_chain(5, 5, 5, 5), row_chain(9, 9, 9, 9, seed=10)
    put(empty, *old, *new)
    assert empty.shrink(8 * 150 - 100, now=20) == (set(), {old[0].id, old[1].id})


def test_what_is_useless_without_an_end_is_dropped_with_it_however_recently_used(empty):
    """The first two rows have no state any more, so without the last two nothing can start in that conversation."""
    old, other = row_chain(10, 10, 4, 4), row_chain(5, 5, seed=10)
    put(empty, *old, *other)
    assert empty.shrink(6 * 150 - 2 * 50 - 2 * 150 + 20, now=20) == ({row.id for row in old}, set())


def test_a_session_ends_at_its_system_prompt_and_at_a_fork(empty):
    (system,) = row_chain(10, kind="system")
    fork, one, other = (row_chain(10, seed=seed, after=system) for seed in (10, 20, 30))
    fork += row_chain(10, seed=40, after=fork[0])
    one = row_chain(10, 10, seed=50, after=fork[1])
    other = row_chain(10, seed=60, after=fork[1])
    put(empty, system, *fork, *one, *other)
    assert empty.session(one[1].id) == {row.id for row in one}
    put(empty, *one)
    empty.remove([other[0].id])
    assert empty.session(one[1].id) == empty.session(fork[1].id) == {row.id for row in (*fork, *one)}


def test_one_key_alone_may_fill_the_disk(empty):
    put(empty, *(make_row("a", num, num) for num in range(10)))
    empty.shrink(1200, now=20)
    assert left(empty, "a") == 1200


@pytest.mark.parametrize("flood_is_newer", [True, False])
def test_a_key_that_floods_the_disk_takes_nothing_within_the_share_of_another(empty, flood_is_newer):
    put(empty, *(make_row("quiet", num, 10) for num in range(4)))
    for num in range(100, 140):
        put(empty, make_row("flood", num, 11 + num if flood_is_newer else 5))
        empty.shrink(1500, now=200)
        assert left(empty, "quiet") == 600
    assert left(empty, "flood") == 900  # what the other leaves


def test_a_key_beyond_its_share_gives_only_what_is_beyond(empty):
    put(empty, *(make_row("first", num, num) for num in range(10)))
    for num in range(100, 140):
        put(empty, make_row("flood", num, num))
        empty.shrink(1500, now=200)
    assert left(empty, "first") == left(empty, "flood") == 750


def test_of_a_thousand_keys_the_last_ones_used_keep_something(empty):
    for num in range(100):
        put(empty, make_row(f"key {num}", num, num))
        empty.shrink(1500, now=200)
    assert [num for num in range(100) if left(empty, f"key {num}")] == list(range(90, 100))


def test_a_key_that_was_not_used_for_a_week_makes_room_first(empty):
    put(empty, *(make_row("idle", num, 10) for num in range(4)))
    put(empty, *(make_row("busy", num, 10 + 8 * DAY) for num in range(100, 110)))
    empty.shrink(1500, now=10 + 8 * DAY)
    assert (left(empty, "idle"), left(empty, "busy")) == (0, 1500)


def test_a_key_that_floods_records_takes_none_of_another(empty, monkeypatch):
    monkeypatch.setattr("a3b.cache.index_records.MAX_RECORDS", 40)
    monkeypatch.setattr("a3b.cache.index_records.RECORDS_BYTES", 4000)
    for num in range(15):
        empty.records.put("quiet", b"%d" % num, b"x" * 10, None, num)
    for num in range(200):
        empty.records.put("flood", b"%d" % num, b"y" * (10 if num < 100 else 500), None, 20 + num)
        assert len(empty.records.get("quiet")) == 15
        assert empty.records.get("flood")[-1][0] == b"%d" % num
    assert empty.records.get("quiet")[0] == (b"0", b"x" * 10) and len(empty.records.get("flood")) > 3


def test_of_many_keys_each_keeps_its_newest_record(empty, monkeypatch):
    monkeypatch.setattr("a3b.cache.index_records.RECORDS_BYTES", 1000)
    for num in range(9):
        for i in range(3):
            empty.records.put(f"key {num}", b"%d" % i, b"x" * 100, None, num)
    assert [empty.records.get(f"key {num}")[-1][0] for num in range(9)] == [b"2"] * 9
