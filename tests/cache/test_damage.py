"""Damage to files and index: whichever byte is wrong, what is served is what was stored."""

from __future__ import annotations

import random
import shutil
import sqlite3

import pytest

from a3b.cache.disk_store import Store
from a3b.cache.index_checks import verify
from a3b.cache.index_database import INDEX
from a3b.cache.prefix_cache import PrefixCache
from a3b.cli import main
from tests.support.cached_states import content, feed, numbers
from tests.support.session_stores import STOPS, cache_of, cache_rows, cold, fill, forget, reused

pytestmark = pytest.mark.slow  # thousands of damaged files


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
        assert "version 99; this a3b reads" in store.notices[0] and "its sessions are lost" in store.notices[0]
        assert reused(store, ids) == 0


def test_files_that_no_row_names_are_removed_on_opening(copied):
    directory, ids, _ = copied
    for name in ("00ff.kv", "x.state.part", "other"):
        (directory / "data" / name).write_bytes(b"x")
    with Store(directory) as store:
        assert len(list((directory / "data").iterdir())) == 2 * len(cache_rows(store)) and reused(store, ids) == 420


@pytest.mark.parametrize("seed", range(3))
def test_nothing_wrong_is_served_whatever_happens_in_whatever_order(tmp_path, seed):
    rng, now = random.Random(seed), [1e9]
    paths: list[list[int]] = [[]]

    def opened() -> tuple[Store, PrefixCache]:
        store = Store(tmp_path, 600_000, 40_000, clock=lambda: now[0])
        return store, cache_of(store, rng.choice([0, 100_000, 1 << 30]))

    store, cache = opened()
    hits = 0
    for _ in range(150):
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
            case 0 if store.flush() and store.holds(node):
                forget(tmp_path, node)
                assert cache.sync(namespace, [*ids, 1]).reused < len(ids)
            case 1 if rng.random() < 0.5:
                cache.clear()
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
