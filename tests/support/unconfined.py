"""A sandbox that confines nothing, for tests of what is done with one."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxLimits, SandboxPolicy


class UnconfinedProcess:
    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr

    async def wait(self) -> CommandOutcome:
        return CommandOutcome(await self.process.wait())

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


class Unconfined:
    """started: command, directory and environment of each start; made: (policy, whether it confines nothing,
    environment) of those that were asked for."""

    name = "none"

    def __init__(self, policy: SandboxPolicy):
        self.policy = policy
        self.started: list[tuple[list[str], Path, dict[str, str]]] = []
        self.made: list[tuple[SandboxPolicy, bool, Mapping[str, str]]] = []
        self.processes: list[UnconfinedProcess] = []

    def make(self, policy: SandboxPolicy, yolo: bool, environment: Mapping[str, str]) -> Unconfined:
        self.made.append((policy, yolo, environment))
        return self

    def permit(self, path: str) -> None:
        pass

    def close(self) -> None:
        pass

    def argv(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> list[str]:
        return list(command)

    async def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
        merge: bool = True,
        has_stdin: bool = False,
    ) -> UnconfinedProcess:
        self.started.append((list(command), cwd, dict(env or {})))
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE if has_stdin else None,
            stdout=PIPE,
            stderr=STDOUT if merge else PIPE,
            cwd=cwd,
            env=dict(env or {}),
            start_new_session=True,
        )
        self.processes.append(UnconfinedProcess(process))
        return self.processes[-1]
