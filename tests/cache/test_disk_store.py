"""The disk behind the prefix tree: whatever happens to files, index, disk and process, what it serves is what was
stored."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from a3b.cache import directory_lock, node_files
from a3b.cache import disk_store as store_module
from a3b.cache.disk_index import Index
from a3b.cache.disk_store import DAY, Store
from a3b.cache.index_checks import verify
from a3b.cache.index_database import INDEX
from a3b.cache.prefix_cache import PrefixCache
from a3b.cli import main
from a3b.errors import StoreError
from a3b.kernels import kv
from a3b.model.state import SEGMENT_LEN
from tests.support.cached_states import IDENTITY, content, feed, new_state, numbers, reached, snapshot
from tests.support.paths import ROOT

STOPS = [40, 100, 128, 300, 420]


def cache_of(store: Store, ram_bytes: int = 0) -> PrefixCache:
    return PrefixCache(IDENTITY, new_state, ram_bytes, store)


def fill(store: Store, ids: list[int], stops: list[int], namespace: str = "n", kind: str = "turn") -> list[bytes]:
    """Store the snapshots of a conversation; ids of nodes."""
    cache, state, out = cache_of(store), new_state(), []
    for stop in stops:
        feed(state, ids[state.num_tokens : stop])
        out.append(cache.add(namespace, ids[:stop], state.snapshot(), kind))
        assert store.flush()
    return out


def reused(store: Store, ids: list[int], namespace: str = "n") -> int:
    """Tokens restored for a prompt that goes on from `ids`, after a check of what they restored."""
    match = cache_of(store).sync(namespace, [*ids, 1])
    assert content(match.state) == cold(tuple(ids[: match.reused]))
    return match.reused


@cache
def cold(ids: tuple[int, ...]) -> str:
    return content(reached(ids))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What fsync adds counts when the power fails, which no test can do."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # hundreds of small stores wear a disk and wait for it


@pytest.fixture
def tmp_path():
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[Path, list[int], list[int]]]:
    """A directory with a conversation and a fork of it after 128 tokens."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield store_two(Path(directory))


def store_two(directory: Path) -> tuple[Path, list[int], list[int]]:
    ids = numbers(420)
    fork = ids[:128] + numbers(100, seed=1)
    with Store(directory) as store:
        fill(store, ids, STOPS)
        fill(store, fork, [128, 150, 228])
        store.put_record("n", b"turn", b"ids of a turn")
    return directory, ids, fork


@pytest.fixture
def copied(stored, tmp_path) -> tuple[Path, list[int], list[int]]:
    shutil.copytree(stored[0], tmp_path / "s")
    return tmp_path / "s", *stored[1:]


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


def cache_rows(store: Store):
    from a3b.cache.identity import root_id

    return store.rows(root_id(IDENTITY, "n"))


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


@pytest.mark.parametrize("seed", range(12))
def test_a_wrong_byte_in_a_file_is_never_served(copied, seed):
    directory, ids, fork = copied
    rng = random.Random(seed)
    path = rng.choice(sorted((directory / "data").iterdir()))
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    with Store(directory) as store:
        path.write_bytes(data)
        row = next(row for row in cache_rows(store) if row.id.hex() == path.stem)
        hit = ids if tuple(ids[: row.num_tokens])[row.start :] == tuple(row.ids) else fork
        for asked in (ids, fork):
            assert reused(store, asked) <= len(asked)  # `reused` compares every number
        if hit[: row.num_tokens] == hit:
            assert reused(store, hit) < row.num_tokens
        wrong = verify(store._index)
        assert wrong == [] or path.stem[:12] in wrong[0]
        assert verify(store._index) == []
        fill(store, ids, STOPS)
        fill(store, fork, [128, 150, 228])
        assert (reused(store, ids), reused(store, fork)) == (420, 228)


@pytest.mark.parametrize("size", [0, 1, -1, "more", None])
@pytest.mark.parametrize("kind", ["kv", "state"])
def test_files_of_another_length_are_noticed_on_opening_and_while_open(copied, size, kind):
    directory, ids, fork = copied
    paths = [p for p in (directory / "data").iterdir() if p.suffix == f".{kind}"]

    def damage():
        for path in paths:
            if path.exists():
                data = path.read_bytes()
                path.unlink() if size is None else path.write_bytes(data + b"x" if size == "more" else data[:size])

    with Store(directory) as store:
        damage()
        assert (reused(store, ids), reused(store, fork)) == (0, 0)
    with Store(directory) as store:
        damage()
    with Store(directory) as store:
        assert (reused(store, ids), reused(store, fork)) == (0, 0)
        assert store.trouble is None


@pytest.mark.parametrize("seed", range(40))
def test_wrong_bytes_in_the_index_are_never_believed(copied, seed):
    directory, ids, fork = copied
    path = directory / INDEX
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(rng.choice([1, 1, 1, 8, 64])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data[: rng.randrange(len(data))] if seed % 10 == 0 else data)
    with Store(directory) as store:
        for asked in (ids, fork):
            assert reused(store, asked) in (0, *STOPS, 150, 228)
        assert store.records("n") in ([], [(b"turn", b"ids of a turn")])
        fill(store, ids, STOPS)
        assert reused(store, ids) == 420, store.notices
        assert store.trouble is None or store.notices


def test_every_column_of_a_row_is_checked(stored, tmp_path):
    columns = (
        "id",
        "parent",
        "root",
        "identity",
        "namespace",
        "kind",
        "label",
        "start",
        "tokens",
        "created",
        "kv_bytes",
        "state_bytes",
        "kv_sums",
        "state_sums",
        "seal",
    )
    for column in columns:
        for number, value in enumerate((b"\0" * 16, 7 if column != "start" else "x")):
            directory = tmp_path / f"{column}-{number}"
            shutil.copytree(stored[0], directory)
            with sqlite3.connect(directory / INDEX) as db:
                (rowid,) = db.execute("SELECT rowid FROM node ORDER BY start LIMIT 1 OFFSET 1").fetchone()
                db.execute(f"UPDATE node SET {column} = ? WHERE rowid = ?", (value, rowid))
            db.close()
            with Store(directory) as store:
                assert reused(store, stored[1]) == 40, (column, value)
                assert reused(store, stored[2]) == 40


def test_a_damaged_look_up_table_in_the_index_is_noticed(copied):
    directory, ids, _ = copied
    with sqlite3.connect(directory / INDEX) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_node_1'").fetchone()
        (size,), (id,) = (
            db.execute("PRAGMA page_size").fetchone(),
            db.execute("SELECT id FROM node WHERE start = 0").fetchone(),
        )
    db.close()
    data = bytearray((directory / INDEX).read_bytes())
    data[data.index(id, (page - 1) * size)] ^= 1
    (directory / INDEX).write_bytes(data)
    with Store(directory) as store:
        assert "missing from index" in store.notices[0]
        fill(store, ids, STOPS)
        assert reused(store, ids) == 420


def test_an_index_that_is_none_is_set_aside(copied):
    directory, ids, _ = copied
    for _ in range(5):
        (directory / INDEX).write_bytes(b"not a database" * 100)
        with Store(directory) as store:
            assert "set aside as index.sqlite.damaged-" in store.notices[0]
            assert reused(store, ids) == 0 and list((directory / "data").iterdir()) == []
            fill(store, ids, STOPS)
    with Store(directory) as store:
        assert reused(store, ids) == 420
    assert len(list(directory.glob("index.sqlite.damaged-*"))) == 3


def test_an_index_of_another_version_is_set_aside(copied):
    directory, ids, _ = copied
    with sqlite3.connect(directory / INDEX) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with Store(directory) as store:
        assert "version 99; this a3b reads" in store.notices[0] and "kept sessions are lost" in store.notices[0]
        assert reused(store, ids) == 0


def test_a_directory_that_cannot_be_had_is_refused_with_a_next_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/s/lock: Not a directory; give a directory that can be written"):
        Store(tmp_path / "file" / "s")
    (tmp_path / "t" / INDEX).mkdir(parents=True)
    with pytest.raises(StoreError, match="unable to open database file; give a directory|sessions cannot be kept"):
        Store(tmp_path / "t")
    with Store(tmp_path / "missing" / "deeper") as store:
        assert fill(store, numbers(5), [5])
    assert (tmp_path / "missing" / "deeper").stat().st_mode & 0o77 == 0  # conversations are nobody else's business


def test_a_directory_that_is_read_only_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(directory_lock, "open", refuse, raising=False)
    with pytest.raises(StoreError, match="Read-only file system; give a directory that can be written"):
        Store(tmp_path)


def test_a_second_server_is_told_who_has_the_directory(tmp_path):
    with Store(tmp_path):
        with pytest.raises(StoreError, match=f"in use by the server with process id {os.getpid()}; stop it, or"):
            Store(tmp_path)
    with Store(tmp_path):
        pass


def test_a_locked_index_is_refused_not_set_aside(copied):
    directory, ids, _ = copied
    with sqlite3.connect(directory / INDEX, isolation_level=None) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked by another process; wait for it|database is locked"):
            Store(directory, lock_timeout_s=0.02)
    db.close()
    with Store(directory) as store:
        assert reused(store, ids) == 420


def test_an_index_locked_later_stops_nothing_but_writing(copied):
    directory, ids, _ = copied
    now = [1e9]
    with Store(directory, clock=lambda: now[0], max_age_s=1e12, lock_timeout_s=0.02) as store:
        with sqlite3.connect(directory / INDEX, isolation_level=None) as db:
            db.execute("BEGIN IMMEDIATE")
            cache_of(store).add("n", [5] * 30, snapshot([5] * 30), "turn")
            assert store.flush() and "locked" in store.trouble
            store.put_record("n", b"k", b"v")
            assert reused(store, ids) == 420 and len(store.notices) == 1
        db.close()
        now[0] += 100
        fill(store, [5] * 30, [30])
        assert store.trouble is None and reused(store, [5] * 30) == 30


def test_a_full_disk_gives_one_notice_and_reading_goes_on(copied, monkeypatch):
    directory, ids, _ = copied
    now, real, other = [1e9], node_files.write_state, numbers(300, seed=6)

    def full(file, owner, taken):
        file.write(b"x" * 100)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Store(directory, clock=lambda: now[0], max_age_s=1e12) as store:
        monkeypatch.setattr(node_files, "write_state", full)
        fill(store, other, [50, 100])
        assert (
            "No space left on device; nothing is written for 60 s: make room" in store.trouble
            and len(store.notices) == 1
        )
        assert reused(store, ids) == 420 and reused(store, other) == 0
        assert not [p for p in (directory / "data").iterdir() if p.suffix == ".part"]
        monkeypatch.setattr(node_files, "write_state", real)
        fill(store, other, [150])
        assert reused(store, other) == 0  # too early
        now[0] += 61
        fill(store, other, [200])
        assert store.trouble is None and reused(store, other) == 200


FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from tests.cache.test_disk_store import *
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
with Store(sys.argv[1]) as store:
    ids = numbers(1500)
    fill(store, ids, [100])
    assert reused(store, ids) == 100 and store.trouble is None, store.notices
    fill(store, ids, [1500])
    assert "File too large" in store.trouble, store.trouble
    assert reused(store, ids) == 100
print("good")
"""


def run_python(code: str, *args: str, **kwargs) -> subprocess.Popen:
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args, str(ROOT)], stdout=subprocess.PIPE, text=True, env=env, **kwargs
    )


def test_a_real_limit_on_file_sizes_is_survived(tmp_path):
    with run_python(FULL_DISK, str(tmp_path)) as child:
        assert child.stdout.read() == "good\n"
    with Store(tmp_path) as store:
        assert reused(store, numbers(1500)) == 100


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.cache.test_disk_store import *
with Store(sys.argv[1]) as store:
    print("open", flush=True)
    tree = cache_of(store)
    os.fsync = lambda handle: None
    for talk in range(1000):
        ids, state = numbers(400, seed=talk), new_state()
        for stop in range(25, 400, 75):
            feed(state, ids[state.num_tokens : stop])
            tree.add("n", ids[:stop], state.snapshot(), "turn")
            store.put_record("n", b"%d" % talk, b"x" * stop)
            if stop % 2:
                store.flush()
            print(talk, stop if store.holds(tree.add("n", ids[:stop], state.snapshot(), "turn")) else 0, flush=True)
"""


@pytest.mark.parametrize("lines", [0, 2, 7, 20])
def test_a_killed_server_loses_at_most_what_was_not_written(tmp_path, lines):
    with run_python(KILLED, str(tmp_path)) as child:
        assert child.stdout.readline() == "open\n"
        said = [child.stdout.readline().split() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += [line.split() for line in child.stdout.read().splitlines()]
    index = Index.open(tmp_path)
    assert verify(index) == []
    index.close()
    with Store(tmp_path) as store:
        for talk, stop in said:
            if int(stop):
                assert reused(store, numbers(400, seed=int(talk))) >= int(stop)
        assert verify(store._index) == [] and store.notices == []


def test_a_kill_between_any_two_steps_leaves_a_store_that_opens(tmp_path, monkeypatch):
    """A copy of the directory as it is before each step of the writer, which is what a kill there would leave."""
    live, copies, least = tmp_path / "live", {}, 60
    ids = numbers(260)

    def watched(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            copy = tmp_path / str(len(copies))
            copies[copy] = least
            shutil.copytree(live, copy)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    with Store(live) as store:
        done = fill(store, ids, [60])
        for owner, name in ((os, "fsync"), (Path, "rename"), (Index, "add"), (Index, "thin"), (Path, "unlink")):
            watched(owner, name)
        done += fill(store, ids, [130])
        fill(store, ids, [130, 260])
        least = 260
        store.thin(done[1])
        fill(store, ids, [100, 130])  # stored again, now with another one before it
        assert [reused(store, ids[:n]) for n in (100, 130)] == [100, 130]
        least = 60
        store.forget(done[1:])
        monkeypatch.undo()
    assert len(copies) > 20
    for copy, num_tokens in copies.items():
        index = Index.open(copy)
        assert verify(index) == []  # before a server has cleared up
        index.close()
        with Store(copy) as store:
            assert num_tokens <= reused(store, ids) <= 260 and store.notices == [] and verify(store._index) == []


def test_files_that_no_row_names_are_removed_on_opening(copied):
    directory, ids, _ = copied
    for name in ("00ff.kv", "x.state.part", "other"):
        (directory / "data" / name).write_bytes(b"x")
    with Store(directory) as store:
        assert len(list((directory / "data").iterdir())) == 2 * len(cache_rows(store)) and reused(store, ids) == 420


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


def test_records_belong_to_a_namespace_a_key_and_a_node(copied, monkeypatch):
    directory, ids, _ = copied
    with Store(directory) as store:
        node = cache_of(store).add("n", ids, snapshot(ids), "turn")
        for value in (b"a", b"b", b"a"):
            store.put_record("n", b"k", value, node)
        store.put_record("m", b"k", b"c")
        assert store.get_records("n", b"k") == [b"b", b"a"] and store.get_records("m", b"k") == [b"c"]
        assert store.records("n") == [(b"turn", b"ids of a turn"), (b"k", b"b"), (b"k", b"a")]
        assert cache_of(store).forget(node) > 0
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
        nodes = [cache.add("n", ids[:n], snapshot(ids[:n]), "turn") for n in (50, 100, 200)]
        cache.forget(nodes[0])
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


@pytest.mark.parametrize("seed", range(3))
def test_nothing_wrong_is_served_whatever_happens_in_whatever_order(tmp_path, seed):
    rng, now = random.Random(seed), [1e9]
    paths: list[list[int]] = [[]]

    def opened() -> tuple[Store, PrefixCache]:
        store = Store(tmp_path, 600_000, 40_000, clock=lambda: now[0])
        return store, cache_of(store, rng.choice([0, 100_000, 1 << 30]))

    store, cache = opened()
    hits = 0
    for _ in range(120):
        now[0] += rng.randint(1, 600)
        base = rng.choice(paths)
        ids = base[: rng.choice([len(base), rng.randint(0, len(base))])] + numbers(
            rng.randint(1, 90), seed=rng.randint(0, 5)
        )
        namespace = rng.choice("ab")
        match = cache.sync(namespace, ids)
        assert match.reused < len(ids) and content(match.state) == cold(tuple(ids[: match.reused]))
        hits += match.reused > 0
        feed(match.state, ids[match.reused :])
        kind = rng.choice(["system", "turn", "end"])
        node = cache.add(namespace, ids, match.state.snapshot(), kind, persist=rng.random() < 0.9)
        paths = [*paths[-30:], ids]
        if rng.random() < 0.5:
            store.flush()
        match rng.randint(0, 30):
            case 0:
                cache.forget(node)
                assert cache.sync(namespace, [*ids, 1]).reused < len(ids)
            case 1:
                cache.clear(rng.choice([None, namespace]))
            case 2 | 3:
                store.close()
                store, cache = opened()
            case 4 | 5:
                files = sorted(p for p in (tmp_path / "data").iterdir() if p.suffix != ".part")
                if files:
                    with open(rng.choice(files), "r+b") as file:
                        file.seek(rng.randrange(100))
                        file.write(b"wrong")
            case 6:
                assert main(["cache", "prune", "--max-bytes", "300kB", "--dir", str(tmp_path)]) == 0
            case 7:
                now[0] += 30_000
                store.expire()
    assert hits > 10 and store.trouble is None
    store.close()


def test_the_command_lists_verifies_and_prunes(copied, capsys):
    directory, ids, _ = copied
    at = ["--dir", str(directory)]
    assert main(["cache", "list", "--json", *at]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted((s["tokens"], s["turns"]) for s in found["sessions"]) == [(228, 5), (420, 5)]
    assert main(["cache", "list", *at]) == 0
    assert found["sessions"][0]["id"][:12] in capsys.readouterr().out
    assert main(["cache", "verify", *at]) == 0
    path = directory / "data" / f"{found['sessions'][0]['id']}.kv"
    path.write_bytes(bytes(path.stat().st_size))
    capsys.readouterr()
    assert main(["cache", "verify", *at]) == 1
    assert (
        f"dropped {path.stem[:12]}: {path.name}: its bytes are not those that were written" in capsys.readouterr().err
    )
    assert main(["cache", "verify", *at]) == 0
    assert main(["cache", "prune", "--max-bytes", "100kB", "--older-than", "1d", *at]) == 0
    with Store(directory) as store:
        assert 0 < store.num_bytes <= 100_000
    assert main(["cache", "prune", "--older-than", "0s", *at]) == 0
    capsys.readouterr()
    assert main(["cache", "prune", "--max-bytes", "0", *at]) == 0 and "0.0 MB are kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prune"], "expected --max-bytes"),
        (["forget"], "expected an ID"),
        (["forget", "ab", "--all"], "expected an ID"),
        (["forget", "xyz"], "no such session; 'a3b cache list' shows them"),
        (["forget", ""], "expected an ID"),
        (["prune", "--max-bytes", "2 bananas"], "not a size"),
        (["prune", "--older-than", "soon"], "not an age"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(stored, capsys, argv, message):
    try:
        status = main(["cache", *argv, "--dir", str(stored[0])])
    except SystemExit as exit:
        status = exit.code
    assert status == 2 and message in capsys.readouterr().err


def test_the_command_starts_over_when_the_index_is_none(copied, capsys):
    directory, _, _ = copied
    (directory / INDEX).write_bytes(b"nonsense" * 1000)
    at = ["--dir", str(directory)]
    assert main(["cache", "list", *at]) == 1
    assert "start over with 'a3b cache forget --all'" in capsys.readouterr().err
    with open(directory / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["cache", "forget", "--all", *at]) == 1
    assert main(["cache", "forget", "--all", *at]) == 0 and list((directory / "data").iterdir()) == []
    assert main(["cache", "list", *at]) == 0


def test_the_command_says_that_there_is_nothing_yet(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("A3B_CACHE", str(tmp_path))
    assert (
        main(["cache", "list"]) == 0
        and f"{tmp_path / 'sessions'}: no sessions are kept here" in capsys.readouterr().err
    )
    assert (
        main(["cache", "forget", "ab"]) == 1
        and "no sessions are kept here; a3b serve keeps them" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
