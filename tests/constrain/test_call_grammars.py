"""Constrained calls: masks lead to valid calls of the declared tools and to nothing else; what cannot be enforced is
refused."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from a3b.errors import UsageError
from a3b.interface.request import Request
from tests.support.constraints import (
    CALL,
    CALL_END,
    END,
    GRAMMARS,
    SCHEMAS,
    TOKENIZER,
    TOOLS,
    call_text,
    calls_of,
    events_of,
    feed,
    fits,
    is_over,
    nested,
    shape,
    text_of,
    tool,
    walk,
)

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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


@pytest.mark.parametrize("lead", ["", "\n\n"])
def test_calls_as_templates_write_them_are_allowed(lead):
    where = ("where", '{"rows": [1, 2], "tag": "x"}')
    first = call_text("edit_file", where, ("mode", "delete line"), ("path", "a/b.py"), ("force", "true"))
    second = call_text("set", ("depth", "7"), ("deeper", "any\n\n text </param"), ("path", "<b>"))
    constraint = GRAMMARS.of(Request(tools=TOOLS, tool_choice="required"))
    assert feed(constraint, f"{lead}{first}\n{second}\n{call_text('now')}") is None
    assert constraint.mask()[END] and not is_over(constraint)


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
    assert (constraint.thinking == constraint.mask()).all()


def test_while_thinking_neither_a_call_nor_the_end_can_pass_the_grammar_by():
    for request in (Request(schema={}), Request(tools=TOOLS, tool_choice="required")):
        assert np.flatnonzero(~GRAMMARS.of(request).thinking).tolist() == [END, CALL]


def test_a_token_that_is_not_allowed_is_an_error_and_ends_nothing():
    constraint = GRAMMARS.of(Request(schema={}))
    with pytest.raises(UsageError, match="grammar"):
        constraint.accept(END)
    with pytest.raises(UsageError, match="grammar"):
        constraint.mask()


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([], "tools: none"),
        ([tool("two words", None)], r"tools\[0\]: name 'two words'"),
        ([tool("", None)], r"tools\[0\]"),
        (["now"], r"tools\[0\]"),
        ([tool("a", 5)], "tools: a: parameters"),
        ([tool("a", shape({"x\ny": {}}))], "tools: a: parameter 'x"),
        ([tool("a", shape({"x<y": {}}))], "tools: a: parameter 'x<y'"),
        ([tool("a", shape({f"k{i}": {} for i in range(65)}))], "tools: a: 65 parameters"),
        (
            [
                tool("now", None),
                tool("a", shape({"ok": {}, "q": {"type": "array", "items": {"type": "string", "pattern": "(("}}})),
            ],
            r"tools: a: parameter q: items: pattern '\(\('",
        ),
        ([tool("a", shape({"q": nested(100)}))], "tools: a: parameters: nested"),
    ],
)
def test_tools_that_cannot_be_enforced_are_refused_by_name(tools, reason):
    with pytest.raises(UsageError, match=f"^{reason}"):
        GRAMMARS.of(Request(tools=tools, tool_choice="required"))


def test_a_name_that_no_tool_has_is_refused():
    with pytest.raises(UsageError, match="tool_choice: 'later'"):
        GRAMMARS.of(Request(tools=TOOLS, tool_choice="named", tool_name="later"))


def test_what_a_tool_checks_itself_does_not_refuse_it():
    loose = tool(
        "a", shape({"ids": {"type": "array", "uniqueItems": True, "items": {"type": "int"}}, "n": {"type": "int"}})
    )
    loose["function"]["parameters"]["properties"]["ids"]["items"] = {"type": "integer", "format": "int64"}
    constraint = GRAMMARS.of(Request(tools=[loose], tool_choice="required"))
    assert feed(constraint, call_text("a", ("ids", "[1, 1]"), ("n", "3"))) is None


JSON_ATOMS = ["</parameter>", "</function>", "<parameter=tag>", "</tool_call>", "<", "\\n", '\\"', "\\\\", "x", " "]


def test_json_that_holds_closing_tags_is_allowed_and_comes_back_whole():
    r = random.Random(4)
    for _ in range(60):
        tag = json.loads('"' + "".join(r.choices(JSON_ATOMS, k=r.randrange(9))) + '"')
        where = {"rows": [1], "tag": tag}
        text = json.dumps(where, ensure_ascii=False)
        ids = [
            CALL,
            *TOKENIZER.encode_text(call_text("edit_file", ("path", "a"), ("mode", "insert"), ("where", text))[11:-12]),
            CALL_END,
        ]
        constraint = GRAMMARS.of(Request(tools=TOOLS, tool_choice="required"))
        for token in ids:
            constraint.accept(token)
        assert constraint.mask()[END]
        assert [call.arguments for call in calls_of(events_of(ids, TOOLS))] == [
            {"path": "a", "mode": "insert", "where": where}
        ]


@pytest.mark.parametrize("kinds", [["string", "object"], ["string", "array", "null"]])
def test_a_text_that_may_be_json_holds_no_closing_tag_at_which_json_would_end(kinds):
    tools = [tool("a", shape({"q": {"type": kinds}}))]
    for value, allowed in (
        ('{"a": 1} and more', True),
        ('{"a": 1}</parameter> and', False),
        ("[1]</parameter> and", False),
    ):
        constraint = GRAMMARS.of(Request(tools=tools, tool_choice="required"))
        assert (feed(constraint, call_text("a", ("q", value))) is None) == allowed


def test_the_branches_of_a_union_are_told_apart_by_a_property_that_is_then_required():
    """As pydantic writes unions with a discriminator: with a default, which leaves the property out of `required`."""
    cat, dog = (
        shape({"kind": {"const": "cat", "default": "cat"}, "n": {"type": "integer"}}),
        shape({"kind": {"const": "dog"}}),
    )
    union = {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}}
    one = tool("a", {**union, "$defs": {"cat": cat, "dog": dog}})
    nested = tool("a", {**shape({"pet": union}, ["pet"]), "$defs": {"cat": cat, "dog": dog}})
    for each in (one, nested):
        each["function"]["strict"] = True
    for text, is_allowed in (
        (call_text("a", ("kind", "cat"), ("n", "5")), True),
        (call_text("a", ("kind", "dog")), True),
        (call_text("a", ("n", "5")), False),
        (call_text("a", ("kind", "dog"), ("n", "5")), False),
    ):
        assert (feed(GRAMMARS.of(Request(tools=[one], tool_choice="required")), text) is None) == is_allowed
    for pet, is_allowed in (('{"kind": "cat", "n": 5}', True), ('{"kind": "dog"}', True), ('{"n": 5}', False)):
        assert (
            feed(GRAMMARS.of(Request(tools=[nested], tool_choice="required")), call_text("a", ("pet", pet))) is None
        ) == is_allowed
