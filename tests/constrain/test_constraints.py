"""Constrained documents: masks lead to valid documents and to nothing else; what cannot be enforced is refused."""

from __future__ import annotations

import json
import random
import time

import llguidance
import numpy as np
import pytest

from a3b.constrain.grammar import answer_grammar
from a3b.errors import UsageError
from a3b.interface.request import Request
from tests.support.constraints import (
    BYTES,
    END,
    GRAMMARS,
    NUM,
    SCHEMAS,
    TOKENIZER,
    TOOLS,
    certain,
    events_of,
    fits,
    is_over,
    nested,
    shape,
    text_of,
    validate,
    walk,
)


def test_the_comparison_sees_values_that_do_not_fit():
    schema = TOOLS[0]["function"]["parameters"]
    good = {"path": "a", "mode": "insert", "line": 3, "where": {"rows": [1]}}
    assert fits(good, schema)
    places = ({"rows": [1, 2, 3, 4]}, {"rows": [], "z": 1}, {"tag": None}, 1)
    for change in ({"mode": "x"}, {"line": 3.5}, {"line": True}, *({"where": place} for place in places)):
        assert not fits({**good, **change}, schema)
    assert not fits({"path": "a"}, schema)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_random_walks_end_in_valid_documents(schema):
    num_ended = 0
    for seed in range(8):
        ids = walk(GRAMMARS.of(Request(schema=schema)), seed)
        if ids is not None:
            num_ended += 1
            text = text_of(events_of(ids))
            assert fits(json.loads(text), schema or {"type": "object"}), text
            assert validate(schema, text) is None
    assert num_ended >= 6


def random_schema(r, depth=0):
    kinds = ["integer", "boolean", "null", "number", "enum", "string"] + ["object", "array", "anyOf"] * (depth < 3)
    match r.choice(kinds):
        case "enum":
            return {"enum": r.sample(["a", "b b", 1, 2.5, None, True], r.randrange(1, 4))}
        case "string":
            return {"type": "string", "maxLength": r.randrange(9)}
        case "object":
            keys = r.sample(["id", "name", "é", "a b", "x"], r.randrange(4))
            properties = {key: random_schema(r, depth + 1) for key in keys}
            return shape(properties, r.sample(keys, r.randrange(len(keys) + 1)), additionalProperties=False)
        case "array":
            return {
                "type": "array",
                "items": random_schema(r, depth + 1),
                "minItems": r.randrange(2),
                "maxItems": r.randrange(2, 4),
            }
        case "anyOf":
            return {"anyOf": [random_schema(r, depth + 1) for _ in range(r.randrange(1, 3))]}
        case kind:
            return {"type": kind}


def test_random_schemas_give_valid_documents():
    num_ended = 0
    for seed in range(60):
        schema = random_schema(random.Random(seed))
        ids = walk(GRAMMARS.of(Request(schema=schema)), seed, limit=500) if schema else None
        if ids is not None:
            num_ended += 1
            assert fits(json.loads(text_of(events_of(ids))), schema)
    assert num_ended > 45


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (SCHEMAS[7], '\n\n{"name": "Ada", "age": 3}'),
        (SCHEMAS[6], "[true,\n  false]"),
        ({"enum": ["ab", "abc", "b"]}, '"abc"'),
        ({"type": "string", "maxLength": 3}, '"é\\n"'),
    ],
)
def test_a_mask_allows_what_continues_some_document(schema, text):
    """Tokens are tried one by one: those are allowed whose bytes, after the bytes so far, can still become a
    document."""
    constraint = GRAMMARS.of(Request(schema=schema))
    judge = llguidance.LLMatcher(BYTES, answer_grammar(schema, None).text)
    so_far, num_compared = b"", 0
    for token in [*TOKENIZER.encode_text(text), END]:
        mask = constraint.mask()
        assert mask.shape == (NUM,) and mask.dtype == bool
        if mask.sum() > 1:  # a text that is certain comes in the tokens of the tokenizer alone
            tried = [
                *range(256),
                *random.Random(len(so_far)).sample(range(256, NUM), 100),
                *np.flatnonzero(mask)[:100],
                END,
            ]
            for other in tried:
                data = so_far + TOKENIZER.token_bytes(other)
                whole = judge.deep_copy()
                taken = whole.try_consume_tokens(list(data if other != END else so_far))
                expected = (
                    whole.is_accepting() if other == END else other not in TOKENIZER.control_ids and taken == len(data)
                )
                assert mask[other] == expected, (so_far, TOKENIZER.token_bytes(other))
            num_compared += 1
        constraint.accept(token)
        so_far += TOKENIZER.token_bytes(token)
    assert num_compared > 2


def test_white_space_inside_a_document_has_an_end():
    constraint = GRAMMARS.of(Request(schema={}))
    for token in TOKENIZER.encode_text("{\n"):
        constraint.accept(token)
    blank = TOKENIZER.encode_text(" ")[0]
    num = 0
    while constraint.mask()[blank]:
        constraint.accept(blank)
        num += 1
    assert num == 64


def test_of_a_text_that_is_certain_one_token_is_allowed():
    constraint = GRAMMARS.of(
        Request(schema=shape({"answer": {"type": "boolean"}}, ["answer"], additionalProperties=False))
    )
    constraint.accept(TOKENIZER.encode_text("{")[0])
    constraint.accept(TOKENIZER.encode_text('"')[0])
    assert TOKENIZER.decode(certain(constraint)).startswith("answer")


def test_certain_text_that_the_tokenizer_would_normalise_keeps_its_bytes():
    text = "cafe\u0301 o\u0308"
    constraint = GRAMMARS.of(Request(schema={"const": text}))
    constraint.accept(TOKENIZER.encode_text('"')[0])
    assert TOKENIZER.decode(certain(constraint)) == text + '"'


# What cannot be enforced


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "frob"}, "frob"),
        ({"type": 5}, "type"),
        ({"properties": 5}, "properties"),
        ({"enum": []}, "empty"),
        ({"type": "string", "pattern": "(["}, "regex.*unclosed"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]}, "oneOf"),
        ({"allOf": [False]}, "false"),
        ({"$ref": "#"}, "back to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "back to itself"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"minimum": float("nan")}, "JSON"),
        ({"const": object()}, "JSON"),
        ({"enum": ["x" * 100_001]}, "100000"),
        (nested(100_000), "64"),
        (nested(64), "64"),
        ({"allOf": [{"anyOf": [shape({f"{i}{j}": {}}) for j in range(8)]} for i in range(6)]}, "large|big"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_a_schema_that_cannot_be_enforced_is_refused_in_short_time(schema, reason):
    started = time.process_time()
    with pytest.raises(UsageError, match=f"(?s)^schema: .*({reason})"):
        GRAMMARS.of(Request(schema=schema))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "schema",
    [
        nested(30),
        shape({"n": {"$ref": "#"}}),
        {"enum": [f"value {i}" for i in range(5000)]},
        shape({f"p{i}": {"type": "string"} for i in range(600)}),
        {"type": "string", "pattern": "(a?){200}b{200}(a|b){1,200}"},
        {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
        {
            "$ref": "#/$defs/0",
            "$defs": {str(i): shape({k: {"$ref": f"#/$defs/{min(i + 1, 40)}"} for k in "lr"}) for i in range(41)},
        },
    ],
    ids=["deep", "recursion", "enum", "properties", "pattern", "endless", "doubling"],
)
def test_large_schemas_work_in_bounded_time(schema):
    started = time.process_time()
    constraint = GRAMMARS.of(Request(schema=schema))
    r = random.Random(0)
    for _ in range(40):
        constraint.accept(int(r.choice(np.flatnonzero(constraint.mask()))))
        if is_over(constraint):
            break
    assert time.process_time() - started < 5


# Finished documents


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "Ada", "age": 3}', None),
        (' \n{"name" :\t"Ada",\n\n\n   "age":3 }\n', None),
        ('{"name": "Ada", "age": 3', "not JSON"),
        ('{"name": "Ada"', "not JSON"),
        ('{"name": "Ada"}', 'does not match after \'{"name": "Ada"\''),
        ('{"name": "Ada", "age": "3"}', "does not match"),
        ('{"name": "Ada", "age": 3, "x": 1}', "does not match"),
        ('{"name": "Ada", "age": NaN}', "does not match"),
        ('{"name": "Ada", "age": 3} and more', "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\ud800", "not JSON"),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode(),
)
def test_a_finished_text_is_judged_by_the_whole_schema(text, reason):
    found = validate(SCHEMAS[7], text)
    assert found is None if reason is None else found is not None and reason in found


def test_a_number_that_could_go_on_is_whole():
    assert validate({"type": "integer"}, "12") is None and validate({"type": "integer"}, "1.5") is not None
    assert validate({"enum": [123]}, "12").endswith("ends too early") and validate({"enum": [123]}, "123") is None


def test_judging_by_a_schema_that_cannot_be_enforced_is_refused():
    with pytest.raises(UsageError, match="^schema: "):
        validate({"type": "frob"}, "1")
