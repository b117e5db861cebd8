"""Schemas of servers become plain: finite, valid for the servers of models, and as useful as before."""

from __future__ import annotations

import json

import pytest

from a3b.agent.mcp.schemas import MAX_SCHEMA_BYTES, clean_text, is_small, plain_schema
from a3b.constrain.tool_rules import declared_tools
from a3b.output.dialects import DIALECTS
from tests.support.hostile_mcp import TOOLS

USEFUL = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "where"},
        "kind": {"enum": ["a", "b"], "default": "a"},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["path"],
    "additionalProperties": False,
}
SCHEMAS = [tool.get("inputSchema") for mode in TOOLS for tool in TOOLS[mode]()[:4] if isinstance(tool, dict)]


def test_what_a_model_needs_stays():
    assert plain_schema(USEFUL) == USEFUL


def test_a_reference_is_put_in_place():
    schema = {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string", "description": "an A"}}}
    assert plain_schema(schema)["properties"] == {"a": {"type": "string", "description": "an A"}}


@pytest.mark.parametrize("reference", ["#/$defs/none", "https://evil.test/schema", "#/$defs/loop"])
def test_a_reference_to_nowhere_or_itself_restricts_nothing(reference):
    schema = {"properties": {"a": {"$ref": reference}}, "$defs": {"loop": {"$ref": "#/$defs/loop"}}}
    assert plain_schema(schema)["properties"] == {"a": {}}


def test_patterns_and_unknown_keywords_go():
    schema = {"properties": {"a": {"type": "string", "pattern": "^(a+)+$", "x-evil": 1, "format": "uri"}}}
    assert plain_schema(schema)["properties"] == {"a": {"type": "string"}}


@pytest.mark.parametrize("schema", [None, 5, "x", [], True, {"type": "string"}, {"type": ["object", "null"]}])
def test_what_is_no_schema_of_an_object_becomes_one(schema):
    assert plain_schema(schema) == {"type": "object", "properties": {}, "additionalProperties": True}


def test_characters_that_terminals_obey_go_from_descriptions():
    schema = {"type": "object", "description": "a\x1b[2Jb\u202ec"}
    assert plain_schema(schema)["description"] == "a[2Jbc"


@pytest.mark.parametrize("index", range(len(SCHEMAS)))
def test_a_hostile_schema_becomes_small_and_fit_for_the_server_of_a_model(index):
    plain = plain_schema(SCHEMAS[index])
    assert len(json.dumps(plain)) < 20_000
    tool = {"type": "function", "function": {"name": "t", "parameters": plain}}
    for dialect in DIALECTS:
        assert declared_tools([tool], dialect)


def test_what_is_too_large_or_too_deep_is_not_small():
    deep = {}
    for _ in range(100):
        deep = {"a": deep}
    assert not is_small(deep)
    assert not is_small({"a": "x" * MAX_SCHEMA_BYTES})
    assert not is_small([0] * MAX_SCHEMA_BYTES)
    assert is_small(USEFUL)


def test_a_long_text_is_cut():
    assert clean_text("abc", 2) == "a…"
