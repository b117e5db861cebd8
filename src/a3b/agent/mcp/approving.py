"""What the user is asked about MCP servers: whether to start one, and whether to call what is outside of the sandbox.

An approval holds for the entry exactly as it stands in its file. Enter at `start_request` and `call_request`."""

from __future__ import annotations

import json
import shlex
from typing import Any

from a3b.agent.approvals import ApprovalRequest
from a3b.agent.mcp.config import McpServerConfig

START, CALL = "mcp_server", "mcp_call"
LONGEST = 2_000  # characters of a command line or of arguments that a question shows


def start_request(server: McpServerConfig) -> ApprovalRequest:
    """The question before a server starts. Its subject changes with every character of the entry."""
    what = f"start the MCP server {server.name!r}: {_cut(server.target)}"
    return ApprovalRequest(
        kind=START,
        subject=f"{server.name} of {server.file}: {server.target[:500]} [{server.digest[:16]}]",
        what=what,
        why="; ".join(_powers(server)),
        where=str(server.file),
        option=allow_option(server.name),
    )


def allow_option(name: str) -> str:
    """The option that lets a server start without a question."""
    return f"--allow-mcp {shlex.quote(name)}"


def call_request(server: McpServerConfig, tool: str, arguments: dict[str, Any]) -> ApprovalRequest:
    """The question before a call that leaves the sandbox. "always" is for this tool of this entry."""
    shown = json.dumps(arguments, ensure_ascii=False, default=str)
    place = f"at {server.target}" if server.url else "outside of the sandbox"
    return ApprovalRequest(
        kind=CALL,
        subject=f"{server.name} {tool} of {server.file} [{server.digest[:16]}]",
        what=f"call {tool} of the MCP server {server.name!r} with {_cut(shown)}",
        why=f"it works {place}",
        where=str(server.file),
        option=f'"autoApprove": ["{tool}"] in {server.file}',
    )


def _powers(server: McpServerConfig) -> list[str]:
    """What a server may do, for the question."""
    if server.url:
        found = [f"it gets what its tools are called with, and headers {', '.join(server.headers) or 'none'}"]
    elif server.is_sandboxed:
        found = ["it runs in the sandbox"]
        found += [f"and reaches {', '.join(server.hosts)}"] if server.hosts else []
        found += [f"may write {', '.join(server.writable)}"] if server.writable else []
        found += [f"may read {', '.join(server.readable)}"] if server.readable else []
    else:
        found = ["it runs OUTSIDE OF THE SANDBOX with all rights of the user"]
    if names := sorted({*server.env, *server.variables}):
        found.append(f"it gets the variables {', '.join(names)}")
    if server.auto_approve and not server.is_sandboxed:
        found.append(f"its tools {', '.join(server.auto_approve)} are called without asking")
    return [_cut(text) for text in found]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... and {len(text) - LONGEST:,} more characters"
