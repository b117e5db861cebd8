"""Argument types and the JSON of tool calls."""

from __future__ import annotations

import json

import pytest

from a3b.json_schema.types import kinds_of_schema
from a3b.output.dialects.json_call import parse_json_calls
from a3b.output.json_text import JsonSpan, loads
from a3b.output.tool_arguments import ArgumentsWriter, ToolSchemas, coerce

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "count": {"type": "integer"},
        "items": {"$ref": "#/$defs/Items"},
    },
    "$defs": {"Items": {"type": "array", "items": {"type": "integer"}}, "Loop": {"$ref": "#/$defs/Loop"}},
}
TOOLS = [{"type": "function", "function": {"name": "put", "parameters": SCHEMA}}]


@pytest.mark.parametrize(
    ("schema", "kinds"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": "INT"}, {"integer"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "number"}, {"oneOf": [{"type": "boolean"}]}]}, {"number", "boolean"}),
        ({"allOf": [{"$ref": "#/$defs/Items"}]}, {"array"}),
        ({"enum": ["a", "b"]}, {"string"}),
        ({"enum": [1, None]}, {"integer", "number", "null"}),
        ({"const": True}, {"boolean"}),
        ({"properties": {}}, {"object"}),
        ({"items": {}}, {"array"}),
        ({}, set()),
        ({"type": "whatever"}, set()),
        ({"$ref": "#/$defs/Loop"}, set()),
        ({"$ref": "https://example.org/x"}, set()),
        ({"anyOf": {"type": "string"}}, set()),
        (True, set()),
    ],
)
def test_schema_says_which_types_a_parameter_may_have(schema, kinds):
    assert kinds_of_schema(schema, SCHEMA) == kinds


@pytest.mark.parametrize(
    ("text", "kinds", "value"),
    [
        ("5", {"string"}, "5"),
        ("null", {"string"}, "null"),
        (" x ", set(), " x "),
        ("5", {"integer"}, 5),
        ("5.0", {"integer"}, 5),
        ("5.5", {"integer"}, "5.5"),
        ("5", {"number"}, 5),
        ("-1e3", {"number"}, -1000.0),
        ("1e999", {"number"}, "1e999"),
        ("NaN", {"number"}, "NaN"),
        ("9" * 5000, {"integer"}, "9" * 5000),
        ("True", {"boolean"}, True),
        ("1", {"boolean"}, "1"),
        ("true", {"integer"}, "true"),
        ("null", {"integer"}, None),
        ("null", {"string", "null"}, None),
        ("null", {"string", "integer"}, "null"),
        ("7", {"string", "integer"}, 7),
        ('"7"', {"string", "integer"}, '"7"'),
        ('{"a": [1, null]}', {"object"}, {"a": [1, None]}),
        ("{'a': [True, None], \"b\": 'it\\'s',}", {"object"}, {"a": [True, None], "b": "it's"}),
        ('["a\nb"]', {"array"}, ["a\nb"]),
        ("{'a': 1}", {"object", "string"}, "{'a': 1}"),
        ("('a',)", {"array"}, "('a',)"),
        ("['a", {"array"}, "['a"),
        ("None", {"integer", "null"}, None),
        ("None", {"string", "null"}, "None"),
        ("True", {"string"}, "True"),
        ("[1]", {"object"}, "[1]"),
        ("[" * 100_000, {"array"}, "[" * 100_000),
        ("", {"integer"}, ""),
    ],
)
def test_values_become_what_the_schema_allows_or_stay_text(text, kinds, value):
    result = coerce(text, frozenset(kinds))
    assert result == value and type(result) is type(value)


def test_lone_surrogates_in_json_become_replacement_characters():
    assert loads('{"a": "\\ud800x"}') == {"a": "\ufffdx"}
    assert loads('"\\ud83d\\ude00"') == "\U0001f600"


def test_tools_come_in_openai_and_anthropic_form_and_bad_entries_are_skipped():
    bare = {"name": "bare", "input_schema": {"properties": {"n": {"type": "integer"}}}}
    schemas = ToolSchemas([*TOOLS, bare, {"type": "web_search"}, "junk", {"name": "none", "parameters": None}])
    assert schemas.kinds("put", "count") == {"integer"}
    assert schemas.kinds("bare", "n") == {"integer"}
    assert schemas.kinds("put", "other") == schemas.kinds("none", "n") == schemas.kinds("nobody", "n") == frozenset()
    assert not schemas.may_have("put", "other")
    assert schemas.may_have("none", "n") and schemas.may_have("nobody", "n")


def write(values, tool="put"):
    """Fragments of a call whose values come character by character, and the writer."""
    writer = ArgumentsWriter(ToolSchemas(TOOLS), tool)
    fragments = []
    for key, text in values:
        fragments += [writer.open(key), *map(writer.write, text), writer.close()]
    return [*fragments, writer.end()], writer


def test_fragments_joined_are_the_arguments():
    values = [
        ("text", 'a"\\\n\u2028\x00é'),
        ("note", "null"),
        ("count", "3"),
        ("items", "[1, 2]"),
        ("x", "<b>"),
    ]
    fragments, writer = write(values)
    assert writer.arguments == {
        "text": 'a"\\\n\u2028\x00é',
        "note": None,
        "count": 3,
        "items": [1, 2],
        "x": "<b>",
    }
    assert json.loads("".join(fragments)) == writer.arguments


def test_call_with_no_parameters_is_an_empty_object():
    assert write([])[0] == ["{}"]


def test_a_string_that_may_be_null_streams_as_soon_as_it_is_not():
    writer = ArgumentsWriter(ToolSchemas(TOOLS), "put")
    writer.open("note")
    assert [writer.write(c) for c in "nun"] == ["", "", '"nun']


def test_the_last_of_two_values_of_a_key_counts():
    fragments, writer = write([("text", "one"), ("count", "1"), ("text", "two")])
    assert writer.arguments == {"text": "two", "count": 1} == json.loads("".join(fragments))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', ("f", {"a": 1})),
        ('{"arguments": "{\\"a\\": 1}", "name": "f"}', ("f", {"a": 1})),
        ('{"name": "f", "parameters": {}}', ("f", {})),
        ('{"name": "f"}', ("f", {})),
        ('{"type": "function", "function": {"name": "f", "arguments": ""}}', ("f", {})),
        ('{"name": "f", "arguments": {}, "why": "because"}', None),
        ('{"name": "f", "arguments": {}, "parameters": {}}', None),
        ('{"name": "", "arguments": {}}', None),
        ('{"name": "f", "arguments": [1]}', None),
        ('{"arguments": {}}', None),
        ('{"name": "f"', None),
        ("[]", None),
    ],
)
def test_json_calls_are_read_only_if_nothing_is_lost(text, call):
    assert parse_json_calls(text) == (call and [call])


def test_the_end_of_json_is_found_however_it_arrives():
    text = '{"a": "}\\"{", "b": [{}, 1]} tail'
    for cut in range(1, len(text)):
        span = JsonSpan("#$")
        early = span.find_end(text[:cut], 0, "$")
        assert (early or span.find_end(text, 0, "$")) == (text.index(" tail"), "")


def test_json_cut_off_by_a_mark_says_what_is_missing():
    assert JsonSpan("#$").find_end('{"a": [1#', 0, "$") == (8, "]}")
    assert JsonSpan("#$").find_end('{"a": "x#y$', 0, "$") == (10, '"}')
    assert JsonSpan("#$").find_end('{"a": "x\\$', 0, "$") is not None


def test_a_schema_that_refers_to_itself_many_times_over_is_read_once():
    branches = [{"$ref": "#/properties/v"}, {"$ref": "#/properties/w"}] * 50
    schema = {
        "properties": {"v": {"anyOf": [*branches, {"type": "integer"}]}, "w": {"anyOf": [*branches, {"type": "null"}]}}
    }
    assert kinds_of_schema(schema["properties"]["v"], schema) == {"integer", "null"}
