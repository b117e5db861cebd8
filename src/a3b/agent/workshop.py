"""What a session acts through: the sandbox, the tools in it, the journal of changed files. Enter at `open_workshop`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from a3b.agent.options import AgentOptions
from a3b.agent.project_files import Project
from a3b.agent.tools.tool import Tool, ToolResult
from a3b.agent.tools.toolbox import Toolbox


@dataclass
class Workshop:
    """sandbox: its name, for people; notes: the agent's plan; reports: what background jobs have to tell, once."""

    toolbox: Toolbox
    sandbox: str
    notes: Callable[[], str] = field(default=lambda: "")
    reports: Callable[[], list[str]] = field(default=list)

    async def around_call(self, tool: str, run: Callable[[], Awaitable[ToolResult]]) -> tuple[ToolResult, bool]:
        """Runs a call; whether it changed files."""
        result = await run()
        return result, self.toolbox.tool(tool).changes_files


@asynccontextmanager
async def open_workshop(
    options: AgentOptions, project: Project, approver: Any, tools: tuple[Tool, ...] = ()
) -> AsyncIterator[Workshop]:
    """Ends all that was started with the block. Raises A3BError if the sandbox does not work here."""
    yield Workshop(Toolbox(tools), "none")
