"""Commands in real sandboxes, for tests: `ran` runs one and tells its output and its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import CommandOutcome, Sandbox, SandboxPolicy

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@contextmanager
def user_directory() -> Iterator[Path]:
    """A directory for homes that is not below /tmp, which sandboxes hide whole."""
    path = Path(tempfile.mkdtemp(prefix="a3b-test-", dir="/var/lib" if os.access("/var/lib", os.W_OK) else "/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def opened(base: Path, environment: dict[str, str], kind: str = "bubblewrap", **fields: Any) -> Sandbox:
    """A sandbox for base/home/src/project, of the user whose home is base/home. kind: "none" is --yolo."""
    workspace = base / "home" / "src" / "project"
    workspace.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": SYSTEM_PATH, "HOME": str(base / "home"), **environment}
    approver = fields.pop("approver", None)
    return open_sandbox(
        SandboxPolicy(workspace, **fields),
        yolo=kind == "none",
        approver=approver,
        home=base / "state",
        environment=environment,
        kinds=(kind,),
    )


def ran(sandbox: Sandbox, command: str | Sequence[str], **options: Any) -> tuple[str, CommandOutcome]:
    """Output and outcome of a command, which is run by bash if it is a text."""

    async def run() -> tuple[str, CommandOutcome]:
        words = ["bash", "-c", command] if isinstance(command, str) else command
        options.setdefault("cwd", sandbox.policy.workspace)
        process = await sandbox.start(words, **options)
        text = (await process.stdout.read()).decode("utf-8", "replace")
        return text, await process.wait()

    return asyncio.run(run())


def files_below(path: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything below a directory, to compare."""
    found = {}
    for entry in sorted(path.rglob("*")):
        mode = entry.lstat().st_mode
        content = os.fsencode(os.readlink(entry)) if stat.S_ISLNK(mode) else b""
        found[str(entry.relative_to(path))] = mode, entry.read_bytes() if stat.S_ISREG(mode) else content
    return found
