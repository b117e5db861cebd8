"""A solver that is a program: it reads a task's description and prints the calls to make, which go through the same MCP
server as the agent's. With known answers it proves the benchmark's set-up. Enter at `solve_by_program`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from a3b.agent.approvals import DenyingApprover
from a3b.agent.mcp.opening import session_servers
from a3b.agent.mcp.tools import call_tool
from a3b.agent.options import AgentOptions
from a3b.agent.tools.tool import ToolError
from a3b.errors import A3BError, UsageError
from a3b.evals.benchmarks.mcpmark.states import McpMarkState
from a3b.evals.benchmarks.mcpmark.tasks import McpMarkTask

PROGRAM_S = 60
MAX_CALLS = 1_000


class ServersFailed(A3BError):
    """An MCP server does not start: an error of the run, not a wrong answer."""


async def solve_by_program(
    program: Path, task: McpMarkTask, state: McpMarkState, home: Path, hidden: tuple[Path, ...] = ()
) -> str:
    """Makes the calls of a program one by one; what they gave, for the record. home: A3B_HOME of the try; hidden:
    places that servers do not see.

    Raises UsageError if the program prints anything else than calls, ServersFailed."""
    calls = await asyncio.to_thread(planned_calls, program, task, state.workspace)
    told: list[str] = []
    names = tuple(state.servers)
    options = AgentOptions(state.workspace, home, "", mcp_servers=state.servers, mcp_allowed=names, hidden=hidden)
    log = []
    async with session_servers(options, DenyingApprover(), lambda text, _: told.append(text), None) as servers:
        if missing := [
            name for name in names if name not in servers.connections or not servers.connections[name].listing
        ]:
            raise ServersFailed(f"MCP server {', '.join(missing)} does not run: {'; '.join(told)}")
        owner = {tool.name: name for name in names for tool in (await servers.connections[name].offered()).tools}
        for tool, arguments in calls:
            log.append(f"> {tool} {json.dumps(arguments)}")
            try:
                log.append((await call_tool(servers, owner.get(tool, names[0]), tool, arguments)).text)
            except ToolError as error:
                log.append(f"Error: {error}")
    return "\n".join(log)


def planned_calls(program: Path, task: McpMarkTask, workspace: Path) -> list[tuple[str, dict[str, Any]]]:
    """What `python PROGRAM TASK WORKSPACE` prints when it reads the description: a JSON list of
    objects with "tool" and "arguments". Raises UsageError."""
    try:
        done = subprocess.run(
            [sys.executable, str(program), task.id, str(workspace)],
            input=task.description,
            capture_output=True,
            text=True,
            timeout=PROGRAM_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"--set solver={program}: {error}") from None
    if done.returncode:
        raise UsageError(f"--set solver={program}: failed for {task.id}: {done.stderr.strip()[-500:]}")
    try:
        return [(_text(call["tool"]), _object(call["arguments"])) for call in json.loads(done.stdout)[:MAX_CALLS]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(
            f"--set solver={program}: for {task.id} it did not print a list of calls ({error!r}); expected "
            'objects with a "tool", by name, and its "arguments"'
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"tool is {value!r:.80}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"arguments are {value!r:.80}")
    return value
