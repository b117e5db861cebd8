"""MCP servers of the tests, and connections to them without a sandbox."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.connection import ServerConnection
from a3b.agent.mcp.launch import ServerLauncher
from a3b.agent.sandbox.sandbox import SandboxPolicy
from tests.support.bare_sandbox import BareProcess
from tests.support.paths import ROOT
from tests.support.unconfined import Unconfined

HOSTILE = ROOT / "tests" / "support" / "hostile_mcp.py"


def hostile(mode: str = "", name: str = "bad", **fields: Any) -> McpServerConfig:
    """A server that misbehaves as the mode says."""
    command = (sys.executable, "-I", "-S", str(HOSTILE), mode)
    return McpServerConfig(name, Path("mcp.json"), "user", "digest", command=command, **fields)


class Heard:
    """What a connection tells: sentences for the user, and what changed."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.changed: list[str] = []


@asynccontextmanager
async def connected(
    server: McpServerConfig,
    workspace: Path,
    heard: Heard | None = None,
    processes: list[BareProcess] | None = None,
) -> AsyncIterator[ServerConnection]:
    """A connection to a server that has started. processes: gets those of the server."""
    heard = heard or Heard()
    sandbox = Unconfined(SandboxPolicy(workspace))
    sandbox.started = sandbox.started if processes is None else processes
    launcher = ServerLauncher(sandbox.policy, sandbox.make, {})
    connection = ServerConnection(server, launcher.start, (workspace,), heard.told.append, heard.changed.append)
    try:
        await connection.start()
        yield connection
    finally:
        await connection.close()
