"""A sandbox that holds nothing back: commands of tests that look at tools, not at what keeps them in."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxPolicy


class BareProcess:
    def __init__(self, process, seconds):
        self.process, self.seconds, self.outcome = process, seconds, None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.timer = asyncio.get_running_loop().call_later(seconds, self.end, "time") if seconds else None

    def end(self, reason):
        self.outcome = CommandOutcome(-9, reason, f"it took longer than {self.seconds:g} s" if reason == "time" else "")
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def wait(self):
        await self.has_ended()
        if self.timer:
            self.timer.cancel()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = await self.process.wait()
        return self.outcome or CommandOutcome(status if status >= 0 else 128 - status)

    async def has_ended(self):
        """asyncio's own `wait` also waits for the pipes, which children may hold open."""
        try:
            handle = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    async def stop(self):
        self.end("stop")
        await self.wait()


class BareSandbox:
    """Starts commands as they are. started: the processes, for tests that look whether they ended."""

    name = "none"

    def __init__(self, workspace: Path):
        self.policy = SandboxPolicy(workspace)
        self.started = []

    async def ask_to_change(self, path, preview=None):
        return ""

    async def start(self, command, *, cwd, env=None, limits=None, merge=True, has_stdin=False):
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=asyncio.subprocess.PIPE if has_stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if merge else asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(BareProcess(process, (limits or self.policy.limits).seconds))
        return self.started[-1]
