"""The index of stored nodes: which conversations are on disk, and what its rows promise about the files next to it.

Every row is sealed with a checksum, and the id of a node is the hash of all tokens up to it, so a row that was changed
is noticed and dropped with the nodes below it. Several processes may read and forget at once; only the server adds
rows. Does not read or write snapshots; `a3b.cache.disk_store` does. Enter at `Index.open`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from a3b.cache.disk_eviction import plan_eviction
from a3b.cache.identity import ID_BYTES, PathHash, path_hash, root_id
from a3b.cache.index_database import DATA, FAILURES, Database
from a3b.cache.index_records import RecordTable
from a3b.cache.index_rows import COLUMNS, MAX_NUMBER, Row, row_of


class Index:
    """The table of nodes and the directory of their files. Safe to use from several threads.

    records: the other table of the database."""

    def __init__(self, database: Database):
        self.directory = database.directory
        self.lock = database.lock  # held around anything that must appear atomic
        self.records = RecordTable(database)
        self._database = database

    @classmethod
    def open(cls, directory: Path, lock_timeout_s: float = 5.0) -> Index:
        """Open the index of a directory, making both if they are missing. Raises StoreError, BadIndex."""
        return cls(Database.open(directory, lock_timeout_s))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block atomically, as other processes see it too."""
        with self._database.transaction():
            yield

    @property
    def data_version(self) -> int:
        """A number that changes when another process writes."""
        return self._database.data_version

    def file(self, id: bytes, kind: str) -> Path:
        """The path of a file of a node. kind: "kv" or "state"."""
        return self.directory / DATA / f"{id.hex()}.{kind}"

    # reading rows

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self.lock:
            return self._database.connection.execute(query, values).fetchall()

    def holdings(self) -> dict[bytes, bool]:
        """id -> whether its state is stored too."""
        found = self._select("SELECT id, has_state FROM node")
        return {id: bool(state) for id, state in found if isinstance(id, bytes)}

    def row(self, id: bytes) -> Row | None:
        """The row of a node; None if it is missing or was altered."""
        found = self._select(f"SELECT {COLUMNS} FROM node WHERE id = ?", (id,))
        return row_of(found[0]) if found else None

    def chain(self, id: bytes) -> list[Row] | None:
        """A node and those above it, starting at the top, each with more tokens than the one before; None if a row is
        missing."""
        out: list[Row] = []
        while not out or out[-1].parent != out[-1].root:
            row = self.row(out[-1].parent if out else id)
            if row is None or (out and row.num_tokens != out[-1].start):
                return None
            out.append(row)
        return out[::-1] if out[-1].start == 0 else None

    def rows(self, root: bytes | None = None) -> tuple[list[Row], list[bytes]]:
        """(sound rows, parents before children; ids of rows that are unsound or below an unsound one).

        A sound row has a sound parent with fewer tokens, or begins at the root, so no row is its own ancestor. root:
        only rows of this namespace and identity."""
        where, values = ("WHERE root = ?", (root,)) if root else ("", ())
        good: list[Row] = []
        bad: list[bytes] = []
        hashes: dict[bytes, tuple[PathHash, int]] = {}  # of sound rows: (hash of the tokens so far, how many)
        rows = [(row_of(found), found[0]) for found in self._select(f"SELECT {COLUMNS} FROM node {where}", values)]
        for row, id in sorted(rows, key=lambda pair: pair[0].num_tokens if pair[0] else 0):
            total = _hash_if_sound(row, hashes) if row else None
            if row is None or total is None:
                bad.append(id)
            else:
                hashes[id] = total, row.num_tokens
                good.append(row)
        return good, bad

    def tops(self, namespace: str, root: bytes) -> list[np.ndarray]:
        """The tokens of each first node of a namespace under an identity other than that of `root`."""
        query = f"SELECT {COLUMNS} FROM node WHERE namespace = ? AND root != ? AND parent = root"
        return [row.ids for row in map(row_of, self._select(query, (namespace, root))) if row]

    def num_ends(self, identity: bytes) -> int:
        """How many nodes of an identity end a conversation."""
        query = (
            "SELECT count(*) FROM node AS n WHERE identity = ? AND NOT EXISTS (SELECT 1 FROM node WHERE parent = n.id)"
        )
        return int(self._select(query, (identity,))[0][0])

    def below(self, ids: Iterable[bytes]) -> set[bytes]:
        """These nodes and all below them."""
        return _below(ids, self._select("SELECT id, parent FROM node"))

    def session(self, id: bytes) -> set[bytes]:
        """A node, all below it, and those above that lead only to it, except system prompts, which are shared."""
        found = self._select("SELECT id, parent, kind FROM node")
        parent_of: dict[bytes, bytes] = {i: parent for i, parent, _ in found}
        system = {i for i, _, kind in found if kind == b"system"}
        out = _below([id], parent_of.items())
        above = parent_of.get(id)
        while above is not None and above in parent_of.keys() - system - out:
            if any(parent == above and child not in out for child, parent in parent_of.items()):
                break  # a fork
            out.add(above)
            above = parent_of[above]
        return out

    def num_bytes(self, identity: bytes | None = None) -> int:
        """Bytes of all files, or of those of an identity, according to the index."""
        query = "SELECT coalesce(sum({0}), 0) FROM node WHERE {1} AND typeof({0}) = 'integer' AND {0} BETWEEN 0 AND ?"
        query += "" if identity is None else " AND identity = ?"
        values = (MAX_NUMBER,) if identity is None else (MAX_NUMBER, identity)
        with self.lock:
            return sum(
                int(self._select(query.format(column, condition), values)[0][0])
                for column, condition in (("kv_bytes", "true"), ("state_bytes", "has_state"))
            )

    # changing rows

    def add(self, row: Row) -> None:
        """Add a node, or replace the one with its id. Inside a transaction only."""
        db = self._database.connection
        db.execute("DELETE FROM node WHERE id = ?", (row.id,))
        values = (*row.sealed, row.seal, int(row.has_state), row.last_used)
        db.execute(f"INSERT INTO node({COLUMNS}) VALUES ({','.join('?' * len(values))})", values)

    def remove(self, ids: Iterable[bytes], with_records: bool = False) -> set[bytes]:
        """Drop nodes, all below them, and their files; returns the ids that were dropped."""
        gone = self.below(ids)
        with self._database.transaction() as db:
            db.executemany("DELETE FROM node WHERE id IS ?", [(id,) for id in gone])
            if with_records:
                db.executemany("DELETE FROM record WHERE node = ?", [(id,) for id in gone])
        self.unlink_unnamed(gone)
        return gone

    def thin(self, *ids: bytes) -> None:
        """Drop the recurrent state of nodes."""
        with self._database.transaction() as db:
            db.executemany("UPDATE node SET has_state = 0 WHERE id = ?", [(id,) for id in ids])
        self.unlink_unnamed(ids)

    def unlink_unnamed(self, ids: Iterable[bytes]) -> None:
        """Remove the files of nodes that the index no longer names.

        After the commit: a kill between the two leaves files without a row, which the next server removes, and never a
        row without files. In a transaction, so that another process cannot write one of these nodes meanwhile."""
        with suppress(*FAILURES), self._database.transaction() as db:
            for id in ids:
                if isinstance(id, bytes) and len(id) == ID_BYTES:
                    row = db.execute("SELECT has_state FROM node WHERE id = ?", (id,)).fetchone()
                    for kind in [kind for kind, is_named in (("kv", row), ("state", row and row[0])) if not is_named]:
                        with suppress(OSError):
                            self.file(id, kind).unlink()

    def touch(self, used: dict[bytes, int]) -> None:
        """Set the time of last use of nodes: id -> seconds since 1970."""
        with self._database.transaction() as db:
            db.executemany("UPDATE node SET last_used = ? WHERE id = ?", [(at, id) for id, at in used.items()])

    def expire(self, before: int) -> set[bytes]:
        """Drop nodes and records not used since `before`, in seconds since 1970; returns the ids of the nodes.

        A node stays as long as one below it."""
        before = max(before, 0)
        rows, bad = self.rows()
        keep: set[bytes] = set()
        for row in reversed(rows):  # children before parents
            if row.last_used >= before or row.id in keep:
                keep |= {row.id, row.parent}
        gone = {row.id for row in rows} - keep | set(bad)
        if gone:
            self.remove(gone)
        with self._database.transaction() as db:
            db.execute("DELETE FROM record WHERE created < ?", (before,))
        return gone

    def shrink(self, max_bytes: int, now: int | None = None) -> tuple[set[bytes], set[bytes]]:
        """Bring the files down to `max_bytes` by `plan_eviction`; returns (ids dropped, ids that lost their state)."""
        if self.num_bytes() <= max_bytes:
            return set(), set()
        rows, bad = self.rows()
        gone, thinned = plan_eviction(rows, max_bytes, int(time.time()) if now is None else now)
        if thinned:
            self.thin(*thinned)
        gone |= set(bad)
        return self.remove(gone) if gone else set(), thinned


def _hash_if_sound(row: Row, hashes: dict[bytes, tuple[PathHash, int]]) -> PathHash | None:
    """The hash of all tokens up to a row, if it is the row's id; hashes: those of the sound rows before it."""
    if row.parent == row.root:
        above, end = path_hash(row.root), 0
    elif row.parent in hashes:
        above, end = hashes[row.parent]
    else:
        return None
    if end != row.start or root_id(row.identity, row.namespace) != row.root:
        return None
    total = above.copy()
    total.update(row.tokens)
    return total if total.digest() == row.id else None


def _below(ids: Iterable[bytes], pairs: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """ids, and all below them. pairs: (id, parent)."""
    children: dict[bytes, list[bytes]] = {}
    for id, parent in pairs:
        children.setdefault(parent, []).append(id)
    out: set[bytes] = set()
    left = list(ids)
    while left:
        id = left.pop()
        if id not in out:
            out.add(id)
            left += children.get(id, ())
    return out
