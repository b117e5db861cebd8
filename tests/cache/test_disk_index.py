"""The index of stored sessions, whatever its rows and its file contain: no loop, no traceback, and the sessions of
others stay."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from a3b.cache.disk_index import Index
from a3b.cache.disk_store import Store
from a3b.cache.identity import path_hash
from a3b.cache.index_database import DATA, INDEX, BadIndex
from a3b.cache.index_rows import SEALED, seal
from a3b.cli import main
from a3b.errors import StoreError
from tests.support.session_stores import cache_of, fill, reused

pytestmark = pytest.mark.usefixtures("a_loop_is_a_failure")
HUGE = 2**62


def change(directory: Path, place: int = 1, /, **values: object) -> bytes:
    """Give a row other values and their valid seal; returns its id. Callable values are given the row."""
    db = sqlite3.connect(directory / INDEX)
    rowid, *found = db.execute(
        f"SELECT rowid, {', '.join(SEALED)} FROM node ORDER BY start LIMIT 1 OFFSET ?", (place,)
    ).fetchone()
    row = dict(zip(SEALED, found, strict=True))
    row |= {name: value(row) if callable(value) else value for name, value in values.items()}
    assigned = {**row, "seal": seal(row[name] for name in SEALED)}
    db.execute(
        f"UPDATE node SET {', '.join(f'{name} = ?' for name in assigned)} WHERE rowid = ?", (*assigned.values(), rowid)
    )
    db.commit()
    db.close()
    return row["id"]


def root_only(row: dict) -> bytes:
    return path_hash(row["root"]).digest()


HOSTILE = {
    "its own parent": {"parent": lambda row: row["id"]},
    "its own parent, at the beginning": {"parent": lambda row: row["id"], "start": 0},
    "its own parent, of no tokens": {"id": root_only, "parent": root_only, "start": 0, "tokens": b""},
    "no parent": {"parent": b"\0" * 16},
    "no parent, at the beginning": {"parent": b"\0" * 16, "start": 0},
    "a parent of 3 bytes": {"parent": b"abc"},
    "a negative start": {"start": -5},
    "a start beyond everything": {"start": HUGE},
    "no tokens": {"tokens": b""},
    "half a token": {"tokens": b"abcde"},
    "a negative length": {"kv_bytes": -1, "state_bytes": -HUGE},
    "lengths whose sum overflows": {"kv_bytes": HUGE, "state_bytes": HUGE},
    "text for bytes": {"tokens": "text", "kv_sums": "x"},
    "bytes for text": {"label": b"\xff\xfe", "kind": b"turn"},
    "numbers that are none": {"start": 1.5, "created": "now"},
    "nothing": dict.fromkeys(name for name in SEALED if name != "id"),
    "not even an id": {"id": None},
    "another kind": {"kind": "other"},
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_a_false_row_with_a_valid_seal_is_dropped_with_its_descendants(copied, values, capsys):
    directory, ids, _ = copied
    id = change(directory, 1, **values)
    at = ["--dir", str(directory)]
    index = Index.open(directory)
    assert index.chain(id) is None and index.session(id) >= {id}
    index.close()
    assert main(["cache", "list", *at]) == 0 and "damaged and will not be used" in capsys.readouterr().err
    shutil.copytree(directory, copy := directory.with_name("copy"))
    with Store(copy) as store:
        assert reused(store, ids) == 40 and store.trouble is None and store.notices == []
    assert main(["cache", "verify", "--dir", str(copy)]) == 0
    assert main(["cache", "verify", *at]) == 1
    assert main(["cache", "verify", *at]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "argv", [["prune", "--max-bytes", "60kB"], ["prune", "--older-than", "1d"], ["forget", "--all"]]
)
def test_room_can_be_made_in_an_index_with_such_a_row(copied, values, argv, capsys):
    directory, _, _ = copied
    for place in (1, 2):
        change(directory, place, **({} if values.keys() & {"id"} and place == 2 else values))
    assert main(["cache", *argv, "--dir", str(directory)]) == 0
    assert main(["cache", "verify", "--dir", str(directory)]) == 0 or argv[0] == "forget"


def test_a_row_that_promises_more_bytes_than_there_is_memory_asks_for_none(copied, capsys):
    directory, ids, _ = copied
    change(directory, 1, kv_bytes=6 << 42, state_bytes=1 << 45)
    shutil.copytree(directory, copy := directory.with_name("copy"))
    assert main(["cache", "verify", "--dir", str(directory)]) == 1 and f"expected {6 << 42}" in capsys.readouterr().err
    with Store(copy) as store:
        assert reused(store, ids) == 40


def test_rows_that_are_each_other_s_parent_are_dropped(copied, capsys):
    directory, ids, _ = copied
    first, second = (change(directory, place) for place in (1, 2))
    change(directory, 1, parent=second)
    change(directory, 2, parent=first)
    index = Index.open(directory)
    for id in (first, second):
        assert index.session(id) >= {first, second} and index.chain(id) is None
    index.close()
    assert main(["cache", "forget", first.hex(), "--dir", str(directory)]) == 0
    with Store(directory) as store:
        assert reused(store, ids) == 40


def test_a_row_that_is_its_own_parent_is_unsound_even_if_the_hash_of_its_tokens_is_right(copied):
    """Its tokens begin at the root, only the parent is wrong."""
    directory, ids, _ = copied
    change(directory, 0, parent=lambda row: row["id"])
    index = Index.open(directory)
    assert index.rows()[0] == [] and len(index.rows()[1]) == 7
    index.close()


def test_a_very_old_age_is_no_overflow(copied, capsys):
    assert main(["cache", "prune", "--older-than", "99999999999999999999d", "--dir", str(copied[0])]) == 0
    assert main(["cache", "prune", "--max-bytes", "99999999999999999999", "--dir", str(copied[0])]) == 0


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def without_column(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE node DROP COLUMN label")
    db.close()


def a_view_without_end(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE node RENAME TO other")
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT * FROM other, n"
        db.execute(f"CREATE VIEW node AS {endless}")
    db.close()


def a_trigger(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER t AFTER DELETE ON node BEGIN DELETE FROM record; END")
    db.close()


def names_that_are_no_text(path: Path) -> None:
    path.write_bytes(
        path.read_bytes().replace(b"record_key", b"\xe3ecord_key").replace(b"CREATE INDEX", b"CREATE \xe3\xffDEX")
    )


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        cut_off,
        lambda path: os.truncate(path, 0),
        without_column,
        a_view_without_end,
        a_trigger,
        names_that_are_no_text,
    ],
    ids=["garbage", "cut off", "empty", "a column less", "an endless view", "a trigger", "no text"],
)
def test_a_damaged_index_is_set_aside_with_a_warning_and_a_new_one_begun(copied, damage, capsys):
    directory, ids, _ = copied
    damage(directory / INDEX)
    data = (directory / INDEX).read_bytes()
    for argv in (["list"], ["verify"], ["prune", "--older-than", "1d"], ["forget", "ab"]):
        assert main(["cache", *argv, "--dir", str(directory)]) == 1
        assert (
            "start over with 'a3b cache forget --all', or let the next server set it aside" in capsys.readouterr().err
        )
    with Store(directory) as store:
        assert len(store.notices) == 1 and "set aside as index.sqlite.damaged-" in store.notices[0]
        assert reused(store, ids) == 0 and fill(store, ids, [40]) and reused(store, ids) == 40
    assert [
        path.read_bytes()
        for path in directory.glob("index.sqlite.damaged-*")
        if path.suffix != ".x" and "-wal" not in path.name and "-shm" not in path.name
    ] == [data]


def test_a_directory_in_place_of_what_is_not_written_back_is_refused(copied):
    directory, _, _ = copied
    (directory / INDEX).write_bytes(b"nonsense" * 1000)
    Path(f"{directory / INDEX}-wal").mkdir()
    with pytest.raises(StoreError, match=r"index.sqlite-wal: Is a directory"):
        Store(directory)


def test_a_record_that_was_changed_is_ignored(copied):
    directory, _, _ = copied
    for column, value in (("value", b"other"), ("key", b"other"), ("created", 7), ("node", b"x"), ("namespace", "m")):
        with sqlite3.connect(directory / INDEX) as db:
            (before,) = db.execute(f"SELECT {column} FROM record").fetchone()
            db.execute(f"UPDATE record SET {column} = ?", (value,))
        index = Index.open(directory)
        assert [*index.records.get("n"), *index.records.get("m"), *index.records.get("n", b"other")] == [], column
        index.close()
        with db:
            db.execute(f"UPDATE record SET {column} = ?", (before,))
        db.close()
    index = Index.open(directory)
    assert index.records.get("n") == [(b"turn", b"ids of a turn")]
    index.close()


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda path: os.truncate(path, 1), lambda path: path.write_bytes(path.read_bytes() + b"x")],
    ids=["gone", "shorter", "longer"],
)
def test_a_state_file_that_is_not_whole_costs_the_state_and_not_what_grew_from_it(copied, damage):
    """Noticed when the server starts, so that the nodes are written again when they are needed."""
    directory, ids, _ = copied
    index = Index.open(directory)
    rows = {row.num_tokens: row for row in index.rows()[0]}
    damage(index.file(rows[128].id, "state"))
    index.close()
    with Store(directory) as store:
        assert store.knows(rows[128].id) and not store.holds(rows[128].id)
        assert reused(store, ids) == 420


def test_the_state_file_of_a_thinned_node_is_removed_when_the_server_starts(copied):
    """A kill between the commit and the removal leaves it."""
    directory, ids, _ = copied
    index = Index.open(directory)
    row = next(row for row in index.rows()[0] if row.num_tokens == 128)
    state = index.file(row.id, "state")
    content = state.read_bytes()
    index.thin(row.id)
    index.close()
    state.write_bytes(content)
    with Store(directory) as store:
        assert not state.exists() and reused(store, ids) == 420


@pytest.mark.parametrize("drop", [lambda index, id: index.remove([id]), lambda index, id: index.thin(id)])
def test_files_stay_as_long_as_the_index_names_them(copied, drop):
    directory, _, _ = copied
    names = {path.name for path in (directory / DATA).iterdir()}
    index, other = Index.open(directory, lock_timeout_s=0), sqlite3.connect(directory / INDEX, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # so that nothing can be committed
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        drop(index, index.rows()[0][-1].id)
    index.close(), other.close()
    assert {path.name for path in (directory / DATA).iterdir()} == names


@pytest.mark.parametrize(
    "other", [(b"xbytes1:y",), (b"xbytes:y",), (b"xy",), (b"x", b"y", b""), (b"x", "y"), (b"y", b"x")]
)
def test_a_seal_tells_apart_where_a_value_ends_and_what_it_is(other):
    assert seal((b"x", b"y")) != seal(other)


def test_names_of_indexes_set_aside_do_not_meet(copied, monkeypatch):
    directory, _, _ = copied
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    for _ in range(2):
        garbage(directory / INDEX)
        with pytest.raises(BadIndex):
            Index.open(directory)
        Store(directory).close()
    assert {path.name for path in directory.glob("*damaged*")} == {
        "index.sqlite.damaged-now",
        "index.sqlite.damaged-now-2",
    }


def test_a_label_with_half_a_character_is_stored(tmp_path):
    from tests.support.cached_states import snapshot

    with Store(tmp_path) as store:
        cache_of(store).add("n", [1, 2], snapshot([1, 2]), "turn", label="a\ud800b")
        assert store.flush() and reused(store, [1, 2]) == 2
        assert [row.label for row in store._index.rows()[0]] == ["a?b"]
