"""What the model sees of the servers: their tools, or one tool that lists, describes and calls them.

Tools stand in the prompt before everything else, so what was shown once stays for the whole session, and is written
down to be the same when the session goes on. Enter at `new_surface` and `ToolSurface.from_record`."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from a3b.agent.mcp.listing import ServerListing

MAX_SCHEMA_TOKENS = 1_000  # of all servers' tools together, in the prompt
BYTES_PER_TOKEN = 3  # of tools as compact JSON: 3.0 to 4.1 for five real servers and Qwen3.6's tokenizer
META_NAME = "mcp"
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
MAX_NAME = 64


@dataclass(frozen=True)
class ShownTool:
    """A tool as the model sees it. server: whose it is, tool: its name there; both are empty for the meta tool."""

    name: str
    description: str
    parameters: dict[str, Any]
    server: str = ""
    tool: str = ""


@dataclass(frozen=True)
class ToolSurface:
    """The tools of a session; they never change."""

    tools: tuple[ShownTool, ...] = ()

    def record(self) -> list[dict[str, Any]]:
        """As JSON, for the transcript of the session."""
        return [asdict(tool) for tool in self.tools]

    @classmethod
    def from_record(cls, record: Any) -> ToolSurface:
        """The same surface again. Raises ValueError for what `record` never wrote."""
        try:
            tools = tuple(ShownTool(**tool) for tool in record)
        except TypeError as error:
            raise ValueError(f"tools of MCP servers in the transcript: {error}") from None
        for tool in tools:
            texts = (tool.name, tool.description, tool.server, tool.tool)
            if not all(isinstance(text, str) for text in texts) or not isinstance(tool.parameters, dict):
                raise ValueError(f"tools of MCP servers in the transcript: {str(tool)[:80]}")
        return cls(tools)


def new_surface(listings: Mapping[str, ServerListing]) -> ToolSurface:
    """The tools of all servers, if they are few; else the meta tool. Resources and prompts need the meta tool too."""
    shown = [_direct(server, tool) for server, listing in listings.items() for tool in listing.tools]
    shown = _with_own_names(shown)
    has_others = any(listing.resources or listing.prompts for listing in listings.values())
    if estimated_tokens(shown) > MAX_SCHEMA_TOKENS:
        return ToolSurface((_meta(listings, has_tools=True),))
    return ToolSurface((*shown, *([_meta(listings, has_tools=False)] if has_others else [])))


def estimated_tokens(tools: Sequence[ShownTool]) -> int:
    """Tokens that tools take in the prompt, rather too many: the bytes of their compact JSON in the form of a request,
    through BYTES_PER_TOKEN. Needs no tokenizer, so that the same servers look the same before every model."""
    forms = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]
    num_bytes = sum(len(json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()) for form in forms)
    return -(-num_bytes // BYTES_PER_TOKEN)


def _direct(server: str, tool: Any) -> ShownTool:
    name = f"mcp__{_UNFIT.sub('_', server)}__{_UNFIT.sub('_', tool.name)}"
    return ShownTool(name, f"MCP server {server}: {tool.description}", tool.parameters, server, tool.name)


def _with_own_names(tools: list[ShownTool]) -> list[ShownTool]:
    """Names that servers accept; where two became one, or one too long, a few digits of the real name are added."""
    times = Counter(tool.name for tool in tools)
    kept = []
    for tool in tools:
        name = tool.name
        if len(name) > MAX_NAME or times[name] > 1:
            digits = hashlib.sha256(f"{tool.server}\n{tool.tool}".encode()).hexdigest()[:8]
            name = f"{name[: MAX_NAME - 9]}_{digits}"
        kept.append(ShownTool(name, tool.description, tool.parameters, tool.server, tool.tool))
    return kept


def _meta(listings: Mapping[str, ServerListing], has_tools: bool) -> ShownTool:
    servers = []
    for name, listing in listings.items():
        counts = {"tools": len(listing.tools) * has_tools}
        counts |= {"resources": len(listing.resources), "prompts": len(listing.prompts)}
        if any(counts.values()):
            servers.append(f"{name} ({', '.join(f'{num} {what}' for what, num in counts.items() if num)})")
    actions = ["list", *(["describe", "call"] if has_tools else []), "read", "prompt"]
    words = "list what a server has, describe a tool before its first call, call it; " if has_tools else "list them, "
    description = f"MCP servers: {', '.join(servers)}. {words}read a resource by its URI, get a prompt."
    return ShownTool(
        META_NAME,
        description,
        {
            "type": "object",
            "properties": {
                "action": {"type": "string", "enum": actions},
                "server": {"type": "string"},
                "name": {"type": "string", "description": "tool, prompt or URI"},
                "arguments": {"type": "object"},
            },
            "required": ["action"],
        },
    )
