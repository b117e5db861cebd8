"""Where a JSON value of a call ends: strings inside it may hold any tag, and what is not JSON is read as before."""

from __future__ import annotations

import json
import random
import time

import pytest

from a3b.engine.engine import nano_directory
from a3b.interface.events import ToolCallDelta, ToolCallEnd, assistant_message, merge_events
from a3b.output.json_text import JsonText
from a3b.output.parser import OutputParser
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.segments import Control, Text
from tests.support.cpu_time import at_most
from tests.support.outputs import TOOLS, call, param, parse, pieces, recut, summary

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def arguments_of(inner):
    [(_, arguments)] = summary(call(inner), in_thinking=False)[2]
    return arguments


@pytest.mark.parametrize(
    "value",
    [
        {"a": "</parameter>"},
        {"a": "</parameter> <parameter=path> x </parameter>"},
        {"a": "</parameter></function>"},
        {"a": "</function></tool_call>", "b": [1, "x"]},
        {"a": '"</parameter></function>"', "</parameter><parameter=path>": None},
        {"a": "\\", "b": "</parameter></function>\n</tool_call>"},
        {"a": ["</parameter></function>", "</parameter></function>"], "b": {"c": "é😀</parameter></function>"}},
        {},
    ],
    ids=json.dumps,
)
def test_a_string_inside_json_may_hold_what_ends_a_call(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2), f" {json.dumps(value)} \n"):
        assert arguments_of(param("options", text) + param("path", "p")) == {"options": value, "path": "p"}
        assert arguments_of(param("names", f"[{text}]")) == {"names": [value]}
        assert arguments_of(f"<parameter=options>{text}</parameter>") == {"options": value}


def test_control_tokens_inside_a_string_of_json_are_text():
    for word in ("<tool_call>", "</tool_call>", "</tool_call><tool_call>", "<tool_call>\\\\n<function=put>"):
        found = arguments_of(param("options", f'{{"a": "{word}"}}') + param("path", "p"))
        assert found == {"options": json.loads(f'{{"a": "{word}"}}'.replace("\\\\", "\\\\")), "path": "p"}


@pytest.mark.parametrize(
    ("inner", "arguments"),
    [
        (
            '<parameter=options>\n{"a": "x</parameter>\n<parameter=path>\ny\n</parameter>\n',
            {"options": '{"a": "x', "path": "y"},
        ),
        (
            '<parameter=options>\n{"a": "x</parameter> <parameter=path>y</parameter>\n',
            {"options": '{"a": "x', "path": "y"},
        ),
        (
            '<parameter=options>\n{"a": "x</parameter> <parameter=count>1</parameter>',
            {"options": '{"a": "x', "count": 1},
        ),
        (
            "<parameter=options>\n{'a': \"x</parameter><parameter=count>1</parameter>\n",
            {"options": "{'a': \"x", "count": 1},
        ),
        (
            '<parameter=options>\n{"a": "x</parameter><parameter=names>["b"]</parameter>',
            {"options": '{"a": "x', "names": ["b"]},
        ),
        ('<parameter=options>\n["x</parameter><parameter=count>1</parameter>"]', {"options": '["x', "count": 1}),
        (
            '<parameter=options>\n{"a" "x</parameter><parameter=count>2</parameter>"}\n</parameter>',
            {"options": '{"a" "x', "count": 2},
        ),
        (
            '<parameter=options>\n{"a": "\\x</parameter><parameter=count>2</parameter>"}',
            {"options": '{"a": "\\x', "count": 2},
        ),
        ('<parameter=path>\n{"a": "x</parameter><parameter=count>2</parameter>', {"path": '{"a": "x', "count": 2}),
        (
            '<parameter=options>\n{"a": 1</parameter>\n<parameter=count>2</parameter>',
            {"options": '{"a": 1', "count": 2},
        ),
        ('<parameter=options>\n{"a": 1}\n<parameter=count>\n2</parameter>', {"options": {"a": 1}, "count": 2}),
        ('<parameter=options>\n{"a": 1}\n', {"options": {"a": 1}}),
    ],
)
def test_what_never_becomes_json_ends_at_the_first_tag(inner, arguments):
    assert arguments_of(inner) == arguments


def test_whole_json_ends_at_its_tag_whatever_follows():
    _, text, calls = summary(call(param("options", '{"a": 1}') + "note\n" + param("count", "2")), in_thinking=False)
    assert calls == [("put", {"options": {"a": 1}, "count": 2})] and text == "note"


def test_strings_stream_after_json_as_before():
    parser = OutputParser(TOOLS, in_thinking=False)
    parser.push(Control("<tool_call>"))
    parser.push('\n<function=put>\n<parameter=options>\n{"a": "</parameter></func')
    assert parser.push("tion>") == []
    assert parser.push('"}\n</parameter>\n<parameter=body>\nab') == [
        ToolCallDelta(0, '{"a": "</parameter></function>"}, "body": "ab')
    ]
    assert parser.push("cd") == [ToolCallDelta(0, "cd")]


# Properties

ATOMS = [
    "{",
    "}",
    "[",
    "]",
    '"',
    '"',
    '"',
    ":",
    ",",
    '"a": ',
    "1",
    "null",
    "x",
    "\\",
    '\\"',
    "\n",
    " ",
    '{"',
    '"}',
    '{"a": "',
    '["',
    '"]',
    "</parameter>",
    "</parameter>",
    "</function>",
    "</parameter></function>",
    "<parameter=path>",
    "\n<parameter=path>\n",
    "</parameter>\n<parameter=names>[",
    "<tool_call>",
    "</tool_call>",
    "é",
]


def random_value(rng):
    if rng.random() < 0.5:
        return "".join(rng.choices(ATOMS, k=rng.randrange(16)))
    text = json.dumps(
        {"k": ["".join(rng.choices(ATOMS, k=rng.randrange(6))) for _ in range(rng.randrange(3))]}, ensure_ascii=False
    )
    at = rng.randrange(len(text))
    return rng.choice([text, text, text[:at] + rng.choice(ATOMS) + text[at:], text[:at]])


def first_json(text):
    """The value before the first closing tag that has a JSON object before it, None if there is none: slow and
    obvious."""
    at = text.find("</parameter>")
    while at >= 0:
        try:
            value = json.loads(text[:at])
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        at = text.find("</parameter>", at + 1)
    return None


def test_a_value_ends_at_the_first_tag_after_whole_json_and_otherwise_as_if_it_could_not_be_json():
    rng = random.Random(5)
    num_json = num_tags = num_other = 0
    never = [
        {
            "function": {
                "name": "put",
                "parameters": {
                    "properties": {
                        **TOOLS[0]["function"]["parameters"]["properties"],
                        "options": {"type": ["string", "integer"]},
                    }
                },
            }
        }
    ]
    for _ in range(4000):
        text = random_value(rng) + "\n</parameter>\n" + rng.choice(["", param("count", "2")]) + "</function>\n"
        output = [Control("<tool_call>"), f"\n<function=put>\n<parameter=options>\n{text}", Control("</tool_call>")]
        found = next(event for event in parse(output, in_thinking=False) if isinstance(event, ToolCallEnd))
        expected = first_json(text)
        if expected is not None:
            num_json += 1
            num_tags += "</parameter>" in json.dumps(expected)
            assert found.arguments["options"] == expected, text
            continue
        num_other += 1
        parser = OutputParser(never, in_thinking=False)
        before = merge_events([event for piece in output for event in parser.push(piece)] + parser.finish())
        before = next(event for event in before if isinstance(event, ToolCallEnd)).arguments
        if isinstance(found.arguments["options"], str) and isinstance(before["options"], str):
            assert found.arguments == before, text
    assert min(num_json, num_tags, num_other) > 200


def test_however_json_is_cut_the_events_are_the_same():
    rng = random.Random(6)
    for _ in range(400):
        keys = rng.choices(["options", "names", "path", "body", "note"], k=rng.randrange(1, 4))
        text = call(
            "".join(f"<parameter={key}>{rng.choice(['', chr(10)])}{random_value(rng)}</parameter>" for key in keys)
        )
        output = pieces(text + rng.choice(["", "\nand\n" + call(param("options", random_value(rng)))]))
        whole = parse(output, in_thinking=False)
        for size in (1, 3, 12):
            assert parse(recut(output, rng, size), in_thinking=False) == whole, output
        calls = [event for event in whole if isinstance(event, ToolCallEnd)]
        for number, end in enumerate(calls):
            fragments = [e.text for e in whole if isinstance(e, ToolCallDelta) and e.index == number]
            assert json.loads("".join(fragments)) == end.arguments


def test_json_text_says_at_every_character_whether_it_may_become_json():
    """A prefix of JSON is never dead; what is whole is JSON, and what is JSON is whole."""
    rng = random.Random(7)
    for _ in range(1000):
        text = random_value(rng)
        state = JsonText(frozenset({"object"}))
        for at, char in enumerate(text):
            state.push(char)
            try:
                is_object = isinstance(json.loads(text[: at + 1], strict=False), dict)
            except ValueError:
                is_object = False
            assert (state.is_whole and state.is_valid(text[: at + 1])) == is_object
        at_once = JsonText(frozenset({"object"}))
        at_once.push(text)
        assert (at_once.is_whole and at_once.is_valid(text)) == state.is_whole


NANO = ChatTemplate.read(nano_directory())


def rendered(message):
    """What the embedded template writes for the last turn of an assistant, from inside `<think>` on: pieces of
    output."""
    prompt = NANO.render([{"role": "user", "content": "x"}, message], TOOLS, False)
    output = [part if isinstance(part, Control) else part.text for part in prompt if isinstance(part, Control | Text)]
    start = max(at for at, part in enumerate(output) if part == Control("<think>"))
    end = max(at for at, part in enumerate(output) if part == Control("<|im_end|>"))
    return output[start + 1 : end]


def test_a_history_with_such_arguments_comes_back_from_the_template_as_it_was():
    rng = random.Random(8)
    for _ in range(100):
        text = "".join(rng.choices(ATOMS, k=rng.randrange(12)))
        arguments = {"options": {text: [text, {"x": text[::-1]}], "n": 1.5}, "path": "p", "names": [text]}
        tool_call = {"id": "call_0", "type": "function", "function": {"name": "put", "arguments": arguments}}
        message = {"role": "assistant", "content": "c", "reasoning_content": "r", "tool_calls": [tool_call]}
        events = parse(recut(rendered(message), rng, 9))
        assert assistant_message(events) == message


# Time


TAG = "</parameter><parameter=zz>"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "' + TAG * 6_000,  # held until the end
        '{"a": "' + TAG * 6_000 + '"}',
        '{"a": "' + "</parameter><parameter=options>{" * 5_000,  # each value begins inside the one before
        ('{"a": "' + TAG + "\n") * 5_000,  # given up at every line
        ('["' + "</parameter><parameter=names>") * 5_000,
        ('{"</parameter><parameter=options>') * 5_000,
        "{}" + "\n" * 60_000 + "x",
        "[" * 250_000,
        '{"a": "' + "\\n" * 120_000,
        '{"a": 1}' + " \n" * 50_000 + TAG,
        '{"a": "' + TAG + "<" * 80_000 + "\n",
    ],
    ids=range(11),
)
@pytest.mark.parametrize("size", [3, 10**6])
def test_hostile_values_take_linear_time(text, size):
    parser = OutputParser(TOOLS, in_thinking=False)
    started = time.process_time()
    parser.push(Control("<tool_call>"))
    parser.push("\n<function=put>\n<parameter=options>\n")
    for start in range(0, len(text), size):
        parser.push(text[start : start + size])
    parser.finish()
    assert time.process_time() - started < at_most(6)
