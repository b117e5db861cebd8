"""The journal of a model that is packed while it is fetched: what has arrived, what is packed, and where checksums are.

It is written after everything that it speaks of is on the disk, so whatever a kill leaves can be continued. Enter at
`StreamJournal.open`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.files import read_text
from a3b.formats.packed import new_checksum
from a3b.kernels.sha256 import STATE_BYTES, Sha256
from a3b.packing.intervals import Intervals
from a3b.packing.sparse_file import HOLE, FileProgress
from a3b.packing.writer import LOCK, write_file

JOURNAL, VERSION = "stream.json", 2
SOURCE = "source"
OWN = (LOCK, SOURCE, HOLE, f"{JOURNAL}.part")  # what a run leaves that was killed before there was a journal
MAX_BYTES = 64_000_000


@dataclass
class StreamJournal:
    """What is known of an earlier run, and is written for a later one."""

    path: Path
    repo: str
    commit: str
    identity: str = ""  # of the plan; empty: not begun
    files: dict[str, FileProgress] = field(default_factory=dict)  # by the path in the repository
    pieces: dict[str, dict[int, int]] = field(default_factory=dict)  # CRC-32 of written pieces, by tensor
    tensors: dict[str, str] = field(default_factory=dict)  # checksums of tensors that are complete

    @classmethod
    def open(cls, part: Path, repo: str, commit: str) -> StreamJournal:
        """The journal of a directory, or a new one. Raises UsageError for one that is damaged or of another model."""
        path = part / JOURNAL
        if not path.exists():
            if foreign := sorted(file.name for file in part.iterdir() if file.name not in OWN):
                raise UsageError(
                    f"{part}: holds {foreign[0][:200]}, so another command has begun it; move it or remove it"
                )
            return cls(path, repo, commit)
        try:
            journal = cls._read(path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path}: not readable ({error}); remove {part} and pack again") from None
        if journal.repo != repo:
            raise UsageError(f"{part}: was begun from {journal.repo[:200]}; remove it, or give another directory")
        return journal

    @classmethod
    def _read(cls, path: Path) -> StreamJournal:
        value = json.loads(read_text(path, MAX_BYTES))
        claimed = value.pop("checksum")
        if value["version"] != VERSION or claimed != _checksum(value):
            raise ValueError("its checksum is wrong")
        files = {str(name): _progress(entry) for name, entry in value["files"].items()}
        pieces = {str(name): _sums(pairs) for name, pairs in value["pieces"].items()}
        return cls(path, value["repo"], value["commit"], value["identity"], files, pieces, dict(value["tensors"]))

    def save(self) -> None:
        """Write it under its name in one step."""
        value: dict[str, Any] = {
            "version": VERSION,
            "repo": self.repo,
            "commit": self.commit,
            "identity": self.identity,
            "files": {
                name: {
                    "sum": file.sum,
                    "bytes": file.num_bytes,
                    "arrived": list(file.arrived),
                    "hashed": file.hashed,
                    "state": file.state.hex(),
                    "sums": list(file.sums.items()),
                    "failures": file.failures,
                }
                for name, file in self.files.items()
            },
            "pieces": {name: list(sums.items()) for name, sums in self.pieces.items()},
            "tensors": self.tensors,
        }
        value["checksum"] = _checksum(value)
        write_file(self.path, json.dumps(value).encode())


def _intervals(pairs: list[list[int]]) -> Intervals:
    """Raises ValueError for what is no interval."""
    if not all(type(start) is int and type(stop) is int and 0 <= start < stop < 1 << 62 for start, stop in pairs):
        raise ValueError("an interval that ends before it starts")
    return Intervals((start, stop) for start, stop in pairs)


def _sums(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """Raises ValueError for what are no numbers with a CRC-32 each."""
    if not all(type(i) is int and type(sum) is int and 0 <= i < 1 << 62 and 0 <= sum < 1 << 32 for i, sum in pairs):
        raise ValueError("a sum of 32 bits that is none")
    return dict(pairs)


def _progress(entry: dict[str, Any]) -> FileProgress:
    """Raises ValueError for numbers that contradict each other."""
    arrived = _intervals(entry["arrived"])
    state, sums = bytes.fromhex(entry["state"]), _sums(entry["sums"])
    progress = FileProgress(entry["sum"], entry["bytes"], arrived, entry["hashed"], state, sums, entry["failures"])
    if arrived.stops and arrived.stops[-1] > progress.num_bytes:
        raise ValueError("bytes outside of a file have arrived")
    if progress.hashed > arrived.end_of(0) or len(progress.state) not in (0, STATE_BYTES):
        raise ValueError("a checksum of bytes that have not arrived")
    if Sha256(progress.state).num_bytes != progress.hashed:
        raise ValueError("a checksum of other bytes")
    return progress


def _checksum(value: dict[str, Any]) -> str:
    total = new_checksum()
    total.update(json.dumps(value, sort_keys=True).encode())
    return total.hexdigest()
