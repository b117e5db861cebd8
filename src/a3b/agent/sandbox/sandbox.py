"""What a sandbox is: a policy, and a way to start a command under it. `Sandbox` is the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

GiB = 1 << 30


@dataclass(frozen=True)
class SandboxLimits:
    """What one command may use up, with all its children. Bytes, seconds of wall clock, processes.

    memory: None for what the machine has free, less a reserve; seconds: None for no limit, as background jobs have it.
    output: of stdout and stderr together, None for no limit; file: of one file; disk: of what is written to the
    private home and /tmp.
    """

    memory: int | None = None
    seconds: float | None = 120.0
    processes: int = 256
    output: int | None = 16 << 20
    file: int = 2 * GiB
    disk: int = 8 * GiB


@dataclass(frozen=True)
class SandboxPolicy:
    """What commands may touch. Everything outside is readable but for homes and secrets, and nothing of it writable.

    writable, readable: further directories, beside the workspace; hidden: further places in which commands find
    nothing but what these name; hosts: names that the network proxy lets through, "host" or "host:port"; permitted:
    protected paths that may be changed, relative to the workspace.
    """

    workspace: Path
    writable: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    permitted: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommandOutcome:
    """How a command ended.

    status: as a shell reports it, with 128 + the signal where one ended the command, or -9 where the sandbox did;
    ended_by: "exit", "time", "memory", "processes", "output", "disk", "protected" or "stop"; detail: for the model and
    the user, what the limit was or which path is protected.
    """

    status: int
    ended_by: str = "exit"
    detail: str = ""


class SandboxProcess(Protocol):
    """A command that runs. stdout carries stderr too where `merge` was asked for."""

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader | None

    async def wait(self) -> CommandOutcome:
        """Waits until the command has ended. What it left in the background is killed then, and gone on return."""
        ...

    async def stop(self) -> None:
        """Ends the command with all it started, and returns once everything is gone."""
        ...


class Sandbox(Protocol):
    """name: for people, such as "bubblewrap"; policy: what holds."""

    name: str
    policy: SandboxPolicy

    def argv(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        """A command line that runs `command` in the sandbox, wherever it is started from, for as long as the sandbox
        is open. It has all limits but those on time and output."""
        ...

    async def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
        merge: bool = True,
        has_stdin: bool = False,
    ) -> SandboxProcess:
        """Starts a command; env: added to the plain environment that all commands get."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What this sandbox does not hold, for the user; nothing if it holds all."""
        ...

    async def ask_to_change(self, path: str, preview: Callable[[], Awaitable[str]] | None = None) -> str:
        """Asks the user if `path`, absolute or relative to the workspace, is protected. "" if it may be changed, which
        `policy` says from then on, else what the model is told. preview: the change as a unified diff."""
        ...

    def close(self) -> None:
        """Ends what belongs to the sandbox and removes its private files."""
        ...
