"""Brings bytes that arrive and pieces that can be packed together: the one thread that owns the state of a stream.

Connections (`fetching`) and packers send it events. Source bytes are given back once every piece that needs them is
recorded in the journal, and connections wait while too many are held. Enter at `Conductor.run`."""

from __future__ import annotations

import os
import queue
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from a3b.errors import DownloadError, TensorError
from a3b.files import regular
from a3b.formats.packed import READ, Shard, new_checksum
from a3b.packing.fetch_order import CHUNK
from a3b.packing.fetching import Arrived, Fetching, Note
from a3b.packing.pieces import PackedPiece, Read
from a3b.packing.plan import Plan
from a3b.packing.sparse_file import SparseFile, write_all
from a3b.packing.stream_journal import StreamJournal
from a3b.packing.writer import packed_rows, sync_directory

MARGIN = 128 << 20  # bytes of sources on the disk that are written before the conductor has noticed
COMMIT_BYTES, FULL_COMMIT_BYTES = 256 << 20, 32 << 20  # given back together; while connections wait for room
COMMIT_S = 2.0  # between two journals; a kill costs so much
LOOK_S = 0.1  # between two looks at the balance


@dataclass(frozen=True)
class Layout:
    """All that follows from the headers of a model and a preset."""

    plan: Plan
    shards: Sequence[Shard]
    pieces: Sequence[PackedPiece]  # item after item
    first: Sequence[int]  # of each item, the index of its first piece; then the number of all
    kept: Sequence[Read]  # needed until the end
    order: Sequence[Read]  # of all bytes
    spill_bytes: int  # of sources on the disk at a time

    def item_pieces(self, item: int) -> range:
        return range(self.first[item], self.first[item + 1])


@dataclass(frozen=True)
class StreamProgress:
    """For people: bytes fetched and written so far; note: why nothing happens for a while."""

    arrived_bytes: int
    packed_bytes: int
    note: str = ""


@dataclass(frozen=True)
class _Packed:
    piece: int
    sum: int = 0  # CRC-32
    error: BaseException | None = None


@dataclass(frozen=True)
class _Summed:
    item: int
    checksum: str


class BeginAgain(Exception):
    """What came from some files was wrong and is forgotten; the next conductor fetches it once more."""


class WrongChecksum(DownloadError):
    """A file had a wrong checksum twice."""


@dataclass
class _Reads:
    """The reads from one file, of all pieces."""

    starts: np.ndarray
    stops: np.ndarray
    pieces: np.ndarray
    complete: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.complete = np.zeros(len(self.starts), np.bool_)

    def completed(self, start: int, stop: int, low: int, high: int) -> np.ndarray:
        """Pieces one of whose reads [start, stop) has completed; [low, high) is what is here around it."""
        hit = (self.starts < stop) & (self.stops > start) & (self.starts >= low) & (self.stops <= high) & ~self.complete
        self.complete |= hit
        found: np.ndarray = self.pieces[hit]
        return found


class Conductor:
    def __init__(
        self,
        part: Path,
        files: Sequence[SparseFile],
        layout: Layout,
        journal: StreamJournal,
        threads: int,
        show: Callable[[StreamProgress], None],
    ):
        self.part, self.files, self.layout, self.journal, self.show = part, files, layout, journal, show
        self.pieces, self.items = layout.pieces, layout.plan.items
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.pool = ThreadPoolExecutor(threads)
        self.handles: dict[str, int] = {}  # of shards
        self.num_running = 0  # jobs in the pool
        self.errors: dict[int, BaseException] = {}  # of pieces, which wrong bytes may have caused
        self.is_verified = [False] * len(files)
        self.done = np.zeros(len(self.pieces), np.bool_)
        for index, item in enumerate(self.items):
            pieces = layout.item_pieces(index)
            whole = item.tensor.name in journal.tensors
            for i in range(len(pieces)) if whole else journal.pieces.get(item.tensor.name, ()):
                if i < len(pieces):
                    self.done[pieces[i]] = True
        self.waiting = np.array([len(piece.reads) for piece in self.pieces], np.int32)
        self.reads = [self._reads_of(file) for file in range(len(files))]
        for piece in (self.pieces[i] for i in np.flatnonzero(~self.done).tolist()):
            for file, start, stop in piece.reads:
                files[file].need(start, stop, 1)
        for file, start, stop in layout.kept:
            files[file].need(start, stop, 1)
        size = sum(file.remote.num_bytes for file in files)
        self.limit = size if layout.spill_bytes >= size else layout.spill_bytes - MARGIN
        self.sizes = np.array([piece.num_bytes for piece in self.pieces], np.int64)
        self.num_streamed = sum(bool(self.pieces[i].reads) for i in layout.first[:-1])  # tensors
        self.fetching = Fetching(files, layout.order, self.events)
        self.looked = self.saved = time.monotonic()

    def run(self) -> None:
        """Fetch and pack all that has reads. Raises BeginAgain, WrongChecksum, TensorError, OSError, DownloadError."""
        try:
            self._open_shards()
            self._check_written()
            with self.fetching:
                self._begin()
                while not self._is_complete():
                    self._step()
                self._commit()
        except BeginAgain:
            raise
        except BaseException:
            with suppress(OSError):
                self._commit()
            raise
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)
            for handle in self.handles.values():
                os.close(handle)
            for file in self.files:
                file.needed[:] = 0

    def _begin(self) -> None:
        """Pack what is here from an earlier run."""
        for index, file in enumerate(self.files):
            for start, stop in list(file.progress.arrived):
                self._complete(index, start, stop, start, stop)
            file.hash()
            self._check_sum(index)
        for index, item in enumerate(self.items):
            self._sum_if_done(index, item.tensor.name)
        self._commit()

    def _is_complete(self) -> bool:
        return all(self.is_verified) and len(self.journal.tensors) == self.num_streamed

    def _step(self) -> None:
        try:
            event = self.events.get(timeout=LOOK_S)
        except queue.Empty:
            event = None
        if isinstance(event, Arrived):
            self.fetching.taken()
            around = self.files[event.file].arrive(event.start, event.stop)
            self._complete(event.file, event.start, event.stop, *around)
            if self._held() > self.limit and self.num_running:  # at once: much can arrive between two looks
                self.fetching.room.clear()
            self.files[event.file].hash()
            self._check_sum(event.file)
        elif isinstance(event, _Packed):
            self._packed(event)
        elif isinstance(event, _Summed):
            self.num_running -= 1
            self.journal.tensors[self.items[event.item].tensor.name] = event.checksum
            self.journal.pieces.pop(self.items[event.item].tensor.name, None)
        elif isinstance(event, Note):
            self._show(event.text)
        elif isinstance(event, BaseException):
            raise event
        if time.monotonic() - self.looked > LOOK_S:
            self._balance()

    def _complete(self, file: int, start: int, stop: int, low: int, high: int) -> None:
        """Bytes [start, stop) have arrived, [low, high) is here around them: start what has waited for them."""
        for piece in self.reads[file].completed(start, stop, low, high):
            self.waiting[piece] -= 1
            if not self.waiting[piece] and not self.done[piece]:
                self._submit(self._pack, int(piece))

    def _submit(self, work: Callable[[int], object], index: int) -> None:
        def finished(future: Future[object]) -> None:
            if not future.cancelled():
                self.events.put(future.result())

        self.num_running += 1
        self.pool.submit(work, index).add_done_callback(finished)

    def _pack(self, index: int) -> _Packed:
        piece = self.pieces[index]
        item = self.items[piece.item]
        in_experts = item.format is not None and len(item.tensor.shape) == 3
        try:
            matrix = item.value.expert(piece.expert) if in_experts else item.value
            data = packed_rows(item, matrix, piece.start, piece.stop, None)
            if data.nbytes != piece.num_bytes:
                raise TensorError(f"{item.tensor.name}: packed into {data.nbytes} bytes; expected {piece.num_bytes}")
            write_all(self.handles[piece.file], piece.at, data.data)
        except BaseException as error:
            return _Packed(index, error=error)
        return _Packed(index, zlib.crc32(data.data))

    def _packed(self, event: _Packed) -> None:
        self.num_running -= 1
        piece = self.pieces[event.piece]
        if event.error:
            if not isinstance(event.error, TensorError):
                raise event.error
            self.errors[event.piece] = event.error
            self._raise_if_true(event.piece)
            return
        self.done[event.piece] = True
        name, first = self.items[piece.item].tensor.name, self.layout.first[piece.item]
        self.journal.pieces.setdefault(name, {})[event.piece - first] = event.sum
        for file, start, stop in piece.reads:
            self.files[file].need(start, stop, -1)
        self._sum_if_done(piece.item, name)

    def _raise_if_true(self, piece: int) -> None:
        """Raise a piece's error if its bytes are those of the hub; wrong ones are fetched again first."""
        if all(self.is_verified[file] for file, *_ in self.pieces[piece].reads):
            raise self.errors[piece]

    def _sum_if_done(self, item: int, name: str) -> None:
        pieces = self.layout.item_pieces(item)
        is_streamed = bool(self.pieces[pieces.start].reads)
        if is_streamed and name not in self.journal.tensors and self.done[pieces.start : pieces.stop].all():
            self._submit(self._sum, item)

    def _sum(self, item: int) -> object:
        """Read a complete tensor back for its checksum."""
        try:
            return _Summed(item, self._checksum(item))
        except BaseException as error:
            return error

    def _checksum(self, item: int) -> str:
        piece, left = self.pieces[self.layout.first[item]], self.items[item].tensor.num_bytes
        total, at = new_checksum(), piece.at
        while left:
            data = os.pread(self.handles[piece.file], min(READ, left), at)
            if not data:
                break
            total.update(data)
            at, left = at + len(data), left - len(data)
        return total.hexdigest()

    def _check_sum(self, index: int) -> None:
        """Once all bytes of a file are in its checksum, compare it with the hub's."""
        file = self.files[index]
        if not file.is_hashed or self.is_verified[index]:
            return
        found = file.sha.hexdigest()
        if found == file.remote.sha256:
            self.is_verified[index] = True
            for piece in list(self.errors):
                self._raise_if_true(piece)
            return
        file.progress.failures += 1
        if file.progress.failures > 1:
            raise WrongChecksum(
                f"{file.remote.path}: its sha256 is {found}, the hub says {file.remote.sha256}, twice; "
                "what was packed from it is removed. The server or a proxy alters the file: try again later"
            )
        self._show(f"{file.remote.path}: its sha256 is {found}, the hub says {file.remote.sha256}; fetching it again")
        self._forget({index})

    def _forget(self, wrong: set[int]) -> None:
        """Begin some files again, with all that was packed from them, and whatever that needs of other files."""
        used = [{file for file, *_ in self.pieces[i].reads} for i in np.flatnonzero(self.done).tolist()]
        while more := set().union(*(files for files in used if files & wrong)) - wrong:
            wrong |= more
        for index, item in enumerate(self.items):
            if any(file in wrong for i in self.layout.item_pieces(index) for file, *_ in self.pieces[i].reads):
                self.journal.tensors.pop(item.tensor.name, None)
                self._forget_pieces(index, item.tensor.name, wrong)
        self.fetching.stop()
        self.pool.shutdown(wait=True, cancel_futures=True)
        for file in wrong:
            self.files[file].forget()
        self._save()
        for file in wrong:
            self.files[file].empty()
        raise BeginAgain

    def _forget_pieces(self, item: int, name: str, wrong: set[int]) -> None:
        pieces = self.layout.item_pieces(item)
        self.journal.pieces[name] = {
            i - pieces.start: self._piece_sum(i)
            for i in pieces
            if self.done[i] and not any(file in wrong for file, *_ in self.pieces[i].reads)
        }

    def _check_written(self) -> None:
        """Read back what an earlier run has packed, and what waits; begin the files of what is damaged again."""
        if self.journal.tensors:
            self._show(f"checking the {self.sizes[self.done].sum() / 1e9:.2f} GB that are packed already")
        complete = [i for i, item in enumerate(self.items) if item.tensor.name in self.journal.tensors]
        found = self.pool.map(self._checksum, complete)
        damaged = [i for i, sum in zip(complete, found, strict=True) if sum != self._recorded(i)]
        damaged += [
            piece.item for piece, done in zip(self.pieces, self.done, strict=True) if done and piece.file in self.made
        ]
        parts = [i for i in np.flatnonzero(self.done).tolist() if self._name(i) not in self.journal.tensors]
        sums = self.pool.map(self._piece_sum, parts)
        damaged += [self.pieces[i].item for i, sum in zip(parts, sums, strict=True) if sum != self._recorded_sum(i)]
        wrong = {file for i in damaged for j in self.layout.item_pieces(i) for file, *_ in self.pieces[j].reads}
        wrong |= {i for i, file in enumerate(self.files) if not file.is_intact()}
        if wrong:
            names = ", ".join(sorted(self.files[file].remote.path for file in wrong))
            self._show(f"some of what was packed or waits is damaged; fetching again: {names}")
            self._forget(wrong)

    def _name(self, piece: int) -> str:
        return self.items[self.pieces[piece].item].tensor.name

    def _piece_sum(self, index: int) -> int:
        piece = self.pieces[index]
        return zlib.crc32(os.pread(self.handles[piece.file], piece.num_bytes, piece.at))

    def _recorded_sum(self, piece: int) -> int:
        return self.journal.pieces[self._name(piece)][piece - self.layout.first[self.pieces[piece].item]]

    def _recorded(self, item: int) -> str:
        return self.journal.tensors[self.items[item].tensor.name]

    def _open_shards(self) -> None:
        self.made: set[str] = set()  # files that an earlier run should have left and has not
        for shard in self.layout.shards:
            path = self.part / shard.file
            if not path.is_file() or path.stat().st_size != shard.num_bytes:
                self.made |= {shard.file} if self.journal.tensors or self.journal.pieces else set()
                with open(path, "ab", opener=regular):
                    pass
            self.handles[shard.file] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self.handles[shard.file], shard.num_bytes)
            write_all(self.handles[shard.file], 0, shard.header)

    def _balance(self) -> None:
        """Write the journal and give bytes back when it is time, and let connections wait while too much is held."""
        now = self.looked = time.monotonic()
        held = self._held()
        free = CHUNK * sum(int(np.count_nonzero(file.free_chunks())) for file in self.files)
        is_full = held > self.limit
        is_worth_it = free >= (FULL_COMMIT_BYTES if is_full else COMMIT_BYTES) or (
            is_full and free and not self.num_running
        )
        if is_worth_it or now - self.saved >= COMMIT_S:
            self._commit()
            held -= free
            is_full = held > self.limit
        if is_full and self.num_running:
            self.fetching.room.clear()
        else:
            self.fetching.room.set()
        self._show("")

    def _held(self) -> int:
        """Bytes of the files that arrive, on the disk."""
        return CHUNK * sum(file.num_present for file in self.files)

    def _commit(self) -> None:
        free = [file.free_chunks() for file in self.files]
        began = time.monotonic()
        self._save()
        for file, chunks in zip(self.files, free, strict=True):
            file.give_back(chunks)
        self.saved = 2 * time.monotonic() - began  # a slow disk is asked less often

    def _save(self) -> None:
        """Write the journal, after what it speaks of is on the disk."""
        for handle in self.handles.values():
            os.fsync(handle)
        for file in self.files:
            file.sync()
        self.journal.save()
        sync_directory(self.part)  # it is there before the bytes go that it calls packed

    def _show(self, note: str) -> None:
        arrived = sum(file.progress.arrived.total for file in self.files)
        self.show(StreamProgress(arrived, int(self.sizes[self.done].sum()), note))

    def _reads_of(self, file: int) -> _Reads:
        found = [(start, stop, i) for i, piece in enumerate(self.pieces) for f, start, stop in piece.reads if f == file]
        table = np.array(found, np.int64).reshape(-1, 3)
        return _Reads(table[:, 0], table[:, 1], table[:, 2])
