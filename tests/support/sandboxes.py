"""Commands in real sandboxes, for tests: `ran` runs one and tells its output and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import CommandOutcome, Sandbox, SandboxPolicy


def opened(tmp_path: Path, environment: dict[str, str], yolo: bool = False, **fields: Any) -> Sandbox:
    """A sandbox for a new workspace below tmp_path, whose user has a home there."""
    workspace = tmp_path / "home" / "src" / "project"
    workspace.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path / "home"), **environment}
    policy = SandboxPolicy(workspace, **fields)
    return open_sandbox(policy, yolo=yolo, home=tmp_path / "state", environment=environment)


def ran(sandbox: Sandbox, command: str | Sequence[str], **options: Any) -> tuple[str, CommandOutcome]:
    """Output and outcome of a command, which is run by bash if it is a text."""

    async def run() -> tuple[str, CommandOutcome]:
        words = ["bash", "-c", command] if isinstance(command, str) else command
        process = await sandbox.start(words, cwd=sandbox.policy.workspace, **options)
        text = (await process.stdout.read()).decode("utf-8", "replace")
        return text, await process.wait()

    return asyncio.run(run())
