"""What computes a session, its MCP servers and its changes, in lines for people. Enter at `opened_line`,
`model_lines`, `mcp_lines`, `diff_title`."""

from __future__ import annotations

from collections.abc import Sequence

from a3b.agent.events import SessionOpened
from a3b.agent.journal.diffs import WorkspaceDiff
from a3b.agent.options import ServedBy, ServerLine, SessionCost
from a3b.units import counted, span

MOST_TOOLS = 30  # that are named of one server
NO_SERVERS = "no MCP server: .mcp.json here, mcp.json in A3B_HOME and --mcp-config name them"
KINDS = {"a3b": "a3b, which keeps sampled tokens", "other": "of a kind that does not say what it is"}


def opened_line(opened: SessionOpened) -> str:
    """What works on a task, and what holds it."""
    context = f", context {opened.context:,}" if opened.context else ""
    return f"{opened.model} at {opened.base_url}{context}; sandbox: {opened.sandbox}"


def model_lines(served: ServedBy, cost: SessionCost) -> list[str]:
    """Which model and server, how much fits, and since when."""
    share = f", {100 * cost.in_context / served.context:.0f} %" if served.context else ""
    positions = f"; {served.positions}" if served.positions else ""
    return [
        f"model      {served.model}",
        f"server     {served.base_url} ({KINDS.get(served.kind, served.kind)})",
        f"context    {cost.in_context:,} of {served.context:,} tokens{share}{positions}",
        f"session    began {span(served.age)} ago; {counted(cost.turns, 'turn')} in {span(cost.seconds)}",
    ]


def mcp_lines(servers: Sequence[ServerLine], problems: Sequence[str] = ()) -> list[str]:
    """Each server with its state, its tools, and what went wrong last."""
    lines = []
    for server in servers:
        version = f", version {server.version}" if server.version else ""
        lines.append(f"{server.name}: {server.state}{version}")
        if server.tools:
            more = f" and {len(server.tools) - MOST_TOOLS:,} more" if len(server.tools) > MOST_TOOLS else ""
            lines.append(f"    {counted(len(server.tools), 'tool')}: {', '.join(server.tools[:MOST_TOOLS])}{more}")
        if server.trouble:
            lines.append(f"    last trouble: {server.trouble}")
    return [*(lines or [NO_SERVERS]), *(f"not used: {problem}" for problem in problems)]


def diff_title(diff: WorkspaceDiff) -> str:
    """How much a session has changed, in one line."""
    if not diff.files:
        return "this session has changed no file, or all is as it was before"
    more = f"; {counted(diff.left_out, 'file')} of them not shown" if diff.left_out else ""
    return f"{counted(diff.files, 'file')} changed by this session: +{diff.added:,} -{diff.removed:,} lines{more}"
