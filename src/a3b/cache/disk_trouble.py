"""What a store does when the disk or the database fails: it continues without it, and says so once.

Enter at `DiskGuard.run`. Does not know what is stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from a3b.cache.index_database import FAILURES

RETRY_AFTER_S = 60.0  # after a failed write
MAX_NOTICES = 100
log = logging.getLogger("a3b")
T = TypeVar("T")


class DiskGuard:
    """Runs work on the disk, and turns failures into notices.

    trouble: why nothing is written at present, or None. notices: what the user should know, oldest first."""

    def __init__(self, directory: Path, clock: Callable[[], float]):
        self._directory, self._clock = directory, clock
        self._retry_at = 0.0
        self.trouble: str | None = None
        self.notices: list[str] = []

    @property
    def may_write(self) -> bool:
        """Whether enough time has passed since the last failed write."""
        return self._clock() >= self._retry_at

    def run(self, work: Callable[[], T], writes: bool = False) -> T | None:
        """The result of `work`; None after a failure. writes: a failure stops writing for RETRY_AFTER_S."""
        try:
            return work()
        except (OSError, *FAILURES, MemoryError) as error:
            text = f"{self._directory}: {error}"
            if writes:
                text += (
                    f"; nothing is written for {RETRY_AFTER_S:.0f} s: make room, "
                    "or lower what is kept (a3b cache prune)"
                )
                self._retry_at = self._clock() + RETRY_AFTER_S
            if self.trouble != text:
                self.trouble = text
                self.notice(text)
            return None

    def notice(self, text: str) -> None:
        """Tell the user."""
        self.notices.append(text)
        del self.notices[:-MAX_NOTICES]
        log.warning("sessions: %s", text)
