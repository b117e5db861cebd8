"""What a session of the agent is opened with, and what it tells about itself. Enter at `AgentOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.agent.events import TokenUsage

COMPACT_AT = 50_000  # tokens; beyond that the model works less well, long before its context ends


@dataclass(frozen=True)
class AgentOptions:
    """What `open_session` needs. Everything but the first three has a default that suits a person at a terminal.

    directory: the workspace; home: A3B_HOME; base_url: of an OpenAI-compatible server, with or without /v1;
    model: None takes the first that the server names; context: tokens that the server holds, if it does
    not say; tools: names of built-in tools, None is all; resume: id of a
    session of this directory; max_turns, max_tokens (written and computed), max_seconds: of one task, None is no limit;
    hosts: that commands may reach; paths: protected files and directories, relative to the directory, that may
    change; yolo: no sandbox and no questions; think: None leaves it to the server;
    sampling: further fields of each request, such as temperature; mcp_config: a further file of MCP servers;
    mcp_servers: further entries of such a file, by name; mcp_allowed: names of servers that start without a question;
    environment: variables of which commands get the plain ones, such as PATH; None is the process's; hidden: places
    in which commands find nothing; streams: whether the server is asked for streams.
    """

    directory: Path
    home: Path
    base_url: str
    api_key: str = ""
    model: str | None = None
    context: int | None = None
    tools: tuple[str, ...] | None = None
    resume: str | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    compact_at: int = COMPACT_AT
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    yolo: bool = False
    think: bool | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    mcp_config: Path | None = None
    mcp_servers: Mapping[str, Any] = field(default_factory=dict)
    mcp_allowed: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    hidden: tuple[Path, ...] = ()
    streams: bool = True


@dataclass(frozen=True)
class ToolLine:
    """A tool, for /tools. origin: "built in", or the MCP server that has it."""

    name: str
    description: str
    origin: str = "built in"


@dataclass(frozen=True)
class ServerLine:
    """An MCP server, for /mcp. state: "runs", "ended" (it starts again with the next call), "did not start" or "was not
    approved"; version: as it says; trouble: what was told of it last."""

    name: str
    state: str
    version: str = ""
    tools: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class ServedBy:
    """What computes a session, for /model. kind: of server; age: seconds since the session began."""

    model: str
    base_url: str
    kind: str
    context: int
    positions: str
    age: float


@dataclass(frozen=True)
class SessionCost:
    """What a session has cost so far. in_context: tokens that the next request begins with; context: of the server;
    recomputed: tokens of the history that were read again, None where the server does not say."""

    turns: int
    usage: TokenUsage
    in_context: int
    context: int
    compact_at: int
    recomputed: int | None
    seconds: float


@dataclass(frozen=True)
class SessionNode:
    """A session on disk, for `sessions` and /tree. parent: the session it was forked from, at the end of `parent_turn`;
    kind: "session", "fork" or "sub-agent"; changed: seconds since 1970; words: how its first task begins."""

    id: str
    kind: str
    parent: str | None
    parent_turn: int | None
    words: str
    turns: int
    tokens: int
    changed: float
    is_open: bool = False
