"""The work directory of SWE-bench: clones, environments, instances. What is in it can be removed at any time.

It lies outside of A3B_HOME, since commands of the agent may write in its checkouts. Enter at `SwePlaces`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from a3b.errors import A3BError

LAST_LINES, LAST_CHARACTERS = 20, 3000
LOCK_TICK_S = 0.2


class SweEnvironmentError(A3BError):
    """An instance cannot be tried here: its clone, its interpreter, a package or the sandbox. The solver is not to
    blame."""


@dataclass(frozen=True)
class SwePlaces:
    """work: the directory; clones: of the user, looked at first; answers: files that have the fixes in them."""

    work: Path
    clones: Path | None = None
    answers: tuple[Path, ...] = ()

    @classmethod
    def beside(
        cls, home: Path, work: Path | None = None, clones: Path | None = None, answers: Sequence[Path] = ()
    ) -> SwePlaces:
        """home: A3B_HOME; work: None for a directory beside it."""
        chosen = work or home.with_name(home.name + "-swebench")
        above = clones.expanduser().absolute() if clones else None
        return cls(chosen.expanduser().absolute(), above, tuple(path.expanduser().absolute() for path in answers))

    @property
    def hidden(self) -> tuple[Path, ...]:
        """What a solver must not see: the future of clones, the fixes, other instances."""
        return (self.work, *([self.clones] if self.clones else []), *self.answers)

    @property
    def environments(self) -> Path:
        return self.work / "environments"

    @property
    def instances(self) -> Path:
        return self.work / "instances"

    @property
    def checked(self) -> Path:
        """Records of instances whose own fix was seen to resolve them here."""
        return self.work / "checked"

    @property
    def agent_home(self) -> Path:
        """A3B_HOME of the agent that is tried: its sessions are not the user's."""
        return self.work / "agent"


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)  # which lets go


@contextmanager
def held(path: Path) -> Iterator[None]:
    """One process, and in it one thread, has the lock at a time."""
    with _lock_file(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@asynccontextmanager
async def holding(path: Path) -> AsyncIterator[None]:
    """As `held`, for tasks of asyncio, which go on meanwhile."""
    with _lock_file(path) as handle:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(LOCK_TICK_S)
        yield


def remove_tree(path: Path) -> None:
    """Removes what a command may have made hard to remove. Follows no link."""

    def make_writable(_: object, name: str, __: object) -> None:
        with suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            if not os.path.islink(name):
                os.chmod(name, 0o700)

    for _ in range(2):
        if path.is_symlink() or path.is_file():
            path.unlink()
        shutil.rmtree(path, onerror=make_writable)
        if not os.path.lexists(path):
            return
    raise SweEnvironmentError(f"{path} cannot be removed; look who owns what is in it")


def last_lines(text: str) -> str:
    """The end of a log, for an error."""
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    return legible("\n".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:]) or "it printed nothing"


def legible(text: str) -> str:
    """A text with escapes for what no encoding can write, so that logs can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
