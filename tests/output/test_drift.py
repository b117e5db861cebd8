"""Calls as models write them when they drift from the format: recovered, or given as text; and no tag gets into an
argument."""

from __future__ import annotations

import random
import time

import pytest

from a3b.interface.events import ToolCallEnd
from a3b.output.dialects.json_call import parse_json_calls
from a3b.output.parser import OutputParser
from tests.support.cpu_time import at_most
from tests.support.outputs import TOOLS, call, param, parse, pieces, recut, summary

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

PATH = "<parameter=path>\na\n</parameter>\n"
PUT = f"<function=put>\n{PATH}</function>"


def read(output, **options):
    """(thinking, text, calls) of an output, the same however it is cut."""
    whole, rng = parse(output, **options), random.Random(1)
    for size in (1, 2, 5, 40):
        assert parse(recut(pieces(output), rng, size), **options) == whole
    assert all(event.complete for event in whole if isinstance(event, ToolCallEnd))
    return summary(output, **options)


FUNCTION_CLOSERS = [
    "</function",
    "</function_invocation>",
    "</function_call>",
    "</function_calls>",
    "</functions>",
    "</invoke>",
    "</invoke",
    "</tool_use>",
    "</tool>",
    "",
]
PARAMETER_CLOSERS = ["</parameter", "</parameters>", "</param>", "</parameter=path>", "</parameter >", ""]


@pytest.mark.parametrize("function", ["</function>", *FUNCTION_CLOSERS])
@pytest.mark.parametrize("parameter", ["</parameter>", *PARAMETER_CLOSERS])
@pytest.mark.parametrize("newline", ["\n", ""])
def test_wrong_and_cut_closing_tags_close(function, parameter, newline):
    if not newline and parameter in ("</parameter", "</parameter >", "") and function in ("", "</function", "</invoke"):
        return  # nothing is left to tell by
    closers = "\n".join(closer for closer in (parameter, function, "</tool_call>") if closer)
    output = f"<tool_call>\n<function=put>\n<parameter=path>\na{newline}{closers}"
    assert read(output, in_thinking=False) == ("", "", [("put", {"path": "a"})])


@pytest.mark.parametrize("closer", [closer for closer in PARAMETER_CLOSERS if closer])
def test_a_parameter_may_follow_a_wrong_closing_tag(closer):
    inner = f"<parameter=path>\na\n{closer}\n<parameter=count>\n5\n{closer}\n<parameter=names>\n['b']\n{closer}\n"
    assert read(call(inner), in_thinking=False)[2] == [("put", {"path": "a", "count": 5, "names": ["b"]})]


def test_a_parameter_may_be_closed_by_its_own_name():
    for inner in (
        "<parameter=path>\na\n</path>\n<parameter=count>\n5\n</count>\n",
        "<parameter=path>a</path><parameter=count>\n5</count>",
    ):
        assert read(call(inner), in_thinking=False)[2] == [("put", {"path": "a", "count": 5})]
    for value in ("<body>x</body>", "x</body> y", "<body>\n</body>\n"):
        assert read(call(param("body", value) + param("path", "p")), in_thinking=False)[2] == [
            ("put", {"body": value, "path": "p"})
        ]
    html = "<tool_call>\n<function=put>\n<parameter=body>\n<body>\n</body>\n</function>\n</tool_call>"
    assert read(html, in_thinking=False)[2] == [("put", {"body": "<body>\n</body>"})]


@pytest.mark.parametrize(
    "value",
    ["<p>x</p>", "</div>\n", "</param>", "</invoke>\nmore", "a </function", "</parameter and", "<a></parameters>b"],
)
def test_values_may_hold_other_tags_and_what_looks_like_a_closing_one(value):
    assert read(call(param("body", value) + param("path", "p")), in_thinking=False)[2] == [
        ("put", {"body": value, "path": "p"})
    ]


@pytest.mark.parametrize(
    "rest",
    ["", "<", "</", "</par", "</parameter", "</parameter>\n</func", "</parameter>\n<", "</parameter>\n</tool_ca"],
)
def test_a_tag_that_the_end_cuts_off_gets_into_no_argument(rest):
    events = parse(f"<tool_call>\n<function=put>\n<parameter=path>\na\n{rest}", in_thinking=False)
    assert events[-1] == ToolCallEnd(0, "call_0", "put", {"path": "a"}, complete=False)


def test_stray_closing_tags_vanish():
    inner = f"<function=put>\n{PATH}</parameter>\n</function>\n</function>\n</invoke>\n</tool_call>"
    assert read("<tool_call>\n" + inner.replace("</parameter>\n</par", "</par", 1), in_thinking=False)[1:] == (
        "",
        [("put", {"path": "a"})],
    )
    assert read(call(param("count", "5") + "</parameter>\n"), in_thinking=False)[1:] == ("", [("put", {"count": 5})])


# Without <tool_call>


@pytest.mark.parametrize("end", ["", "\n", "\n</tool_call>", "\n\\</tool_call>", "\n</invoke>\n"])
@pytest.mark.parametrize(
    "before", ["", "I will.\n\n", "```\ncode\n```\n", "a\n  ", "x `<function=put>` y\n", "~~~\n```\n~~~\n"]
)
def test_a_function_at_the_beginning_of_a_line_is_a_call(before, end):
    assert read(before + PUT + end, in_thinking=False) == ("", before.strip(), [("put", {"path": "a"})])


def test_bare_calls_may_follow_each_other_and_text_may_follow_them():
    calls = [("put", {"path": "a"}), ("put", {}), ("put", {"path": "a"})]
    bare = f"{PUT}\n<function=put></function>\n</tool_call>\nand\n{PUT}\nend"
    assert read(bare, in_thinking=False) == ("", "and\nend", calls)


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{PUT}\n```",
        f"~~~xml\n{PUT}\n~~~\nend",
        f"````\n```\n{PUT}\n````",
        f"Write {PUT}",
        f"    {PUT}",
        f"> {PUT}",
        PUT.replace("put", "other"),
        "<function=put> is how it begins",
        "<function=put>\nand so on",
        "<function=put",
        "<function=put>",
        f"Example:\n\\<tool_call>\n{PUT}\n\\</tool_call>",
        "```\n" + PUT,
    ],
)
@pytest.mark.parametrize("in_thinking", [True, False])
def test_other_mentions_of_a_function_are_text(text, in_thinking):
    thinking, content, calls = read(text, in_thinking=in_thinking)
    assert (thinking if in_thinking else content, calls) == (text.replace("\\", "").strip(), [])


def test_without_tools_or_for_a_strict_tool_a_bare_function_is_text():
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    for tools in (None, [], strict):
        parser = OutputParser(tools, in_thinking=False)
        assert [event.text for event in parser.push(PUT) + parser.finish()] == [PUT]


@pytest.mark.parametrize("end", ["", "\n", "\n</tool_call>", f"\n{PUT}"])
def test_inside_thinking_a_bare_call_counts_where_the_output_ends(end):
    thinking, text, calls = read(f"let me look\n{PUT}{end}")
    assert (thinking, text, calls) == ("let me look", "", [("put", {"path": "a"})] * (1 + ("put" in end)))


@pytest.mark.parametrize("after", ["\nno", "\n</think>", "\n</think>\n\nText", "\n<think>", f"\n\n{PUT}\nno"])
def test_inside_thinking_a_bare_call_is_thinking_if_more_follows(after):
    thinking, text, calls = read(f"it could be\n{PUT}{after}")
    assert PUT in thinking and calls == [] and text == ("Text" if "Text" in after else "")


def test_inside_thinking_the_last_call_counts_and_what_was_begun_before_it_does_not():
    begun = "like\n<function=put>\n<parameter=path>\nx\nOr better:"
    assert read(f"{begun}\n{PUT}") == (begun, "", [("put", {"path": "a"})])
    assert read("t\n" + PUT.removesuffix("</function>"))[1:] == ("", [])


def test_thinking_about_functions_takes_linear_time():
    for text in ("\n<function=put>\n<parameter=path>\n" * 10_000, f"\n{PUT}" * 3_000 + "x", f"\n{PUT}\nx" * 3_000):
        assert parse([text]) == parse(recut([text], random.Random(2), 5000))


@pytest.mark.parametrize(
    "text",
    ["\n<" * 60_000, "\n`" * 60_000, "```\n" * 40_000, "<" * 100_000, "\n   <func" * 20_000, "\n" + " " * 100_000],
)
def test_lines_of_text_take_linear_time(text):
    started = time.process_time()
    assert summary([text], in_thinking=False)[1] == text.strip()
    assert time.process_time() - started < at_most(6)


@pytest.mark.parametrize(
    "text",
    [
        "</" * 50_000,
        "</path" * 20_000,
        "\n</param" * 20_000,
        "</function_x>\n" * 10_000,
        "</path>\n</function>\nx" * 5_000,
    ],
)
def test_values_full_of_closing_tags_take_linear_time(text):
    started = time.process_time()
    assert summary(call(param("path", text) + param("count", "5")), in_thinking=False)[2] == [
        ("put", {"path": text, "count": 5})
    ]
    assert time.process_time() - started < at_most(6)


# Calls as JSON


A, B = '{"name": "put", "arguments": {"path": "a"}}', '{"name": "put", "arguments": {"path": "b"}}'


@pytest.mark.parametrize(
    "text", [f"{A}\n{B}", f"{A}{B}", f"{A},\n{B}", f"{A};\n{B}", f"[{A}, {B}]", f"[\n{A},\n{B}\n]", f"[{A}]\n{B}"]
)
@pytest.mark.parametrize("end", ["\n</tool_call>", "</tool_call>", "\n</function>\n</tool_call>"])
def test_an_envelope_may_hold_several_json_calls(text, end):
    assert read(f"<tool_call>\n{text}{end}\nmore", in_thinking=False) == (
        "",
        "more",
        [("put", {"path": "a"}), ("put", {"path": "b"})],
    )


def test_surplus_brackets_after_json_vanish():
    assert read(f"<tool_call>\n{A}}}\n</tool_call>", in_thinking=False) == ("", "", [("put", {"path": "a"})])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "put", "arguments": {"path": "a\nb\tc"}}', {"path": "a\nb\tc"}),
        ('{"name": "put", "arguments": {"force": True, "note": None}}', {"force": True, "note": None}),
        ("{'name': 'put', 'arguments': {'path': 'it\\'s }', 'names': ['a',],}}", {"path": "it's }", "names": ["a"]}),
        ('{"name": "put", "arguments": {"path": "None", "body": "it\'s True"}}', {"path": "None", "body": "it's True"}),
    ],
)
def test_json_calls_are_read_with_raw_newlines_and_in_the_spelling_of_python(text, arguments):
    assert read(f"<tool_call>\n{text}\n</tool_call>", in_thinking=False) == ("", "", [("put", arguments)])


@pytest.mark.parametrize("text", ["[]", "[1]", f"[{A}, 1]", "[{}]", '[{"name": "put", "why": 1}]', "{'a': 1}"])
def test_other_json_in_an_envelope_is_text(text):
    assert parse_json_calls(text) is None
    output = f"<tool_call>\n{text}\n</tool_call>"
    assert read(output, in_thinking=False) == ("", output, [])


@pytest.mark.parametrize("inner", ["", "\n", "\nI will look.\n", f"\n{PATH}</function>\n"])
def test_an_envelope_without_a_function_is_text(inner):
    assert read(f"<tool_call>{inner}</tool_call>", in_thinking=False) == ("", f"<tool_call>{inner}</tool_call>", [])


# Values


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("names", "['a', 'b']", ["a", "b"]),
        ("names", '["a",\n "b",\n]', ["a", "b"]),
        ("options", "{'k': True, 'n': None, \"s\": 'None'}", {"k": True, "n": None, "s": "None"}),
        ("options", '{"text": "two\nlines"}', {"text": "two\nlines"}),
        ("path", "None", "None"),
        ("path", "True", "True"),
        ("path", "['a']", "['a']"),
        ("note", "None", "None"),
        ("force", "True", True),
        ("count", "None", None),
    ],
)
def test_values_in_the_spelling_of_python(key, text, value):
    assert read(call(param(key, text) + param("body", "x")), in_thinking=False)[2] == [
        ("put", {key: value, "body": "x"})
    ]


def test_parameters_may_have_blanks_in_their_names():
    assert read(call(param("first name", "Ada") + param("x", "1")), in_thinking=False)[2] == [
        ("put", {"first name": "Ada", "x": "1"})
    ]


def test_only_offered_tools_can_be_called_if_that_is_asked_for():
    for output in (call(PATH, name="other"), f"<tool_call>\n{A.replace('put', 'other')}\n</tool_call>"):
        assert read(output, in_thinking=False, only_offered=True) == ("", output, [])
        assert read(output, in_thinking=False)[2] == [("other", {"path": "a"})]
    second = f"<tool_call>\n{PUT}\n<function=other>\n</function>\n</tool_call>"
    assert read(second, in_thinking=False, only_offered=True)[2] == [("put", {"path": "a"})]


def test_a_bare_call_may_write_a_closing_tag_in_the_middle_of_a_line():
    value = "see </function> and </parameter> here"
    assert read(f"<function=put>\n{param('body', value)}</function>\nend", in_thinking=False) == (
        "",
        "end",
        [("put", {"body": value})],
    )
