"""The MCP servers of a session, from its options. Enter at `session_servers`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from a3b.agent.approvals import ApprovalRequest, Approver, Decision
from a3b.agent.mcp.approving import START, allow_option
from a3b.agent.mcp.config import configured_servers
from a3b.agent.mcp.launch import ServerLauncher
from a3b.agent.mcp.servers import McpServers, Tell, open_servers
from a3b.agent.options import AgentOptions
from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import Sandbox, SandboxPolicy
from a3b.errors import did_you_mean
from a3b.settings import process_environment


@asynccontextmanager
async def session_servers(
    options: AgentOptions, approver: Approver, tell: Tell, record: Any | None
) -> AsyncIterator[McpServers]:
    """Starts the servers that are configured for a session, and ends them with the block.

    tell: takes a sentence for the user and its level; record: the tools that the session began with, None for a new
    one. With --tools, servers are left out unless "mcp" is among its names."""
    if options.tools is not None and "mcp" not in options.tools:
        yield McpServers(approver, tell)
        return
    environment = process_environment()
    configured = configured_servers(
        options.directory, options.home, options.mcp_config, environment, options.mcp_servers
    )

    def make(policy: SandboxPolicy, is_outside: bool, variables: Mapping[str, str]) -> Sandbox:
        return open_sandbox(policy, yolo=is_outside or options.yolo, home=options.home, environment=variables)

    names = [server.name for server in configured.servers]
    for name in options.mcp_allowed:
        if name not in names:
            tell(f"--allow-mcp {name}: there is no such MCP server{did_you_mean(name, names)}", "warning")
    launcher = ServerLauncher(SandboxPolicy(Path(options.directory), hidden=options.hidden), make, environment)
    asking = _Granted(approver, options)
    try:
        async with open_servers(configured, launcher, asking, tell, record) as servers:
            yield servers
    finally:
        launcher.close()


class _Granted:
    """Says yes to what options allow, and asks the rest."""

    def __init__(self, approver: Approver, options: AgentOptions):
        self._approver, self._options = approver, options
        self._allowed = {allow_option(name) for name in options.mcp_allowed}

    async def ask(self, request: ApprovalRequest) -> Decision:
        if self._options.yolo or (request.kind == START and request.option in self._allowed):
            return "once"
        return await self._approver.ask(request)
