"""Calls that the model begins unprompted: text is free, and a call can only be one of a declared tool."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from a3b.errors import UsageError
from a3b.interface.events import ToolCallEnd
from a3b.interface.request import Request
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control
from a3b.prompt.tokenizer import StreamDecoder
from tests.support.constraints import CALL, CALL_END, END, GRAMMARS, TOKENIZER, TOOLS, call_text, fits, shape, tool

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

STRICT = tool(
    "strict",
    shape({"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 3}}, ["n"], additionalProperties=False),
)
STRICT["function"]["strict"] = True
BOTH = [*TOOLS, STRICT]


class Writing:
    """An answer under a constraint, token by token, with the parser that tells the constraint where it is."""

    def __init__(self, tools=BOTH, in_thinking=False, **request):
        self.constraint = GRAMMARS.of(Request(tools=tools, **request))
        self.parser = OutputParser(tools, in_thinking=in_thinking, only_offered=True)
        self.decoder, self.events = StreamDecoder(TOKENIZER), []

    def mask(self):
        return self.constraint.thinking if self.parser.in_thinking else self.constraint.mask()

    def take(self, token):
        self.constraint.accept(token)
        name = TOKENIZER.control_name(token)
        for piece in [self.decoder.push(token)] if name is None else [self.decoder.flush(), Control(name)]:
            self.events += self.parser.push(piece) if piece else []
        self.constraint.at(self.parser.place, self.parser.tool, self.parser.num_calls)

    def write(self, text):
        """Where the text stopped being allowed, None if nowhere. `<call>` and `</call>` are the control tokens."""
        for piece in text.replace("<call>", "\0<\0").replace("</call>", "\0>\0").split("\0"):
            ids = [{"<": CALL, ">": CALL_END}[piece]] if piece in ("<", ">") else TOKENIZER.encode_text(piece)
            for index, token in enumerate(ids):
                mask = self.mask()
                if mask is not None and not mask[token]:
                    return TOKENIZER.decode(ids[index:])
                self.take(token)
        return None

    def calls(self):
        return [event for event in self.events + self.parser.finish() if isinstance(event, ToolCallEnd)]


def call(name, *arguments):
    return call_text(name, *arguments).replace("tool_call>", "call>")


@pytest.mark.parametrize("in_thinking", [True, False])
def test_free_text_needs_no_mask(in_thinking):
    writing = Writing(in_thinking=in_thinking)
    for text in ("Some text\n", "<function=other>\n", "</call>", "```\n<function=now>\n```\n"):
        assert writing.mask() is None and writing.write(text) is None


@pytest.mark.parametrize("in_thinking", [True, False])
@pytest.mark.parametrize("name", ["now", "edit", "edit_file", "set", "strict"])
def test_each_declared_tool_can_be_called_with_text_around(name, in_thinking):
    arguments = [("n", "5")] if name == "strict" else []
    writing = Writing(in_thinking=in_thinking)
    text = f"I look.\n\n{call(name, *arguments)}\nand\n{call(name, *arguments)}\nend"
    assert writing.write(text) is None and writing.mask() is None
    assert [(found.name, found.complete) for found in writing.calls()] == [(name, True)] * 2


@pytest.mark.parametrize("in_thinking", [True, False])
@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (call("later"), "later"),
        (call("edit_"), ">"),
        (call("nowadays"), "adays"),
        (call("Edit"), "Edit"),
        ('<call>\n{"name": "now"}', "{"),
        ('<call>{"', "{"),
        ("<call>[{", "["),
        ("<call>\n</call>", ""),
        ("<call><call>", ""),
        (call("strict", ("s", "x")), "</function"),
        (call("strict", ("n", "x")), "x"),
        (call("strict", ("n", "1"), ("t", "")), "t"),
        (call("strict", ("n", "1"), ("s", "abcd")), "d"),
    ],
)
def test_no_other_call_can_be_written(text, rest, in_thinking):
    stopped = Writing(in_thinking=in_thinking).write("Then: " + text)
    assert stopped is not None and stopped.strip().startswith(rest)


def test_the_turn_cannot_end_while_a_name_or_a_strict_call_is_open():
    for text in ("<call>", "<call>\n", "<call>\n<function=now", f"<call>\n{call('strict', ('n', '1'))[7:-8]}"):
        writing = Writing()
        assert writing.write(text) is None
        assert not writing.mask()[END], text


@pytest.mark.parametrize("prose", ["` is a tag", "\n\nThe tag", "tag", " x\n<function=other>"])
@pytest.mark.parametrize("in_thinking", [True, False])
def test_an_answer_may_speak_of_the_tag(prose, in_thinking):
    writing = Writing(in_thinking=in_thinking)
    assert writing.write("it is `<call>" + prose) is None and writing.mask() is None and writing.calls() == []


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "line\n<parameter=x>\n</parameter> y",
        "see <call>\n<function=other>\n</function>\n</call> there",
        "</div>",
    ],
)
def test_arguments_of_a_tool_that_is_not_strict_are_free(value):
    writing = Writing()
    assert writing.write(call("edit", ("path", value))) is None
    [found] = writing.calls()
    assert found.arguments == {"path": value.replace("<call>", "<tool_call>").replace("</call>", "</tool_call>")}


def test_an_envelope_holds_one_call():
    writing = Writing()
    assert (
        writing.write("<call>\n<function=edit>\n<parameter=path>\nx\n</parameter>\n</function>\n<function=strict>")
        is not None
    )
    assert set(np.flatnonzero(writing.mask())) == {CALL_END, *TOKENIZER.encode_text("\n")}


def test_without_parallel_calls_the_turn_ends_after_the_first():
    for one in (call("edit", ("path", "<call>\n</call>")), call("strict", ("n", "1")), "<function=now>\n</function>"):
        writing = Writing(parallel_tool_calls=False)
        assert writing.write(f"text\n{one}") is None
        assert writing.write("\n") is not None
        assert np.flatnonzero(writing.mask()).tolist() == [END]
        with pytest.raises(UsageError, match="parallel_tool_calls"):
            writing.constraint.accept(9)


def test_without_tools_no_call_can_be_written():
    for request in (Request(), Request(tools=BOTH, tool_choice="none"), Request(parallel_tool_calls=False)):
        constraint = GRAMMARS.of(request)
        assert np.flatnonzero(~constraint.mask()).tolist() == np.flatnonzero(~constraint.thinking).tolist() == [CALL]
    assert GRAMMARS.of(Request(prompt="text that is continued")) is None


def test_what_is_put_in_from_outside_ends_the_bounds():
    writing = Writing(in_thinking=True)
    assert writing.write("<call>\n") is None
    for token in (TOKENIZER.control_id("</think>"), *TOKENIZER.encode_text("\n\n")):
        writing.take(token)
    assert not writing.parser.in_thinking and writing.mask() is None
    assert writing.write("text " + call("now")) is None and len(writing.calls()) == 1


def test_random_answers_call_declared_tools_alone_and_strict_ones_by_their_schema():
    r, names = random.Random(3), set()
    likely = [CALL, CALL_END, *TOKENIZER.encode_text("\n<function=>\n</function>\n</parameter>\n<parameter=n>\n5")]
    for _ in range(60):
        writing = Writing(in_thinking=r.random() < 0.3)
        for _ in range(200):
            mask = writing.mask()
            allowed = [i for i in likely if mask is None or mask[i]] or np.flatnonzero(mask).tolist()
            others = [*range(300)] if mask is None else np.flatnonzero(mask).tolist()
            token = r.choice(allowed if r.random() < 0.8 else others)
            if token != END:
                writing.take(int(token))
        for found in writing.calls():
            names.add(found.name)
            assert found.name in {each["function"]["name"] for each in BOTH}
            if found.name == "strict" and found.complete:
                assert fits(found.arguments, STRICT["function"]["parameters"]), json.dumps(found.arguments)
    assert len(names) >= 4


def test_schemas_of_loose_tools_are_not_compiled_and_strict_ones_are():
    odd = tool("odd", shape({"q": {"type": "array", "items": {"type": "string", "pattern": "(?<!a)b"}}}))
    assert Writing([odd]).write(call("odd", ("q", "[]"))) is None
    odd["function"]["strict"] = True
    with pytest.raises(UsageError, match="^tools: odd: parameter q: items.pattern"):
        Writing([odd])


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_what_is_no_schema_is_refused_whatever_the_choice(choice):
    for one in (tool("two words", None), tool("a", shape({"q": {"type": "strng"}})), tool("a", {"type": "array"})):
        with pytest.raises(UsageError, match="^tools"):
            GRAMMARS.of(Request(tools=[one], tool_choice=choice))
