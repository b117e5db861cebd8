"""Packed models below A3B_HOME, by name: what is there, what stopped half way, what is in use; and their removal.

    models/FOLDER         a packed model
    models/FOLDER.json    its name and source, written before the first byte of it; the file's time is the last use
    models/FOLDER.part    what a stopped run left
    models/FOLDER.lock    held by the process that makes it

A process that runs a model holds a shared lock on its manifest, so a kill leaves nothing to clear. Enter at
`ModelHome`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a3b.engine.stored_models import MAX_MODELS, RECORD, Record, read_record
from a3b.errors import CheckpointError, UsageError
from a3b.files import not_linked, open_regular
from a3b.formats.packed import MANIFEST
from a3b.packing.fetch_mtp import PART as MTP_PART
from a3b.packing.stream import clear
from a3b.packing.stream_journal import JOURNAL
from a3b.packing.writer import LOCK as WRITERS_LOCK
from a3b.packing.writer import PROGRESS

PART, LOCK, GOING = ".part", ".lock", ".removed"  # after the name of a folder, as RECORD
FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
WRITTEN = ("*.safetensors", "*.json", "*.jinja", "*.part")  # of a packed directory


@dataclass(frozen=True)
class StoredModel:
    """A model in A3B_HOME, complete or not."""

    folder: Path
    record: Record
    complete: bool
    leaving: bool  # its removal was stopped
    num_bytes: int
    used: float  # seconds since 1970


class ModelHome:
    """The directory `models` of a home, which need not exist."""

    def __init__(self, home: str | Path):
        self.home = Path(home).expanduser()
        self.models = self.home / "models"

    def folder(self, name: str) -> Path:
        """Where a model of that name belongs. Raises UsageError for a name that makes no folder."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("/", "--")).strip("-.")[:200]
        if not FOLDER.fullmatch(plain):
            raise UsageError(f"{name[:80]!r}: cannot be the name of a model; expected letters and digits")
        return self.models / plain

    def stored(self) -> list[StoredModel]:
        """All models, the last used first."""
        try:
            names = {name for entry in os.scandir(self.models) if (name := _stem(entry.name)) is not None}
        except OSError:
            return []
        found = [self._stored(self.models / name) for name in sorted(names)[:MAX_MODELS]]
        return sorted((model for model in found if model), key=lambda model: -model.used)

    def find(self, name: str) -> StoredModel | None:
        """The complete model of that name or, for a name without a tag, the one of its models used last."""
        for model in self.stored():
            if model.complete and name.lower() in (model.record.name.lower(), model.record.model.lower()):
                return model
        return None

    def of_folder(self, folder: Path) -> StoredModel | None:
        return self._stored(folder)

    def remember(self, folder: Path, record: Record) -> None:
        """Write what a model is, before anything of it is written. Raises OSError."""
        self.models.mkdir(parents=True, exist_ok=True)
        new = folder.with_name(folder.name + RECORD + ".new")
        with open(new, "w", encoding="utf-8", opener=not_linked) as file:
            json.dump(asdict(record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, folder.with_name(folder.name + RECORD))

    @contextmanager
    def making(self, folder: Path) -> Iterator[None]:
        """Let one process at a time make or remove a model. Raises UsageError while another one does."""
        self.models.mkdir(parents=True, exist_ok=True)
        path = folder.with_name(folder.name + LOCK)
        while True:
            with open(path, "a+", opener=not_linked) as file:
                if not _locked(file, fcntl.LOCK_EX):
                    file.seek(0)
                    who = f"process {file.read(20).strip() or 'unknown'}"
                    raise UsageError(f"{folder.name}: another a3b makes or removes it ({who}); wait for it, or stop it")
                if not _is_still(file, path):  # its last holder has removed it in between
                    continue
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def remove(self, model: StoredModel) -> list[Path]:
        """Remove what a3b wrote of a model, whatever stage it is in; what others put there is left, and returned.

        Raises UsageError if the model is in use, or is not a directory of its own."""
        folder = model.folder
        going = folder.with_name(folder.name + GOING)
        for place in (folder, going):
            if place.is_symlink():
                raise UsageError(f"{place}: is a link, and nothing that a3b made; remove it yourself")
        with _disk_errors(folder), self.making(folder), in_use(folder), _not_packed_into(folder):
            _clear(going)
            if folder.is_dir():
                clear(folder)  # what a run that was killed in its last step has left
                os.replace(folder, going)  # from here on it is no model
            left = _clear(going)
            if left:
                os.replace(going, folder)
            for part in (folder.with_name(folder.name + ending) for ending in (PART, MTP_PART)):
                if part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part)
            folder.with_name(folder.name + RECORD).unlink(missing_ok=True)
        return left

    def _stored(self, folder: Path) -> StoredModel | None:
        beside = {end: folder.with_name(folder.name + end) for end in (RECORD, PART, GOING)}
        record, known = read_record(beside[RECORD], folder.name), beside[RECORD].is_file()
        complete = (folder / MANIFEST).is_file()
        if not complete and not known and not _was_begun(beside[PART]):
            return None
        used = beside[RECORD] if known else folder / MANIFEST if complete else beside[PART]
        parts = beside[PART], beside[GOING], folder.with_name(folder.name + MTP_PART)
        num_bytes = sum(map(tree_bytes, (folder, *parts)))
        return StoredModel(folder, record, complete, beside[GOING].is_dir(), num_bytes, used.stat().st_mtime)


@contextmanager
def used(place: str | Path) -> Iterator[None]:
    """Note that a model is used, and hold it meanwhile, so that it is not removed. What cannot be held is used anyway:
    it may be on a disk that is only read."""
    folder = Path(place)
    with suppress(OSError):
        os.utime(folder.with_name(folder.name + RECORD))
    try:
        file = open_regular(folder / MANIFEST)
    except OSError:
        yield
        return
    with file:
        _locked(file, fcntl.LOCK_SH)
        yield


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep others from using a model. Raises UsageError if somebody does."""
    try:
        file = open_regular(folder / MANIFEST)
    except OSError:  # not complete
        yield
        return
    with file:
        if not _locked(file, fcntl.LOCK_EX):
            raise UsageError(f"{folder.name}: a server or a chat uses it; stop that first")
        yield


def _was_begun(part: Path) -> bool:
    """Whether a directory is what a stopped run of a3b left, by the files that only that writes."""
    return not part.is_symlink() and any((part / name).is_file() for name in (PROGRESS, JOURNAL, WRITERS_LOCK))


@contextmanager
def _not_packed_into(folder: Path) -> Iterator[None]:
    """Raises UsageError while a process packs into a directory, as `a3b pack` does without the lock of its name."""
    try:
        file = open_regular(folder.with_name(folder.name + PART) / WRITERS_LOCK)
    except OSError:
        yield
        return
    with file:
        if not _locked(file, fcntl.LOCK_EX):
            raise UsageError(f"{folder.name}: is being packed; wait for it, or stop it")
        yield


def _stem(name: str) -> str | None:
    for ending in (RECORD, PART, LOCK, GOING, RECORD + ".new"):
        if name.endswith(ending):
            name = name.removesuffix(ending)
            break
    return name if FOLDER.fullmatch(name) else None


def _clear(directory: Path) -> list[Path]:
    """Remove the files that packing writes, and the directory if nothing else is in it; the rest is returned."""
    if not directory.is_dir():
        return []
    for pattern in WRITTEN:
        for path in directory.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()
    (directory / "lock").unlink(missing_ok=True)
    left = sorted(directory.iterdir())
    if not left:
        directory.rmdir()
    return left


def tree_bytes(directory: Path) -> int:
    """Bytes that the files below a directory take; links are not followed."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                found = os.lstat(os.path.join(place, name))
                total += min(found.st_size, found.st_blocks * 512)  # a file with holes takes less
    return total


def _locked(file: Any, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(file: Any, path: Path) -> bool:
    """Whether an open file is the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: {error.strerror or error}") from None
