"""Writes a packed directory: streams the source a few rows at a time, and resumes after a kill.

Everything is written to `DST.part`: each shard under a temporary name, then renamed and recorded with its checksums in
`progress.json`. The directory gets its final name only when it is complete. Enter at `write`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from a3b.errors import CheckpointError, TensorError, UsageError
from a3b.files import not_linked, read_bytes, read_text, regular
from a3b.formats.packed import (
    LAYOUT,
    MANIFEST,
    SHARD_BYTES,
    VERSION,
    Manifest,
    PackedTensor,
    Shard,
    file_checksum,
    new_checksum,
    plan_shards,
    shard_damage,
)
from a3b.formats.tiles import Format, Parts, pack
from a3b.model.tensor_names import is_mtp
from a3b.packing.plan import Item, Plan
from a3b.packing.quantise import quantise
from a3b.packing.source import Source

PIECE = 1 << 21  # weights that a worker handles at a time
ROWS = 128  # pieces are cut at multiples of this: whole tiles, and whole blocks of FP8
SPARE_BYTES = 64_000_000  # disk to leave free
PROGRESS, LOCK = "progress.json", "lock"


def write(
    source: Source,
    plan: Plan,
    target: Path,
    *,
    threads: int = 1,
    shard_bytes: int = SHARD_BYTES,
    done: Callable[[int], None] = lambda n: None,
    importance: dict[str, np.ndarray] | None = None,
) -> Manifest:
    """Pack `source` by `plan` into the directory `target`.

    done: called with the number of weights written, or found written. importance: by tensor name, float32 [experts or
    1, columns]. Raises UsageError if `target` is taken, CheckpointError if the disk is full, TensorError for a weight
    that cannot be stored. Finished shards stay in `target`.part for the next run."""
    check_target(target)
    part = target.with_name(target.name + ".part")
    shards = shards_of(plan, shard_bytes)
    items = {item.tensor.name: item for item in plan.items}
    with disk_errors(part):
        part.mkdir(parents=True, exist_ok=True)
        with locked(part / LOCK):
            journal = _Journal(part, _identity(source, plan, shards, importance))
            _check_space(part, shards, journal.finished(shards, done))
            files = write_side_files(source, part)
            writer = ShardWriter(items, source, threads, importance or {}, done)
            for shard in shards:
                if shard.file not in journal.shards:
                    journal.add(shard.file, writer.write(shard, part / shard.file))
            checksums = {name: sum for shard in shards for name, sum in journal.shards[shard.file].items()}
            manifest = manifest_of(source, plan, shards, checksums, part, files)
            write_file(part / MANIFEST, manifest.to_json().encode())
            (part / PROGRESS).unlink()
        (part / LOCK).unlink()
        if target.exists():
            target.rmdir()
        os.rename(part, target)
        sync_directory(target.parent)
    return manifest


def shards_of(plan: Plan, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """The files of a plan. The MTP module has its own, so that the others are the same with and without it."""
    parts: dict[str, list[PackedTensor]] = {"model": [], "mtp": []}
    for tensor in plan.tensors:
        parts["mtp" if is_mtp(tensor.name) else "model"].append(tensor)
    return [shard for stem, part in parts.items() if part for shard in plan_shards(part, shard_bytes, stem)]


def check_target(target: Path) -> None:
    """Raises UsageError if `target` has something that would be overwritten."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: exists; give a new directory, or remove it")


def check_room(target: Path, num_bytes: int) -> None:
    """Raises CheckpointError if the disk is too small for a packed model, counting what a stopped run left."""
    part = target.with_name(target.name + ".part")
    left = sum(file.stat().st_size for file in part.glob("*.safetensors*"))
    place = next(path for path in target.parents if path.is_dir())
    check_free(place, num_bytes - left)


class ShardWriter:
    def __init__(
        self,
        items: dict[str, Item],
        source: Source,
        threads: int,
        importance: dict[str, np.ndarray],
        done: Callable[[int], None],
    ):
        self.items, self.source, self.threads, self.importance, self.done = items, source, threads, importance, done

    def write(self, shard: Shard, path: Path) -> dict[str, str]:
        """The checksum of every tensor."""
        temporary, checksums = path.with_name(path.name + ".part"), {}
        with open(temporary, "wb", opener=regular) as file, ThreadPoolExecutor(1) as hasher:
            file.write(shard.header)
            for tensor in shard.tensors:
                total, size = new_checksum(), 0
                for piece in self._pieces(self.items[tensor.name]):
                    hashed = hasher.submit(total.update, piece)
                    file.write(piece)
                    hashed.result()
                    size += piece.nbytes
                if size != tensor.num_bytes:
                    raise TensorError(f"{tensor.name}: packed into {size} bytes; expected {tensor.num_bytes}")
                checksums[tensor.name] = total.hexdigest()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return checksums

    def _pieces(self, item: Item) -> Iterator[memoryview]:
        """The bytes of a tensor in order; workers run a few pieces ahead."""
        if hasattr(item.value, "packed"):
            size, num = item.tensor.num_bytes, math.prod(item.tensor.shape)
            for piece in item.value.packed(item.format):
                yield piece
                self.done(num * piece.nbytes // size)
            return
        weights = self.importance.get(item.tensor.name)
        waiting: deque[tuple[Future[np.ndarray], int]] = deque()
        with ThreadPoolExecutor(self.threads) as pool:
            for matrix, e, start, stop in cuts(item):
                own = None if weights is None else weights[e]
                waiting.append(
                    (pool.submit(packed_rows, item, matrix, start, stop, own), (stop - start) * matrix.shape[-1])
                )
                if len(waiting) > self.threads + 1:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        self.source.release(item.value)

    def _next(self, waiting: deque[tuple[Future[np.ndarray], int]]) -> memoryview:
        future, num = waiting.popleft()
        piece = future.result()
        self.done(num)
        return piece.data


def cuts(item: Item) -> Iterator[tuple[Any, int, int, int]]:
    """(matrix, its expert, first row, last row) of every piece, in the order of the file."""
    value, shape = item.value, item.tensor.shape
    if item.format is None:
        yield value, 0, 0, len(value) if isinstance(value, np.ndarray) else shape[0]
        return
    step = max(ROWS, PIECE // shape[-1] // ROWS * ROWS)
    for e in range(shape[0] if len(shape) == 3 else 1):
        matrix = value.expert(e) if len(shape) == 3 else value
        for start in range(0, shape[-2], step):
            yield matrix, e, start, min(start + step, shape[-2])


def packed_rows(item: Item, matrix: Any, start: int, stop: int, weights: np.ndarray | None) -> np.ndarray:
    """Contiguous uint8 of rows [start, stop)."""
    try:
        if item.format is None:
            values = np.ascontiguousarray(_floats(matrix, item.tensor.shape), np.float32)
            if not np.isfinite(values).all():
                raise TensorError("a number is not finite")
            return values.reshape(-1).view(np.uint8)
        return pack(item.format, _parts(item.format, matrix, start, stop, weights)).reshape(-1)
    except TensorError as error:
        raise TensorError(str(error) if item.tensor.name in str(error) else f"{item.tensor.name}: {error}") from None


def _parts(format: Format, matrix: Any, start: int, stop: int, weights: np.ndarray | None) -> Parts:
    if getattr(matrix, "format", None) is format:
        kept: Parts = matrix.parts(start, stop)
        return kept
    rows = matrix[start:stop] if isinstance(matrix, np.ndarray) else matrix.f32_rows(start, stop)
    return quantise(format, rows, weights)


def _floats(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if len(shape) == 3:
        return np.stack([value.expert(e).f32_rows(0, shape[1]) for e in range(shape[0])])
    rows: np.ndarray = value.f32_rows(0, shape[0])
    return rows


class _Journal:
    """The finished shards and the checksums of their tensors, recorded beside them."""

    def __init__(self, part: Path, identity: str):
        self.path, self.identity = part / PROGRESS, identity
        self.shards: dict[str, dict[str, str]] = {}
        if not self.path.exists():
            if any(file.suffix == ".safetensors" for file in part.iterdir()):
                raise UsageError(f"{part}: holds shards and no {PROGRESS}; remove it and pack again")
            self._save()
            return
        try:
            value = json.loads(read_text(self.path))
            found, self.shards = (
                value["identity"],
                {file: dict(checksums) for file, checksums in value["shards"].items()},
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"{self.path}: not readable ({error}); remove {part} and pack again") from None
        if found != identity:
            raise UsageError(f"{part}: was started from another source or with other options; remove it and pack again")

    def finished(self, shards: list[Shard], done: Callable[[int], None]) -> set[str]:
        """Shards that need not be written again, every byte checked; the others are forgotten."""
        for shard in shards:
            if shard.file in self.shards:
                path = self.path.with_name(shard.file)
                if not path.is_file() or any(shard_damage(path, shard, self.shards[shard.file])):
                    del self.shards[shard.file]
                else:
                    done(sum(int(np.prod(t.shape)) for t in shard.tensors))
        return set(self.shards)

    def add(self, file: str, checksums: dict[str, str]) -> None:
        self.shards[file] = checksums
        self._save()

    def _save(self) -> None:
        write_file(self.path, json.dumps({"identity": self.identity, "shards": self.shards}).encode())


def _identity(source: Source, plan: Plan, shards: list[Shard], importance: dict[str, np.ndarray] | None) -> str:
    total = new_checksum()
    tensors = [(shard.file, asdict(t)) for shard in shards for t in shard.tensors]
    total.update(json.dumps([VERSION, LAYOUT, plan.preset, source.fingerprint, tensors], sort_keys=True).encode())
    for name, values in sorted((importance or {}).items()):
        total.update(name.encode() + values.tobytes())
    return total.hexdigest()


def _check_space(part: Path, shards: list[Shard], finished: set[str]) -> None:
    for file in part.glob("*.safetensors.part"):
        file.unlink()
    need = sum(shard.num_bytes for shard in shards if shard.file not in finished)
    check_free(part.parent, need)


def check_free(place: Path, need: int) -> None:
    need, free = need + SPARE_BYTES, shutil.disk_usage(place).free
    if free < need:
        raise CheckpointError(
            f"{place}: {free / 1e9:.2f} GB free; packing writes {need / 1e9:.2f} GB: make room, or give another place"
        )


def write_side_files(source: Source, part: Path) -> list[str]:
    for name, content in source.files.items():
        write_file(part / name, read_bytes(content) if isinstance(content, Path) else content)
    return list(source.files)


def manifest_of(
    source: Source, plan: Plan, shards: list[Shard], checksums: dict[str, str], part: Path, side_files: list[str]
) -> Manifest:
    """The manifest of shards and side files that are written in `part`. checksums: by tensor."""
    files = {}
    for shard in shards:
        header = new_checksum()
        header.update(shard.header)
        files[shard.file] = (shard.num_bytes, header.hexdigest())
    for name in side_files:
        files[name] = file_checksum(part / name)
    tensors = {t.name: t for shard in shards for t in shard.tensors}
    return Manifest(
        preset=plan.preset,
        source={"kind": source.kind, "name": source.path.name},
        tiled_v_heads=source.weights.tiled_v_heads,
        tensors=tensors,
        file_of={t.name: shard.file for shard in shards for t in shard.tensors},
        checksums=checksums,
        files=files,
        skipped=source.skipped,
    )


def write_file(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb", opener=regular) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time pack into a directory; a kill frees the lock. Raises UsageError for a directory that
    others have prepared: packing makes no links, and writing through one would destroy what it points to."""
    check_no_links(path.parent)
    with open(path, "w", opener=not_linked) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{path.parent}: another process is packing into it; wait for it, or stop it") from None
        yield


def check_no_links(directory: Path) -> None:
    """Raises UsageError if a directory, or anything in it, is a symbolic link."""
    found = [Path(place, name) for place, *names in os.walk(directory) for name in (*names[0], *names[1])]
    link = next((path for path in (directory, *found) if path.is_symlink()), None)
    if link:
        raise UsageError(f"{link}: is a symbolic link, and nothing that packing made; remove it")


@contextmanager
def disk_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = (
            "make room, then run the same command again"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "give a writable place"
        )
        raise CheckpointError(f"{error.filename or part}: {error.strerror or error}; {advice}") from None
