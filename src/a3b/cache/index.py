"""The index of stored nodes: one SQLite file, and what its rows promise about the files beside it.

Every row is sealed with a checksum, and the id of a node is the hash of all tokens up to it, so a row that was changed is
noticed and dropped with all that grew from it. Several processes may read and forget at once; one server alone adds rows.
Enter at `Index.open`. Knows no snapshots; what writes them is in `a3b.cache.store`.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a3b.cache.identity import ID_BYTES, TOKENS, path_hash, root_id
from a3b.cache.pages import Damaged, check_file, kv_blocks, state_blocks
from a3b.errors import StoreError

INDEX, DATA = "index.sqlite", "data"
APPLICATION_ID, SCHEMA_VERSION = 0x61336273, 1
KINDS = ("system", "turn", "end")
MAX_RECORDS, MAX_RECORD_BYTES, RECORDS_BYTES = 100_000, 4 << 20, 256 << 20
SCHEMA = """
CREATE TABLE node(id BLOB PRIMARY KEY, parent BLOB, root BLOB, identity BLOB, namespace TEXT, kind TEXT, label TEXT, start INTEGER,
                  tokens BLOB, created INTEGER, kv_bytes INTEGER, state_bytes INTEGER, kv_sums BLOB, state_sums BLOB, seal BLOB,
                  has_state INTEGER, last_used INTEGER);
CREATE TABLE record(namespace TEXT, key BLOB, value BLOB, node BLOB, created INTEGER, seal BLOB);
CREATE INDEX record_key ON record(namespace, key);
CREATE INDEX record_node ON record(node);
"""
SEALED = ("id", "parent", "root", "identity", "namespace", "kind", "label", "start", "tokens", "created", "kv_bytes", "state_bytes",
          "kv_sums", "state_sums")  # fmt: skip
COLUMNS = ", ".join((*SEALED, "seal", "has_state", "last_used"))


class BadIndex(StoreError):
    """The file is not an index of this version, or is damaged."""


@dataclass(frozen=True)
class Row:
    """A stored node. tokens: those since its disk parent, which ends at token `start`."""

    id: bytes
    parent: bytes  # the root, or a node
    root: bytes
    identity: bytes
    namespace: str
    kind: str
    label: str
    start: int
    tokens: bytes  # TOKENS
    created: int  # seconds since 1970, as last_used
    kv_bytes: int
    state_bytes: int
    kv_sums: bytes
    state_sums: bytes
    has_state: bool = True  # False: thinned; its keys and values serve those that grew from it
    last_used: int = 0

    @property
    def num_tokens(self) -> int:
        return self.start + len(self.tokens) // TOKENS.itemsize

    @property
    def num_bytes(self) -> int:
        return self.kv_bytes + self.state_bytes * self.has_state

    @property
    def sealed(self) -> tuple:
        return tuple(getattr(self, name) for name in SEALED)

    @property
    def seal(self) -> bytes:
        return _seal(self.sealed)

    @property
    def ids(self) -> np.ndarray:
        return np.frombuffer(self.tokens, TOKENS)


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
            (directory / DATA).mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(file, timeout=lock_timeout_s, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{directory}: sessions cannot be kept here: {error}; give a directory that can be written") from None
        db.text_factory = bytes  # a damaged text must not raise where it is fetched
        try:
            _prepare(db, file)
        except sqlite3.Error as error:
            db.close()
            raise store_error(error, file) from None
        except BadIndex:
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
                with suppress(sqlite3.Error):
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
            return {id: bool(state) for id, state in self.db.execute("SELECT id, has_state FROM node") if isinstance(id, bytes)}

    def add(self, row: Row) -> None:
        """Inside a transaction. Replaces a node of the same id."""
        self.db.execute("DELETE FROM node WHERE id = ?", (row.id,))
        values = (*row.sealed, row.seal, int(row.has_state), row.last_used)
        self.db.execute(f"INSERT INTO node({COLUMNS}) VALUES ({','.join('?' * len(values))})", values)

    def row(self, id: bytes) -> Row | None:
        with self.lock:
            found = self.db.execute(f"SELECT {COLUMNS} FROM node WHERE id = ?", (id,)).fetchone()
        return _row(found) if found else None

    def chain(self, id: bytes) -> list[Row] | None:
        """The node and those it grew from, the first one first; None if the index lacks one of them."""
        out: list[Row] = []
        while not out or out[0].parent != out[0].root:
            row = self.row(out[0].parent if out else id)
            if row is None or (out and row.num_tokens != out[0].start):
                return None
            out.insert(0, row)
        return out if out[0].start == 0 else None

    def rows(self, root: bytes | None = None) -> tuple[list[Row], list[bytes]]:
        """(sound rows, parents before children; ids of rows that are wrong or stand on one that is). root: of one namespace only."""
        where, values = ("WHERE root = ?", (root,)) if root else ("", ())
        with self.lock:
            found = self.db.execute(f"SELECT {COLUMNS} FROM node {where}", values).fetchall()
        good, hashes, bad = [], {}, []
        rows = [(_row(values), values[0]) for values in found]
        for row, id in sorted(rows, key=lambda pair: pair[0].num_tokens if pair[0] else 0):
            if row is not None:
                above, end = hashes.get(row.parent, (path_hash(row.root), 0)) if row.parent != row.root else (path_hash(row.root), 0)
                total = above.copy()
                total.update(row.tokens)
                if end == row.start and total.digest() == id and root_id(row.identity, row.namespace) == row.root:
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
        return [row.ids for row in map(_row, found) if row]

    def below(self, ids: Iterable[bytes]) -> set[bytes]:
        """These nodes and all that grew from them."""
        children: dict[bytes, list[bytes]] = {}
        with self.lock:
            for id, parent in self.db.execute("SELECT id, parent FROM node"):
                children.setdefault(parent, []).append(id)
        out, left = set(), list(ids)
        while left:
            id = left.pop()
            if id not in out:
                out.add(id)
                left += children.get(id, ())
        return out

    def session(self, id: bytes) -> set[bytes]:
        """A node, all that grew from it, and what it alone grew from; not a system prompt, which belongs to nobody."""
        with self.lock:
            found = list(self.db.execute("SELECT id, parent, kind FROM node"))
        parent_of = {i: parent for i, parent, _ in found}
        system = {i for i, _, kind in found if kind == b"system"}
        out, above = self.below([id]), parent_of.get(id)
        while above in parent_of and above not in system and all(i in out for i, parent in parent_of.items() if parent == above):
            out.add(above)
            above = parent_of[above]
        return out

    def remove(self, ids: Iterable[bytes], with_records: bool = False) -> set[bytes]:
        """Drop nodes and their descendants, rows first, then files; which were dropped."""
        gone = self.below(ids)
        with self.transaction() as db:
            db.executemany("DELETE FROM node WHERE id IS ?", [(id,) for id in gone])
            if with_records:
                db.executemany("DELETE FROM record WHERE node = ?", [(id,) for id in gone])
            for id in gone:
                self._unlink(id, "kv")
                self._unlink(id, "state")
        return gone

    def thin(self, id: bytes) -> None:
        """Drop the recurrent state of a node."""
        with self.transaction() as db:
            db.execute("UPDATE node SET has_state = 0 WHERE id = ?", (id,))
            self._unlink(id, "state")

    def _unlink(self, id: bytes, kind: str) -> None:
        if isinstance(id, bytes) and len(id) == ID_BYTES:
            with suppress(OSError):
                self.file(id, kind).unlink()

    def touch(self, used: dict[bytes, int]) -> None:
        with self.transaction() as db:
            db.executemany("UPDATE node SET last_used = ? WHERE id = ?", [(at, id) for id, at in used.items()])

    def num_bytes(self) -> int:
        """Of all files, as the index has them."""
        query = "SELECT coalesce(sum(kv_bytes + state_bytes * has_state), 0) FROM node"
        with self.lock:
            return int(self.db.execute(query).fetchone()[0])

    def expire(self, before: int) -> set[bytes]:
        """Drop nodes and records unused since `before`, a node only with all that grew from it; which nodes."""
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

    def shrink(self, max_bytes: int) -> tuple[set[bytes], set[bytes]]:
        """Make room: states in the middle of conversations first, then whole ends, those used longest ago first.

        (ids dropped, ids that lost their state). The state of a system prompt, a fork, an end and what it grew from stay for last.
        """
        over = self.num_bytes() - max_bytes
        if over <= 0:
            return set(), set()
        rows, bad = self.rows()
        gone, thinned = set(bad), set()
        left = {row.id: row for row in rows}
        children: dict[bytes, int] = {}
        for row in rows:
            children[row.parent] = children.get(row.parent, 0) + 1
        over -= sum(row.num_bytes for row in self._rows_of(bad))
        ends = {row.parent for row in rows if row.id not in children}
        middle = [r for r in rows if children.get(r.id) == 1 and r.id not in ends and r.kind != "system" and r.has_state]
        for row in sorted(middle, key=lambda r: (r.last_used, r.num_tokens)):
            if over <= 0:
                break
            thinned.add(row.id)
            over -= row.state_bytes
        while left:
            ends = [r for r in left.values() if not children.get(r.id)]
            row = min(ends, key=lambda r: (r.has_state and r.id not in thinned, r.last_used, r.num_tokens))
            useless = not row.has_state or row.id in thinned  # nothing can start there
            if over <= 0 and not useless:
                break
            del left[row.id]
            children[row.parent] = children.get(row.parent, 1) - 1
            over -= row.kv_bytes + (0 if useless else row.state_bytes)
            gone.add(row.id)
        for id in thinned - gone:
            self.thin(id)
        return self.remove(gone) if gone else set(), thinned - gone

    def _rows_of(self, ids: Iterable[bytes]) -> list[Row]:
        return [row for row in map(self.row, ids) if row]

    def sweep(self) -> None:
        """Remove files that no row names, and nodes whose files are not there or not as long as they should be. For the server alone."""
        rows, bad = self.rows()
        known = {self.file(row.id, "kv").name: row.kv_bytes for row in rows}
        known |= {self.file(row.id, "state").name: row.state_bytes for row in rows if row.has_state}
        found = {}
        for path in (self.directory / DATA).iterdir():
            if path.is_file():
                if path.name in known:
                    found[path.name] = path.stat().st_size
                else:
                    path.unlink()
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
        said = [f"{_short(id)}: its row in the index is not the one that was written, or what it grew from is gone" for id in bad]
        drop, thin = list(bad), []
        for row in rows:
            try:
                check_file(self.file(row.id, "kv"), row.id, b"kv", row.kv_sums, kv_blocks(row.start, row.num_tokens, row.kv_bytes), done)
            except Damaged as error:
                if self.row(row.id):  # else it was forgotten meanwhile
                    drop.append(row.id)
                    said.append(f"{_short(row.id)}: {error}")
                continue
            try:
                if row.has_state:
                    check_file(self.file(row.id, "state"), row.id, b"state", row.state_sums, state_blocks(row.state_bytes), done)
            except Damaged as error:
                if (now := self.row(row.id)) and now.has_state:
                    thin.append(row.id)
                    said.append(f"{_short(row.id)}: {error}")
        for id in thin:
            self.thin(id)
        num_gone = len(self.remove(drop)) if drop else 0
        if num_gone > len(drop):
            said.append(f"{num_gone - len(drop)} more that grew from these")
        with self.transaction() as db:
            wrong = [number for number, *values in db.execute("SELECT rowid, namespace, key, value, node, created, seal FROM record")
                     if _record(values) is None]  # fmt: skip
            db.executemany("DELETE FROM record WHERE rowid = ?", [(number,) for number in wrong])
        return said + ([f"{len(wrong)} remembered turns"] if wrong else [])

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None, now: int) -> None:
        if len(value) > MAX_RECORD_BYTES:
            raise StoreError(f"record: {len(value)} bytes; at most {MAX_RECORD_BYTES} are kept")
        node = node or b""
        seal = _seal((namespace, key, value, node, now))
        with self.transaction() as db:
            same = (namespace, key, value, node)
            db.execute("DELETE FROM record WHERE namespace = ? AND key = ? AND value = ? AND node = ?", same)
            db.execute("INSERT INTO record(namespace, key, value, node, created, seal) VALUES (?, ?, ?, ?, ?, ?)", (*same, now, seal))
            if self._record_size is not None:  # counting reads all of them
                self._record_size = self._record_size[0] + 1, self._record_size[1] + len(value)
            if self._record_size is None or self._record_size[0] > MAX_RECORDS or self._record_size[1] > RECORDS_BYTES:
                self._record_size = self._bound_records(db)

    def _bound_records(self, db: sqlite3.Connection) -> tuple[int, int]:
        while True:
            count, size = db.execute("SELECT count(*), coalesce(sum(length(value)), 0) FROM record").fetchone()
            if count <= MAX_RECORDS and size <= RECORDS_BYTES:
                return count, size
            db.execute("DELETE FROM record WHERE rowid IN (SELECT rowid FROM record ORDER BY rowid LIMIT ?)", (1 + count // 16,))

    def records(self, namespace: str, key: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """(key, value) of one key or of all, oldest first; records that were changed are left out."""
        which, values = ("", (namespace,)) if key is None else ("AND key = ?", (namespace, key))
        query = f"SELECT namespace, key, value, node, created, seal FROM record WHERE namespace = ? {which} ORDER BY rowid"
        with self.lock:
            found = self.db.execute(query, values).fetchall()
        return [record for record in map(_record, found) if record]

    def drop_records(self, namespace: str | None = None) -> None:
        with self.transaction() as db:
            if namespace is None:
                db.execute("DELETE FROM record")
            else:
                db.execute("DELETE FROM record WHERE namespace = ?", (namespace,))


def set_aside(directory: Path) -> Path:
    """Rename a bad index so that a new one can be begun."""
    number = 1
    while (target := directory / f"index.bad-{number}").exists():
        number += 1
    try:
        (directory / INDEX).rename(target)
        for ending in ("-wal", "-shm"):
            (directory / (INDEX + ending)).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{directory / INDEX}: damaged, and cannot be set aside: {error.strerror}; remove it") from None
    return target


def _prepare(db: sqlite3.Connection, file: Path) -> None:
    if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] not in (b"wal", "wal"):
        raise StoreError(f"{file}: this file system cannot hold it (no write-ahead log); give a directory on a local disk")
    db.execute("PRAGMA synchronous=NORMAL")
    version, kind = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and not version:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; PRAGMA application_id={APPLICATION_ID}; COMMIT;")
    elif (kind, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise BadIndex(f"{file}: kind {kind:#x}, version {version}; this a3b reads {APPLICATION_ID:#x}, version {SCHEMA_VERSION}")
    if (said := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) not in (b"ok", "ok"):
        raise BadIndex(f"{file}: damaged: {said.decode(errors='replace') if isinstance(said, bytes) else said}")
    db.execute(f"SELECT {COLUMNS} FROM node LIMIT 1").fetchall()


def store_error(error: sqlite3.Error, file: Path) -> StoreError:
    """What to tell about a failure: BadIndex only if the file itself is wrong."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreError(f"{file}: {text} by another process; wait for it or stop it, then try again")
    if any(word in text for word in ("unable to open", "readonly", "full", "disk I/O")):
        return StoreError(f"{file}: {text}; give a directory that can be written, on a disk that has room")
    return BadIndex(f"{file}: {text}")


def _seal(values: Iterable) -> bytes:
    """A digest of values and of their types."""
    total = hashlib.blake2b(digest_size=ID_BYTES)
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
        total.update(f"{type(value).__name__}{len(data)}:".encode())
        total.update(data)
    return total.digest()


def _row(values: tuple) -> Row | None:
    """A row of COLUMNS as it was written, or None."""
    try:
        *fields, seal, has_state, last_used = values
        for i in (4, 5, 6):
            fields[i] = fields[i].decode()
        row = Row(*fields, bool(has_state), last_used if type(last_used) is int else 0)
        sound = row.seal == seal and len(row.tokens) % TOKENS.itemsize == 0 and row.start >= 0 and row.kind in KINDS
        return row if sound else None
    except (AttributeError, TypeError, ValueError):
        return None


def _record(values: Iterable) -> tuple[bytes, bytes] | None:
    try:
        namespace, key, value, node, created, seal = values
        return (key, value) if _seal((namespace.decode(), key, value, node, created)) == seal else None
    except (AttributeError, TypeError, ValueError):
        return None


def _short(id: object) -> str:
    return id.hex()[:12] if isinstance(id, bytes) else str(id)[:12]
