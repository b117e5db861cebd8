"""Starts the process of a stdio server: in the sandbox, or outside of it where its entry says so and the user agreed.

Outside, nothing that the agent can write is run: the program and its files lie outside of the workspace, and so does
the directory it starts in, from which `npx`, `python -m` and others would load code. Enter at `ServerLauncher`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.guard import ServerFault
from a3b.agent.sandbox.environment import path_outside
from a3b.agent.sandbox.sandbox import Sandbox, SandboxPolicy, SandboxProcess
from a3b.errors import A3BError

BASE_VARIABLES = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "TMPDIR")  # as the SDK gives them
LOADED_FROM = ("PATH", "PYTHONPATH", "PYTHONSTARTUP", "NODE_PATH", "NODE_OPTIONS", "LD_PRELOAD", "LD_LIBRARY_PATH")
FETCHERS = ("npx", "uvx", "pipx", "bunx", "pnpm", "docker", "podman")  # fetch what they run, or need a daemon
MakeSandbox = Callable[[SandboxPolicy, bool, Mapping[str, str]], Sandbox]


class ServerLauncher:
    """policy: of the session; make: a sandbox for (policy, whether it confines nothing, environment); environment: of
    the user. Close it when the servers have ended."""

    def __init__(self, policy: SandboxPolicy, make: MakeSandbox, environment: Mapping[str, str]):
        self._policy, self._make, self._environment = policy, make, environment
        self._opened: list[Sandbox] = []

    @property
    def workspace(self) -> Path:
        return self._policy.workspace

    async def start(self, server: McpServerConfig) -> SandboxProcess:
        """The process of a server. Raises ServerFault."""
        env = {name: self._environment[name] for name in BASE_VARIABLES if name in self._environment}
        limits = replace(self._policy.limits, seconds=None, output=None)  # it lives as long as the session
        policy = replace(self._policy, hosts=server.hosts, limits=limits)
        try:
            path = env.get("PATH", os.defpath)
            if not server.is_sandboxed:  # also for what the program starts by itself, as npx does node
                env["PATH"] = path_outside(path, (self.workspace.resolve(),))
            places = env.get("PATH", os.defpath), path
            program = next(filter(None, (shutil.which(server.command[0], path=p) for p in places)), server.command[0])
            if server.is_sandboxed:
                env, cwd = dict(self._environment), self.workspace / server.cwd
                policy = replace(
                    policy,
                    readable=(*policy.readable, *(Path(path).expanduser() for path in server.readable)),
                    writable=(*policy.writable, *(Path(path).expanduser() for path in server.writable)),
                )
            else:
                cwd = Path(server.cwd or env.get("HOME", "/")).expanduser()
                _check_outside(server, program, cwd, env | dict(server.env), self.workspace)
            if not os.path.exists(cwd / program):
                hint = '; put its arguments into "args"' if " " in program else ""
                raise ServerFault(f"cannot be started: there is no program {program[:200]!r}{hint}")
            sandbox = await asyncio.to_thread(self._make, policy, not server.is_sandboxed, env)
            self._opened.append(sandbox)
            command = (program, *server.command[1:])
            return await sandbox.start(command, cwd=cwd, env=server.env, limits=limits, merge=False, has_stdin=True)
        except OSError as error:
            raise ServerFault(f"cannot be started: {error.strerror or error}") from None
        except (A3BError, ValueError) as error:
            raise ServerFault(f"cannot be started: {error}") from None

    def close(self) -> None:
        """Removes what the sandboxes kept."""
        while self._opened:
            with suppress(OSError):
                self._opened.pop().close()


def start_hint(server: McpServerConfig, workspace: Path, home: Path) -> str:
    """What to do when a program does not start in the sandbox that fetches what it runs, or is given a file of the
    user's home; "" for others."""
    if not server.is_sandboxed or not server.command:
        return ""
    if (program := Path(server.command[0]).name) in FETCHERS:
        return (
            f"{program} needs the network, which the sandbox does not allow: install the server first and name its "
            'program, or set "sandbox": false'
        )
    shown = [workspace, *(Path(path).expanduser() for path in (*server.readable, *server.writable))]
    for path in map(Path, server.command):
        in_home = path.is_absolute() and path.is_relative_to(home) and os.path.exists(path)
        if in_home and not any(path.is_relative_to(place) for place in shown):
            return f'the sandbox hides {path} from it, as the rest of your home: "readable": ["{path.parent}"] shows it'
    return ""


def _check_outside(server: McpServerConfig, program: str, cwd: Path, env: Mapping[str, str], workspace: Path) -> None:
    """Raises ServerFault if the agent could change what is run."""
    for what, path in _code(server, program, cwd, env):
        places = Path(os.path.abspath(cwd / path)), (cwd / path).resolve()
        if any(place.is_relative_to(root) for place in places for root in (workspace, workspace.resolve())):
            raise ServerFault(
                f"would run outside of the sandbox with the {what} {path}, which the agent can change; move it out of "
                'the workspace, or remove "sandbox": false'
            )


def _code(server: McpServerConfig, program: str, cwd: Path, env: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    yield "program", Path(program)
    yield "directory", cwd
    for part in server.command[1:]:
        for word in {part, part.split("=", 1)[-1]}:
            if os.path.isfile(cwd / word):
                yield "file", Path(word)
    for name in LOADED_FROM:
        for part in re.split(r"[\s:=]", env.get(name, "")):
            if part.startswith("/"):
                yield "directory of code", Path(part)
