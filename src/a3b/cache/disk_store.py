"""Snapshots on disk, behind the prefix tree: written in the background, read back in seconds, never served if a byte is
wrong.

A node on disk is its tokens since the node it grew from, the pages of keys and values since then, and its recurrent
state, which can be dropped alone. Files are complete before the index names them, so a process may be killed at any
moment: at most what was not yet written is lost. A row whose file a power failure took is noticed on opening. One
server has the directory; commands may read and forget meanwhile. Enter at `Store(directory, ...)`."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from a3b.cache.disk_index import FAILURES, INDEX, LOCK, OWN, BadIndex, Index, set_aside, store_error
from a3b.cache.identity import TOKENS, root_id
from a3b.cache.rows import Row
from a3b.cache.snapshot_files import Damaged, read_kv, read_state, write_kv, write_state
from a3b.errors import StoreError
from a3b.files import open_private, private_directory
from a3b.model.state import SEGMENT_LEN, Snapshot, State, advancing

QUEUE_LEN = 8  # snapshots waiting to be written; each holds its recurrent state in memory
EXPIRE_EVERY_S = 3600.0
RETRY_AFTER_S = 60.0  # after a failed write
MAX_NOTICES = 100
log = logging.getLogger("a3b")
GB, DAY = 1_000_000_000, 86_400


class InUse(StoreError):
    """Another server has the directory."""


@dataclass(frozen=True)
class PendingWrite:
    """A snapshot to be written. parent: a stored node, or the root."""

    row: Row  # without sizes and checksums
    snapshot: Snapshot
    supersedes: bytes | None = None  # a node whose state nobody needs once this one is stored


class Store:
    """Used by one thread, beside its own writer. All methods but the constructor and `put_record` raise nothing for a
    bad disk.

    trouble: why nothing is written at present, or None. notices: what the user should know, oldest first.
    """

    def __init__(
        self,
        directory: str | Path,
        max_bytes: int = 20 * GB,
        max_age_s: float = 30 * DAY,
        *,
        clock: Callable[[], float] = time.time,
        lock_timeout_s: float = 5.0,
    ):
        """Raises StoreError if the directory cannot be used or another server has it."""
        self.directory, self.max_bytes, self.max_age_s = Path(directory).expanduser(), max_bytes, max_age_s
        self.trouble: str | None = None
        self.notices: list[str] = []
        self._clock = clock
        self._lock_file = _lock(self.directory)
        try:
            self._index, self._known, self._version = self._open(lock_timeout_s)  # known: id -> has its state
        except BaseException:
            self._lock_file.close()
            raise
        self._gone: set[bytes] = set()  # dropped by age, not yet told
        self._pending: dict[bytes, PendingWrite] = {}
        self._used: dict[bytes, int] = {}
        self._retry_at = 0.0
        self._num_bytes = 0
        self._queue: queue.Queue[PendingWrite | None] = queue.Queue(QUEUE_LEN)
        self._idle = threading.Condition(self._index.lock)
        self._writer = threading.Thread(target=self._write_all, name="a3b-store", daemon=True)
        self._writer.start()

    def _open(self, lock_timeout_s: float) -> tuple[Index, dict[bytes, bool], int]:
        """The index without what is wrong, orphaned or too old, what it holds, and its version; a new one if it cannot
        be read."""
        for attempt in range(2):
            index = None
            try:
                index = Index.open(self.directory, lock_timeout_s)
                index.sweep()
                index.expire(int(self._clock() - self.max_age_s))
                index.shrink(self.max_bytes, int(self._clock()))
                return index, index.holdings(), index.data_version
            except (StoreError, *FAILURES) as error:
                if index:
                    index.close()
                if isinstance(error, FAILURES):
                    error = store_error(error, self.directory / INDEX)
                if attempt or not isinstance(error, BadIndex):
                    raise error from None
                aside = set_aside(self.directory)
                self._notice(f"{error}; set aside as {aside.name}, kept sessions are lost")
            except OSError as error:
                if index:
                    index.close()
                raise StoreError(
                    f"{error.filename or self.directory}: {error.strerror}; give a directory that can be written"
                ) from None
        raise AssertionError

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is waiting, then let go of the directory."""
        if self._writer.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=timeout_s)
                self._writer.join(timeout_s)
        self._guarded(self._flush_used)
        self._index.close()
        self._lock_file.close()

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        del self.notices[:-MAX_NOTICES]
        log.warning("sessions: %s", text)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until nothing waits to be written; whether that came true."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._pending, timeout_s)

    # what is there

    def holds(self, id: bytes) -> bool:
        """Whether the node can be restored from here."""
        return self._known.get(id, False)

    def knows(self, id: bytes) -> bool:
        """Whether the node is here or soon will be, with or without its state: others can be stored as growing from
        it."""
        return id in self._known or id in self._pending

    def is_pending(self, id: bytes) -> bool:
        return id in self._pending

    @property
    def num_bytes(self) -> int:
        """As last counted, while another thread has the index."""
        if self._index.lock.acquire(blocking=False):
            try:
                self._num_bytes = self._guarded(self._index.num_bytes) or 0
            finally:
                self._index.lock.release()
        return self._num_bytes

    def rows(self, root: bytes) -> list[Row]:
        """The sound nodes of a namespace under one identity, parents first; those that are not sound are dropped."""
        good, bad = self._guarded(lambda: self._index.rows(root)) or ([], [])
        if bad:
            self._remove(bad)
        return good

    def tops(self, namespace: str, root: bytes) -> list[np.ndarray]:
        """Tokens that conversations of this namespace begin with under other identities."""
        return self._guarded(lambda: self._index.tops(namespace, root)) or []

    def find(self, prefix: str) -> set[bytes]:
        """Ids that begin with these hexadecimal digits."""
        with self._index.lock:
            return {id for id in (*self._known, *self._pending) if id.hex().startswith(prefix)}

    def session(self, id: bytes) -> set[bytes]:
        """A node, all that grew from it, and what it alone grew from, up to a system prompt."""
        with self._index.lock:
            waiting = [job.row for job in self._pending.values()]
            return self._guarded(lambda: self._index.session(id, waiting)) or {id}

    def gone(self) -> set[bytes]:
        """Nodes that were forgotten by another process, or grew too old, since the last call."""
        with self._index.lock:
            gone, self._gone = self._gone, set()
            version = self._guarded(lambda: self._index.data_version)
            if version is not None and version != self._version:
                now = self._guarded(self._index.holdings)
                if now is not None:
                    gone |= self._known.keys() - now.keys()
                    self._known, self._version = now, version
            return gone

    # reading

    def load(
        self, id: bytes, new_state: Callable[[], State], base: Snapshot | None = None, num_common: int = 0
    ) -> tuple[State, Snapshot] | None:
        """A state as it was at a node, and its snapshot; None if that cannot be had, and then what was wrong has been
        dropped.

        base: a snapshot whose first `num_common` tokens are the same; full segments of those are shared instead of
        read."""
        found = self._guarded(lambda: (self._index.chain(id),))
        if found is None:
            return None  # the disk failed, which says nothing about the node
        chain = found[0]
        if chain is None:
            self._remove([id])
            return None
        if not chain[-1].has_state:
            self._known[id] = False
            return None
        num_tokens, shared = chain[-1].num_tokens, num_common // SEGMENT_LEN
        bad = None
        try:
            state = new_state()
            if shared:
                state.restore(replace(base, num_tokens=shared * SEGMENT_LEN, segments=base.segments[:shared]))
            read_state(self._index.file(id, "state"), id, chain[-1].state_sums, state.conv, state.delta)
            with advancing([(state, num_tokens - state.num_tokens)]):
                pass
            snapshot = state.snapshot()
            for bad in chain:
                if bad.num_tokens > shared * SEGMENT_LEN:
                    read_kv(
                        self._index.file(bad.id, "kv"),
                        bad.id,
                        bad.kv_sums,
                        snapshot.segments,
                        bad.start,
                        bad.num_tokens,
                        shared,
                    )
        except Damaged as error:
            self._notice(f"{error}; dropped, it is computed again")
            if bad is None:
                self.thin(id)
            else:
                self._remove([bad.id])
            return None
        except MemoryError:
            self._notice(
                f"{self.directory}: no memory for a session of {num_tokens} tokens; "
                "it is computed again; give less --cache-ram"
            )
            return None
        return state, snapshot

    # writing

    def save(
        self,
        identity: bytes,
        namespace: str,
        kind: str,
        label: str,
        id: bytes,
        parent: bytes,
        start: int,
        ids: np.ndarray,
        snapshot: Snapshot,
        supersedes: bytes | None = None,
    ) -> bool:
        """Queue a node for the writer; False if there is no room in the queue, or writing failed a moment ago.

        ids: the tokens from `start` on, where `parent` ends, which this store `knows` or is the root.
        """
        if self.knows(id) and self._known.get(id, True):
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        data = np.ascontiguousarray(ids, TOKENS).tobytes()
        label = label.encode(errors="replace").decode()  # SQLite has no text with lone surrogates
        row = Row(
            id,
            parent,
            root_id(identity, namespace),
            identity,
            namespace,
            kind,
            label,
            start,
            data,
            int(now),
            0,
            0,
            b"",
            b"",
            last_used=int(now),
        )
        job = PendingWrite(row, snapshot, supersedes)
        with self._index.lock:
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                return False
            self._pending[id] = job
        return True

    def touch(self, ids: Iterable[bytes]) -> None:
        """These nodes were used now; written with the next change, or on closing."""
        now = int(self._clock())
        with self._index.lock:
            self._used |= {id: now for id in ids if id in self._known}

    def thin(self, id: bytes) -> None:
        """Drop the recurrent state of a node."""
        with self._index.lock:
            if self._known.get(id):
                self._guarded(lambda: self._index.thin(id))
                self._known[id] = False

    def forget(self, ids: Iterable[bytes]) -> None:
        """Drop nodes, all that grew from them, and the records that belong to them."""
        with self._index.lock:
            self._remove(ids, with_records=True)

    def forget_namespace(self, root: bytes | None, namespace: str | None, with_records: bool = True) -> None:
        """Drop all nodes of a root, or all there are, and the records."""
        with self._index.lock:
            rows, bad = self._guarded(lambda: self._index.rows(root)) or ([], [])
            waiting = [job.row.id for job in self._pending.values() if root in (None, job.row.root)]
            self._remove([*(row.id for row in rows), *bad, *waiting], with_records=with_records)
            if with_records:
                self._guarded(lambda: self._index.drop_records(namespace))

    def _remove(self, ids: Iterable[bytes], with_records: bool = False) -> None:
        ids = set(ids)
        with self._index.lock:
            left = True
            while left:  # waiting nodes that grew from these
                left = {
                    job.row.id for job in self._pending.values() if job.row.parent in ids or job.row.id in ids
                } - ids
                ids |= left
            for id in ids:
                self._pending.pop(id, None)  # the writer sees that and drops the job
            gone = self._guarded(lambda: self._index.remove(ids, with_records)) or ids
            for id in gone:
                self._known.pop(id, None)
                self._pending.pop(id, None)
            self._idle.notify_all()

    # records

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None = None) -> None:
        """Remember a value; several may have one key. It goes when `node` is forgotten, or by age; the oldest make
        room.

        Raises StoreError for a value beyond MAX_RECORD_BYTES."""
        self._guarded(lambda: self._index.put_record(namespace, key, value, node, int(self._clock())), writes=True)

    def get_records(self, namespace: str, key: bytes) -> list[bytes]:
        """Values of a key, oldest first."""
        return [value for _, value in self._guarded(lambda: self._index.records(namespace, key)) or []]

    def records(self, namespace: str) -> list[tuple[bytes, bytes]]:
        """(key, value) of all records of a namespace, oldest first."""
        return self._guarded(lambda: self._index.records(namespace)) or []

    def changes(self) -> int:
        """Another number after another process has written here; 0 while the disk fails."""
        with self._index.lock:
            return self._guarded(lambda: self._index.data_version) or 0

    # the writer

    def _write_all(self) -> None:
        next_expiry = time.monotonic() + EXPIRE_EVERY_S
        while True:
            try:
                job = self._queue.get(timeout=max(next_expiry - time.monotonic(), 0.01))
                if job is None:
                    return
                try:
                    self._guarded(lambda job=job: self._write(job), writes=True)
                finally:
                    with self._idle:
                        if self._pending.get(job.row.id) is job:
                            del self._pending[job.row.id]
                        self._idle.notify_all()
                job = None  # lets go of the snapshot
            except queue.Empty:
                next_expiry = time.monotonic() + EXPIRE_EVERY_S
                self.expire()

    def expire(self) -> None:
        """Drop what is too old; the writer does so every hour."""
        with self._index.lock:
            self._guarded(self._flush_used)
            gone = self._guarded(lambda: self._index.expire(int(self._clock() - self.max_age_s))) or set()
            self._dropped(gone)
            self._gone |= gone

    def _write(self, job: PendingWrite) -> None:
        row, index = job.row, self._index
        if self._pending.get(row.id) is not job or self._clock() < self._retry_at:
            return
        if row.parent != row.root and row.parent not in self._known:
            return  # forgotten, or it could not be written
        if (stored := index.row(row.id)) is not None:  # its state was dropped: the other file must stay as it is
            row = replace(stored, has_state=True, last_used=row.last_used)
        names = {kind: index.file(row.id, kind) for kind in ("kv", "state")}
        partial = {kind: path.with_suffix(f".{kind}.part") for kind, path in names.items()}
        try:
            kv_bytes, kv_sums = _write_file(partial["kv"], lambda f: write_kv(f, row.id, job.snapshot, row.start))
            state_bytes, state_sums = _write_file(partial["state"], lambda f: write_state(f, row.id, job.snapshot))
            row = replace(row, kv_bytes=kv_bytes, kv_sums=kv_sums, state_bytes=state_bytes, state_sums=state_sums)
            if row.num_bytes > self.max_bytes:
                return
            with index.lock:
                if self._pending.get(row.id) is not job:
                    return  # forgotten meanwhile
                try:
                    with index.transaction():
                        if row.parent != row.root and index.row(row.parent) is None:
                            return  # forgotten by another process
                        # before the commit: a kill may leave files without a row, not the reverse
                        for kind, path in partial.items():
                            path.rename(names[kind])
                        index.add(row)
                except (OSError, *FAILURES):
                    index.unlink_unnamed([row.id])
                    raise
                self._known[row.id] = True
                self.trouble = None
                if job.supersedes:
                    self.thin(job.supersedes)
                self._flush_used()
                gone, thinned = index.shrink(self.max_bytes, int(self._clock()))
                self._dropped(gone)
                self._known |= dict.fromkeys(thinned, False)
        finally:
            for path in partial.values():
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _dropped(self, ids: Iterable[bytes]) -> None:
        for id in ids:
            self._known.pop(id, None)

    def _flush_used(self) -> None:
        with self._index.lock:
            used, self._used = self._used, {}
            if used:
                self._index.touch(used)

    def _guarded(self, call: Callable, writes: bool = False):
        """The call's result, or None after a failure of the disk or the database, which becomes a notice."""
        try:
            return call()
        except (OSError, *FAILURES, MemoryError) as error:
            text = f"{self.directory}: {error}"
            if writes:
                text += (
                    f"; nothing is written for {RETRY_AFTER_S:.0f} s: make room, "
                    "or lower what is kept (a3b cache prune)"
                )
                self._retry_at = self._clock() + RETRY_AFTER_S
            if self.trouble != text:
                self.trouble = text
                self._notice(text)
            return None


def _write_file(path: Path, write: Callable) -> tuple[int, bytes]:
    with open(path, "wb", opener=open_private) as file:
        result = write(file)
        file.flush()
        os.fsync(file.fileno())
    return result


def _lock(directory: Path):
    """An open file that no other server can lock until it is closed. Raises StoreError naming the process that has
    it."""
    path = directory / LOCK
    try:
        private_directory(directory, own=OWN)
        file = open(path, "a+", encoding="ascii", errors="replace", opener=open_private)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise StoreError(f"{error.filename}: {error.strerror}; give a directory of its own") from None
        raise StoreError(f"{path}: {error.strerror}; give a directory that can be written") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    except OSError as error:
        file.seek(0)
        pid = file.read(20).strip()
        file.close()
        if not isinstance(error, BlockingIOError):
            raise StoreError(
                f"{path}: {error.strerror}; give a directory on a local disk that can be written"
            ) from None
        raise InUse(
            f"{directory}: in use by the server with process id {pid or 'unknown'}; "
            "stop it, or give this one another directory with --cache-dir"
        ) from None
    return file


def is_served(directory: Path) -> bool:
    """Whether a server has the directory now."""
    try:
        _lock(directory).close()
    except StoreError:
        return True
    return False
