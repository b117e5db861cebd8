"""Snapshots on disk, below the prefix tree: written in the background, read back in seconds, never served if a byte is
wrong.

A node on disk is its tokens since its parent, the pages of keys and values since then, and its recurrent state, which
can be dropped alone. Files are complete before the index names them, so the process may be killed at any moment: only
what was not yet written is lost. A row whose file was lost in a power failure is noticed on opening. One server owns
the directory; commands may read and forget meanwhile. Does not know what is in memory. Enter at `Store`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from a3b.cache.directory_lock import lock_directory
from a3b.cache.disk_index import Index
from a3b.cache.disk_trouble import DiskGuard
from a3b.cache.identity import TOKENS, root_id
from a3b.cache.index_checks import sweep
from a3b.cache.index_database import FAILURES, INDEX, BadIndex, set_aside, store_error
from a3b.cache.index_rows import Row
from a3b.cache.node_files import DamagedNode, NodeFiles, read_snapshot
from a3b.errors import StoreError
from a3b.model.state import Snapshot, State

QUEUE_LEN = 8  # snapshots that wait for the writer; each holds its recurrent state in memory
EXPIRE_EVERY_S = 3600.0
GB, DAY = 1_000_000_000, 86_400


@dataclass(frozen=True)
class PendingWrite:
    """A snapshot that waits for the writer."""

    row: Row  # without sizes and checksums; its parent is a stored node, or the root
    snapshot: Snapshot
    supersedes: bytes | None = None  # a node whose state is not needed once this one is stored


class Store:
    """The nodes and records of one directory.

    Used by one thread, apart from its own writer thread. Only the constructor and `put_record` raise for a bad disk."""

    def __init__(
        self,
        directory: str | Path,
        max_bytes: int = 20 * GB,
        max_age_s: float = 30 * DAY,
        *,
        clock: Callable[[], float] = time.time,
        lock_timeout_s: float = 5.0,
    ):
        """Raises StoreError if the directory cannot be used, InUse if another server has it."""
        self.directory, self.max_bytes, self.max_age_s = Path(directory).expanduser(), max_bytes, max_age_s
        self._clock = clock
        self._guard = DiskGuard(self.directory, clock)
        self._lock_file = lock_directory(self.directory)
        try:
            # known: id -> whether its state is stored
            self._index, self._known, self._version = self._open(lock_timeout_s)
        except BaseException:
            self._lock_file.close()
            raise
        self._gone: set[bytes] = set()  # expired, and not yet reported by `gone`
        self._pending: dict[bytes, PendingWrite] = {}
        self._used: dict[bytes, int] = {}  # id -> time of last use, not yet written
        self._num_bytes = 0
        self._queue: queue.Queue[PendingWrite | None] = queue.Queue(QUEUE_LEN)
        self._idle = threading.Condition(self._index.lock)
        self._writer = threading.Thread(target=self._write_all, name="a3b-store", daemon=True)
        self._writer.start()

    def _open(self, lock_timeout_s: float) -> tuple[Index, dict[bytes, bool], int]:
        """(index, what it holds, its data version), without what is wrong, orphaned or too old; a new index replaces a
        damaged one."""
        try:
            return self._open_swept(lock_timeout_s)
        except BadIndex as error:
            aside = set_aside(self.directory)
            self._guard.notice(f"{error}; set aside as {aside.name}, its sessions are lost")
        return self._open_swept(lock_timeout_s)

    def _open_swept(self, lock_timeout_s: float) -> tuple[Index, dict[bytes, bool], int]:
        """The same; raises StoreError, and BadIndex if the index is damaged."""
        index = None
        try:
            index = Index.open(self.directory, lock_timeout_s)
            sweep(index)
            index.expire(int(self._clock() - self.max_age_s))
            index.shrink(self.max_bytes, int(self._clock()))
            return index, index.holdings(), index.data_version
        except (StoreError, OSError, *FAILURES) as error:
            if index:
                index.close()
            if isinstance(error, OSError):
                raise StoreError(
                    f"{error.filename or self.directory}: {error.strerror}; give a writable directory"
                ) from None
            raise (error if isinstance(error, StoreError) else store_error(error, self.directory / INDEX)) from None

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is pending, then release the directory."""
        if self._writer.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=timeout_s)
                self._writer.join(timeout_s)
        self._guard.run(self._flush_used)
        self._index.close()
        self._lock_file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until the writer has nothing left to do; False if it took longer."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._pending, timeout_s)

    @property
    def trouble(self) -> str | None:
        """Why nothing is written at present; None if all is well."""
        return self._guard.trouble

    @property
    def notices(self) -> list[str]:
        """What the user should know, oldest first."""
        return self._guard.notices

    # what is stored

    def holds(self, id: bytes) -> bool:
        """Whether a state can be restored at this node."""
        return self._known.get(id, False)

    def knows(self, id: bytes) -> bool:
        """Whether the node is stored or soon will be, with or without its state, so that it can be the parent of
        another."""
        return id in self._known or id in self._pending

    def is_pending(self, id: bytes) -> bool:
        """Whether the node waits for the writer."""
        return id in self._pending

    @property
    def num_pending(self) -> int:
        """Nodes that wait for the writer."""
        return len(self._pending)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files; as last counted, while another thread uses the index."""
        if self._index.lock.acquire(blocking=False):
            try:
                self._num_bytes = self._guard.run(self._index.num_bytes) or 0
            finally:
                self._index.lock.release()
        return self._num_bytes

    def rows(self, root: bytes) -> list[Row]:
        """The sound nodes of a namespace under one identity, parents first; unsound ones are dropped."""
        good, bad = self._guard.run(lambda: self._index.rows(root)) or ([], [])
        if bad:
            self._remove(bad)
        return good

    def tops(self, namespace: str, root: bytes) -> list[np.ndarray]:
        """The tokens that conversations of this namespace begin with under other identities than that of `root`."""
        return self._guard.run(lambda: self._index.tops(namespace, root)) or []

    def stored(self, identity: bytes) -> tuple[int, int]:
        """(conversations that are stored under an identity, bytes of their files)."""
        return self._guard.run(lambda: (self._index.num_ends(identity), self._index.num_bytes(identity))) or (0, 0)

    def gone(self) -> set[bytes]:
        """Nodes that expired or that another process dropped since the last call."""
        with self._index.lock:
            gone, self._gone = self._gone, set()
            version = self._guard.run(lambda: self._index.data_version)
            if version is not None and version != self._version:
                now = self._guard.run(self._index.holdings)
                if now is not None:
                    gone |= self._known.keys() - now.keys()
                    self._known, self._version = now, version
            return gone

    # reading

    def load(
        self, id: bytes, new_state: Callable[[], State], base: Snapshot | None = None, num_common: int = 0
    ) -> tuple[State, Snapshot] | None:
        """The state at a node, and its snapshot; None if it cannot be restored, after dropping what was damaged.

        base: a snapshot whose first `num_common` tokens are the same; full segments of those are shared, not read."""
        found = self._guard.run(lambda: (self._index.chain(id),))
        if found is None:
            return None  # the disk failed, which says nothing about the node
        chain = found[0]
        if chain is None:
            self._remove([id])
            return None
        if not chain[-1].has_state:
            self._known[id] = False
            return None
        try:
            return read_snapshot(chain, self._index.file, new_state, base, num_common)
        except DamagedNode as error:
            self._guard.notice(f"{error}; dropped, and will be recomputed")
            if error.row is None:
                self.thin(id)
            else:
                self._remove([error.row.id])
        except MemoryError:
            self._guard.notice(
                f"{self.directory}: no memory for a session of {chain[-1].num_tokens} tokens; "
                "it will be recomputed; lower --cache-ram"
            )
        return None

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
        """Queue a node for the writer; False if the queue is full, or writing failed a moment ago.

        ids: the tokens from `start` on, where `parent` ends, which is the root or a node that this store `knows`."""
        if self.knows(id) and self._known.get(id, True):
            return True
        if not self._guard.may_write:
            return False
        now = int(self._clock())
        row = Row(
            id=id,
            parent=parent,
            root=root_id(identity, namespace),
            identity=identity,
            namespace=namespace,
            kind=kind,
            label=label.encode(errors="replace").decode(),  # SQLite cannot hold lone surrogates
            start=start,
            tokens=np.ascontiguousarray(ids, TOKENS).tobytes(),
            created=now,
            kv_bytes=0,
            state_bytes=0,
            kv_sums=b"",
            state_sums=b"",
            last_used=now,
        )
        pending = PendingWrite(row, snapshot, supersedes)
        with self._index.lock:
            try:
                self._queue.put_nowait(pending)
            except queue.Full:
                return False
            self._pending[id] = pending
        return True

    def touch(self, ids: Iterable[bytes]) -> None:
        """Note that these nodes were used now; written with the next change, or on closing."""
        now = int(self._clock())
        with self._index.lock:
            self._used |= {id: now for id in ids if id in self._known}

    def thin(self, id: bytes) -> None:
        """Drop the recurrent state of a node."""
        with self._index.lock:
            if self._known.get(id):
                self._guard.run(lambda: self._index.thin(id))
                self._known[id] = False

    def clear(self) -> None:
        """Drop all nodes; records stay."""
        with self._index.lock:
            rows, bad = self._guard.run(self._index.rows) or ([], [])
            self._remove([*(row.id for row in rows), *bad, *self._pending])

    def expire(self) -> None:
        """Drop what is too old; the writer does so every hour."""
        with self._index.lock:
            self._guard.run(self._flush_used)
            gone = self._guard.run(lambda: self._index.expire(int(self._clock() - self.max_age_s))) or set()
            self._dropped(gone)
            self._gone |= gone

    def _remove(self, ids: Iterable[bytes]) -> None:
        """Drop nodes and all below them, also those that wait for the writer."""
        ids = set(ids)
        with self._index.lock:
            while more := self._waiting_for(ids) - ids:
                ids |= more
            for id in ids:
                self._pending.pop(id, None)  # the writer notices and skips it
            gone = self._guard.run(lambda: self._index.remove(ids)) or ids
            for id in gone:
                self._known.pop(id, None)
                self._pending.pop(id, None)
            self._idle.notify_all()

    def _waiting_for(self, ids: set[bytes]) -> set[bytes]:
        """Nodes that wait for the writer and are among `ids` or children of them."""
        rows = [pending.row for pending in self._pending.values()]
        return {row.id for row in rows if row.parent in ids or row.id in ids}

    # records

    def put_record(self, namespace: str, key: bytes, value: bytes, node: bytes | None = None) -> None:
        """Store a value; a key may have several. It is dropped with `node`, by age, or when there are too many.

        Raises StoreError for a value beyond MAX_RECORD_BYTES."""
        now = int(self._clock())
        self._guard.run(lambda: self._index.records.put(namespace, key, value, node, now), writes=True)

    def get_records(self, namespace: str, key: bytes) -> list[bytes]:
        """Values of a key, oldest first."""
        return [value for _, value in self._guard.run(lambda: self._index.records.get(namespace, key)) or []]

    def records(self, namespace: str) -> list[tuple[bytes, bytes]]:
        """(key, value) of all records of a namespace, oldest first."""
        return self._guard.run(lambda: self._index.records.get(namespace)) or []

    def changes(self) -> int:
        """A number that changes when another process writes here; 0 while the disk fails."""
        with self._index.lock:
            return self._guard.run(lambda: self._index.data_version) or 0

    # the writer

    def _write_all(self) -> None:
        next_expiry = time.monotonic() + EXPIRE_EVERY_S
        while True:
            try:
                pending = self._queue.get(timeout=max(next_expiry - time.monotonic(), 0.01))
            except queue.Empty:
                next_expiry = time.monotonic() + EXPIRE_EVERY_S
                self.expire()
                continue
            if pending is None:
                return
            self._write_guarded(pending)
            del pending  # releases the snapshot

    def _write_guarded(self, pending: PendingWrite) -> None:
        try:
            self._guard.run(lambda: self._write(pending), writes=True)
        finally:
            with self._idle:
                if self._pending.get(pending.row.id) is pending:
                    del self._pending[pending.row.id]
                self._idle.notify_all()

    def _write(self, pending: PendingWrite) -> None:
        """Write the files of a node, unless it was forgotten or its parent is missing, then its row."""
        row = pending.row
        if self._pending.get(row.id) is not pending or not self._guard.may_write:
            return
        if row.parent != row.root and row.parent not in self._known:
            return  # forgotten, or it could not be written
        if (stored := self._index.row(row.id)) is not None:  # thinned: its keys and values must stay as they are
            row = replace(stored, has_state=True, last_used=row.last_used)
        files = NodeFiles(self._index.file, row.id)
        try:
            row = files.write(row, pending.snapshot)
            if row.num_bytes > self.max_bytes:
                return
            with self._index.lock:
                if self._pending.get(row.id) is pending and self._publish(row, files):
                    self._written(row, pending.supersedes)
        finally:
            files.discard()

    def _publish(self, row: Row, files: NodeFiles) -> bool:
        """Name the files and add the row; False if another process has dropped its parent."""
        try:
            with self._index.transaction():
                if row.parent != row.root and self._index.row(row.parent) is None:
                    return False
                files.publish()  # before the commit: a kill may leave files without a row, not a row without files
                self._index.add(row)
        except (OSError, *FAILURES):
            self._index.unlink_unnamed([row.id])
            raise
        return True

    def _written(self, row: Row, supersedes: bytes | None) -> None:
        """Drop what a new row makes superfluous."""
        self._known[row.id] = True
        self._guard.trouble = None
        if supersedes:
            self.thin(supersedes)
        self._flush_used()
        gone, thinned = self._index.shrink(self.max_bytes, int(self._clock()))
        self._dropped(gone)
        self._known |= dict.fromkeys(thinned, False)

    def _dropped(self, ids: Iterable[bytes]) -> None:
        for id in ids:
            self._known.pop(id, None)

    def _flush_used(self) -> None:
        with self._index.lock:
            used, self._used = self._used, {}
            if used:
                self._index.touch(used)
