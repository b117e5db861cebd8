"""The MCP servers of one session, from their configuration to the tools of the agent. Enter at `open_servers`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from a3b.agent.approvals import Approver, refusal
from a3b.agent.mcp.approving import call_request, start_request
from a3b.agent.mcp.config import ConfiguredServers, McpServerConfig
from a3b.agent.mcp.connection import ServerConnection
from a3b.agent.mcp.guard import ServerFault
from a3b.agent.mcp.launch import ServerLauncher, start_hint
from a3b.agent.mcp.surface import META_NAME, ToolSurface, new_surface
from a3b.agent.mcp.tools import McpMetaTool, McpTool
from a3b.agent.options import ServerLine, ToolLine
from a3b.agent.tools.tool import Tool, ToolError

Tell = Callable[[str, str], None]
MAX_NEWS = 20


class McpServers:
    """The servers that run, and what the model sees of them.

    connections: of approved servers, by name; absent: why others were left out; problems: of what configures them;
    surface: the tools in the prompt, which stay the same for the session."""

    def __init__(self, approver: Approver, tell: Tell):
        self.connections: dict[str, ServerConnection] = {}
        self.absent: dict[str, str] = {}
        self.problems: tuple[str, ...] = ()
        self.surface = ToolSurface()
        self._approver, self._tell = approver, tell
        self._news: list[str] = []
        self._told: set[str] = set()
        self._troubles: dict[str, str] = {}  # the last of each server
        self._asking = asyncio.Lock()

    @property
    def tools(self) -> list[Tool]:
        """For the toolbox, in the order of the prompt."""
        return [(McpTool if tool.server else McpMetaTool)(tool, self) for tool in self.surface.tools]

    def lines(self) -> list[ToolLine]:
        """For /tools: one line for each tool of each server, also of those behind the meta tool."""
        found = []
        for name, connection in self.connections.items():
            for tool in connection.listing.tools if connection.listing else ():
                found.append(ToolLine(tool.name, tool.description.split("\n")[0][:200], f"MCP server {name}"))
        return found + [ToolLine(name, why, f"MCP server {name}") for name, why in self.absent.items()]

    def states(self) -> list[ServerLine]:
        """For /mcp: a line for each server, also for those that do not run."""
        found = []
        for name, connection in self.connections.items():
            tools = tuple(tool.name for tool in connection.listing.tools) if connection.listing else ()
            state = "runs" if connection.is_running else "ended" if connection.listing else "did not start"
            found.append(ServerLine(name, state, connection.version, tools, self._troubles.get(name, "")))
        return found + [ServerLine(name, why) for name, why in self.absent.items()]

    def take_news(self) -> list[str]:
        """Sentences for the end of the conversation, such as that a server changed its tools; each is given once."""
        news, self._news = self._news, []
        return news

    async def permit(self, server: str, tool: str, arguments: dict[str, Any]) -> None:
        """Asks the user if the call leaves the sandbox and was not approved before. Raises ToolError."""
        config = self.connections[server].server
        if config.is_sandboxed or config.approves(tool):
            return
        async with self._asking:
            request = call_request(config, tool, arguments)
            decision = await self._approver.ask(request)
        if decision == "no":
            raise ToolError(f"the user did not allow to {refusal(request)}")

    async def start(self, configs: Sequence[McpServerConfig], launcher: ServerLauncher) -> None:
        """Asks for approval one by one, then starts all at once; those that fail are told and left out."""
        for config in configs:
            if not config.url or config.origin == "project":
                request = start_request(config)
                if await self._approver.ask(request) == "no":
                    self.absent[config.name] = "was not approved"
                    self._tell(f"MCP server {config.name!r} was not approved and is left out.", "warning")
                    continue
            self.connections[config.name] = ServerConnection(
                config,
                launcher.start,
                (launcher.workspace,),
                partial(self._warn, config.name),
                partial(self._changed, config.name),
            )
        await asyncio.gather(*(self._start(found, launcher.workspace) for found in list(self.connections.values())))

    async def _start(self, connection: ServerConnection, workspace: Path) -> None:
        config = connection.server
        try:
            await connection.start()
        except ServerFault as error:
            hint = start_hint(config, workspace, Path.home())
            said = f"MCP server {config.name!r} {str(error).rstrip(',')}; it is left out."
            self._warn(config.name, said + (hint and f" {hint[0].upper()}{hint[1:]}."))
            return
        if connection.listing is not None and connection.listing.left_out:
            left_out = connection.listing.left_out
            more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
            self._warn(config.name, f"MCP server {config.name!r}: left out {'; '.join(left_out[:3])}{more}.")

    def show(self, record: Any | None) -> None:
        """Settles what the model sees: what a record of the session says, or else what the servers offer now."""
        listings = {name: c.listing for name, c in self.connections.items() if c.listing is not None}
        if record is None:
            self.surface = new_surface(listings)
            return
        try:
            self.surface = ToolSurface.from_record(record)
        except ValueError as error:
            self._tell(f"{error}; this session goes on without them.", "warning")
        shown = {tool.server for tool in self.surface.tools}
        if META_NAME not in {tool.name for tool in self.surface.tools} and (new := listings.keys() - shown):
            self._tell(
                f"MCP servers {', '.join(sorted(new))} are new here. This session keeps the tools that it began with; "
                "a new session has theirs.",
                "info",
            )

    def _warn(self, server: str, text: str) -> None:
        self._troubles[server] = text
        self._tell(text, "warning")

    async def close(self) -> None:
        """Ends all servers."""
        await asyncio.gather(*(connection.close() for connection in self.connections.values()))

    def _changed(self, server: str, what: str) -> None:
        text = f"MCP server {server!r} says that something changed: {what}."
        if META_NAME not in {tool.name for tool in self.surface.tools}:
            text += " New tools can be called in a new session."
        if text not in self._told and len(self._told) < MAX_NEWS:
            self._told.add(text)
            self._news.append(text)
            self._tell(f"{text} The tools in the prompt stay as they are.", "info")


@asynccontextmanager
async def open_servers(
    configured: ConfiguredServers,
    launcher: ServerLauncher,
    approver: Approver,
    tell: Tell,
    record: Any | None = None,
) -> AsyncIterator[McpServers]:
    """The servers of a session, which all end with the block.

    tell: takes a sentence for the user and its level; record: what `ToolSurface.record` gave when the session began.
    Servers that do not start are told and left out."""
    servers = McpServers(approver, tell)
    servers.problems = configured.problems
    for problem in configured.problems:
        tell(problem, "warning")
    try:
        await servers.start(configured.servers, launcher)
        servers.show(record)
        yield servers
    finally:
        await servers.close()
