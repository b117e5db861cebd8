"""What a session acts through: the sandbox, the tools in it, the journal of changed files. Enter at `open_workshop`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from a3b.agent.options import AgentOptions
from a3b.agent.project_files import Project
from a3b.agent.tools.agent import AgentTool, Spawn
from a3b.agent.tools.tool import Tool, ToolCallContext, ToolError, ToolResult
from a3b.agent.tools.toolbox import Toolbox


@dataclass
class Workshop:
    """toolbox: empty until `open_workshop` fills it; sandbox: its name, for people; spawn: starts a sub-agent, where a
    task runs."""

    toolbox: Toolbox
    sandbox: str = "none"
    spawn: Spawn | None = None

    def notes(self) -> str:
        """The agent's plan."""
        return ""

    def reports(self) -> list[str]:
        """What background jobs have to tell, once."""
        return []

    async def around_call(
        self, tool: str, turn: int, run: Callable[[], Awaitable[ToolResult]]
    ) -> tuple[ToolResult, bool]:
        """Runs a call; whether it changed files."""
        result = await run()
        return result, self.toolbox.tool(tool).changes_files

    async def start_agent(self, task: str, context: ToolCallContext) -> ToolResult:
        if self.spawn is None:
            raise ToolError("no task runs")
        return await self.spawn(task, context)


@asynccontextmanager
async def open_workshop(
    options: AgentOptions, project: Project, approver: Any, tools: tuple[Tool, ...] = ()
) -> AsyncIterator[Workshop]:
    """Ends all that was started with the block. tools: beside the built-in ones.

    Raises A3BError if the sandbox does not work here."""
    shop = Workshop(Toolbox(()))
    built_in: list[Tool] = [AgentTool(shop.start_agent)]
    wanted = [tool for tool in built_in if options.tools is None or tool.name in options.tools]
    shop.toolbox = Toolbox([*wanted, *tools])
    yield shop
