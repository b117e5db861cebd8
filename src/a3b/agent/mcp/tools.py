"""The tools of MCP servers as the agent calls them. Enter at `McpTool` and `McpMetaTool`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from a3b.agent.mcp.content import prompt_text, resource_text, result_text
from a3b.agent.mcp.listing import ServerListing, ServerThing, ServerTool
from a3b.agent.mcp.schemas import clean_text
from a3b.agent.mcp.surface import ShownTool
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult
from a3b.errors import did_you_mean

if TYPE_CHECKING:
    from a3b.agent.mcp.connection import ServerConnection

MAX_LINES = 200  # of a list


class McpServerSet(Protocol):
    """What the tools need of the servers of a session."""

    connections: dict[str, ServerConnection]
    absent: dict[str, str]

    async def permit(self, server: str, tool: str, arguments: dict[str, Any]) -> None:
        """Asks the user if the call leaves the sandbox and was not approved before. Raises ToolError."""
        ...


class McpTool:
    """One tool of one server, shown with its schema."""

    changes_files = True

    def __init__(self, shown: ShownTool, servers: McpServerSet):
        self.name, self.description, self.parameters = shown.name, shown.description, shown.parameters
        self._shown, self._servers = shown, servers

    def summary(self, arguments: dict[str, Any]) -> str:
        return _summary(self._shown.server, self._shown.tool, arguments)

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        return await call_tool(self._servers, self._shown.server, self._shown.tool, arguments)


class McpMetaTool:
    """Lists, describes and calls tools, reads resources and gets prompts, of all servers."""

    changes_files = True

    def __init__(self, shown: ShownTool, servers: McpServerSet):
        self.name, self.description, self.parameters = shown.name, shown.description, shown.parameters
        self._servers = servers

    def summary(self, arguments: dict[str, Any]) -> str:
        action, server, name = (str(arguments.get(key, ""))[:80] for key in ("action", "server", "name"))
        if action == "call":
            return _summary(server, name, arguments.get("arguments"))
        return " ".join(word for word in ("mcp", action, server, name) if word)

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        action, server, name = (arguments.get(key) or "" for key in ("action", "server", "name"))
        if not all(isinstance(word, str) for word in (action, server, name)):
            raise ToolError("action, server and name: expected texts")
        if action == "list":
            return ToolResult(await self._list(server))
        server = server or self._only_server(action, name)
        if action == "describe":
            tool = await _tool(_connection(self._servers, server), name)
            return ToolResult(
                json.dumps({"description": tool.description, "arguments": tool.parameters}, ensure_ascii=False)
            )
        given = _object(arguments.get("arguments"))
        if action == "call":
            return await call_tool(self._servers, server, name, given)
        if action == "read":
            return await self._read(server, name)
        if action == "prompt":
            return await self._prompt(server, name, given)
        raise ToolError(f"action {action[:80]!r}; expected list, describe, call, read or prompt")

    def _only_server(self, action: str, name: str) -> str:
        """The server of a call that names none, if only one has the thing. Raises ToolError."""
        found = [
            server
            for server, connection in self._servers.connections.items()
            if connection.listing and name in _names(connection.listing, action)
        ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self._servers.connections)
        raise ToolError(f"server is missing for {action} {name[:80]!r}; expected one of {known}")

    async def _list(self, server: str) -> str:
        if server:
            return _lines(server, await _connection(self._servers, server).offered())
        parts, counts, num_lines = [], [], 0
        for name, connection in self._servers.connections.items():
            lines = _lines(name, await connection.offered())
            parts.append(f"{name}:\n{lines}")
            num_lines += lines.count("\n") + 1
            counts.append(f"{name}: {lines.count(chr(10)) + 1} lines")
        if num_lines > MAX_LINES:
            return "\n".join(["Too many for one list; list each server:", *counts])
        return "\n".join(parts) or "There is no MCP server."

    async def _read(self, server: str, uri: str) -> ToolResult:
        connection = _connection(self._servers, server)
        await self._servers.permit(server, "read", {"uri": uri})
        return await _answered(connection, f"read {uri[:80]}", lambda client: client.read_resource(uri), resource_text)

    async def _prompt(self, server: str, name: str, given: dict[str, Any]) -> ToolResult:
        connection = _connection(self._servers, server)
        await self._servers.permit(server, "prompt", {"name": name, **given})
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
        what = f"prompt {name[:80]}"
        return await _answered(connection, what, lambda client: client.get_prompt(name, texts), prompt_text)


async def call_tool(servers: McpServerSet, server: str, name: str, arguments: dict[str, Any]) -> ToolResult:
    """Calls a tool of a server. Raises ToolError."""
    connection = _connection(servers, server)
    await _tool(connection, name)
    await servers.permit(server, name, arguments)
    what = f"call {name[:80]}"
    return await _answered(connection, what, lambda client: client.call_tool(name, arguments), result_text)


async def _answered(connection: ServerConnection, what: str, send: Any, text_of: Any) -> ToolResult:
    from mcp import MCPError

    try:
        answer = await connection.ask(what, send)
    except MCPError as error:
        raise ToolError(
            f"MCP server {connection.server.name!r} refused to {what}: {clean_text(str(error), 4000)}"
        ) from None
    text = text_of(answer)
    if getattr(answer, "is_error", False):
        return ToolResult(f"Error: {text}", is_error=True)
    return ToolResult(text)


def _connection(servers: McpServerSet, server: str) -> ServerConnection:
    if (found := servers.connections.get(server)) is not None:
        return found
    if server in servers.absent:
        raise ToolError(f"MCP server {server!r} {servers.absent[server]}")
    known = list(servers.connections)
    hint = did_you_mean(server, known) or f"; expected {', '.join(known)}" if known else "; none is running"
    raise ToolError(f"there is no MCP server {server[:80]!r}{hint}")


async def _tool(connection: ServerConnection, name: str) -> ServerTool:
    tools = {tool.name: tool for tool in (await connection.offered()).tools}
    if name in tools:
        return tools[name]
    raise ToolError(f"MCP server {connection.server.name!r} has no tool {name[:80]!r}{did_you_mean(name, tools)}")


def _names(listing: ServerListing, action: str) -> set[str]:
    things: tuple[ServerTool, ...] | tuple[ServerThing, ...] = listing.tools
    if action in ("read", "prompt"):
        things = listing.resources if action == "read" else listing.prompts
    return {thing.name for thing in things}


def _lines(server: str, listing: ServerListing) -> str:
    lines = [f"{tool.name}: {_first_line(tool.description)}" for tool in listing.tools]
    lines += [f"resource {thing.name}: {_first_line(thing.description)}" for thing in listing.resources]
    for thing in listing.prompts:
        lines.append(f"prompt {thing.name}({', '.join(thing.arguments)}): {_first_line(thing.description)}")
    return "\n".join(lines) or f"{server} offers nothing."


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return clean_text(line.split(". ")[0], 100)


def _object(value: Any) -> dict[str, Any]:
    """Arguments that the model wrote, perhaps as text. Raises ToolError."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ToolError(f"arguments: {value[:80]!r} is no JSON object") from None
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise ToolError(f"arguments: {repr(value)[:80]}; expected an object")
    return value


def _summary(server: str, tool: str, arguments: Any) -> str:
    return f"mcp {server} {tool} {json.dumps(arguments, ensure_ascii=False, default=str)}"[:200]
