"""An index of the sessions of a directory: SQLite FTS5, made from the transcripts and never needed to read them.

It follows the transcripts by what was added to each since the last time. An index that is damaged, or of another form,
is removed and made again. Sessions that were made with another API key are in it, and are never among the matches.
Enter at `SearchIndex.search`."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from a3b.agent.recall.passages import PASSAGE_KINDS, PassageReader
from a3b.agent.recall.queries import clean, excerpt, queries_of, searchable
from a3b.agent.sessions import ProjectSessions
from a3b.errors import StoreError
from a3b.files import make_private, open_private
from a3b.units import moment

NAME, LOCK = "recall.sqlite", "recall.lock"
BESIDE = ("", "-journal", "-wal", "-shm")
VERSION = 1
MAX_PASSAGES = 60_000  # of a directory; those of the oldest sessions leave
MAX_LINE, MAX_FILE = 64 << 20, 512 << 20  # bytes of a transcript and a record in it, as transcripts have them
MAX_SECONDS = 10.0  # of one search
SCHEMA = (
    "CREATE TABLE source(id TEXT PRIMARY KEY, key TEXT, inode INTEGER, size INTEGER, changed INTEGER, sum TEXT, "
    "at REAL, begun INTEGER)",
    "CREATE VIRTUAL TABLE passage USING fts5(words, text UNINDEXED, session UNINDEXED, turn UNINDEXED, at UNINDEXED, "
    "kind UNINDEXED, tokenize = 'porter unicode61')",
)
TABLES = {"source", "passage", *(f"passage_{part}" for part in ("data", "idx", "content", "docsize", "config"))}
MATCHES = """
SELECT session, turn, at, kind, CASE WHEN text = '' THEN words ELSE text END FROM passage
WHERE passage MATCH ? AND session IN (SELECT id FROM source WHERE key = ?)
  AND NOT (session = ? AND turn > (SELECT begun FROM source WHERE id = session)) ORDER BY rank LIMIT ?
"""


@dataclass(frozen=True)
class RecallMatch:
    """A passage that matches. session, turn, at (seconds since 1970) and kind say where it stands; text: some lines."""

    session: str
    turn: int
    at: float
    kind: str
    text: str

    @property
    def source(self) -> str:
        """The citation."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.at))
        return f"session {self.session}, turn {self.turn}, {when}, {self.kind}"


@dataclass(frozen=True)
class RecallResult:
    """matches: the best first; sessions: how many were searched; left_out: oldest sessions that have left the index."""

    matches: tuple[RecallMatch, ...]
    sessions: int
    left_out: int


class SearchIndex:
    """The index of one directory, for one API key. Opens its file for each call, so that any process may remove it."""

    def __init__(self, sessions: ProjectSessions, max_passages: int = MAX_PASSAGES):
        self.sessions, self.max_passages = sessions, max_passages
        self.path = sessions.place / NAME

    def search(self, words: str, most: int = 8, own: str = "") -> RecallResult:
        """The best matches, one of each turn and kind. own: a session of which only what a compaction took away counts.

        Raises StoreError if the index can neither be read nor made, or the search takes too long."""
        return self._kept(lambda db: self._search(db, words, most, own))

    def _search(self, db: sqlite3.Connection, words: str, most: int, own: str) -> RecallResult:
        left_out = self._follow(db)
        key = self.sessions.key
        num = db.execute("SELECT count(*) FROM source WHERE key = ? AND id <> ?", (key, own)).fetchone()[0]
        found: list[RecallMatch] = []
        end = time.monotonic() + MAX_SECONDS
        db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        for query in queries_of(words):
            rows = db.execute(MATCHES, (query, key, own, most * 8)).fetchall()
            found = _distinct([match for row in rows if (match := _match(row, words))])[:most]
            if found:
                break
        return RecallResult(tuple(found), int(num), left_out)

    def _kept(self, use: Callable[[sqlite3.Connection], RecallResult]) -> RecallResult:
        """Uses the index under its lock; one that is damaged is made again, once."""
        try:
            if not self.sessions.place.is_dir():
                return RecallResult((), 0, 0)
            with locked(self.sessions.place):
                for is_last in (False, True):
                    try:
                        with closing(self._open()) as db:
                            return use(db)
                    except sqlite3.OperationalError as error:
                        if "interrupted" in str(error):
                            raise StoreError(
                                f"the search took more than {MAX_SECONDS:.0f} s; give fewer words"
                            ) from None
                        if is_last:
                            raise StoreError(f"{self.path}: {error}") from None
                    except (sqlite3.Error, OverflowError) as error:
                        if is_last:
                            raise StoreError(f"{self.path}: {error}") from None
                    remove_index(self.sessions.place)
        except OSError as error:
            raise StoreError(
                f"{error.filename or self.path}: {error.strerror}; earlier sessions cannot be searched"
            ) from None
        raise AssertionError("the last attempt returns or raises")

    def _open(self) -> sqlite3.Connection:
        make_private(self.path)
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = OFF")  # what a power cut damages is made again
            names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")}
            if names and (names != TABLES or db.execute("PRAGMA user_version").fetchone()[0] != VERSION):
                raise sqlite3.DatabaseError("is of another form")
            if not names:
                with transaction(db):
                    for statement in SCHEMA:
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    # following the transcripts

    def _follow(self, db: sqlite3.Connection) -> int:
        """Takes in what is new; returns how many of the oldest sessions have no room."""
        known = {row[0]: row[1:] for row in db.execute("SELECT id, inode, changed, size, sum, at, begun FROM source")}
        ids = self.sessions.ids()
        for id in known.keys() - set(ids):
            self._drop(db, id)
        left_out = 0
        for place, id in enumerate(ids):
            if self._count(db) >= self.max_passages and id not in known:
                left_out = len(ids) - place
                break
            with suppress(OSError, ValueError):  # gone meanwhile, or no transcript
                self._follow_one(db, id, known.get(id))
        while self._count(db) > self.max_passages:
            oldest = db.execute("SELECT min(id), count(*) FROM source").fetchone()
            if oldest[1] < 2:
                break
            self._drop(db, oldest[0])
            left_out += 1
        return left_out

    def _count(self, db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT count(*) FROM passage_docsize").fetchone()[0])

    def _drop(self, db: sqlite3.Connection, id: str) -> None:
        with transaction(db):
            db.execute("DELETE FROM passage WHERE session = ?", (id,))
            db.execute("DELETE FROM source WHERE id = ?", (id,))

    def _follow_one(self, db: sqlite3.Connection, id: str, known: tuple[Any, ...] | None) -> None:
        with open(self.sessions.path(id), "rb", opener=open_private) as file:
            found = os.fstat(file.fileno())
            if known is not None:
                if (found.st_ino, found.st_mtime_ns, found.st_size) == known[:3]:
                    return
                if found.st_ino != known[0] or not _goes_on(file, known[2], known[3]):
                    self._drop(db, id)
                    known = None
            with transaction(db):
                self._take(db, id, file, known, found)

    def _take(
        self, db: sqlite3.Connection, id: str, file: BinaryIO, known: tuple[Any, ...] | None, status: os.stat_result
    ) -> None:
        _, _, size, _, at, begun = known or (0, 0, 0, "", 0.0, 0)
        file.seek(0)
        digest = _digest(file, size)
        reader = PassageReader(moment(at), int(begun))
        rows: list[tuple[Any, ...]] = []
        head: dict[str, Any] | None = None
        while (line := file.readline(MAX_LINE + 1)).endswith(b"\n") and size < MAX_FILE and len(rows) < MAX_PASSAGES:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                break  # the transcript is read up to here too
            if not isinstance(record, dict):
                break
            if size == 0:
                head = record
                reader.at = moment(head.get("created"))
            for passage in reader.read(record):
                text, words = clean(passage.text), searchable(clean(passage.text))
                rows.append((words, "" if text == words else text, id, passage.turn, passage.at, passage.kind))
            size += len(line)
            digest.update(line)
        if head is not None:
            if head.get("a3b") != "transcript" or head.get("directory") != str(self.sessions.workspace):
                raise ValueError("is no transcript of this directory")
            key = head.get("key", "")
            db.execute("INSERT INTO source(id, key) VALUES (?, ?)", (id, key if isinstance(key, str) else "?"))
        db.executemany("INSERT INTO passage(words, text, session, turn, at, kind) VALUES (?, ?, ?, ?, ?, ?)", rows)
        db.execute(
            "UPDATE source SET inode = ?, changed = ?, size = ?, sum = ?, at = ?, begun = ? WHERE id = ?",
            (status.st_ino, status.st_mtime_ns, size, digest.hexdigest(), reader.at, reader.begun, id),
        )


def _goes_on(file: BinaryIO, size: int, digest: str) -> bool:
    """Whether the file still begins with what was taken in."""
    file.seek(0)
    return 0 <= size <= os.fstat(file.fileno()).st_size and _digest(file, size).hexdigest() == digest


def _digest(file: BinaryIO, size: int) -> Any:
    """The running digest of the next `size` bytes, which are read."""
    digest = hashlib.sha256()
    while size > 0 and (data := file.read(min(size, 1 << 20))):
        digest.update(data)
        size -= len(data)
    return digest


def _match(row: tuple[Any, ...], words: str) -> RecallMatch | None:
    """A row as a match; None if it has another form than this file writes."""
    session, turn, at, kind, text = row
    if not (isinstance(session, str) and type(turn) is int and isinstance(text, str) and kind in PASSAGE_KINDS):
        return None
    if not (isinstance(at, int | float) and 0 <= at < 1 << 40):
        return None
    return RecallMatch(session, turn, moment(at), kind, excerpt(text, words))


def _distinct(matches: list[RecallMatch]) -> list[RecallMatch]:
    """The first of each turn and kind, and of each text."""
    places, texts, out = set(), set(), []
    for match in matches:
        place = match.session, match.turn, match.kind
        if place not in places and match.text not in texts:
            places.add(place)
            texts.add(match.text)
            out.append(match)
    return out


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Keeps others from using or removing the index of a directory."""
    with open(place / LOCK, "r+b", opener=lambda name, _: open_private(name, os.O_RDWR | os.O_CREAT)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_index(place: Path) -> None:
    """Removes the index; the next search makes it again from the transcripts that there are then."""
    for suffix in BESIDE:
        with suppress(FileNotFoundError):
            os.unlink(place / f"{NAME}{suffix}")
