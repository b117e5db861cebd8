"""Maps a file as read-only memory, for every container format."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from a3b.errors import FileFormatError
from a3b.files import open_regular


def map_file(path: Path, kind: str, least: int) -> mmap.mmap:
    """Map a whole file. Raises FileFormatError if it cannot be opened or is shorter than any file of its `kind`."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < least:
                raise FileFormatError(f"{path}: {size} bytes; a {kind} file has at least {least}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be opened: {error.strerror or error}") from None


def release_pages(memory: mmap.mmap, start: int, stop: int) -> None:
    """Drop the whole pages within bytes [start, stop) from this process; the next access reads them again."""
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = stop // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start and hasattr(memory, "madvise"):
        memory.madvise(mmap.MADV_DONTNEED, start, stop - start)
