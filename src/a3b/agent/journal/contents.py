"""Contents of files, each under its SHA-256, in a private directory. Enter at `ContentStore`.

A content gets its name when it is complete. It is checked whenever it is read, so one that a crash of the machine left
torn is told, not restored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from a3b.files import open_private, private_directory

CHUNK = 1 << 20
FRESH = ".new"


class ContentDamaged(Exception):
    """A kept content is missing, or is not what its name says."""


class ContentStore:
    """num_bytes: of all contents that are kept."""

    def __init__(self, directory: Path):
        private_directory(directory)
        self.directory = directory
        self._sizes = dict(self._found())

    def _found(self) -> Iterator[tuple[str, int]]:
        for fan in sorted(os.listdir(self.directory)):
            if len(fan) != 2:
                with suppress(OSError):
                    os.unlink(self.directory / fan)  # what a kill left half-written
                continue
            with os.scandir(self.directory / fan) as entries:
                yield from ((fan + e.name, e.stat(follow_symlinks=False).st_size) for e in entries)

    @property
    def num_bytes(self) -> int:
        return sum(self._sizes.values())

    def __contains__(self, digest: str) -> bool:
        return digest in self._sizes

    def _path(self, digest: str) -> Path:
        return self.directory / digest[:2] / digest[2:]

    def keep(self, source: int, max_bytes: int) -> tuple[str, int]:
        """Keeps what an open file has, from where it is read on. Returns its digest and size. Raises OSError, and
        ValueError if there is more than `max_bytes`."""
        data = os.read(source, CHUNK)
        if len(data) < CHUNK:
            digest = hashlib.sha256(data).hexdigest()
            if digest not in self._sizes:
                self._write(digest, iter((data,)))
            return digest, len(data)
        return self._keep_long(source, data, max_bytes)

    def _keep_long(self, source: int, first: bytes, max_bytes: int) -> tuple[str, int]:
        whole, size, start = hashlib.sha256(), 0, os.lseek(source, 0, os.SEEK_CUR) - len(first)
        data = first
        while data:  # read twice, so that what is kept already is not written again
            whole.update(data)
            if (size := size + len(data)) > max_bytes:
                raise ValueError(f"more than {max_bytes} bytes")
            data = os.read(source, CHUNK)
        digest = whole.hexdigest()
        if digest not in self._sizes:
            os.lseek(source, start, os.SEEK_SET)
            self._write(digest, iter(lambda: os.read(source, CHUNK), b""))
        return digest, size

    def _write(self, digest: str, pieces: Iterator[bytes]) -> None:
        fresh, check, size = self.directory / FRESH, hashlib.sha256(), 0
        with open(fresh, "wb", opener=open_private) as file:
            for piece in pieces:
                check.update(piece)
                size += len(piece)
                file.write(piece)
        if check.hexdigest() != digest:
            raise InterruptedError("changed while it was read")
        path = self._path(digest)
        try:
            os.rename(fresh, path)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(fresh, path)
        self._sizes[digest] = size

    def pieces(self, digest: str) -> Iterator[bytes]:
        """The bytes of a content. Raises ContentDamaged, possibly only behind the last piece."""
        check = hashlib.sha256()
        try:
            with open(self._path(digest), "rb", opener=open_private) as file:
                while data := file.read(CHUNK):
                    check.update(data)
                    yield data
        except OSError as error:
            raise ContentDamaged(f"the kept content is not readable: {error.strerror}") from None
        if check.hexdigest() != digest:
            raise ContentDamaged("the kept content is damaged")

    def sweep(self, needed: Container[str]) -> None:
        """Removes all contents that are not needed."""
        for digest in [digest for digest in self._sizes if digest not in needed]:
            with suppress(FileNotFoundError):
                self._path(digest).unlink()
            del self._sizes[digest]
