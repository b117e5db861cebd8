"""Orders the sessions that share a journal, and tells which of them live. Enter at `JournalLock`, `WriterMark`."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from a3b.errors import JournalError
from a3b.files import open_private

MAX_WAIT_S = 60.0


class JournalLock:
    """Held while the journal is read or written, and while files are put back."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises JournalError if another session does not let go."""
        handle = open_private(self.path, os.O_RDWR | os.O_CREAT)
        try:
            end = time.monotonic() + MAX_WAIT_S
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise JournalError(
                            f"{self.path}: another session has been using the journal for {MAX_WAIT_S:.0f} s; "
                            "wait until it is done, or end it"
                        ) from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)


class WriterMark:
    """A locked file for as long as a journal is open: its step may be finished by others once the lock is gone."""

    def __init__(self, directory: Path):
        self.directory, self.token = directory, secrets.token_hex(8)
        self._handle = open_private(self._path(self.token), os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def _path(self, token: str) -> Path:
        return self.directory / f"writer-{token}"

    def close(self) -> None:
        if self._handle >= 0:
            with suppress(OSError):
                self._path(self.token).unlink()
            os.close(self._handle)
            self._handle = -1

    def lives(self, token: str) -> bool:
        """Whether the journal with this token is open, in this process or another."""
        if token == self.token:
            return True
        try:
            handle = open_private(self._path(token))
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        with suppress(OSError):
            self._path(token).unlink()
        return False
