"""What a sandbox is: a policy, and a way to start a command under it. `Sandbox` is the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

GiB = 1 << 30


@dataclass(frozen=True)
class SandboxLimits:
    """What one command may use up, with all its children. Bytes, seconds of wall clock, processes."""

    memory: int = 4 * GiB
    seconds: float = 120.0
    processes: int = 256
    output: int = 16 << 20
    file: int = 2 * GiB


@dataclass(frozen=True)
class SandboxPolicy:
    """What commands may touch. Everything outside is readable but for homes and secrets, and nothing of it writable.

    writable, readable: further directories, beside the workspace; hosts: names that the network proxy lets through.
    """

    workspace: Path
    writable: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: SandboxLimits = field(default_factory=SandboxLimits)


@dataclass(frozen=True)
class CommandOutcome:
    """How a command ended. ended_by: "exit", "time", "memory", "output" or "stop"; status: the exit status or
    minus the signal."""

    status: int
    ended_by: str = "exit"


class SandboxProcess(Protocol):
    """A command that runs. stdout carries stderr too where `merge` was asked for."""

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader | None

    async def wait(self) -> CommandOutcome:
        """Waits until the command and all it started have ended, also those that went to the background."""
        ...

    async def stop(self) -> None:
        """Ends the command with all it started."""
        ...


class Sandbox(Protocol):
    """name: for people, such as "bubblewrap"; policy: what holds."""

    name: str
    policy: SandboxPolicy

    def argv(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        """A command line that runs `command` in the sandbox, wherever it is started from."""
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
