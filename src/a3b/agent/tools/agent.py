"""The tool that has a sub-agent do a part of the work. Enter at `AgentTool`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from a3b.agent.tools.tool import ToolCallContext, ToolResult

Spawn = Callable[[str, ToolCallContext], Awaitable[ToolResult]]


class AgentTool:
    """spawn: works on a task, and gives what it comes back with."""

    name = "agent"
    description = "Have a copy of you, which knows all of this conversation, do a task; its last message comes back."
    parameters: dict[str, Any] = {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}
    changes_files = False  # its calls are looked at one by one

    def __init__(self, spawn: Spawn):
        self._spawn = spawn

    def summary(self, arguments: dict[str, Any]) -> str:
        return f"agent {' '.join(str(arguments.get('task', '')).split())[:100]}"

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        return await self._spawn(str(arguments["task"]), context)
