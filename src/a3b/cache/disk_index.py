"""The index of stored nodes: one SQLite file, and what its rows promise about the files beside it.

Every row is sealed with a checksum, and the id of a node is the hash of all tokens up to it, so a row that was changed
is noticed and dropped with all that grew from it. Several processes may read and forget at once; one server alone adds
rows. Enter at `Index.open`. Knows no snapshots; what writes them is in `a3b.cache.disk_store`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from a3b.cache.identity import ID_BYTES, path_hash, root_id
from a3b.cache.room import plan_room
from a3b.cache.rows import COLUMNS, MOST, Row, record_of, row_of, seal
from a3b.cache.shares import level
from a3b.cache.snapshot_files import Damaged, check_file, kv_blocks, state_blocks
from a3b.errors import StoreError
from a3b.files import make_private, private_directory

INDEX, DATA, LOCK, ASIDE = "index.sqlite", "data", "lock", "index.sqlite.damaged-"
OWN = (INDEX, DATA, LOCK, "secret")  # what tells a directory of sessions from others
MAX_ASIDE = 3  # damaged indexes that are kept
MAX_VALUE_BYTES = 64 << 20  # of anything in the database: the tokens of a node are a tenth of that at most
APPLICATION_ID, SCHEMA_VERSION = 0x61336273, 1
MAX_RECORDS, MAX_RECORD_BYTES, RECORDS_BYTES = 100_000, 4 << 20, 256 << 20
SCHEMA = """
CREATE TABLE node(id BLOB PRIMARY KEY, parent BLOB, root BLOB, identity BLOB, namespace TEXT, kind TEXT, label TEXT, \
start INTEGER,
                  tokens BLOB, created INTEGER, kv_bytes INTEGER, state_bytes INTEGER, kv_sums BLOB, \
state_sums BLOB, seal BLOB,
                  has_state INTEGER, last_used INTEGER);
CREATE TABLE record(namespace TEXT, key BLOB, value BLOB, node BLOB, created INTEGER, seal BLOB);
CREATE INDEX record_key ON record(namespace, key);
CREATE INDEX record_node ON record(node);
"""

KEEP_NEWEST = """
DELETE FROM record WHERE rowid IN (
  SELECT number FROM (SELECT rowid AS number, row_number() OVER newest AS place, sum(length(value)) OVER newest AS size
                      FROM record WHERE CAST(namespace AS BLOB) IS ? WINDOW newest AS (ORDER BY rowid DESC))
  WHERE (place > ? OR size > ?) AND place > ?)
"""  # namespace; how many, and how many bytes at most; how many at least


# What sqlite3 raises; the second if a message quotes names of a damaged schema that are no text.
FAILURES = (sqlite3.Error, UnicodeDecodeError)


class BadIndex(StoreError):
    """The file is not an index of this version, or is damaged."""


class Index:
    """The database and the directory of files. Safe to use from several threads."""

    def __init__(self, directory: Path, db: sqlite3.Connection):
        self.directory, self.db = directory, db
        self._record_size: tuple[int, int] | None = None  # records and bytes of them, at most; None: not counted yet
        self.lock = threading.RLock()  # around whatever must look like one step to other threads

    @classmethod
    def open(cls, directory: Path, lock_timeout_s: float = 5.0) -> Index:
        """Makes what is missing. Raises StoreError, and BadIndex if the file should be set aside."""
        file = directory / INDEX
        try:
            private_directory(directory, own=OWN)
            private_directory(directory / DATA)
            is_new = not os.path.lexists(file)
            make_private(file)
            for ending in ("-wal", "-shm"):  # SQLite makes these, as private as the first
                make_private(f"{file}{ending}", create=False)
            if not is_new and not file.stat().st_size and any((directory / DATA).iterdir()):
                raise BadIndex(f"{file}: empty, although there are sessions")
            db = sqlite3.connect(file, timeout=lock_timeout_s, isolation_level=None, check_same_thread=False)
        except OSError as error:
            where = f"{error.filename}: " if error.filename not in (None, str(directory)) else ""
            raise StoreError(
                f"{directory}: sessions cannot be kept here: {where}{error.strerror}; "
                "give a directory of yours that can be written"
            ) from None
        except sqlite3.Error as error:
            raise StoreError(
                f"{directory}: sessions cannot be kept here: {error}; give a directory that can be written"
            ) from None
        db.text_factory = bytes  # a damaged text must not raise where it is fetched
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        try:
            _prepare(db, file)
        except FAILURES as error:
            db.close()
            raise store_error(error, file) from None
        except StoreError:
            db.close()
            raise
        return cls(directory, db)

    def close(self) -> None:
        with self.lock:
            self.db.close()

    def file(self, id: bytes, kind: str) -> Path:
        """kind: "kv" or "state"."""
        return self.directory / DATA / f"{id.hex()}.{kind}"

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, against other processes too."""
        with self.lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                with suppress(*FAILURES):
                    self.db.execute("ROLLBACK")
                raise

    @property
    def data_version(self) -> int:
        """Changes when another process changed something."""
        with self.lock:
            return self.db.execute("PRAGMA data_version").fetchone()[0]

    def holdings(self) -> dict[bytes, bool]:
        """id -> whether its state is there too."""
        with self.lock:
            return {
                id: bool(state)
                for id, state in self.db.execute("SELECT id, has_state FROM node")
                if isinstance(id, bytes)
            }

    def add(self, row: Row) -> None:
        """Inside a transaction. Replaces a node of the same id."""
        self.db.execute("DELETE FROM node WHERE id = ?", (row.id,))
        values = (*row.sealed, row.seal, int(row.has_state), row.last_used)
        self.db.execute(f"INSERT INTO node({COLUMNS}) VALUES ({','.join('?' * len(values))})", values)

    def row(self, id: bytes) -> Row | None:
        with self.lock:
            found = self.db.execute(f"SELECT {COLUMNS} FROM node WHERE id = ?", (id,)).fetchone()
        return row_of(found) if found else None

    def chain(self, id: bytes) -> list[Row] | None:
        """The node and those it grew from, the first one first, each with fewer tokens than the next; None if the index
        lacks one."""
        out: list[Row] = []
        while not out or out[-1].parent != out[-1].root:
            row = self.row(out[-1].parent if out else id)
            if row is None or (out and row.num_tokens != out[-1].start):
                return None
            out.append(row)
        return out[::-1] if out[-1].start == 0 else None

    def rows(self, root: bytes | None = None) -> tuple[list[Row], list[bytes]]:
        """(sound rows, parents before children; ids of rows that are wrong or stand on one that is). root: of one
        namespace only.

        A sound row has a sound parent with fewer tokens, or begins at the root: no row is above itself."""
        where, values = ("WHERE root = ?", (root,)) if root else ("", ())
        with self.lock:
            found = self.db.execute(f"SELECT {COLUMNS} FROM node {where}", values).fetchall()
        good, hashes, bad = [], {}, []
        rows = [(row_of(values), values[0]) for values in found]
        for row, id in sorted(rows, key=lambda pair: pair[0].num_tokens if pair[0] else 0):
            if row is not None:
                above, end = (path_hash(row.root), 0) if row.parent == row.root else hashes.get(row.parent, (None, 0))
                if above is not None and end == row.start and root_id(row.identity, row.namespace) == row.root:
                    total = above.copy()
                    total.update(row.tokens)
                    if total.digest() == id:
                        hashes[id] = total, row.num_tokens
                        good.append(row)
                        continue
            bad.append(id)
        return good, bad

    def tops(self, namespace: str, root: bytes) -> list[np.ndarray]:
        """Tokens of the first nodes of a namespace under other identities than that of `root`."""
        query = f"SELECT {COLUMNS} FROM node WHERE namespace = ? AND root != ? AND parent = root"
        with self.lock:
            found = self.db.execute(query, (namespace, root)).fetchall()
        return [row.ids for row in map(row_of, found) if row]

    def below(self, ids: Iterable[bytes]) -> set[bytes]:
        """These nodes and all that grew from them."""
        with self.lock:
            return _below(ids, self.db.execute("SELECT id, parent FROM node"))

    def session(self, id: bytes, waiting: Iterable[Row] = ()) -> set[bytes]:
        """A node, all that grew from it, and what it alone grew from; not a system prompt, which belongs to nobody.

        waiting: nodes that are not written yet."""
        with self.lock:
            found = [
                *self.db.execute("SELECT id, parent, kind FROM node"),
                *((r.id, r.parent, r.kind.encode()) for r in waiting),
            ]
        parent_of = {i: parent for i, parent, _ in found}
        system = {i for i, _, kind in found if kind == b"system"}
        out, above = _below([id], parent_of.items()), parent_of.get(id)
        while above in parent_of.keys() - system - out and all(
            i in out for i, parent in parent_of.items() if parent == above
        ):
            out.add(above)
            above = parent_of[above]
        return out

    def remove(self, ids: Iterable[bytes], with_records: bool = False) -> set[bytes]:
        """Drop nodes and their descendants; which were dropped."""
        gone = self.below(ids)
        with self.transaction() as db:
            db.executemany("DELETE FROM node WHERE id IS ?", [(id,) for id in gone])
            if with_records:
                db.executemany("DELETE FROM record WHERE node = ?", [(id,) for id in gone])
        self.unlink_unnamed(gone)
        return gone

    def thin(self, *ids: bytes) -> None:
        """Drop the recurrent state of nodes."""
        with self.transaction() as db:
            db.executemany("UPDATE node SET has_state = 0 WHERE id = ?", [(id,) for id in ids])
        self.unlink_unnamed(ids)

    def unlink_unnamed(self, ids: Iterable[bytes]) -> None:
        """Remove the files of nodes that the index does not name any more.

        After the commit: a kill between the two leaves files without a row, which the next server removes, and never a
        row without files. In a transaction: so another process cannot write one of these nodes again meanwhile."""
        with suppress(*FAILURES), self.transaction() as db:
            for id in ids:
                if isinstance(id, bytes) and len(id) == ID_BYTES:
                    row = db.execute("SELECT has_state FROM node WHERE id = ?", (id,)).fetchone()
                    for kind in [kind for kind, is_named in (("kv", row), ("state", row and row[0])) if not is_named]:
                        with suppress(OSError):
                            self.file(id, kind).unlink()

    def touch(self, used: dict[bytes, int]) -> None:
        with self.transaction() as db:
            db.executemany("UPDATE node SET last_used = ? WHERE id = ?", [(at, id) for id, at in used.items()])

    def num_bytes(self) -> int:
        """Of all files, as the index has them."""
        query = "SELECT coalesce(sum({0}), 0) FROM node WHERE {1} AND typeof({0}) = 'integer' AND {0} BETWEEN 0 AND ?"
        with self.lock:
            return sum(
                self.db.execute(query.format(column, condition), (MOST,)).fetchone()[0]
                for column, condition in (("kv_bytes", "true"), ("state_bytes", "has_state"))
            )

    def expire(self, before: int) -> set[bytes]:
        """Drop nodes and records unused since `before`, a node only with all that grew from it; which nodes."""
        before = max(before, 0)
        rows, bad = self.rows()
        keep: set[bytes] = set()
        for row in reversed(rows):  # children before parents
            if row.last_used >= before or row.id in keep:
                keep |= {row.id, row.parent}
        gone = {row.id for row in rows} - keep | set(bad)
        if gone:
            self.remove(gone)
        with self.transaction() as db:
            db.execute("DELETE FROM record WHERE created < ?", (before,))
        return gone

    def shrink(self, max_bytes: int, now: int | None = None) -> tuple[set[bytes], set[bytes]]:
        """Make room as `plan_room` says: (ids dropped, ids that lost their state)."""
        if self.num_bytes() <= max_bytes:
            return set(), set()
        rows, bad = self.rows()
        gone, thinned = plan_room(rows, max_bytes, int(time.time()) if now is None else now)
        if thinned:
            self.thin(*thinned)
        gone |= set(bad)
        return self.remove(gone) if gone else set(), thinned

    def sweep(self) -> None:
        """Remove files that no row names, and nodes whose files are not there or not as long as they should be. For the
        server alone."""
        rows, bad = self.rows()
        known = {self.file(row.id, "kv").name: row.kv_bytes for row in rows}
        known |= {self.file(row.id, "state").name: row.state_bytes for row in rows if row.has_state}
        found = {}
        for path in (self.directory / DATA).iterdir():
            try:
                status = path.lstat()
            except FileNotFoundError:  # another process forgets it just now
                continue
            if path.name in known and stat.S_ISREG(status.st_mode):
                found[path.name] = status.st_size
                if status.st_mode & 0o077:
                    path.chmod(0o600)
            elif not stat.S_ISDIR(status.st_mode):
                path.unlink(missing_ok=True)
        for row in rows:
            if found.get(self.file(row.id, "kv").name) != row.kv_bytes:
                bad.append(row.id)
            elif row.has_state and found.get(self.file(row.id, "state").name) != row.state_bytes:
                self.thin(row.id)
        if bad:
            self.remove(bad)

    def verify(self, done: Callable[[int], None] = lambda n: None) -> list[str]:
        """Every byte of every file and row; what is wrong is dropped. One sentence for each."""
        rows, bad = self.rows()
        said = [
            f"{_short(id)}: its row in the index is not the one that was written, or what it grew from is gone"
            for id in bad
        ]
        drop, thin = list(bad), []
        for row in rows:
            try:
                check_file(
                    self.file(row.id, "kv"),
                    row.id,
                    b"kv",
                    row.kv_sums,
                    kv_blocks(row.start, row.num_tokens, row.kv_bytes),
                    done,
                )
            except Damaged as error:
                if self.row(row.id):  # else it was forgotten meanwhile
                    drop.append(row.id)
                    said.append(f"{_short(row.id)}: {error}")
                continue
            try:
                if row.has_state:
                    check_file(
                        self.file(row.id, "state"),
                        row.id,
                        b"state",
                        row.state_sums,
                        state_blocks(row.state_bytes),
                        done,
                    )
            except Damaged as error:
                if (now := self.row(row.id)) and now.has_state:
                    thin.append(row.id)
                    said.append(f"{_short(row.id)}: {error}")
        self.thin(*thin)
        num_gone = len(self.remove(drop)) if drop else 0
        if num_gone > len(drop):
            said.append(f"{num_gone - len(drop)} more that grew from these")
        with self.transaction() as db:
            wrong = [
                number
                for number, *values in db.execute(
                    "SELECT rowid, namespace, key, value, node, created, seal FROM record"
                )
                if record_of(values) is None
            ]
            db.executemany("DELETE FROM record WHERE rowid = ?", [(number,) for number in wrong])
        return said + ([f"{len(wrong)} remembered turns"] if wrong else [])

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None, now: int) -> None:
        if len(value) > MAX_RECORD_BYTES:
            raise StoreError(f"record: {len(value)} bytes; at most {MAX_RECORD_BYTES} are kept")
        node = node or b""
        sealed = seal((namespace, key, value, node, now))
        with self.transaction() as db:
            same = (namespace, key, value, node)
            db.execute("DELETE FROM record WHERE namespace = ? AND key = ? AND value = ? AND node = ?", same)
            db.execute(
                "INSERT INTO record(namespace, key, value, node, created, seal) VALUES (?, ?, ?, ?, ?, ?)",
                (*same, now, sealed),
            )
            if self._record_size is not None:  # counting reads all of them
                self._record_size = self._record_size[0] + 1, self._record_size[1] + len(value)
            if self._record_size is None or self._record_size[0] > MAX_RECORDS or self._record_size[1] > RECORDS_BYTES:
                self._record_size = self._bound_records(db)

    def _bound_records(self, db: sqlite3.Connection) -> tuple[int, int]:
        """(records, bytes of them) after those namespaces that have most of them gave their oldest, if there are too
        many."""
        query = (
            "SELECT CAST(namespace AS BLOB) AS name, count(*), "
            "coalesce(sum(length(value)), 0) FROM record GROUP BY name"
        )
        for least in (1, 0, 0):  # of each namespace; none only if so many are there that not even the newest fit
            found = {name: numbers for name, *numbers in db.execute(query)}
            count, size = (sum(numbers[i] for numbers in found.values()) for i in (0, 1))
            if count <= MAX_RECORDS and size <= RECORDS_BYTES:
                break
            # not again with the next record
            most, most_bytes = (
                level((numbers[i] for numbers in found.values()), limit - limit // 16)
                for i, limit in enumerate((MAX_RECORDS, RECORDS_BYTES))
            )
            for name, (num, num_bytes) in found.items():
                if num > most or num_bytes > most_bytes:
                    db.execute(KEEP_NEWEST, (name, min(most, num), min(most_bytes, num_bytes), least))
        return count, size

    def records(self, namespace: str, key: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """(key, value) of one key or of all, oldest first; records that were changed are left out."""
        which, values = ("", (namespace,)) if key is None else ("AND key = ?", (namespace, key))
        query = (
            f"SELECT namespace, key, value, node, created, seal FROM record WHERE namespace = ? {which} ORDER BY rowid"
        )
        with self.lock:
            found = self.db.execute(query, values).fetchall()
        return [record for record in map(record_of, found) if record]

    def drop_records(self, namespace: str | None = None) -> None:
        with self.transaction() as db:
            if namespace is None:
                db.execute("DELETE FROM record")
            else:
                db.execute("DELETE FROM record WHERE namespace = ?", (namespace,))


def _below(ids: Iterable[bytes], pairs: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """ids, and all that grew from them; pairs: (id, parent)."""
    children: dict[bytes, list[bytes]] = {}
    for id, parent in pairs:
        children.setdefault(parent, []).append(id)
    out, left = set(), list(ids)
    while left:
        id = left.pop()
        if id not in out:
            out.add(id)
            left += children.get(id, ())
    return out


def set_aside(directory: Path) -> Path:
    """Rename a bad index, so that a new one can be begun; the last few are kept."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while os.path.lexists(target := directory / (ASIDE + stamp + f"-{number}" * (number > 1))):
        number += 1
    try:
        for ending in ("-wal", "-shm", ""):  # what is not written back yet goes first: it must not meet a new index
            if os.path.lexists(directory / (INDEX + ending)):
                (directory / (INDEX + ending)).rename(f"{target}{ending}")
    except OSError as error:
        raise StoreError(
            f"{directory / INDEX}: damaged, and cannot be set aside: {error.strerror}; remove it"
        ) from None
    aside = sorted(
        (p for p in directory.glob(ASIDE + "*") if not p.name.endswith(("-wal", "-shm"))),
        key=lambda p: p.lstat().st_ctime_ns,
    )
    for old in aside[:-MAX_ASIDE]:
        remove_aside(old)
    return target


def remove_aside(path: Path) -> None:
    """Remove an index that was set aside."""
    for ending in ("", "-wal", "-shm"):
        with suppress(OSError):
            Path(f"{path}{ending}").unlink()


def clear_data(directory: Path) -> None:
    """Remove all files of nodes."""
    for path in (directory / DATA).iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _prepare(db: sqlite3.Connection, file: Path) -> None:
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] not in (b"wal", "wal"):
        raise StoreError(
            f"{file}: this file system cannot hold it (no write-ahead log); give a directory on a local disk"
        )
    db.execute("PRAGMA synchronous=NORMAL")
    version, kind = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and not version:
        db.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; "
            f"PRAGMA application_id={APPLICATION_ID}; COMMIT;"
        )
    elif (kind, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise BadIndex(
            f"{file}: kind {kind:#x}, version {version}; this a3b reads {APPLICATION_ID:#x}, version {SCHEMA_VERSION}"
        )
    if (said := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) not in (b"ok", "ok"):
        raise BadIndex(f"{file}: damaged: {said.decode(errors='replace') if isinstance(said, bytes) else said}")
    found = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if found != {statement.strip().encode() for statement in SCHEMA.split(";")} - {b""}:
        raise BadIndex(f"{file}: its tables are not those of version {SCHEMA_VERSION}")


def store_error(error: sqlite3.Error | UnicodeDecodeError, file: Path) -> StoreError:
    """What to tell about a failure: BadIndex only if the file itself is wrong."""
    if isinstance(error, UnicodeDecodeError):
        return BadIndex(f"{file}: damaged: its tables have names that are no text")
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreError(f"{file}: {text} by another process; wait for it or stop it, then try again")
    if any(word in text for word in ("unable to open", "readonly", "full", "disk I/O")):
        return StoreError(f"{file}: {text}; give a directory that can be written, on a disk that has room")
    return BadIndex(f"{file}: {text}")


def _short(id: object) -> str:
    return id.hex()[:12] if isinstance(id, bytes) else str(id)[:12]
