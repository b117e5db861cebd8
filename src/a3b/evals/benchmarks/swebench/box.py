"""Commands of an instance, in the sandbox of `a3b code`: without network, or with the package registry alone.

Enter at `open_box`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.protection import NAMES
from a3b.agent.sandbox.sandbox import Sandbox, SandboxLimits, SandboxPolicy
from a3b.settings import process_environment

MAX_OUTPUT = 32 << 20
PROCESSES = 512
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYENV_VERSION", "CI")
SYSTEM = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
SHARED_PREFIXES = ("/", "/usr", "/usr/local")  # what all commands see anyhow


@dataclass(frozen=True)
class Ran:
    """How a script ended. status: as a shell reports it; ended_by: "exit", or the limit that ended it; detail: which;
    output: stdout and stderr, cut at MAX_OUTPUT; bytes that are no UTF-8 are escaped as in names of files."""

    status: int
    ended_by: str
    detail: str
    output: str
    seconds: float

    @property
    def went_well(self) -> bool:
        return self.status == 0 and self.ended_by == "exit"


class Box:
    """A sandbox around one directory, with a virtual environment on PATH."""

    def __init__(self, sandbox: Sandbox, directory: Path):
        self._sandbox, self._directory = sandbox, directory

    @property
    def sandbox(self) -> Sandbox:
        return self._sandbox

    async def run(
        self, script: str, arguments: Sequence[str] = (), *, cwd: Path | None = None, seconds: float = 600
    ) -> Ran:
        """Runs lines of bash; arguments: $1 and so on."""
        began = time.monotonic()
        limits = replace(self._sandbox.policy.limits, seconds=seconds, output=MAX_OUTPUT)
        command = ["bash", "--noprofile", "--norc", "-c", script, "bash", *arguments]
        process = await self._sandbox.start(command, cwd=cwd or self._directory, limits=limits)
        pieces: list[bytes] = []

        async def read() -> None:
            while piece := await process.stdout.read(1 << 16):
                pieces.append(piece)

        try:
            outcome, _ = await asyncio.gather(process.wait(), read())
        except BaseException:
            await process.stop()
            raise
        text = b"".join(pieces).decode("utf-8", "surrogateescape")
        return Ran(outcome.status, outcome.ended_by, outcome.detail, text, time.monotonic() - began)


def box_environment(environment: Path | None, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The user's variables, of which the sandbox takes the plain ones, with a virtual environment on PATH."""
    kept = dict(process_environment() if given is None else given)
    for name in LEFT_OUT:
        kept.pop(name, None)
    kept["PATH"] = f"{environment / 'bin'}:{SYSTEM}" if environment else SYSTEM
    return kept


@asynccontextmanager
async def open_box(
    directory: Path,
    home: Path,
    environment: Path | None = None,
    *,
    readable: Sequence[Path] = (),
    hidden: Sequence[Path] = (),
    hosts: Sequence[str] = (),
) -> AsyncIterator[Box]:
    """directory: what scripts may write; home: A3B_HOME; environment: a virtual environment, which they may not;
    readable, hidden: further places, of which the readable ones may lie in hidden ones; hosts: that they may reach.
    Nothing in the directory is protected but the settings of its own repository: it is thrown away. Raises
    SandboxUnavailable."""
    places = [path for path in (*readable, *([environment] if environment else [])) if str(path) not in SHARED_PREFIXES]
    policy = SandboxPolicy(
        directory,
        readable=tuple(places),
        hidden=tuple(hidden),
        hosts=tuple(hosts),
        limits=SandboxLimits(processes=PROCESSES),
        permitted=_unprotected(directory),
    )
    sandbox = await asyncio.to_thread(open_sandbox, policy, home=home, environment=box_environment(environment))
    try:
        yield Box(sandbox, directory)
    finally:
        sandbox.close()


def _unprotected(directory: Path) -> tuple[str, ...]:
    """What acts outside of a sandbox by its name, at any depth, and repositories below the directory."""
    there = sorted(path.name for path in directory.iterdir() if path.name != ".git")
    return tuple(dict.fromkeys([*NAMES, *there]))
