"""Disks that fail and processes that are killed: a store loses at most what was not yet written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from a3b.cache import directory_lock, node_files
from a3b.cache.disk_index import Index
from a3b.cache.disk_store import Store
from a3b.cache.index_checks import verify
from a3b.cache.index_database import INDEX
from a3b.errors import StoreError
from tests.support.cached_states import numbers, snapshot
from tests.support.session_stores import cache_of, fill, reused, run_python

pytestmark = pytest.mark.slow  # kills processes


def test_a_directory_that_cannot_be_had_is_refused_with_a_next_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/s/lock: Not a directory; give a writable directory"):
        Store(tmp_path / "file" / "s")
    (tmp_path / "t" / INDEX).mkdir(parents=True)
    with pytest.raises(
        StoreError, match="unable to open database file; give a writable directory|sessions cannot be kept"
    ):
        Store(tmp_path / "t")
    with Store(tmp_path / "missing" / "deeper") as store:
        assert fill(store, numbers(5), [5])
    assert (tmp_path / "missing" / "deeper").stat().st_mode & 0o77 == 0  # conversations are nobody else's business


def test_files_whose_row_cannot_be_added_are_removed_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Index, "add", full)
    with Store(tmp_path) as store:
        cache_of(store).add("n", [1, 2, 3], snapshot([1, 2, 3]), "turn")
        assert store.flush() and store.trouble
        assert list((tmp_path / "data").iterdir()) == []


def test_a_directory_that_is_read_only_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(directory_lock, "open", refuse, raising=False)
    with pytest.raises(StoreError, match="Read-only file system; give a writable directory"):
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
from a3b.cache.disk_store import Store
from tests.support.cached_states import numbers
from tests.support.session_stores import fill, reused
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


def test_a_real_limit_on_file_sizes_is_survived(tmp_path):
    with run_python(FULL_DISK, str(tmp_path)) as child:
        assert child.stdout.read() == "good\n"
    with Store(tmp_path) as store:
        assert reused(store, numbers(1500)) == 100


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from a3b.cache.disk_store import Store
from tests.support.cached_states import feed, new_state, numbers
from tests.support.session_stores import cache_of
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
        with closing(Index.open(live)) as index:
            index.remove(done[1:], with_records=True)
        monkeypatch.undo()
    assert len(copies) > 20
    for copy, num_tokens in copies.items():
        index = Index.open(copy)
        assert verify(index) == []  # before a server has cleared up
        index.close()
        with Store(copy) as store:
            assert num_tokens <= reused(store, ids) <= 260 and store.notices == [] and verify(store._index) == []
