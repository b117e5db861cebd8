"""Tools and forms of the answer through the whole server, with the embedded model: what is refused, what is noted, what
comes out."""

from __future__ import annotations

import asyncio
import json

import jsonschema
import pytest

from a3b.engine.engine import Engine
from a3b.server.app import create_app
from tests.support.serving import ask
from tests.support.traced_server import Server

pytestmark = pytest.mark.slow  # compiles many grammars

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def app():
    with Server(Engine.load()) as server:
        yield create_app(server.service)


def post(app, path, **body):
    first = {
        RESPONSES: {"input": "hi", "max_output_tokens": 150},
        CHAT: {"messages": USER, "max_tokens": 150},
        MESSAGES: {"messages": USER, "max_tokens": 150},
    }[path]
    return asyncio.run(ask(app, path, {**first, "temperature": 0, **body}))


def tools(path, name="t", parameters=None, strict=None):
    """One tool, in the form of the API."""
    flag = {} if strict is None else {"strict": strict}
    if path == MESSAGES:
        return [{"name": name, "input_schema": parameters or {"type": "object"}, **flag}]
    function = {"name": name, "parameters": parameters or {"type": "object", "properties": {}}, **flag}
    return [{"type": "function", "function": function} if path == CHAT else {"type": "function", **function}]


def required(path):
    return {"tool_choice": {"type": "any"} if path == MESSAGES else "required"}


def form(path, schema):
    if path == RESPONSES:
        return {"text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}}
    if path == MESSAGES:
        return {"output_format": {"type": "json_schema", "schema": schema}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}}


def content(path, reply):
    """The text of a whole answer."""
    body = reply.json()
    if path == CHAT:
        return body["choices"][0]["message"]["content"]
    items = body["content"] if path == MESSAGES else body["output"][-1]["content"]
    return "".join(item["text"] for item in items if item["type"] in ("text", "output_text"))


def shape(properties, required=(), **more):
    return {"type": "object", "properties": properties, "required": list(required), **more}


def record(values, **more):
    return {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": values, **more}


NUMBER, STRING, INTEGER = {"type": "number"}, {"type": "string"}, {"type": "integer"}
RECORD = shape({"m": record(NUMBER)}, ["m"], additionalProperties=False)
EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
LIBRARIES = {  # as Zod 4 and pydantic write them
    "record": RECORD,
    "record of an enumeration": shape(
        {"m": record(NUMBER, propertyNames={**STRING, "enum": ["a", "b"]}, required=["a", "b"])}, ["m"]
    ),
    "nested e-mails": shape(
        {"l": {"type": "array", "maxItems": 2, "items": {**STRING, "format": "email", "pattern": EMAIL}}}, ["l"]
    ),
    "decimal": shape({"d": {"title": "D", "anyOf": [NUMBER, {**STRING, "pattern": DECIMAL}]}}, ["d"], title="A"),
    "set": shape({"s": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "maxItems": 1}}, ["s"]),
    "reference": shape(
        {"b": {"$ref": "#/$defs/B", "description": "d"}}, ["b"], **{"$defs": {"B": shape({"x": INTEGER}, ["x"])}}
    ),
    "long text": shape({"t": {**STRING, "minLength": 1001}}, ["t"]),
}


@pytest.mark.parametrize("schema", LIBRARIES.values(), ids=list(LIBRARIES))
def test_schemas_as_libraries_write_them_are_accepted(app, schema):
    for choice in ({}, required(CHAT)):
        assert post(app, CHAT, tools=tools(CHAT, parameters=schema), **choice, max_tokens=3).status == 200
    reply = post(app, CHAT, **form(CHAT, schema), max_tokens=120)
    assert reply.status == 200, reply.body
    if reply.json()["choices"][0]["finish_reason"] == "stop":
        jsonschema.validate(json.loads(content(CHAT, reply)), schema)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_document_has_its_form_on_each_api(app, path):
    schema = {"type": "array", "items": {"enum": ["a", 7]}, "minItems": 1, "maxItems": 1}
    jsonschema.validate(json.loads(content(path, post(app, path, **form(path, schema)))), schema)


def test_arguments_have_the_types_of_additional_properties(app):
    integers = {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}}
    reply = post(app, CHAT, tools=tools(CHAT, parameters=integers, strict=True), tool_choice="required", max_tokens=200)
    calls = reply.json()["choices"][0]["message"]["tool_calls"]
    values = [value for call in calls for value in json.loads(call["function"]["arguments"]).values()]
    assert values and all(type(value) is int for value in values)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    "q",
    [
        {"type": "strng"},
        {"required": "x"},
        {"items": {"minimum": "a"}},
        {"$ref": "#/$defs/nowhere"},
        {"pattern": "(["},
        {"properties": 3},
        [],
    ],
)
def test_what_is_no_schema_is_a_400_wherever_it_stands(app, path, q):
    schema = shape({"q": q})
    offered = {"tools": tools(path, parameters=schema)}
    for body, name in (
        (form(path, schema), "schema: properties.q"),
        (offered, "tools: t: parameter q"),
        ({**offered, **required(path)}, "tools: t: parameter q"),
    ):
        reply = post(app, path, **body)
        assert reply.status == 400 and reply.json()["error"]["message"].startswith(name), reply.body


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_what_cannot_be_enforced_is_a_warning_for_a_tool_and_a_400_where_it_must_be(app, path):
    unique = shape({"a": {"type": "array", "items": INTEGER, "uniqueItems": True}}, ["a"])
    reply = post(app, path, tools=tools(path, parameters=unique), **required(path))
    assert reply.status == 200 and reply.headers["x-a3b-warnings"] == "tools: t: parameter a: uniqueItems: not enforced"
    assert reply.json()["a3b"]["warnings"][0] == "tools: t: parameter a: uniqueItems: not enforced"
    assert "x-a3b-warnings" not in post(app, path, tools=tools(path, parameters=unique)).headers
    strict = tools(path, parameters={**unique, "additionalProperties": False}, strict=True)
    for body, name in (
        ({"tools": strict}, "tools: t: parameter a: uniqueItems"),
        (form(path, unique), "schema: properties.a.uniqueItems"),
    ):
        refused = post(app, path, **body)
        assert refused.status == 400 and refused.json()["error"]["message"].startswith(name), refused.body


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("name", ["my tool", "a<b", "a>", "a\nb", 'a"b'])
def test_a_name_that_cannot_be_called_is_refused(app, path, name):
    reply = post(app, path, tools=tools(path, name))
    assert reply.status == 400 and reply.json()["error"]["message"].startswith("tools[0]: name"), reply.body


def test_a_schema_that_requires_what_it_forbids_is_refused(app):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {}, "required": ["z"], "additionalProperties": False}},
    }
    reply = post(app, CHAT, **form(CHAT, schema))
    assert reply.status == 400 and "schema: properties.a.required: 'z'" in reply.json()["error"]["message"]
