"""Keywords that restrict the strings of tools: what is enforced, by values and by random walks."""

from __future__ import annotations

import datetime
import ipaddress
import random
import re
import uuid
from urllib.parse import urlsplit

import pytest

from a3b.constrain.absent_strings import absent, letters
from a3b.interface.request import Request
from tests.support.constraints import (
    CALL,
    END,
    GRAMMARS,
    TOKENIZER,
    call_text,
    calls_of,
    events_of,
    feed,
    fits,
    shape,
    tool,
    walk,
)
from tests.support.string_constraints import NULL, TEXT, constraint_of

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def allows(schema, value, **options):
    """Whether a call may have this value, written as it is; if so, what the parser reads."""
    constraint, tools = constraint_of(schema, **options)
    text = call_text("a", ("q", value))
    if feed(constraint, text) is not None or not constraint.mask()[END]:
        return False, None
    ids = [CALL, *TOKENIZER.encode_text(text.removeprefix("<tool_call>").removesuffix("</tool_call>")), CALL + 1]
    return True, calls_of(events_of(ids, tools))[0].arguments["q"]


EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({**TEXT, "pattern": "^[a-z]{2}-[0-9]+$"}, ["ab-1"], ["ab-", "xab-1", "ab-1\n", ""]),
        ({**TEXT, "pattern": "b"}, ["b", "a\nb\nc"], ["", "a"]),
        ({**TEXT, "pattern": "^(a|b$)"}, ["axx", "b"], ["bx", "xb"]),
        ({**TEXT, "pattern": r"^(?=.*[a-z])(?=.*\d).{4,}$"}, ["abc1"], ["abcd", "a1", "1234"]),
        ({**TEXT, "format": "email", "pattern": EMAIL}, ["a.b@c.de"], [".a@c.de", "a..b@c.de", "a@b"]),
        ({**TEXT, "minLength": 2}, ["ab", "é😀"], ["", "a", "é"]),
        ({**TEXT, "maxLength": 3.0}, ["", "é😀x"], ["abcd"]),
        ({**TEXT, "minLength": 2, "maxLength": 3, "pattern": "^x"}, ["xy"], ["x", "ab", "xabc"]),
        ({"maxLength": 1}, ["a"], ["ab"]),
        ({"$ref": "#/$defs/n"}, ["ab"], ["a", "abc"]),
        ({**TEXT, "format": "date"}, ["2024-02-29"], ["2023-02-29", "24-01-01", "2024-01-01T00:00:00Z"]),
        ({**TEXT, "format": "no such format"}, ["any"], []),
        ({"allOf": [{**TEXT, "minLength": 2}, {"pattern": "^a"}]}, ["ab"], ["a", "bb"]),
        ({**TEXT, "anyOf": [{"maxLength": 1}, {"pattern": "^a"}]}, ["b", "abc"], ["bc"]),
        ({**TEXT, "oneOf": [{"pattern": "^a"}, {"pattern": "b$"}]}, ["ax", "xb"], ["ab", "x"]),
        ({**TEXT, "not": {"pattern": "x"}}, ["a"], ["axa"]),
        ({"enum": ["ab", "abc", "b"], "minLength": 2}, ["ab", "abc"], ["b"]),
        ({"const": "a</parameter>b"}, ["a</parameter>b"], ["a"]),
        ({"enum": ["x</parameter>\n<parameter=z>", "y"]}, ["y"], ["x"]),
        ({"enum": [1, "b", "cc"], "maxLength": 1}, ["1", "b"], ["2", "cc"]),
        ({"type": ["string", "null"], "pattern": "^n"}, ["null", "nul"], ["x"]),
        ({"anyOf": [{**TEXT, "maxLength": 2}, NULL]}, ["null", "ab"], ["abc", " null"]),
        (
            {"anyOf": [{**TEXT, "pattern": "^[0-9]+px$"}, {"type": "integer"}]},
            ["12", "12px", "-3"],
            ["12p", "1.5", "012"],
        ),
        ({"anyOf": [{**TEXT, "pattern": "^[a-z]"}, {"type": "boolean"}]}, ["true", "truer"], ["True", "1"]),
        ({"anyOf": [{**TEXT, "maxLength": 9}, {"type": "integer", "maximum": 7}]}, ["7", "a7"], ["8", "7a"]),
        (
            {"anyOf": [{**TEXT, "minLength": 2}, {"type": "array", "items": {"type": "integer"}}]},
            ["[1, 2]", "a["],
            ["[", "[a]", "["],
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_value_is_what_the_keywords_allow(schema, good, bad, strict):
    root = {"$defs": {"n": {**TEXT, "minLength": 2, "maxLength": 2}}}
    for value in good:
        assert allows(schema, value, strict=strict, **root)[0], value
    for value in bad:
        assert not allows(schema, value, strict=strict, **root)[0], value


def test_what_a_union_allows_is_read_as_the_type_that_allowed_it():
    union = {"anyOf": [{**TEXT, "minLength": 3}, {"type": "integer"}, {"type": "boolean"}, NULL, {"type": "object"}]}
    for text, value in (
        ("12", 12),
        ("true", True),
        ("null", None),
        ('{"a": "</parameter>"}', {"a": "</parameter>"}),
        ("1x2", "1x2"),
    ):
        assert allows(union, text) == (True, value)
    assert not allows(union, "nu")[0]


def test_other_parameters_follow_the_schema_of_additional_properties():
    one = tool("a", shape({}, additionalProperties={**TEXT, "pattern": "^[0-9]+x$"}))
    for value, allowed in (("12x", True), ("12", False)):
        constraint = GRAMMARS.of(Request(tools=[one], tool_choice="required"))
        assert (feed(constraint, call_text("a", ("k", value), ("l", "3x"))) is None) == allowed


@pytest.mark.parametrize(
    ("limits", "num_chars"),
    [
        ({"maxLength": 500}, 30),
        ({"maxLength": 4000}, 0),
        ({"maxLength": 100_000}, 900),
        ({"minLength": 20, "maxLength": 4000}, 1200),
        ({"minLength": 900}, 901),
        ({"maxLength": 2000, "pattern": "^x"}, 60),
        ({"maxLength": 320, "not": {"pattern": "foo"}}, 60),
        ({"maxLength": 320, "pattern": "^(?!.*foo)"}, 60),
    ],
)
def test_a_value_with_a_length_can_be_closed_however_long_it_may_be(limits, num_chars):
    value = ("x <b>y</b> é\n" * num_chars)[:num_chars]
    assert allows({**TEXT, **limits}, value, strict=True) == (True, value)


def test_what_does_not_occur_is_what_python_does_not_find():
    texts = (letters("</b>"), (*letters("</f>"), (" \n", True), ("<", False)), letters("\n<b="))
    ours, found = (
        re.compile(absent(texts).replace("\\x{", "\\x").replace("}", "")),
        re.compile(r"</b>|</f>[ \n]*<|\n<b="),
    )
    rng = random.Random(1)
    for _ in range(5_000):
        text = "".join(
            rng.choice(["</b", ">", "</f", "<", " ", "\n", "<b", "=", "x", "é"]) for _ in range(rng.randint(0, 9))
        )
        assert (ours.fullmatch(text) is None) == (found.search(text) is not None), text


@pytest.mark.parametrize(
    "value", ["ab</parameter>\ncdefgh", "ab\n</parameter>\ncdefgh", "ab</parameter>cdefgh", "</parameter>\nabcdef"]
)
def test_a_restricted_string_never_holds_the_closing_tag(value):
    """It could otherwise reach its minimum length, or its pattern, after a tag that looks like its end."""
    assert allows({**TEXT, "minLength": 8}, "abcdefgh</param")[0]
    assert not allows({**TEXT, "minLength": 8}, value)[0]


# Random walks


def holds(value, schema):
    """Whether a string satisfies the keywords used below; written apart from the code under test."""
    if not isinstance(value, str):
        return fits(value, schema)
    known = {
        "date": datetime.date.fromisoformat,
        "ipv4": ipaddress.IPv4Address,
        "ipv6": ipaddress.IPv6Address,
        "uuid": uuid.UUID,
        "date-time": datetime.datetime.fromisoformat,
        "time": datetime.time.fromisoformat,
    }
    if (name := schema.get("format")) in known:
        known[name](value)
    if name == "uri":
        assert urlsplit(value).scheme
    branches = schema.get("anyOf", [])
    return (
        schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        and re.search(schema.get("pattern", ""), value, re.ASCII) is not None
        and (not branches or any(holds(value, branch) for branch in branches if branch["type"] == "string"))
    )


@pytest.mark.parametrize(
    "schema",
    [
        {**TEXT, "pattern": r"^\w+(-\w{1,3})*\Z".replace(r"\Z", "$"), "maxLength": 12},
        {**TEXT, "pattern": "[0-9]", "minLength": 3, "maxLength": 30},
        {**TEXT, "minLength": 5, "maxLength": 9},
        *({**TEXT, "format": name} for name in ("date", "time", "date-time", "ipv4", "ipv6", "uuid")),
        {**TEXT, "format": "uri", "maxLength": 30},
        {"anyOf": [{**TEXT, "pattern": "^[A-F]+$"}, NULL]},
    ],
    ids=str,
)
def test_random_walks_end_in_values_that_hold(schema):
    num_ended = 0
    for seed in range(12):
        constraint, tools = constraint_of(schema)
        ids = walk(constraint, seed)
        for call in calls_of(events_of(ids, tools)) if ids is not None else ():
            num_ended += 1
            value = call.arguments["q"]
            assert holds(value, schema if isinstance(value, str) else NULL), value
    assert num_ended >= 4
