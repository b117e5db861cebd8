"""The SQLite file of a session directory: opening it, transactions, and what to do when it is damaged.

Owns the schema and the names in the directory. Does not know what the rows mean: nodes are in `a3b.cache.disk_index`,
records in `a3b.cache.index_records`. Enter at `Database.open`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from a3b.errors import StoreError
from a3b.files import make_private, private_directory

INDEX, DATA, LOCK, ASIDE = "index.sqlite", "data", "lock", "index.sqlite.damaged-"
OWN = (INDEX, DATA, LOCK, "secret")  # names that identify a directory as one of ours
MAX_ASIDE = 3  # damaged indexes that are kept
MAX_VALUE_BYTES = 64 << 20  # of any value in the database; the tokens of a node take at most a tenth of it
APPLICATION_ID, SCHEMA_VERSION = 0x61336273, 1
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

# What sqlite3 raises; UnicodeDecodeError where a message quotes a name from a damaged schema that is not UTF-8.
FAILURES = (sqlite3.Error, UnicodeDecodeError)


class BadIndex(StoreError):
    """The file is not an index of this version, or is damaged."""


class Database:
    """An open database. Safe to use from several threads: hold `lock` around anything that must appear atomic."""

    def __init__(self, directory: Path, connection: sqlite3.Connection):
        self.directory, self.connection = directory, connection
        self.lock = threading.RLock()

    @classmethod
    def open(cls, directory: Path, lock_timeout_s: float = 5.0) -> Database:
        """Open the database of a directory, making both if they are missing.

        Raises StoreError if the directory cannot be used, and BadIndex if the file should be set aside."""
        file = directory / INDEX
        try:
            private_directory(directory, own=OWN)
            private_directory(directory / DATA)
            is_new = not os.path.lexists(file)
            make_private(file)
            for ending in ("-wal", "-shm"):  # SQLite makes these with the mode of the main file
                make_private(f"{file}{ending}", create=False)
            if not is_new and not file.stat().st_size and any((directory / DATA).iterdir()):
                raise BadIndex(f"{file}: empty, although there are sessions")
            connection = sqlite3.connect(file, timeout=lock_timeout_s, isolation_level=None, check_same_thread=False)
        except OSError as error:
            where = f"{error.filename}: " if error.filename not in (None, str(directory)) else ""
            raise StoreError(
                f"{directory}: sessions cannot be kept here: {where}{error.strerror}; "
                "give a writable directory of yours"
            ) from None
        except sqlite3.Error as error:
            raise StoreError(f"{directory}: sessions cannot be kept here: {error}; give a writable directory") from None
        connection.text_factory = bytes  # so that fetching a damaged text does not raise
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        try:
            _prepare(connection, file)
        except FAILURES as error:
            connection.close()
            raise store_error(error, file) from None
        except StoreError:
            connection.close()
            raise
        return cls(directory, connection)

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block atomically, as other processes see it too."""
        with self.lock:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(*FAILURES):
                    self.connection.execute("ROLLBACK")
                raise

    @property
    def data_version(self) -> int:
        """A number that changes when another process writes."""
        with self.lock:
            return int(self.connection.execute("PRAGMA data_version").fetchone()[0])


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    """Make the tables of a new file, check those of an existing one. Raises StoreError, BadIndex, sqlite3.Error."""
    if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] not in (b"wal", "wal"):
        raise StoreError(
            f"{file}: this file system cannot hold it (no write-ahead log); give a directory on a local disk"
        )
    connection.execute("PRAGMA synchronous=NORMAL")
    version, kind = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and not version:
        connection.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; "
            f"PRAGMA application_id={APPLICATION_ID}; COMMIT;"
        )
    elif (kind, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise BadIndex(
            f"{file}: kind {kind:#x}, version {version}; this a3b reads {APPLICATION_ID:#x}, version {SCHEMA_VERSION}"
        )
    if (verdict := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) not in (b"ok", "ok"):
        raise BadIndex(
            f"{file}: damaged: {verdict.decode(errors='replace') if isinstance(verdict, bytes) else verdict}"
        )
    found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if found != {statement.strip().encode() for statement in SCHEMA.split(";")} - {b""}:
        raise BadIndex(f"{file}: its tables are not those of version {SCHEMA_VERSION}")


def store_error(error: sqlite3.Error | UnicodeDecodeError, file: Path) -> StoreError:
    """The StoreError for a failure of the database; a BadIndex only if the file itself is wrong."""
    if isinstance(error, UnicodeDecodeError):
        return BadIndex(f"{file}: damaged: its tables have names that are not UTF-8")
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreError(f"{file}: {text} by another process; wait for it or stop it, then try again")
    if any(word in text for word in ("unable to open", "readonly", "full", "disk I/O")):
        return StoreError(f"{file}: {text}; give a writable directory, on a disk with room")
    return BadIndex(f"{file}: {text}")


def set_aside(directory: Path) -> Path:
    """Rename a damaged index so that a new one can be made; returns its new path. Only the last MAX_ASIDE are kept."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while os.path.lexists(target := directory / (ASIDE + stamp + f"-{number}" * (number > 1))):
        number += 1
    try:
        for ending in ("-wal", "-shm", ""):  # the log goes first: a new index must not meet it
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
    """Remove the files of all nodes."""
    for path in (directory / DATA).iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
