"""Commands as processes of asyncio: what a launch is configured with, and `Command`, which is one that runs."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from a3b.agent.sandbox.private_directory import PrivateDirectory
from a3b.agent.sandbox.sandbox import CommandOutcome, GiB, SandboxLimits
from a3b.machine import Machine, memory_groups

LEAST_MEMORY = 512 << 20
MOST_SHARE = 0.75  # of free memory, for one command
OPEN_FILES = 4096
DISK_FLOOR = 512 << 20
READ_AHEAD = 1 << 16  # bytes of output that wait for the reader, before the command has to
STOP_SECONDS = 1.0


@dataclass
class Launcher:
    """What all launches of a sandbox share. mode: "bubblewrap", "landlock" or "none"; settings: of that mode."""

    private: PrivateDirectory
    mode: str
    environment: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    def next_name(self) -> str:
        """A name for the files of one launch."""
        return time.strftime("%Y-%m-%d-%H%M%S-") + secrets.token_hex(3)

    def argv(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None,
        limits: SandboxLimits,
        status_fd: int | None = None,
    ) -> tuple[list[str], Path]:
        """The command line, and the file with its configuration."""
        if not command or any("\0" in word for word in command):
            raise ValueError("a command is a list of words without NUL")
        file = self.private.path / "launches" / f"{secrets.token_hex(8)}.json"
        config = self.config(cwd, env, limits, status_fd)
        file.write_text(json.dumps(config), encoding="utf-8", errors="surrogateescape")
        python = os.path.realpath(sys.executable)
        return [python, "-I", "-S", str(self.private.code), str(file), *command], file

    def config(
        self, cwd: Path, env: Mapping[str, str] | None, limits: SandboxLimits, status_fd: int | None
    ) -> dict[str, Any]:
        """What the supervisor reads."""
        machine = Machine.read()
        reserve = min(GiB, machine.memory_bytes // 4)
        memory = max(LEAST_MEMORY, int((machine.memory_bytes - reserve) * MOST_SHARE))
        paths = [str(self.private.path)]
        return {
            "mode": self.mode,
            "env": {**self.environment, **(env or {})},
            "cwd": str(cwd),
            "parent": os.getpid() if status_fd is not None else None,
            "status_fd": status_fd,
            "limits": {
                "memory": memory if limits.memory is None else min(memory, limits.memory),
                "seconds": limits.seconds,
                "processes": limits.processes,
                "file": limits.file,
                "disk": limits.disk,
                "open_files": OPEN_FILES,
            },
            "memory_floor": reserve // 2,
            "memory_groups": [asdict(group) for group in memory_groups()],
            "disk_floor": DISK_FLOOR,
            "disk_paths": [*paths, *self.settings.get("roots", [])],
            "private_paths": paths,
            **self.settings,
        }


class Command:
    """A command that runs under a supervisor: `SandboxProcess`."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol, status: int, config: Path):
        self._transport, self._protocol, self._status, self._config = transport, protocol, status, config
        self._outcome: CommandOutcome | None = None
        assert protocol.stdout is not None
        self.stdin: asyncio.StreamWriter | None = protocol.stdin
        self.stdout: asyncio.StreamReader = protocol.stdout
        self.stderr: asyncio.StreamReader | None = protocol.stderr

    @classmethod
    async def start(
        cls,
        launcher: Launcher,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None,
        limits: SandboxLimits,
        merge: bool,
        has_stdin: bool,
    ) -> Command:
        """Raises OSError if the supervisor cannot be started."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        argv, config = launcher.argv(command, cwd, env, limits, writer)
        try:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Protocol(limits.output),
                *argv,
                stdin=asyncio.subprocess.PIPE if has_stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT if merge else asyncio.subprocess.PIPE,
                pass_fds=(writer,),
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is the agent's to deal with
            )
        except BaseException:
            os.close(reader)
            config.unlink(missing_ok=True)
            raise
        finally:
            os.close(writer)
        return cls(transport, protocol, reader, config)

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._transport.get_pid()

    async def wait(self) -> CommandOutcome:
        """Waits until the command has ended, and all it started is gone."""
        await self._protocol.exited.wait()
        if self._outcome is None:
            self._outcome = self._read_outcome()
            self._config.unlink(missing_ok=True)
        return self._outcome

    async def stop(self) -> None:
        """Ends the command with all it started."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), STOP_SECONDS)
        except TimeoutError:
            self._signal(signal.SIGKILL)  # bubblewrap's processes die with their parent
            await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        if not self._protocol.exited.is_set():
            with suppress(ProcessLookupError):
                self._transport.send_signal(number)

    def _read_outcome(self) -> CommandOutcome:
        text = b""
        with suppress(OSError):
            text = os.read(self._status, 1 << 16)
        os.close(self._status)
        try:
            outcome = CommandOutcome(**json.loads(text))
        except (ValueError, TypeError):
            outcome = CommandOutcome(-signal.SIGKILL, "stop", "the process above the command was killed")
        if self._protocol.flooded:
            return CommandOutcome(-signal.SIGKILL, "output", f"it printed more than {self._protocol.most:,} bytes")
        return outcome


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Counts what a command prints, and stops it beyond `most` bytes."""

    def __init__(self, most: int | None):
        super().__init__(limit=READ_AHEAD, loop=asyncio.get_running_loop())
        self.most, self.count, self.flooded = most, 0, False
        self.exited = asyncio.Event()
        self._subprocess: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._subprocess = transport
        super().connection_made(transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if self.flooded:
            return
        self.count += len(data)
        if self.most is not None and self.count > self.most:
            self.flooded = True
            data = data[: len(data) - (self.count - self.most)]
            if self._subprocess is not None:
                with suppress(ProcessLookupError):
                    self._subprocess.send_signal(signal.SIGTERM)
        super().pipe_data_received(fd, data)

    def process_exited(self) -> None:
        self.exited.set()
        super().process_exited()
