"""The format of an answer, as any server or client spells it, on all APIs; and warnings about what is not enforced."""

from __future__ import annotations

import asyncio
import json

import pytest

from a3b.errors import UsageError
from a3b.interface.events import Finished, Started, TextDelta
from a3b.server.app import create_app
from tests.support.scripted_service import USAGE, ScriptedService
from tests.support.serving import ask

SCHEMA = {"type": "array", "items": {"type": "integer"}}
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
}
PATHS = [*BODIES]
ANSWER = [
    Started(USAGE, ("tools: a: parameter q: uniqueItems: not enforced", "é")),
    TextDelta("[1]"),
    Finished("stop", USAGE),
]


def asked(path, service=None, **fields):
    service = service or ScriptedService(ANSWER)
    reply = asyncio.run(ask(create_app(service), path, {**BODIES.get(path, {"prompt": "x"}), **fields}))
    return reply, service.requests[0] if service.requests else None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("fields", "schema"),
    [
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
                }
            },
            SCHEMA,
        ),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, SCHEMA),
        ({"response_format": {"type": "text"}}, None),
        ({"json_schema": SCHEMA}, SCHEMA),
        ({"json_schema": {"name": "n", "schema": SCHEMA}}, SCHEMA),
        ({"guided_json": SCHEMA}, SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, SCHEMA),
        ({"guided_json": {}}, {}),
        ({"structured_outputs": {"json": SCHEMA}}, SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}}, SCHEMA),
        ({"structured_outputs": {"json_object": True}}, {"type": "object"}),
        ({"format": "json"}, {"type": "object"}),
        ({"format": SCHEMA}, SCHEMA),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
        ({"guided_regex": None, "grammar": "", "guided_choice": []}, None),
    ],
)
def test_a_schema_is_honoured_wherever_it_stands(path, fields, schema):
    reply, request = asked(path, **fields)
    assert reply.status == 200, reply.body
    assert request.schema == schema


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"guided_grammar": "x"}, "guided_grammar"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"regex": "a"}, "regex"),
        ({"ebnf": "x"}, "ebnf"),
        ({"structural_tag": {"a": 1}}, "structural_tag"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {}}, "structured_outputs.json"),
        ({"structured_outputs": "x"}, "structured_outputs"),
        ({"guided_json": "no json"}, "guided_json"),
        ({"guided_json": [1]}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"json_schema": True}, "json_schema"),
        ({"json_schema": []}, "json_schema"),
        ({"format": "yaml"}, "format"),
        ({"response_format": {"type": "json_object", "schema": []}}, "response_format.schema"),
        ({"response_format": {"type": "grammar", "grammar": "x"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": True}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}},
            "response_format.json_schema.strict",
        ),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "guided_json"),
    ],
)
def test_other_forms_are_refused_by_name(path, fields, field):
    reply, request = asked(path, **fields)
    error = reply.json()["error"]
    assert (reply.status, request) == (400, None) and error["message"].startswith(f"{field}:"), error


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": [' + "0," * 200_000 + "0]}", "more than 200,000 values"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "deeper than 100 levels"),
    ],
)
@pytest.mark.parametrize("key", ["guided_json", "json"])
def test_a_schema_in_a_string_is_read_within_the_limits_of_a_body(key, text, reason):
    fields = {key: text} if key == "guided_json" else {"structured_outputs": {key: text}}
    reply, request = asked("/v1/chat/completions", **fields)
    assert (reply.status, request) == (400, None) and reason in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": SCHEMA},
        {"json_schema": {}},
        {"structured_outputs": {"json": {}}},
        {"format": "json"},
        {"response_format": {"type": "json_object"}},
        {"guided_regex": "a"},
        {"grammar": "x"},
    ],
)
def test_text_completions_refuse_each_form(fields):
    reply, request = asked("/v1/completions", **fields)
    assert (reply.status, request) == (400, None) and reply.json()["error"]["param"] == next(iter(fields))
    assert asked("/v1/completions", response_format={"type": "text"}, json_schema=None)[0].status == 200


STRICT = {
    "/v1/chat/completions": [{"type": "function", "function": {"name": "a", "parameters": {}, "strict": True}}],
    "/v1/responses": [{"type": "function", "name": "a", "parameters": {}, "strict": True}],
    "/v1/messages": [{"name": "a", "input_schema": {}, "strict": True}],
}


@pytest.mark.parametrize("path", PATHS)
def test_a_strict_tool_is_one_on_each_api(path):
    assert asked(path, tools=STRICT[path])[1].tools[0]["function"]["strict"] is True
    [tool] = json.loads(json.dumps(STRICT[path]))
    tool.get("function", tool)["strict"] = "yes"
    reply, request = asked(path, tools=[tool])
    assert reply.status == 400 and request is None and "strict" in reply.json()["error"]["message"]


def test_a_strict_tool_may_say_so_beside_its_function():
    [tool] = json.loads(json.dumps(STRICT["/v1/chat/completions"]))
    tool["strict"] = tool["function"].pop("strict")
    assert asked("/v1/chat/completions", tools=[tool])[1].tools[0]["function"]["strict"] is True


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_enforced_is_reported_in_a_header_and_in_the_answer(path, stream):
    usage = {"stream_options": {"include_usage": True}} if stream and "chat" in path else {}
    reply, _ = asked(path, stream=stream, **usage)
    assert reply.headers["x-a3b-warnings"] == "tools: a: parameter q: uniqueItems: not enforced; ?"
    assert "parameter q: uniqueItems" in reply.body.decode()
    quiet, _ = asked(path, ScriptedService([Started(USAGE), *ANSWER[1:]]), stream=stream)
    assert "x-a3b-warnings" not in quiet.headers


@pytest.mark.parametrize("path", PATHS)
def test_a_schema_that_cannot_be_enforced_is_a_400(path):
    reply, _ = asked(
        path, ScriptedService(UsageError('schema: properties.a.items: type: "strng"; expected the name of a type'))
    )
    assert reply.status == 400 and "schema: properties.a.items" in reply.json()["error"]["message"]
