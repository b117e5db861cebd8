"""Records of the index: values by namespace and key, such as remembered turns and stored responses.

A record is sealed with a checksum. It may belong to a node, and is then dropped with it. The number of records is
bounded, and shared fairly between namespaces. Does not know what the values mean. Enter at `RecordTable`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from a3b.cache.index_database import Database
from a3b.cache.index_rows import record_of, seal
from a3b.cache.shares import fair_share
from a3b.errors import StoreError

MAX_RECORDS, MAX_RECORD_BYTES, RECORDS_BYTES = 100_000, 4 << 20, 256 << 20
COLUMNS = "namespace, key, value, node, created, seal"
SIZES = "SELECT CAST(namespace AS BLOB) AS name, count(*), coalesce(sum(length(value)), 0) FROM record GROUP BY name"
KEEP_NEWEST = """
DELETE FROM record WHERE rowid IN (
  SELECT number FROM (SELECT rowid AS number, row_number() OVER newest AS place, sum(length(value)) OVER newest AS size
                      FROM record WHERE CAST(namespace AS BLOB) IS ? WINDOW newest AS (ORDER BY rowid DESC))
  WHERE (place > ? OR size > ?) AND place > ?)
"""  # namespace; records and bytes at most; records at least


class RecordTable:
    """The records of a database. Safe to use from several threads."""

    def __init__(self, database: Database):
        self._database = database
        self._size: tuple[int, int] | None = None  # upper bounds of (records, their bytes); None: not counted yet

    def put(self, namespace: str, key: bytes, value: bytes, node: bytes | None, now: int) -> None:
        """Add a record as the newest of its key; an equal one is replaced. Raises StoreError if it is too large."""
        if len(value) > MAX_RECORD_BYTES:
            raise StoreError(f"record: {len(value)} bytes; at most {MAX_RECORD_BYTES} are kept")
        same = (namespace, key, value, node or b"")
        with self._database.transaction() as db:
            db.execute("DELETE FROM record WHERE namespace = ? AND key = ? AND value = ? AND node = ?", same)
            db.execute(f"INSERT INTO record({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", (*same, now, seal((*same, now))))
            if self._size is not None:  # counting would read every record
                self._size = self._size[0] + 1, self._size[1] + len(value)
            if self._size is None or self._size[0] > MAX_RECORDS or self._size[1] > RECORDS_BYTES:
                self._size = _shrink(db)

    def get(self, namespace: str, key: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """(key, value) of one key or of all, oldest first, without records that were changed."""
        query = (
            f"SELECT {COLUMNS} FROM record WHERE namespace = ? {'' if key is None else 'AND key = ?'} ORDER BY rowid"
        )
        with self._database.lock:
            found = self._database.connection.execute(query, (namespace,) if key is None else (namespace, key))
            return [record for record in map(record_of, found.fetchall()) if record]

    def drop(self) -> None:
        """Drop all records."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM record")

    def take(self, namespaces: Iterable[str], keys: Iterable[bytes]) -> set[bytes]:
        """Drop the records of these keys, and others of the same value; returns the nodes that they belong to."""
        nodes: set[bytes] = set()
        with self._database.transaction() as db:
            for pair in ((namespace, key) for namespace in namespaces for key in keys):
                found = db.execute("SELECT node, value FROM record WHERE namespace = ? AND key = ?", pair).fetchall()
                nodes |= {node for node, _ in found if isinstance(node, bytes) and node}
                same = [(pair[0], value, node) for node, value in found]
                db.executemany("DELETE FROM record WHERE namespace = ? AND value IS ? AND node IS ?", same)
            self._size = None
        return nodes

    def drop_changed(self) -> int:
        """Drop records that were altered; returns how many."""
        with self._database.transaction() as db:
            found = db.execute(f"SELECT rowid, {COLUMNS} FROM record")
            wrong = [rowid for rowid, *values in found if record_of(values) is None]
            db.executemany("DELETE FROM record WHERE rowid = ?", [(rowid,) for rowid in wrong])
        return len(wrong)


def _shrink(db: sqlite3.Connection) -> tuple[int, int]:
    """(records, their bytes), after the largest namespaces gave up their oldest, if there were too many."""
    for least in (1, 0, 0):  # kept of each namespace; none only if there are so many that not even the newest fit
        sizes = {name: (num, num_bytes) for name, num, num_bytes in db.execute(SIZES)}
        count, size = sum(num for num, _ in sizes.values()), sum(num_bytes for _, num_bytes in sizes.values())
        if count <= MAX_RECORDS and size <= RECORDS_BYTES:
            break
        # a sixteenth is left free, so that the next record does not trigger this again
        most = fair_share((num for num, _ in sizes.values()), MAX_RECORDS - MAX_RECORDS // 16)
        most_bytes = fair_share((num_bytes for _, num_bytes in sizes.values()), RECORDS_BYTES - RECORDS_BYTES // 16)
        for name, (num, num_bytes) in sizes.items():
            if num > most or num_bytes > most_bytes:
                db.execute(KEEP_NEWEST, (name, min(most, num), min(most_bytes, num_bytes), least))
    return count, size
