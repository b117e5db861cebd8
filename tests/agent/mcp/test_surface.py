"""What the model sees of the servers, and that it stays the same."""

from __future__ import annotations

import json
import re

import pytest

from a3b.agent.mcp.listing import ServerListing, ServerThing, ServerTool
from a3b.agent.mcp.surface import MAX_SCHEMA_TOKENS, ToolSurface, estimated_tokens, new_surface

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}


def listing(*names, **others):
    return ServerListing(tuple(ServerTool(name, "Does it.", SCHEMA) for name in names), **others)


def names(surface):
    return [tool.name for tool in surface.tools]


def test_few_tools_are_shown_with_their_schemas():
    surface = new_surface({"git": listing("status", "log")})
    assert names(surface) == ["mcp__git__status", "mcp__git__log"]
    assert surface.tools[0].parameters == SCHEMA


def test_beyond_the_limit_one_tool_stands_for_all():
    many = {"a": listing(*(f"tool{i}" for i in range(30))), "b": listing("one")}
    (meta,) = new_surface(many).tools
    assert meta.name == "mcp" and "a (30 tools), b (1 tools)" in meta.description
    assert estimated_tokens([meta]) < 250


def test_the_limit_counts_all_servers_together():
    one = listing(*(f"tool{i}" for i in range(12)))
    alone = new_surface({"a": one})
    assert estimated_tokens(alone.tools) <= MAX_SCHEMA_TOKENS < 2 * estimated_tokens(alone.tools)
    assert names(new_surface({"a": one, "b": one})) == ["mcp"]


def test_resources_and_prompts_of_few_tools_have_the_meta_tool_beside_them():
    surface = new_surface({"a": listing("one", resources=(ServerThing("x://y", ""),))})
    assert names(surface) == ["mcp__a__one", "mcp"]
    assert surface.tools[1].parameters["properties"]["action"]["enum"] == ["list", "read", "prompt"]


def test_no_servers_show_nothing():
    assert new_surface({}).tools == () and new_surface({"a": ServerListing()}).tools == ()


def test_names_are_fit_for_every_api_and_differ():
    surface = new_surface({"my server": listing("do.it", "do it", "x" * 120, "x" * 121, "größe")})
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names(surface))
    assert len(set(names(surface))) == 5
    assert [tool.tool for tool in surface.tools][:2] == ["do.it", "do it"]


def test_a_record_gives_the_same_tools_again():
    surface = new_surface({"a": listing("one", resources=(ServerThing("x://y", ""),))})
    assert ToolSurface.from_record(json.loads(json.dumps(surface.record()))) == surface


@pytest.mark.parametrize("record", [5, [5], [{}], [{"name": 1, "description": "", "parameters": {}}], [{"a": 1}]])
def test_a_broken_record_is_refused(record):
    with pytest.raises(ValueError, match="transcript"):
        ToolSurface.from_record(record)


def test_the_estimate_is_the_bytes_by_three():
    (tool,) = new_surface({"a": listing("one")}).tools
    form = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    text = json.dumps({"type": "function", "function": form}, separators=(",", ":"))
    assert estimated_tokens([tool]) == -(-len(text) // 3)
