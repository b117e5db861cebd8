"""Restrictions that cannot be enforced, are no schema, or would take long: noted, refused, or done in bounded time."""

from __future__ import annotations

import random
import re
import time

import numpy as np
import pytest

from a3b.constrain.grammar import answer_grammar
from a3b.errors import UsageError
from a3b.interface.request import Request
from tests.support.constraints import (
    GRAMMARS,
    feed,
    is_over,
    shape,
    tool,
)
from tests.support.string_constraints import NULL, TEXT, constraint_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def tools_with(schema, strict=False, required=True):
    loop = {"$defs": {"loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "string"}]}}}
    one = tool("a", {**shape({"p": TEXT, "q": schema}, ["q"] * required), **loop})
    one["function"]["strict"] = strict
    return [tool("ok", None), one]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({**TEXT, "pattern": 5}, "pattern: 5"),
        ({**TEXT, "pattern": "a("}, "pattern 'a\\('"),
        ({**TEXT, "pattern": "a)|(b"}, "pattern"),
        ({**TEXT, "pattern": "a)(b"}, "pattern"),
        ({**TEXT, "pattern": "[a"}, "pattern"),
        ({**TEXT, "pattern": "a|*b"}, "pattern .*nothing before"),
        ({**TEXT, "minLength": "2"}, 'minLength: "2"'),
        ({**TEXT, "minLength": -1}, "minLength: -1"),
        ({**TEXT, "maxLength": True}, "maxLength: true"),
        ({**TEXT, "minLength": 3, "maxLength": 2}, "no answer|minLength"),
        ({**TEXT, "pattern": "^abc$", "maxLength": 2}, "no answer"),
        ({"enum": ["</function></tool_call>"]}, "no answer"),
        ({**TEXT, "anyOf": [{"$ref": "#/$defs/loop"}, {"pattern": "a"}]}, r"\$ref"),
        ({"type": "strng"}, 'type: "strng"'),
        ({"anyOf": [{"type": ["string", "frob"]}]}, 'anyOf.0: type: \\["string", "frob"'),
        ({"properties": 3}, "properties: 3"),
        ({"properties": {"b": {"required": "x"}}}, 'properties.b: required: "x"'),
        ({"$ref": "#/$defs/nowhere"}, r"\$ref: '#/\$defs/nowhere' leads nowhere"),
        ({"$ref": "#/properties/q"}, r"\$ref: '#/properties/q' leads back to itself"),
        ({"items": {"minimum": "a"}}, 'items: minimum: "a"'),
        ({"items": [{"anyOf": []}]}, r"items.0: anyOf: \[\]"),
        ({"additionalProperties": [1]}, r"additionalProperties: \[1\]; expected a JSON schema"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_schema_or_allows_nothing_is_refused_by_its_path(schema, reason, required, strict):
    with pytest.raises(UsageError, match=f"(?s)^tools: a: parameter q: .*({reason})"):
        GRAMMARS.of(Request(tools=tools_with(schema, strict, required), tool_choice="required"))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({**TEXT, "pattern": "(?<!a)b"}, "pattern"),
        ({**TEXT, "pattern": "a(?=b)"}, "pattern"),
        ({**TEXT, "pattern": "a^b"}, "pattern"),
        ({**TEXT, "pattern": r"(a)\1"}, "pattern"),
        ({**TEXT, "pattern": r"a\b"}, "pattern"),
        ({**TEXT, "pattern": r"\Aa"}, "pattern"),
        ({**TEXT, "pattern": "(" * 5000 + "^a$" + ")" * 5000}, "pattern"),
        ({**TEXT, "minLength": 10**9}, "minLength: 1000000000"),
        ({**TEXT, "minLength": 1001}, "minLength: 1001"),
        ({**TEXT, "maxLength": 2000, "not": {"pattern": "a"}}, "maxLength: 2000, more than 320"),
        ({**TEXT, "if": {"pattern": "a"}, "then": {"minLength": 3}}, "if"),
        ({"$ref": "https://example.org/x.json"}, r"\$ref: 'https://example.org"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "not": {"const": 3}}, "not"),
        ({"type": "array", "items": {**TEXT, "pattern": "^(?!a)b"}}, "items.pattern"),
        (
            {"type": "object", "properties": {"m": {"type": "object", "propertyNames": {"anyOf": [TEXT]}}}},
            "properties.m.propertyNames",
        ),
        ({"type": "array", "contains": TEXT}, "contains"),
        ({"oneOf": [shape({"a": TEXT}), shape({"b": TEXT})]}, "oneOf: branches may hold together"),
        ({"oneOf": [shape({"a": {"const": 1}}), shape({"a": {"const": 2}}, additionalProperties=False)]}, None),
        ({"$ref": "#/properties/r", "x": {}}, None),
        ({**TEXT, "contains_word": "x"}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_enforced_is_noted_by_its_path_and_refused_for_a_strict_tool(schema, reason):
    tools = tools_with(schema)
    tools[1]["function"]["parameters"]["properties"]["r"] = {"type": "array", "items": TEXT}
    started = time.process_time()
    notes = answer_grammar(None, tools).notes
    assert GRAMMARS.of(Request(tools=tools, tool_choice="required")).notes == notes
    assert time.process_time() - started < 5
    if reason is None:
        assert notes == ()
        return
    assert any(re.match(f"(?s)tools: a: parameter q: {reason}.*: not enforced$", note) for note in notes), notes
    tools[1]["function"]["strict"] = True
    with pytest.raises(
        UsageError, match=f"(?s)^tools: a: parameter q: {reason}.*; expected a schema that can be enforced$"
    ):
        GRAMMARS.of(Request(tools=tools, tool_choice="required"))


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        (shape({"q": {**TEXT, "contains_word": "x"}}), "tools: a: parameter q: contains_word"),
        (shape({"q": TEXT}, patternProperties={"^(?=x)": TEXT}), "tools: a: parameters: patternProperties"),
        (shape({"q": TEXT}, minProperties=1), "tools: a: parameters: minProperties"),
        ({"oneOf": [shape({"a": TEXT}), shape({"b": TEXT})]}, "tools: a: parameters: oneOf"),
        ({"anyOf": [shape({"a": TEXT})] * 17}, "tools: a: parameters: anyOf: more than 16"),
        ({"$ref": "https://example.org/x.json"}, r"tools: a: parameters: \$ref"),
        (
            shape({"q": TEXT}, ["q", "r"], additionalProperties=False),
            "tools: a: parameters: required: 'r' is not among",
        ),
        (
            shape(
                {
                    "q": {
                        "type": "object",
                        "properties": {"x": {**shape({"x": TEXT}, ["z"]), "additionalProperties": False}},
                    }
                }
            ),
            "tools: a: parameter q: properties.x.required: 'z' is not among",
        ),
        (
            shape({"q": {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 2}}}),
            "tools: a: parameter q: items.minimum: 3 > maximum 2",
        ),
        (shape({"q": {"type": "array", "items": {"enum": []}}}), "tools: a: parameter q: items.enum is empty"),
        (
            shape({"q": {"type": "object", "properties": {"x": {**TEXT, "const": 5}}}}),
            "tools: a: parameter q: properties.x.const",
        ),
    ],
)
def test_a_strict_tool_is_refused_for_what_other_tools_check_themselves(parameters, field):
    one = tool("a", parameters)
    assert GRAMMARS.of(Request(tools=[one], tool_choice="required")) is not None
    one["function"]["strict"] = True
    for choice in ("required", "auto"):
        with pytest.raises(UsageError, match=f"^{field}"):
            GRAMMARS.of(Request(tools=[one], tool_choice=choice))


@pytest.mark.parametrize(
    "schema",
    [
        {**TEXT, "maxLength": 10**9},
        {**TEXT, "minLength": 1000, "maxLength": 2000},
        {**TEXT, "pattern": "dog.*cat", "maxLength": 5000},
        {**TEXT, "pattern": "(a|b)*a(a|b){20}$", "maxLength": 3000},
        {"not": {"pattern": "a"}, "maxLength": 300},
        {**TEXT, "pattern": r"^(?=.*[a-z])(?=.*\d)(?=.*\W)", "minLength": 8, "maxLength": 128},
        {"type": ["string", "object", "integer", "boolean", "null"], "maxLength": 50_000, "pattern": "[0-9]"},
        {"$ref": "#/$defs/0"},
        {"oneOf": [{**TEXT, "pattern": f"^{i}"} for i in range(60)]},
        {"oneOf": [{"const": f"value {i}", "title": "t"} for i in range(2000)]},
    ],
    ids=lambda schema: str(schema)[:40],
)
def test_large_restrictions_work_in_bounded_time(schema):
    started = time.process_time()
    defs = {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}, {"$ref": f"#/$defs/{i + 1}"}]} for i in range(25)}
    constraint, _ = constraint_of(schema, **{"$defs": {**defs, "25": {**TEXT, "pattern": "^[a-c]*$"}}})
    assert feed(constraint, "<tool_call>\n<function=a>\n<parameter=q>\n") is None
    r = random.Random(0)
    for _ in range(60):
        constraint.accept(int(r.choice(np.flatnonzero(constraint.mask()))))
        if is_over(constraint):
            break
    assert time.process_time() - started < 10


SELF = [{"$ref": "#/$defs/a"}] * 80


@pytest.mark.parametrize(
    "parameters",
    [
        {"$defs": {"a": {"anyOf": SELF}}, **shape({"q": {"$ref": "#/$defs/a"}}, ["q"])},
        {
            "$defs": {"a": {"anyOf": [*SELF, TEXT]}},
            **shape({"q": {"type": ["null", "string", "boolean"], "allOf": SELF}}, ["q"]),
        },
        {"anyOf": [{"$ref": "#"}] * 80},
        {"$defs": {"a": {"allOf": SELF, "anyOf": SELF, "oneOf": SELF}}, "$ref": "#/$defs/a"},
        {"oneOf": [shape({f"p{i}": {"anyOf": [TEXT, NULL]} for i in range(60)}) for _ in range(60)]},
        {
            "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)} | {"d2000": TEXT},
            **shape({"q": {"$ref": "#/$defs/d0"}}),
        },
        {
            "$defs": {"big": {"enum": ["x" * 900] * 100}},
            "anyOf": [
                shape({f"p{i}": {"type": "array", "items": {"$ref": "#/$defs/big"}} for i in range(60)}, [f"p{k}"])
                for k in range(16)
            ],
        },
        shape(
            {"q": {"oneOf": [{"type": "object", "properties": {f"{i}{j}": {} for j in range(20)}} for i in range(64)]}}
        ),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_schemas_that_refer_to_themselves_or_multiply_take_bounded_time(parameters, strict, choice):
    one = tool("a", parameters)
    one["function"]["strict"] = strict
    started = time.process_time()
    try:
        GRAMMARS.of(Request(tools=[one], tool_choice=choice))
    except UsageError as error:
        assert str(error).startswith("tools: a")
    assert time.process_time() - started < 5
