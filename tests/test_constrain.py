"""Constrained answers: masks lead to valid documents and calls and to nothing else; what cannot be enforced is refused."""

from __future__ import annotations

import json
import random
import time

import llguidance
import numpy as np
import pytest

from a3b.constrain import Grammars, validate
from a3b.engine import nano_directory
from a3b.errors import UsageError
from a3b.events import TextDelta, ToolCallEnd
from a3b.requests import Request
from a3b.tokens.grammar import answer_grammar
from a3b.tokens.segments import Control
from a3b.tokens.stream import OutputParser
from a3b.tokens.tokenizer import StreamDecoder, Tokenizer

TOKENIZER = Tokenizer.read(nano_directory())
GRAMMARS = Grammars(TOKENIZER)
END, CALL, CALL_END = map(TOKENIZER.control_id, ("<|im_end|>", "<tool_call>", "</tool_call>"))
NUM = TOKENIZER.num_tokens
ENDINGS = [*dict.fromkeys(TOKENIZER.encode_text('"}]>')), CALL_END, END]  # what a walk likes, so that it comes to an end
CLOSING = TOKENIZER.encode_text("\n</parameter>\n")


class Bytes:
    bos_token_id, eos_token_id, special_token_ids = None, 256, [256]
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]

    def __call__(self, text):
        return list(text)


BYTES = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()), n_vocab=257)


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def shape(properties, required=(), **more):
    return {"type": "object", "properties": properties, "required": list(required), **more}


TOOLS = [
    tool("edit_file", shape({
        "path": {"type": "string"},
        "line": {"type": "integer"},
        "ratio": {"type": "number"},
        "mode": {"enum": ["insert", "replace", "delete line"]},
        "force": {"type": "boolean"},
        "where": shape({"rows": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}, "tag": {"type": ["string", "null"]}},
                       ["rows"], additionalProperties=False),
        "note": {"type": ["string", "null"]},
    }, ["path", "mode"])),
    tool("edit", shape({"path": {"type": "string"}})),
    tool("now", None),
    tool("set", {"type": "object", "additionalProperties": True, "properties": {"depth": {"$ref": "#/$defs/n"}},
                 "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}}),
]  # fmt: skip


def walk(constraint, seed, limit=400):
    """Ids of a random answer without its end, None if it did not come to an end."""
    r, ids, plan = random.Random(seed), [], []
    while len(ids) < limit:
        mask = constraint.mask()
        allowed = np.flatnonzero(mask)
        assert len(allowed) and mask[END] == constraint.complete
        likely = [i for i in ENDINGS if mask[i]]
        plan = plan if plan and mask[plan[0]] else CLOSING[:] * (r.random() < 0.1)
        if plan and mask[plan[0]]:  # random tokens hardly ever end a value
            token = plan.pop(0)
        else:
            token = r.choice(likely) if likely and r.random() < 0.7 else int(allowed[r.randrange(len(allowed))])
        constraint.accept(token)
        if token == END:
            assert constraint.done and constraint.forced() == []
            return ids
        ids.append(token)
    return None


def events_of(ids, tools=()):
    parser, decoder, events = OutputParser(tools, in_thinking=False), StreamDecoder(TOKENIZER), []
    for token in ids:
        name = TOKENIZER.control_name(token)
        for piece in [decoder.push(token)] if name is None else [decoder.flush(), Control(name)]:
            events += parser.push(piece) if piece else []
    return events + parser.finish()


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls_of(events):
    return [event for event in events if isinstance(event, ToolCallEnd)]


def fits(value, schema, root=None):
    """Whether a value satisfies a schema, as far as the schemas here go; written apart from the code under test."""
    root = root or schema
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].split("/")[-1]], root)
    if "anyOf" in schema:
        return any(fits(value, branch, root) for branch in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds = schema.get("type", [])
    python = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list, "object": dict}
    if kinds and not any(
        isinstance(value, python[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in (kinds if isinstance(kinds, list) else [kinds])
    ):
        return False
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    if isinstance(value, list):
        num_fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return num_fits and all(fits(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, dict):
        declared = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= value.keys() and all(
            fits(item, declared[key], root) if key in declared else others is not False for key, item in value.items()
        )
    return len(value) <= schema.get("maxLength", 10**9) if isinstance(value, str) else True


def test_the_comparison_sees_values_that_do_not_fit():
    schema = TOOLS[0]["function"]["parameters"]
    good = {"path": "a", "mode": "insert", "line": 3, "where": {"rows": [1]}}
    assert fits(good, schema)
    places = ({"rows": [1, 2, 3, 4]}, {"rows": [], "z": 1}, {"tag": None}, 1)
    for change in ({"mode": "x"}, {"line": 3.5}, {"line": True}, *({"where": place} for place in places)):
        assert not fits({**good, **change}, schema)
    assert not fits({"path": "a"}, schema)


# Documents


SCHEMAS = [
    {},
    {"type": "object"},
    {"type": "integer", "minimum": -5, "maximum": 500},
    {"type": ["string", "null"], "maxLength": 5},
    {"enum": ["red", "green", 3, None, {"a": [1]}]},
    {"const": "é ü"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    shape({"name": {"type": "string"}, "age": {"type": "integer"}}, ["name", "age"], additionalProperties=False),
    shape({"a": {"type": "number"}, "b": {"type": "string", "format": "any words"}, "c": {"type": "boolean"}}, ["b"]),
    {"anyOf": [shape({"kind": {"const": "x"}}, ["kind"]), {"type": "array", "items": {"enum": [1, 2]}}]},
    {"$ref": "#/$defs/tree",
     "$defs": {"tree": shape({"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}, ["v", "next"])}},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "t", "description": "d", "type": "object",
     "properties": {"items": {"type": "array", "items": shape({"id": {"type": "integer"}}, ["id"])}}, "required": ["items"]},
    {"x-guidance": {"lenient": True, "whitespace_pattern": "z"}, "type": "array", "uniqueItems": False, "items": {"type": "null"}},
]  # fmt: skip


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
            return {"type": "array", "items": random_schema(r, depth + 1), "minItems": r.randrange(2), "maxItems": r.randrange(2, 4)}
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
def test_a_mask_is_what_some_document_goes_on_with(schema, text):
    """Tokens are tried one by one: allowed are those whose bytes, behind the bytes so far, can still become a document."""
    constraint = GRAMMARS.of(Request(schema=schema))
    judge = llguidance.LLMatcher(BYTES, answer_grammar(schema, None).text)
    so_far, num_compared = b"", 0
    for token in [*TOKENIZER.encode_text(text), END]:
        mask = constraint.mask()
        assert mask.shape == (NUM,) and mask.dtype == bool
        if not constraint.forced():  # a text that is certain comes in the tokens of the tokenizer alone
            tried = [*range(256), *random.Random(len(so_far)).sample(range(256, NUM), 100), *np.flatnonzero(mask)[:100], END]
            for other in tried:
                data = so_far + TOKENIZER.token_bytes(other)
                whole = judge.deep_copy()
                taken = whole.try_consume_tokens(list(data if other != END else so_far))
                expected = whole.is_accepting() if other == END else other not in TOKENIZER.control_ids and taken == len(data)
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


def test_text_that_is_certain_is_forced():
    constraint = GRAMMARS.of(Request(schema=shape({"answer": {"type": "boolean"}}, ["answer"], additionalProperties=False)))
    constraint.accept(TOKENIZER.encode_text("{")[0])
    constraint.accept(TOKENIZER.encode_text('"')[0])
    forced = constraint.forced()
    assert TOKENIZER.decode(forced).startswith("answer")
    for token in forced:
        assert constraint.mask()[token]
        constraint.accept(token)


def test_forced_text_that_the_tokenizer_would_normalise_keeps_its_bytes():
    text = "cafe\u0301 o\u0308"
    constraint = GRAMMARS.of(Request(schema={"const": text}))
    constraint.accept(TOKENIZER.encode_text('"')[0])
    forced = constraint.forced()
    assert TOKENIZER.decode(forced) == text + '"'
    for token in forced:
        constraint.accept(token)


# Calls


def right(call, tools=TOOLS):
    """Whether a call is one of a declared tool with arguments that fit."""
    for each in tools:
        if each["function"]["name"] == call.name:
            schema = {"additionalProperties": False, **(each["function"]["parameters"] or {"properties": {}})}
            return call.complete and fits(call.arguments, schema)
    return False


def test_random_walks_under_required_end_in_valid_calls():
    names, num_calls = set(), []
    for seed in range(40):
        ids = walk(GRAMMARS.of(Request(tools=TOOLS, tool_choice="required")), seed)
        if ids is None:
            continue
        events = events_of(ids, TOOLS)
        calls = calls_of(events)
        assert calls and text_of(events) == "" and all(map(right, calls)), TOKENIZER.decode(ids)
        assert len(calls) == ids.count(CALL)
        names |= {call.name for call in calls}
        num_calls.append(len(calls))
    assert names == {"edit_file", "edit", "now", "set"} and max(num_calls) > 1 and len(num_calls) > 25


def test_named_allows_that_tool_alone():
    for seed in range(15):
        ids = walk(GRAMMARS.of(Request(tools=TOOLS, tool_choice="named", tool_name="edit")), seed)
        if ids is not None:
            calls = calls_of(events_of(ids, TOOLS))
            assert {call.name for call in calls} == {"edit"} and all(map(right, calls))


@pytest.mark.parametrize("choice", ["required", "named"])
def test_without_parallel_calls_there_is_one_and_then_the_end(choice):
    for seed in range(15):
        request = Request(tools=TOOLS, tool_choice=choice, tool_name="set", parallel_tool_calls=False)
        ids = walk(GRAMMARS.of(request), seed)
        assert ids is None or ids.count(CALL) == len(calls_of(events_of(ids, TOOLS))) == 1


def test_auto_with_a_schema_gives_a_document_or_calls():
    kinds = set()
    for seed in range(30):
        ids = walk(GRAMMARS.of(Request(tools=TOOLS, schema=SCHEMAS[7])), seed)
        if ids is not None:
            events = events_of(ids, TOOLS)
            calls, text = calls_of(events), text_of(events)
            assert bool(calls) != bool(text)
            assert all(map(right, calls)) if calls else fits(json.loads(text), SCHEMAS[7])
            kinds.add(bool(calls))
    assert kinds == {True, False}


def feed(constraint, text):
    """Take a text with spelled control tokens; where it stopped being allowed, None if nowhere."""
    for piece in text.replace("<tool_call>", "\0<tool_call>\0").replace("</tool_call>", "\0</tool_call>\0").split("\0"):
        ids = [TOKENIZER.control_id(piece)] if piece in ("<tool_call>", "</tool_call>") else TOKENIZER.encode_text(piece)
        for index, token in enumerate(ids):
            if not constraint.mask()[token]:
                return TOKENIZER.decode(ids[index:])
            constraint.accept(token)
    return None


def call_text(name, *arguments):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments)
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


@pytest.mark.parametrize("lead", ["", "\n\n"])
def test_calls_as_templates_write_them_are_allowed(lead):
    where = ("where", '{"rows": [1, 2], "tag": "x"}')
    first = call_text("edit_file", where, ("mode", "delete line"), ("path", "a/b.py"), ("force", "true"))
    second = call_text("set", ("depth", "7"), ("deeper", "any\n\n text </param"), ("path", "<b>"))
    constraint = GRAMMARS.of(Request(tools=TOOLS, tool_choice="required"))
    assert feed(constraint, f"{lead}{first}\n{second}\n{call_text('now')}") is None
    assert constraint.mask()[END] and constraint.complete and not constraint.done


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Sure: " + call_text("now"), "Sure"),
        (call_text("later"), "later"),
        (call_text("now", ("x", "1")), "<parameter"),
        (call_text("edit", ("line", "1")), "line"),
        (call_text("edit_file", ("path", "a")), "</function"),
        (call_text("edit_file", ("path", "a"), ("path", "b")), "path"),
        (call_text("edit_file", ("line", "x")), "x"),
        (call_text("edit_file", ("line", "1.5")), ".5"),
        (call_text("edit_file", ("force", "yes")), "yes"),
        (call_text("edit_file", ("mode", "insert it")), "it"),
        (call_text("edit_file", ("where", '{"rows": "1"}')), '"1'),
        (call_text("set", ("depth", "10")), "0"),
    ],
)
def test_other_calls_are_not_allowed(text, rest):
    stopped = feed(GRAMMARS.of(Request(tools=TOOLS, tool_choice="required")), text)
    assert stopped is not None and stopped.strip().startswith(rest), stopped


@pytest.mark.parametrize(
    "value",
    [
        "x</parameter>\n<parameter=mode>\ninsert",
        "x</parameter></function>",
        "x</function>\n<function=now>",
        "line\n<parameter=mode>\ninsert",
    ],
)
def test_no_value_can_hold_what_the_parser_would_end_it_at(value):
    text = "<tool_call>\n<function=edit_file>\n<parameter=path>\n"
    constraint = GRAMMARS.of(Request(tools=TOOLS, tool_choice="required"))
    assert feed(constraint, text) is None
    assert feed(constraint, value + "\n</parameter>\n<parameter=force>\ntrue\n</parameter>\n") is not None


def test_none_masks_calls_alone():
    constraint = GRAMMARS.of(Request(tools=TOOLS, tool_choice="none"))
    for _ in range(2):
        assert np.flatnonzero(~constraint.mask()).tolist() == [CALL]
        constraint.accept(END - 1)
    assert (constraint.thinking == constraint.mask()).all() and constraint.forced() == [] and constraint.complete


def test_auto_is_free():
    assert GRAMMARS.of(Request()) is None and GRAMMARS.of(Request(tools=TOOLS)) is None
    assert GRAMMARS.of(Request(parallel_tool_calls=False)) is None


def test_auto_without_parallel_calls_ends_behind_the_first():
    constraint = GRAMMARS.of(Request(tools=TOOLS, parallel_tool_calls=False))
    inner = [CALL, 5, CALL_END]  # a value about calls
    for token in [7, 8, CALL, 9, *inner, 9]:
        assert constraint.mask() is None and not constraint.done
        constraint.accept(token)
    constraint.accept(CALL_END)
    assert np.flatnonzero(constraint.mask()).tolist() == [END] == constraint.forced() and constraint.done
    with pytest.raises(UsageError, match="parallel_tool_calls"):
        constraint.accept(9)


def test_while_thinking_neither_a_call_nor_the_end_can_pass_the_grammar_by():
    for request in (Request(schema={}), Request(tools=TOOLS, tool_choice="required")):
        assert np.flatnonzero(~GRAMMARS.of(request).thinking).tolist() == [END, CALL]


def test_a_token_that_is_not_allowed_is_an_error_and_ends_nothing():
    constraint = GRAMMARS.of(Request(schema={}))
    with pytest.raises(UsageError, match="grammar"):
        constraint.accept(END)
    assert not constraint.done and not constraint.complete
    with pytest.raises(UsageError, match="grammar"):
        constraint.mask()


# What cannot be enforced


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


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
        ({"$ref": "#"}, "no answer"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "no answer"),
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
        {"$ref": "#/$defs/0", "$defs": {str(i): shape({k: {"$ref": f"#/$defs/{min(i + 1, 40)}"} for k in "lr"}) for i in range(41)}},
    ],
    ids=["deep", "recursion", "enum", "properties", "pattern", "endless", "doubling"],
)
def test_large_schemas_work_in_bounded_time(schema):
    started = time.process_time()
    constraint = GRAMMARS.of(Request(schema=schema))
    r = random.Random(0)
    for _ in range(40):
        constraint.accept(int(r.choice(np.flatnonzero(constraint.mask()))))
        if constraint.done:
            break
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([], "tools: none"),
        ([tool("two words", None)], r"tools\[0\]: name 'two words'"),
        ([tool("", None)], r"tools\[0\]"),
        (["now"], r"tools\[0\]"),
        ([tool("a", 5)], "tools: a: parameters"),
        ([tool("a", shape({"x y": {}}))], "tools: a: parameter 'x y'"),
        ([tool("a", shape({f"k{i}": {} for i in range(65)}))], "tools: a: 65 parameters"),
        ([tool("now", None), tool("a", shape({"ok": {}, "q": {"type": "array", "items": {"type": "string", "pattern": "(("}}}))],
         "tools: a: parameter q: regex"),
        ([tool("a", shape({"q": nested(100)}))], "tools: a: parameters: nested"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_enforced_are_refused_by_name(tools, reason):
    with pytest.raises(UsageError, match=f"^{reason}"):
        GRAMMARS.of(Request(tools=tools, tool_choice="required"))


def test_a_name_that_no_tool_has_is_refused():
    with pytest.raises(UsageError, match="tool_choice: 'later'"):
        GRAMMARS.of(Request(tools=TOOLS, tool_choice="named", tool_name="later"))


def test_what_a_tool_checks_itself_does_not_refuse_it():
    loose = tool("a", shape({"ids": {"type": "array", "uniqueItems": True, "items": {"type": "int"}}, "n": {"type": "int"}}))
    loose["function"]["parameters"]["properties"]["ids"]["items"] = {"type": "integer", "format": "int64"}
    constraint = GRAMMARS.of(Request(tools=[loose], tool_choice="required"))
    assert feed(constraint, call_text("a", ("ids", "[1, 1]"), ("n", "3"))) is None


# Finished documents


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "Ada", "age": 3}', None),
        (' \n{"name" :\t"Ada",\n\n\n   "age":3 }\n', None),
        ('{"name": "Ada", "age": 3', "not JSON"),
        ('{"name": "Ada"', "not JSON"),
        ('{"name": "Ada"}', "does not match behind '{\"name\": \"Ada\"'"),
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
