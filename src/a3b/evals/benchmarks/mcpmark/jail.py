"""Runs what is not ours, the benchmark's scripts and its database, as a user without rights in namespaces without a
network, where nothing of the machine is there but the system's files and what was named. Enter at `open_jail`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from a3b.agent.sandbox.bubblewrap import find_programs
from a3b.agent.sandbox.help import way_to_bubblewrap
from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import GiB, Sandbox, SandboxLimits, SandboxPolicy, SandboxProcess
from a3b.errors import SandboxUnavailable
from a3b.settings import process_environment

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/ssl"),
)
USER = "1000"  # PostgreSQL refuses to run as root
PASSWD = f"mcpmark:x:{USER}:{USER}::/tmp:/bin/sh\n"
MEMORY, PROCESSES = 2 * GiB, 64
PRINTED = 4 << 20  # bytes of output, above which a script is stopped


@dataclass(frozen=True)
class JailOutcome:
    """How a program ended. output: what it printed, stderr too; why: "" if it ended by itself."""

    status: int
    output: str
    why: str = ""


class Jail:
    """Starts programs. directory: of the jail's own files."""

    def __init__(self, sandbox: Sandbox, bubblewrap: str, directory: Path):
        self._sandbox, self._bubblewrap, self._directory = sandbox, bubblewrap, directory
        self._passwd = directory / "passwd"
        self._passwd.write_text(PASSWD, encoding="ascii")

    def _words(
        self,
        command: Sequence[str],
        readable: Sequence[Path],
        writable: Sequence[Path],
        variables: Mapping[str, str],
        cwd: Path,
    ) -> list[str]:
        words = [self._bubblewrap, "--unshare-all", "--uid", USER, "--gid", USER, "--hostname", "mcpmark"]
        words += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        for place in SYSTEM:
            words += ["--ro-bind-try", place, place]
        words += ["--ro-bind", str(self._passwd), "/etc/passwd"]
        for path in readable:
            words += ["--ro-bind", str(path), str(path)]
        for path in writable:
            words += ["--bind", str(path), str(path)]
        for name, value in {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/tmp",
            "TZ": "UTC",
            **variables,
        }.items():
            words += ["--setenv", name, value]
        return [*words, "--chdir", str(cwd), "--", *command]

    async def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        readable: Sequence[Path] = (),
        writable: Sequence[Path] = (),
        variables: Mapping[str, str] | None = None,
        seconds: float | None = None,
        output: int | None = PRINTED,
    ) -> SandboxProcess:
        """A program that runs until it ends, or the jail does. Raises OSError."""
        words = self._words(command, readable, writable, variables or {}, cwd)
        limits = SandboxLimits(memory=MEMORY, seconds=seconds, processes=PROCESSES, output=output)
        return await self._sandbox.start(words, cwd=self._directory, limits=limits)

    async def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        seconds: float,
        readable: Sequence[Path] = (),
        writable: Sequence[Path] = (),
        variables: Mapping[str, str] | None = None,
    ) -> JailOutcome:
        """Runs a program to its end. Raises OSError."""
        process = await self.start(
            command, cwd=cwd, readable=readable, writable=writable, variables=variables, seconds=seconds
        )
        try:
            printed = await process.stdout.read()
            outcome = await process.wait()
        except asyncio.CancelledError:
            await process.stop()
            raise
        why = "" if outcome.ended_by == "exit" else outcome.detail or f"it was ended: {outcome.ended_by}"
        return JailOutcome(outcome.status, printed.decode("utf-8", "replace"), why)


@asynccontextmanager
async def open_jail(directory: Path) -> AsyncIterator[Jail]:
    """A jail that ends with the block, and all in it. directory: private and empty. Raises SandboxUnavailable."""
    bubblewrap = await asyncio.to_thread(working_bubblewrap)
    work, state = directory / "jail", directory / "jail-state"
    for path in (work, state):
        path.mkdir(mode=0o700)
    policy = SandboxPolicy(work)
    # the supervisor above each command bounds memory, time and processes; the confinement is the jail's own
    sandbox = await asyncio.to_thread(open_sandbox, policy, yolo=True, home=state)
    try:
        yield Jail(sandbox, bubblewrap, work)
    finally:
        sandbox.close()


def working_bubblewrap() -> str:
    """The path of a bubblewrap that works here. Raises SandboxUnavailable with what helps."""
    failures: dict[str, str] = {}
    for program in find_programs(process_environment().get("PATH", os.defpath)):
        if not (said := _failure(program)):
            return program
        failures[program] = said
    obstacle, command = way_to_bubblewrap(failures)
    raise SandboxUnavailable(
        f"the benchmark's scripts and database run only where bubblewrap confines them: {obstacle}. "
        f"What helps: {command}"
    )


def _failure(program: str) -> str:
    """What a bubblewrap says that does not work, "" if it does."""
    words = [program, "--unshare-all", "--uid", USER, "--gid", USER, "--ro-bind", "/", "/", "--", "/bin/true"]
    try:
        done = subprocess.run(words, capture_output=True, timeout=20, check=False, cwd="/", stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.decode("utf-8", "replace").strip()
    return "" if done.returncode == 0 else said or f"it ended with status {done.returncode}"
