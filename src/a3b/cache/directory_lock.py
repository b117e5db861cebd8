"""The lock of a session directory: one server at a time. Enter at `lock_directory`.

The file holds the process id of its owner, for the message that another server gets. Commands read and forget without
the lock; SQLite orders their changes and the server's."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import TextIO

from a3b.cache.index_database import LOCK, OWN
from a3b.errors import StoreError
from a3b.files import open_private, private_directory


class InUse(StoreError):
    """Another server uses the directory."""


def lock_directory(directory: Path) -> TextIO:
    """Lock the directory for this process, making it if it is missing.

    Returns the open lock file; closing it releases the lock. Raises InUse with the owner's process id, and StoreError
    if the directory cannot be used."""
    path = directory / LOCK
    try:
        private_directory(directory, own=OWN)
        file = open(path, "a+", encoding="ascii", errors="replace", opener=open_private)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise StoreError(
                f"{error.filename}: {error.strerror}; give the sessions a directory of their own"
            ) from None
        raise StoreError(f"{path}: {error.strerror}; give a writable directory") from None
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
            raise StoreError(f"{path}: {error.strerror}; give a writable directory on a local disk") from None
        raise InUse(
            f"{directory}: in use by the server with process id {pid or 'unknown'}; "
            "stop it, or give this one another directory with --cache-dir"
        ) from None
    return file


def is_served(directory: Path) -> bool:
    """Whether a server uses the directory now."""
    try:
        lock_directory(directory).close()
    except StoreError:
        return True
    return False
