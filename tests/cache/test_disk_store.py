"""The disk below the prefix tree: what is written, shared, kept within bounds and forgotten."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from a3b.cache import disk_store as store_module
from a3b.cache import node_files
from a3b.cache.disk_store import DAY, Store
from a3b.cache.index_checks import verify
from a3b.cli import main
from a3b.errors import StoreError
from a3b.kernels import kv
from a3b.model.state import SEGMENT_LEN
from tests.support.cached_states import content, feed, numbers, reached, snapshot
from tests.support.session_stores import STOPS, cache_of, cache_rows, cold, fill, forget, reused


def test_everything_is_there_after_reopening(copied):
    directory, ids, fork = copied
    with Store(directory) as store:
        assert [reused(store, ids[:n]) for n in (39, *STOPS)] == [0, *STOPS]
        assert (reused(store, fork), reused(store, fork[:200])) == (228, 150)
        assert store.get_records("n", b"turn") == [b"ids of a turn"]
        assert (store.trouble, store.notices) == (None, [])


def test_only_pages_that_the_parent_lacks_are_written(copied):
    directory, ids, _ = copied
    with Store(directory) as store:
        rows = {row.num_tokens: row for row in cache_rows(store) if row.num_tokens in STOPS and row.id.hex()}
        page = rows[40].kv_bytes
        assert [rows[n].kv_bytes // page for n in STOPS] == [1, 2, 1, 3, 3]


def test_the_end_of_an_answer_gives_its_state_up_for_what_follows_right_after_it(tmp_path):
    ids = numbers(50)
    with Store(tmp_path) as store:
        fill(store, ids, [40, 43], kind="end")
        assert {row.num_tokens: row.has_state for row in cache_rows(store)} == {40: False, 43: True}


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 1), (0, 2)])
def test_full_segments_of_a_relative_in_memory_are_shared_not_read(tmp_path, order):
    ids = numbers(SEGMENT_LEN + 200)
    talks = [ids[: SEGMENT_LEN + 50], ids, ids[: SEGMENT_LEN + 100] + numbers(30, seed=3)]
    with Store(tmp_path) as store:
        fill(store, ids, [SEGMENT_LEN, SEGMENT_LEN + 50, SEGMENT_LEN + 200])
        fill(store, talks[2], [SEGMENT_LEN + 130])
    with Store(tmp_path) as store:
        cache = cache_of(store, 1 << 40)
        states = [cache.sync("n", [*talks[i], 1]).state for i in order]
        for i, state in zip(order, states, strict=True):
            assert content(state) == cold(tuple(talks[i]))
        first, second = (state.segments(0) for state in states)
        assert np.shares_memory(first[0][0], second[0][0]) and not np.shares_memory(first[1][0], second[1][0])
        exact = cache.sync("n", talks[0][: SEGMENT_LEN + 1])
        assert exact.reused == SEGMENT_LEN and content(feed(exact.state, talks[0][SEGMENT_LEN:])) == cold(
            tuple(talks[0])
        )
        assert [content(state) for state in states] == [cold(tuple(talks[i])) for i in order]


def test_files_do_not_depend_on_what_a_sequence_writes_meanwhile(tmp_path):
    ids, files = numbers(100), []
    for ahead in (0, 20):
        directory = tmp_path / str(ahead)
        state = reached(ids)
        taken = state.snapshot()
        feed(state, numbers(ahead, seed=9))  # into the same page
        with Store(directory) as store:
            cache_of(store).add("n", ids, taken, "turn")
            store.flush()
        files.append({p.name: p.read_bytes() for p in (directory / "data").iterdir()})
    assert files[0] == files[1] and len(files[0]) == 2


@pytest.mark.parametrize("kind", kv.KV_TYPES)
@pytest.mark.parametrize("Dh", [24, 64, 80, 256])
@pytest.mark.parametrize("used", [1, 15, 16, 33, 63])
def test_a_cleared_page_is_one_that_was_never_written_further(kind, Dh, used):
    rows = np.random.default_rng(Dh).standard_normal((64, 2, Dh)).astype(np.float32)
    whole, part = ([np.zeros((1, 2, num), np.uint8) for num in kv.page_bytes(kind, Dh)] for _ in range(2))
    kv.store(kind, *whole, 0, rows, -rows)
    kv.store(kind, *part, 0, rows[:used], -rows[:used])
    kv.clear(kind, whole[0][0], whole[1][0], used)
    for found, expected in zip(whole, part, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_old_sessions_expire_when_opened_and_while_open(tmp_path):
    now, old, new = [1e9], numbers(100), numbers(100, seed=1)
    with Store(tmp_path, clock=lambda: now[0]) as store:
        fill(store, old, [50, 100])
        store.put_record("n", b"k", b"old")
        now[0] += 20 * DAY
        fill(store, new, [50, 100])
        assert reused(store, new) == 100
        store.put_record("n", b"k", b"new")
        now[0] += 11 * DAY
        cache = cache_of(store, 1 << 30)
        cache.add("n", old[:50], snapshot(old[:50]), "turn")
        store._used.clear()
        store.expire()
        assert cache.sync("n", [*old, 1]).miss == "new" and cache.sync("n", [*new, 1]).reused == 100
        assert store.get_records("n", b"k") == [b"new"]
        now[0] += 20 * DAY  # used above, so not expired yet
        store.expire()
        assert reused(store, new) == 100
        now[0] += 31 * DAY
    with Store(tmp_path, clock=lambda: now[0]) as store:
        assert store.num_bytes == 0 and reused(store, new) == 0


def test_what_an_unexpired_session_grew_from_does_not_expire(tmp_path):
    now, ids = [1e9], numbers(100)
    with Store(tmp_path, clock=lambda: now[0]) as store:
        fill(store, ids, [50])
        now[0] += 20 * DAY
        fill(store, ids, [100])
        now[0] += 15 * DAY
    with Store(tmp_path, clock=lambda: now[0]) as store:
        assert reused(store, ids) == 100


def test_the_disk_stays_within_its_budget_and_oldest_ends_go_first(tmp_path):
    now, talks = [1e9], [numbers(300, seed=seed) for seed in range(6)]
    with Store(tmp_path, clock=lambda: now[0]) as store:
        fill(store, talks[0], [50, 100, 150, 200, 300])
        one = store.num_bytes
    with Store(tmp_path / "small", 3 * one, clock=lambda: now[0]) as store:
        for ids in talks:
            now[0] += 60
            fill(store, ids, [50, 100, 150, 200, 300])
            assert store.num_bytes <= 3 * one
            assert sum(p.stat().st_size for p in (store.directory / "data").iterdir()) == store.num_bytes
        found = [reused(store, ids) for ids in talks]
        assert found[0] == 0 and found[-3:] == [300, 300, 300]
        assert store.trouble is None
        fill(store, numbers(20_000, seed=9), [20_000])  # alone beyond the budget
        assert reused(store, talks[-1]) == 300


def test_a_store_that_is_opened_with_a_smaller_budget_shrinks_to_it(tmp_path):
    now, talks = [1e9], [numbers(300, seed=seed) for seed in range(3)]
    with Store(tmp_path, clock=lambda: now[0]) as store:
        for ids in talks:
            now[0] += 60
            fill(store, ids, [100, 300])
        whole = store.num_bytes
    with Store(tmp_path, whole // 2, clock=lambda: now[0]) as store:
        assert 0 < store.num_bytes <= whole // 2
        assert reused(store, talks[0]) == 0 and reused(store, talks[2]) == 300


def test_records_belong_to_a_namespace_a_key_and_a_node(copied, monkeypatch):
    directory, ids, _ = copied
    with Store(directory) as store:
        node = cache_of(store).add("n", ids, snapshot(ids), "turn")
        for value in (b"a", b"b", b"a"):
            store.put_record("n", b"k", value, node)
        store.put_record("m", b"k", b"c")
        assert store.get_records("n", b"k") == [b"b", b"a"] and store.get_records("m", b"k") == [b"c"]
        assert store.records("n") == [(b"turn", b"ids of a turn"), (b"k", b"b"), (b"k", b"a")]
        assert node in forget(directory, node)
        assert store.get_records("n", b"k") == [] and len(store.records("n")) == 1
        with pytest.raises(StoreError, match="at most 4194304"):
            store.put_record("n", b"k", bytes((4 << 20) + 1))
        monkeypatch.setattr("a3b.cache.index_records.MAX_RECORDS", 10)
        for i in range(30):
            store.put_record("n", b"many", b"%d" % i)
        assert len(store.records("n")) <= 10 and store.get_records("n", b"many")[-1] == b"29"


def test_what_another_process_forgets_is_gone_from_memory_too(copied, capsys):
    directory, ids, fork = copied
    with Store(directory) as store:
        cache = cache_of(store, 1 << 30)
        leaf = cache.add("n", ids, snapshot(ids), "turn")
        longer = ids + numbers(40, seed=5)
        assert cache.sync("n", fork + [1]).reused == 228
        cache.add("n", longer, snapshot(longer), "turn", persist=False)
        assert main(["cache", "forget", leaf.hex()[:8], "--dir", str(directory)]) == 0
        assert "2 entries forgotten" in capsys.readouterr().out
        assert cache.sync("n", longer).reused == 128 and cache.sync("n", fork + [1]).reused == 228
        assert main(["cache", "forget", "--all", "--dir", str(directory)]) == 0
        assert (cache.sync("n", longer).miss, cache.sync("n", fork).miss) == ("new", "new")
        assert cache.stats().ram_bytes == store.num_bytes == 0 and store.records("n") == []


def test_a_node_forgotten_while_it_waits_is_not_written(tmp_path, monkeypatch):
    ids, gate, real = numbers(200), threading.Event(), node_files.write_kv

    def slow(*args):
        assert gate.wait(10)
        return real(*args)

    monkeypatch.setattr(node_files, "write_kv", slow)
    with Store(tmp_path) as store:
        cache = cache_of(store, 1 << 30)
        for n in (50, 100, 200):
            cache.add("n", ids[:n], snapshot(ids[:n]), "turn")
        cache.clear()
        gate.set()
        assert store.flush() and cache.sync("n", ids).miss == "new"
        cache.add("n", [1, 2], snapshot([1, 2]), "turn")
        assert store.flush() and len(list((tmp_path / "data").iterdir())) == 2


def test_what_another_process_forgets_does_not_come_back_from_the_queue(copied, monkeypatch, capsys):
    directory, ids, _ = copied
    gate, real = threading.Event(), node_files.write_kv

    def slow(*args):
        assert gate.wait(10)
        return real(*args)

    with Store(directory) as store:
        monkeypatch.setattr(node_files, "write_kv", slow)
        cache, longer = cache_of(store, 1 << 30), ids + numbers(40, seed=5)
        cache.add("n", longer, snapshot(longer), "turn")
        leaf = cache.add("n", ids, snapshot(ids), "turn")
        assert main(["cache", "forget", leaf.hex(), "--dir", str(directory)]) == 0
        gate.set()
        assert store.flush() and cache.sync("n", [*longer, 1]).reused == 128
        assert verify(store._index) == [] and not [p for p in (directory / "data").iterdir() if p.suffix == ".part"]


def test_a_full_queue_leaves_nodes_in_memory_only(tmp_path, monkeypatch):
    gate, real = threading.Event(), node_files.write_kv

    def slow(*args):
        assert gate.wait(10)
        return real(*args)

    monkeypatch.setattr(node_files, "write_kv", slow)
    monkeypatch.setattr(store_module, "QUEUE_LEN", 2)
    with Store(tmp_path) as store:
        cache, ids = cache_of(store, 1 << 30), numbers(100)
        for n in range(10, 101, 10):
            cache.add("n", ids[:n], snapshot(ids[:n]), "turn")
        gate.set()
        assert store.flush() and cache.sync("n", [*ids, 1]).reused == 100
        cache.add("n", ids, snapshot(ids), "turn")
        store.flush()
    with Store(tmp_path) as store:
        assert reused(store, ids) == 100
