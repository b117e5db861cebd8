"""Keywords that restrict the strings of tools: what is enforced, by walks and by comparison with Python's `re`, and
what is refused."""

from __future__ import annotations

import datetime
import ipaddress
import random
import re
import time
import uuid
from urllib.parse import urlsplit

import llguidance
import numpy as np
import pytest

from a3b.constrain.absent_strings import absent, letters
from a3b.constrain.grammar import answer_grammar
from a3b.errors import UsageError
from a3b.interface.request import Request
from a3b.json_schema.regex_terminals import FORMATS, search_terminal
from tests.support.constraints import (
    BYTES,
    CALL,
    END,
    GRAMMARS,
    TOKENIZER,
    call_text,
    calls_of,
    events_of,
    feed,
    fits,
    is_over,
    shape,
    tool,
    walk,
)

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

TEXT = {"type": "string"}


def constraint_of(schema, strict=False, **root):
    one = tool("a", {**shape({"q": schema}, ["q"], additionalProperties=False), **root})
    one["function"]["strict"] = strict
    return GRAMMARS.of(Request(tools=[one], tool_choice="required")), [one]


def allows(schema, value, **options):
    """Whether a call may have this value, written as it is; if so, what the parser reads."""
    constraint, tools = constraint_of(schema, **options)
    text = call_text("a", ("q", value))
    if feed(constraint, text) is not None or not constraint.mask()[END]:
        return False, None
    ids = [CALL, *TOKENIZER.encode_text(text.removeprefix("<tool_call>").removesuffix("</tool_call>")), CALL + 1]
    return True, calls_of(events_of(ids, tools))[0].arguments["q"]


EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
NULL = {"type": "null"}


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


# Patterns and formats beside Python's


def matcher(terminal):
    return llguidance.LLMatcher(BYTES, f"%llguidance {{}}\nstart: T\nT: {terminal}\n")


def matches(judge, text):
    one, data = judge.deep_copy(), list(text.encode())
    return one.try_consume_tokens(data) == len(data) and one.is_accepting()


def random_pattern(r, depth=0):
    atoms = [
        "a",
        "b",
        "1",
        "-",
        r"\.",
        r"\d",
        r"\w",
        r"\W",
        "[ab]",
        "[^a-]",
        r"[\d-]",
        "[[&&~]",
        ".",
        r"\/",
        r"\$",
        ",",
    ]
    parts = []
    for _ in range(r.randrange(4)):
        atom = r.choice(atoms)
        if depth < 2 and r.random() < 0.3:
            atom = f"({r.choice(['', '?:'])}{random_pattern(r, depth + 1)})"
        parts.append(atom + r.choice(["", "", "", "*", "+", "?", "{1,2}", "+?"]))
    one = "".join(parts)
    if depth == 0:
        one = r.choice(["", "^", "^(?=.*a)", "^(?!.*b)"]) + one + r.choice(["", r"$"])
    return one if r.random() < 0.75 else f"{one}|{random_pattern(r, depth + 1)}"


@pytest.mark.filterwarnings("ignore:Possible")
def test_patterns_mean_what_they_mean_to_python():
    r = random.Random(1)
    num_found = num_compared = 0
    for _ in range(250):
        pattern = random_pattern(r)
        try:
            expected = re.compile(pattern, re.ASCII)
        except re.error:
            continue  # "(?:)+*" and the like
        judge = matcher(search_terminal(pattern))
        assert not judge.is_error(), (pattern, judge.get_error())
        for _ in range(25):
            text = "".join(r.choices("aab1-.[&~/$,é x", k=r.randrange(6)))
            found = expected.search(text) is not None
            num_compared, num_found = num_compared + 1, num_found + found
            assert matches(judge, text) == found, (pattern, text)
    assert num_compared > 5000 and 0.2 < num_found / num_compared < 0.9


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2024-02-29 2000-02-29 2023-12-31", "2023-02-29 1900-02-29 2023-04-31 2023-13-01 2023-1-1"),
        ("time", "12:00:00Z 23:59:59.5+02:00", "12:00 24:00:00Z 12:00:00"),
        ("date-time", "2024-02-29T12:00:00Z", "2024-02-29T24:00:00Z 2023-02-29T12:00:00Z 2024-02-29"),
        ("duration", "P1D PT1H30M P1Y2M3DT4H P3W", "P PT 1D P1H"),
        ("email", "a@b.co a.b+c@d-e.f", "a@b a@@b.c .a@b.c a"),
        ("hostname", "a a-b.c", "-a a..b a_b a-"),
        ("ipv4", "1.2.3.4 255.255.255.255", "256.1.1.1 01.1.1.1 1.2.3"),
        (
            "ipv6",
            "::1 :: 1:: 1:2:3:4:5:6:7:8 1::8 fe80::1:2 1:2:3:4:5:6:7::",
            "1:2 ::1::2 1:2:3:4:5:6:7:8:9 1:2:3:4:5:6:7::8 12345::",
        ),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000 x"),
        ("uri", "http://a.b/c?d=e#f mailto:a@b.c file:///etc/x http://[::1]:80/ urn:isbn:12", "http: //x a http://a|b"),
    ],
)
def test_formats_hold_valid_texts_alone(name, good, bad):
    judge = matcher(f"/{FORMATS[name]}/")
    assert [text for text in good.split() if not matches(judge, text)] == []
    assert [text for text in bad.split() if matches(judge, text)] == []


# What cannot be enforced


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
