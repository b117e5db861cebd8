"""The index of stored sessions, whatever its rows say and its file is: nothing loops, nothing is a traceback, others'
sessions stay."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from a3b.cache.disk_index import Index
from a3b.cache.disk_store import DAY, Store
from a3b.cache.identity import path_hash, root_id
from a3b.cache.index_checks import verify
from a3b.cache.index_database import DATA, INDEX, BadIndex
from a3b.cache.index_rows import SEALED, Row, row_of, seal
from a3b.cli import main
from a3b.commands.serve import opened, secret
from a3b.errors import StoreError, UsageError
from tests.cache.test_disk_store import MEMORY, cache_of, fill, reused, store_two
from tests.support.cached_states import IDENTITY, numbers

HUGE = 2**62


@pytest.fixture(autouse=True)
def a_loop_is_a_failure(monkeypatch):
    def stop(*_):
        raise AssertionError("this takes too long")

    monkeypatch.setattr(os, "fsync", lambda handle: None)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def tmp_path():
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stored() -> Iterator[tuple[Path, list[int]]]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield store_two(Path(directory))[:2]


@pytest.fixture
def copied(stored, tmp_path) -> tuple[Path, list[int]]:
    shutil.copytree(stored[0], tmp_path / "s")
    return tmp_path / "s", stored[1]


def change(directory: Path, place: int = 1, /, **values: object) -> bytes:
    """Give a row other values and the seal that belongs to them; its id. Callable values are given the row."""
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
def test_a_row_that_lies_under_a_right_seal_is_dropped_with_what_grew_from_it(copied, values, capsys):
    directory, ids = copied
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


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "argv", [["prune", "--max-bytes", "60kB"], ["prune", "--older-than", "1d"], ["forget", "--all"]]
)
def test_room_can_be_made_in_an_index_with_such_a_row(copied, values, argv, capsys):
    directory, _ = copied
    for place in (1, 2):
        change(directory, place, **({} if values.keys() & {"id"} and place == 2 else values))
    assert main(["cache", *argv, "--dir", str(directory)]) == 0
    assert main(["cache", "verify", "--dir", str(directory)]) == 0 or argv[0] == "forget"


def test_a_row_that_promises_more_bytes_than_there_is_memory_asks_for_none(copied, capsys):
    directory, ids = copied
    change(directory, 1, kv_bytes=6 << 42, state_bytes=1 << 45)
    shutil.copytree(directory, copy := directory.with_name("copy"))
    assert main(["cache", "verify", "--dir", str(directory)]) == 1 and f"expected {6 << 42}" in capsys.readouterr().err
    with Store(copy) as store:
        assert reused(store, ids) == 40


def test_rows_that_are_each_other_s_parent_are_dropped(copied, capsys):
    directory, ids = copied
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


def test_a_row_above_itself_is_no_row_even_where_the_hash_of_its_tokens_is_right(copied):
    """Its tokens begin at the root, only the parent is wrong."""
    directory, ids = copied
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
    directory, ids = copied
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
    directory, _ = copied
    (directory / INDEX).write_bytes(b"nonsense" * 1000)
    Path(f"{directory / INDEX}-wal").mkdir()
    with pytest.raises(StoreError, match=r"index.sqlite-wal: Is a directory"):
        Store(directory)


@pytest.mark.parametrize("name", [INDEX, f"{INDEX}-wal", "lock"])
@pytest.mark.parametrize("kind", ["named pipe", "device", "symbolic link", "directory"])
def test_what_is_no_file_is_refused_in_place_of_one(copied, name, kind, capsys):
    directory, _ = copied
    path = directory / name
    path.unlink(missing_ok=True)
    match kind:
        case "named pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/full")
        case "symbolic link":
            path.symlink_to(directory / "elsewhere")
        case "directory":
            path.mkdir()
    told = "Is a directory" if kind == "directory" else "symbolic link" if kind == "device" else kind
    with pytest.raises(StoreError, match=rf"{name}: .*{told}"):
        Store(directory)
    if name == INDEX:
        assert main(["cache", "list", "--dir", str(directory)]) == 1 and told in capsys.readouterr().err
    assert not (directory / "elsewhere").exists()


def test_pipes_among_the_data_files_stop_nobody(copied):
    directory, ids = copied
    for path in list((directory / DATA).iterdir())[::2]:
        path.unlink()
        os.mkfifo(path)
    (directory / DATA / "more").mkdir()
    os.mkfifo(directory / DATA / "other.kv")
    index = Index.open(directory)
    assert verify(index)
    index.close()
    with Store(directory) as store:
        reused(store, ids)
        fill(store, ids, [40, 420])
        assert reused(store, ids) == 420
    assert [path for path in (directory / DATA).iterdir() if stat.S_ISFIFO(path.stat().st_mode)] == []


def modes(directory: Path) -> set[str]:
    return {
        f"{'d' if path.is_dir() else 'f'}{stat.S_IMODE(path.stat().st_mode):o}"
        for path in (directory, *directory.rglob("*"))
    }


@pytest.mark.parametrize("before", ["nothing", "open to all"])
def test_everything_in_the_store_is_private_whatever_was_there_before(stored, tmp_path, before):
    directory, mask = tmp_path / "s", os.umask(0)
    try:
        if before == "open to all":
            shutil.copytree(stored[0], directory)
            for path in (directory, *directory.rglob("*")):
                path.chmod(0o777 if path.is_dir() else 0o666)
        with Store(directory) as store:
            fill(store, [5] * 30, [30])
            store.put_record("n", b"k", b"v")
            assert modes(directory) == {"d700", "f600"}
    finally:
        os.umask(mask)


def test_a_record_that_was_changed_is_none_of_ours(copied):
    directory, _ = copied
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


def test_a_state_file_that_is_gone_costs_the_state_and_not_what_grew_from_it(copied):
    """Noticed when the server starts, so that the nodes are written again when they come again."""
    directory, ids = copied
    index = Index.open(directory)
    rows = {row.num_tokens: row for row in index.rows()[0]}
    index.file(rows[128].id, "state").unlink()
    index.close()
    with Store(directory) as store:
        assert store.knows(rows[128].id) and not store.holds(rows[128].id)
        assert reused(store, ids) == 420


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


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / DATA).write_text("")
    with pytest.raises(StoreError, match=r"data: File exists|data: Not a directory"):
        Index.open(tmp_path)


def test_the_index_of_another_user_is_refused(copied, monkeypatch):
    directory, _ = copied
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match="belongs to another user"):
        Store(directory)
    with pytest.raises(StoreError, match="belongs to another user"):
        Index.open(directory)


@pytest.mark.parametrize(("mode", "name"), [(0o1777, "index.sqlite"), (0o755, "letter.txt")])
def test_a_directory_that_others_use_is_refused_and_not_closed_to_them(tmp_path, mode, name):
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / name).write_text("")
    directory.chmod(mode)
    with pytest.raises(
        StoreError, match=rf"shared: has mode {mode:04o} and other files in it.*give a directory of its own"
    ):
        Store(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == mode and os.listdir(directory) == [name]


def test_names_of_indexes_set_aside_do_not_meet(copied, monkeypatch):
    directory, _ = copied
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


@pytest.mark.parametrize("before", [None, 0o666])
def test_secret_and_trace_are_private_whatever_was_there_before(tmp_path, before):
    mask = os.umask(0)
    try:
        with Store(tmp_path) as store:
            if before is not None:
                for name in ("secret", "trace"):
                    (tmp_path / name).write_bytes(b"x" * 32)
                    (tmp_path / name).chmod(before)
            assert len(secret(store)) == 32
            opened(str(tmp_path / "trace")).close()
            assert modes(tmp_path) == {"d700", "f600"}
    finally:
        os.umask(mask)


@pytest.mark.parametrize("kind", ["named pipe", "symbolic link"])
def test_a_secret_or_trace_that_is_no_file_is_refused(tmp_path, kind):
    with Store(tmp_path) as store:
        for name in ("secret", "trace"):
            os.mkfifo(tmp_path / name) if kind == "named pipe" else (tmp_path / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match=rf"secret: is a {kind}; expected a regular file; remove it"):
            secret(store)
        with pytest.raises(UsageError, match=rf"trace: is a {kind}; expected a regular file; give a file"):
            opened(str(tmp_path / "trace"))
    assert not (tmp_path / "elsewhere").exists()
