"""Constraints under test: random answers that they allow, and what a value must be to fit a schema."""

from __future__ import annotations

import json
import random

import llguidance
import numpy as np

from a3b.constrain.constraints import Grammars
from a3b.constrain.grammar import document_grammar
from a3b.constrain.matchers import compiled
from a3b.engine.engine import nano_directory
from a3b.interface.events import TextDelta, ToolCallEnd
from a3b.json_schema.pattern_search import byte_vocabulary
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control
from a3b.prompt.tokenizer import StreamDecoder, Tokenizer

TOKENIZER = Tokenizer.read(nano_directory())
GRAMMARS = Grammars(TOKENIZER)
END, CALL, CALL_END = map(TOKENIZER.control_id, ("<|im_end|>", "<tool_call>", "</tool_call>"))
NUM = TOKENIZER.num_tokens
# what a walk likes, so that it comes to an end
ENDINGS = [*dict.fromkeys(TOKENIZER.encode_text('"}]>')), CALL_END, END]
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
    tool(
        "edit_file",
        shape(
            {
                "path": {"type": "string"},
                "line": {"type": "integer"},
                "ratio": {"type": "number"},
                "mode": {"enum": ["insert", "replace", "delete line"]},
                "force": {"type": "boolean"},
                "where": shape(
                    {
                        "rows": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
                        "tag": {"type": ["string", "null"]},
                    },
                    ["rows"],
                    additionalProperties=False,
                ),
                "note": {"type": ["string", "null"]},
            },
            ["path", "mode"],
        ),
    ),
    tool("edit", shape({"path": {"type": "string"}})),
    tool("now", None),
    tool(
        "set",
        {
            "type": "object",
            "additionalProperties": True,
            "properties": {"depth": {"$ref": "#/$defs/n"}},
            "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        },
    ),
]


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
    {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": shape(
                {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
                ["v", "next"],
            )
        },
    },
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "t",
        "description": "d",
        "type": "object",
        "properties": {"items": {"type": "array", "items": shape({"id": {"type": "integer"}}, ["id"])}},
        "required": ["items"],
    },
    {
        "x-guidance": {"lenient": True, "whitespace_pattern": "z"},
        "type": "array",
        "uniqueItems": False,
        "items": {"type": "null"},
    },
]


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def is_over(constraint):
    """Whether nothing but the end of the turn can follow, if even that."""
    return set(np.flatnonzero(constraint.mask())) <= {END}


def certain(constraint):
    """Take the tokens of the only text that can follow; their ids."""
    ids = []
    while not is_over(constraint) and constraint.mask().sum() == 1:
        ids.append(int(constraint.mask().argmax()))
        constraint.accept(ids[-1])
    return ids


def validate(schema, text):
    """Why `text` is not one whole document of `schema`, None if it is.

    Keys of objects are expected in the schema's order, as constrained answers have them."""
    text = text.strip(" \t\r\n")
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    matcher = compiled(byte_vocabulary(), document_grammar(schema), {2: "schema"})
    data = text.encode("utf-8", "replace")
    num_taken = matcher.try_consume_tokens(list(data))
    if num_taken < len(data):
        return (
            f"not a document of the schema: does not match after {data[:num_taken][-40:].decode('utf-8', 'replace')!r}"
        )
    return None if matcher.is_accepting() else "not a document of the schema: it ends too early"


def walk(constraint, seed, limit=400):
    """Ids of a random answer without its end, None if it did not come to an end."""
    r, ids, plan = random.Random(seed), [], []
    while len(ids) < limit:
        mask = constraint.mask()
        allowed = np.flatnonzero(mask)
        assert len(allowed)
        likely = [i for i in ENDINGS if mask[i]]
        plan = plan if plan and mask[plan[0]] else CLOSING[:] * (r.random() < 0.1)
        if plan and mask[plan[0]]:  # random tokens hardly ever end a value
            token = plan.pop(0)
        else:
            token = r.choice(likely) if likely and r.random() < 0.7 else int(allowed[r.randrange(len(allowed))])
        constraint.accept(token)
        if token == END:
            assert is_over(constraint)
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
    python = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
    }
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


def feed(constraint, text):
    """Take a text with spelled control tokens; where it stopped being allowed, None if nowhere."""
    for piece in text.replace("<tool_call>", "\0<tool_call>\0").replace("</tool_call>", "\0</tool_call>\0").split("\0"):
        ids = (
            [TOKENIZER.control_id(piece)] if piece in ("<tool_call>", "</tool_call>") else TOKENIZER.encode_text(piece)
        )
        for index, token in enumerate(ids):
            if not constraint.mask()[token]:
                return TOKENIZER.decode(ids[index:])
            constraint.accept(token)
    return None


def call_text(name, *arguments):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments)
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"
