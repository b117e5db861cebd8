"""What a server offers, with what is unfit left out: tools, resources, prompts. Enter at `read_listing`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.schemas import clean_text, plain_schema

if TYPE_CHECKING:
    from mcp import Client

MAX_TOOLS, MAX_OTHERS, MAX_PAGES, MAX_NAME, MAX_NAMED = 500, 500, 50, 128, 10


@dataclass(frozen=True)
class ServerTool:
    """A tool. name: as the server calls it; parameters: its schema as the model gets it."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class ServerThing:
    """A resource (name is its URI, or a template of one) or a prompt (arguments: their names, with a * if required)."""

    name: str
    description: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerListing:
    """All that a server offers. left_out: what it also named, and why that is not used."""

    tools: tuple[ServerTool, ...] = ()
    resources: tuple[ServerThing, ...] = ()
    prompts: tuple[ServerThing, ...] = ()
    left_out: tuple[str, ...] = field(default=())


async def read_listing(client: Client, server: McpServerConfig) -> ServerListing:
    """Asks for everything that the server says it has. Raises what the SDK raises for the tools; the other lists are
    left out if they cannot be read."""
    can = client.server_capabilities
    left_out: list[str] = []
    tools: dict[str, ServerTool] = {}
    if can.tools is not None:
        for tool in await _pages(client.list_tools, "tools", left_out):
            if (problem := _unfit(tool.name)) or tool.name in tools:
                left_out.append(f"tool {tool.name[:80]!r}, {problem or 'of which there are several'}")
            elif len(tools) == MAX_TOOLS:
                left_out.append(f"tools after the first {MAX_TOOLS}")
                break
            elif server.offers(tool.name):
                text = clean_text((tool.description or "").strip())
                tools[tool.name] = ServerTool(tool.name, text, plain_schema(tool.input_schema))
    resources, prompts = [], []
    if can.resources is not None:
        for one in await _others(client.list_resources, "resources", left_out):
            resources.append(ServerThing(one.uri, clean_text(one.description or one.name, 200)))
        for one in await _others(client.list_resource_templates, "resource_templates", left_out):
            resources.append(ServerThing(one.uri_template, clean_text(one.description or one.name, 200)))
    if can.prompts is not None:
        for one in await _others(client.list_prompts, "prompts", left_out):
            names = tuple(argument.name + "*" * bool(argument.required) for argument in one.arguments or ())
            prompts.append(ServerThing(one.name, clean_text(one.description or "", 200), names))
    fit = [thing for thing in (*resources, *prompts) if not _unfit(thing.name, 2048)]
    if len(fit) < len(resources) + len(prompts):
        left_out.append("resources or prompts with unfit names")
    return ServerListing(
        tuple(tools.values()),
        tuple(thing for thing in resources if thing in fit)[:MAX_OTHERS],
        tuple(thing for thing in prompts if thing in fit)[:MAX_OTHERS],
        tuple(left_out),
    )


def difference(before: ServerListing, after: ServerListing) -> str:
    """How two listings differ, in brackets behind a word; their names only."""
    names = [{*map(_name, one.tools), *map(_name, (*one.resources, *one.prompts))} for one in (before, after)]
    parts = [
        f"{word}: {', '.join(sorted(found)[:MAX_NAMED])}{' ...' * (len(found) > MAX_NAMED)}"
        for word, found in (("new", names[1] - names[0]), ("gone", names[0] - names[1]))
        if found
    ]
    return f" ({'; '.join(parts) or 'with the same names'})"


def _name(thing: ServerTool | ServerThing) -> str:
    return thing.name


async def _pages(ask: Callable[..., Awaitable[Any]], attribute: str, left_out: list[str]) -> list[Any]:
    found: list[Any] = []
    cursor, seen = None, set()
    for _ in range(MAX_PAGES):
        page = await ask(cursor=cursor)
        found += getattr(page, attribute)
        cursor = page.next_cursor
        if cursor is None or cursor in seen or len(found) > MAX_TOOLS:
            return found
        seen.add(cursor)
    left_out.append(f"pages of {attribute} after the first {MAX_PAGES}")
    return found


async def _others(ask: Callable[..., Awaitable[Any]], attribute: str, left_out: list[str]) -> list[Any]:
    from mcp import MCPError

    try:
        return (await _pages(ask, attribute, left_out))[:MAX_OTHERS]
    except (MCPError, ValueError):
        left_out.append(f"its {attribute.replace('_', ' ')}, whose list cannot be read")
        return []


def _unfit(name: str, longest: int = MAX_NAME) -> str:
    if not name or len(name) > longest:
        return f"whose name has {len(name):,} characters"
    if clean_text(name, longest) != name or not name.isprintable() or name != name.strip():
        return "whose name has characters that cannot be shown"
    return ""
