"""Grammar and parser agree: what the grammar of a tool lets through, the parser reads as arguments that its schema
allows.

Schemas are random, calls are random walks along the masks, and `jsonschema` is the judge."""

from __future__ import annotations

import random

import jsonschema
import pytest

from a3b.errors import UsageError
from a3b.interface.request import Request
from a3b.output.json_text import loads
from tests.support.constraints import GRAMMARS, calls_of, events_of, shape, text_of, tool, walk

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

KEYS = ["id", "name", "kind", "x y", "v"]
SIMPLE = ("integer", "number", "boolean", "null", "string", "enum", "const", "several", "pattern", "bounds", "ref")
NESTED = ("object", "array", "anyOf", "oneOf", "allOf", "record")
VALUES = ["a", "5", 5, 2.5, None, True, "null", "true", [1], {"k": "v"}, "x y"]


def random_schema(r, depth=0):
    """A schema of one value."""
    match r.choice(SIMPLE + NESTED * (depth < 2)):
        case "string":
            return {"type": "string", "maxLength": r.randrange(1, 9)} if r.random() < 0.5 else {"type": "string"}
        case "enum":
            return {"enum": r.sample(VALUES, r.randrange(1, 5))}
        case "const":
            return {"const": r.choice(["a", "7", 7, None, False, "false"])}
        case "several":
            return {
                "type": r.sample(
                    ["integer", "string", "null", "boolean", "array", "object", "number"], r.randrange(1, 4)
                )
            }
        case "pattern":
            kinds = r.choice(["string", ["string", "integer"], ["string", "null"]])
            return {"type": kinds, "pattern": r.choice(["^[a-z]{1,3}$", "[0-9]", r"^\d+$", "^n"])}
        case "bounds":
            kinds = r.choice(["integer", ["integer", "string"], "number"])
            return {"type": kinds, "minimum": r.randrange(5), "maximum": 5 + r.randrange(50)}
        case "ref":
            return {"$ref": "#/$defs/" + r.choice("AB")}
        case "object":
            keys = r.sample(["id", "name", "a b", "x"], r.randrange(4))
            others = (
                {"additionalProperties": r.choice([False, False, random_schema(r, depth + 1)])}
                if r.random() < 0.6
                else {}
            )
            return shape(
                {key: random_schema(r, depth + 1) for key in keys}, r.sample(keys, r.randrange(len(keys) + 1)), **others
            )
        case "array":
            return {
                "type": "array",
                "items": random_schema(r, depth + 1),
                "minItems": r.randrange(2),
                "maxItems": r.randrange(2, 4),
            }
        case "anyOf" | "oneOf" as key:
            return {key: [random_schema(r, depth + 1) for _ in range(r.randrange(1, 4))]}
        case "allOf":
            more = r.choice([{}, {"title": "t"}, {"maxLength": 5}, {"type": ["string", "integer", "object"]}])
            return {"allOf": [random_schema(r, depth + 1), more]}
        case "record":
            names = r.choice(
                [
                    {},
                    {"propertyNames": {"type": "string"}},
                    {"propertyNames": {"enum": ["p", "q"]}},
                    {"propertyNames": {"pattern": "^[a-c]+$"}},
                ]
            )
            return {"type": "object", "additionalProperties": random_schema(r, depth + 1), **names}
        case kind:
            return {"type": kind}


def random_form(r):
    """A schema of an object of parameters."""
    keys = r.sample(KEYS, r.randrange(4))
    form = shape({key: random_schema(r) for key in keys}, r.sample(keys, r.randrange(len(keys) + 1)))
    if (chance := r.random()) < 0.6:
        form["additionalProperties"] = random_schema(r) if chance < 0.3 else False
    if r.random() < 0.3:
        form["patternProperties"] = {
            name: random_schema(r) for name in r.sample(["^n_", "_s$", "^[a-c]+$"], r.randrange(1, 3))
        }
    return form


def random_definitions(r):
    found = {"A": random_schema(r, 1), "B": random_schema(r, 2)}
    return {name: {"type": "integer"} if "$ref" in str(schema) else schema for name, schema in found.items()}


def random_parameters(r):
    """The schema of a tool: a form, or some that are joined."""
    definitions = random_definitions(r)
    match r.choice(["form", "$ref", "anyOf", "oneOf", "allOf", "beside"]):
        case "form":
            found = random_form(r)
        case "$ref":
            found, definitions["R"] = {"$ref": "#/$defs/R"}, random_form(r)
        case "beside":
            found = {**random_form(r), "anyOf": [random_form(r), random_form(r)]}
        case key:
            found = {key: [random_form(r) for _ in range(r.randrange(1, 3))]}
            for value, form in zip("ab", found[key] if key == "oneOf" else (), strict=False):
                form["properties"]["kind"], form["required"] = {"const": value}, [*{*form["required"], "kind"}]
    return {**found, "$defs": definitions}


@pytest.mark.parametrize("strict", [True, False])
def test_what_the_grammar_allows_the_parser_reads_as_the_schema_has_it(strict):
    num_calls = num_refused = 0
    for seed in range(90):
        parameters = random_parameters(random.Random(seed + 10_000 * strict))
        one = tool("t", parameters)
        one["function"]["strict"] = strict
        judge = jsonschema.Draft202012Validator(parameters)
        for number in range(2):
            try:
                constraint = GRAMMARS.of(Request(tools=[one], tool_choice="required"))
            except UsageError:
                num_refused += number == 0
                break
            if constraint.notes:
                break
            for call in calls_of(events_of(walk(constraint, 7 * seed + number, limit=250) or (), [one])):
                num_calls += 1
                assert judge.is_valid(call.arguments), (parameters, call.arguments)
    assert num_calls > 80 and num_refused < 50


def test_documents_are_what_the_schema_has():
    num_documents = num_refused = 0
    for seed in range(90):
        r = random.Random(seed)
        schema = {**random_form(r), "$defs": random_definitions(r)}
        try:
            constraint = GRAMMARS.of(Request(schema=schema))
        except UsageError:
            num_refused += 1
            continue
        ids = walk(constraint, seed, limit=250)
        if ids is not None:
            num_documents += 1
            jsonschema.validate(loads(text_of(events_of(ids)), bounded=True), schema, jsonschema.Draft202012Validator)
    assert num_documents > 30 and num_refused < 50
