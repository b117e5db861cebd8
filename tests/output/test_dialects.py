"""A dialect is one object: what it writes the parser reads, and no other module knows its tags."""

from __future__ import annotations

import re

import pytest

from a3b.engine.engine import nano_directory
from a3b.interface.events import TextDelta, ThinkingDelta, ToolCallEnd
from a3b.output.dialects import DIALECTS
from a3b.output.dialects.json_call import JSON_CALL
from a3b.output.dialects.qwen_xml import QWEN_XML
from a3b.prompt.chat_template import ChatTemplate
from a3b.prompt.segments import CONTROL_NAMES, Control, Text
from a3b.thinking.budget import ThinkingTokens
from tests.support.constraints import TOKENIZER
from tests.support.dialects import ARGUMENTS, TOOLS, calls_in, each_set, read
from tests.support.sources import FILES, PACKAGE, facts_of


@each_set
@pytest.mark.parametrize("size", [1, 4, 10**6])
@pytest.mark.parametrize("in_thinking", [True, False])
def test_what_a_dialect_writes_the_parser_reads(dialects, size, in_thinking):
    for dialect in dialects:
        calls = [*dialect.replay("put", ARGUMENTS), Text(dialect.between or "\n"), *dialect.replay("look", {})]
        events = read([Text("I look.\n\n"), *calls], dialects, size, in_thinking=in_thinking)
        assert calls_in(events) == [("put", ARGUMENTS), ("look", {})]
        channel = ThinkingDelta if in_thinking else TextDelta
        prose = [event for event in events if isinstance(event, TextDelta | ThinkingDelta)]
        assert "".join(event.text for event in prose if isinstance(event, channel)) == "I look."


@each_set
def test_an_output_that_ends_in_a_call_gives_an_incomplete_call(dialects):
    for dialect in dialects:
        opener, text, *_ = dialect.replay("put", {"path": "there is more"})
        output = [opener, Text(text.text.partition(" is more")[0])]
        [end] = [event for event in read(output, dialects) if isinstance(event, ToolCallEnd)]
        assert (end.name, end.arguments, end.complete) == ("put", {"path": "there"}, False)


@each_set
def test_prose_may_speak_of_the_opener(dialects):
    for dialect in dialects:
        events = read([Text("The "), Control(dialect.opener), Text(" is a tag.")], dialects, in_thinking=False)
        assert "".join(event.text for event in events) == f"The {dialect.opener} is a tag."


def test_after_a_call_as_json_one_as_xml_may_follow():
    opener, xml, closer = QWEN_XML.replay("other", {"path": "x"})  # of no tool: at the start of a line it is none
    _, written, _ = JSON_CALL.replay("look", {})
    assert calls_in(read([opener, written, xml, closer], DIALECTS)) == [("look", {}), ("other", {"path": "x"})]


@each_set
def test_the_thinking_budget_waits_for_a_call_after_each_opener(dialects):
    tokens = ThinkingTokens.of(TOKENIZER, dialects=dialects)
    assert tokens.calls == {TOKENIZER.control_id(dialect.opener): 24 for dialect in dialects}


def test_the_embedded_template_writes_the_first_dialect():
    call = {"type": "function", "function": {"name": "put", "arguments": ARGUMENTS}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    prompt = ChatTemplate.read(nano_directory()).render([{"role": "user", "content": "x"}, message], TOOLS, False)
    at = max(at for at, part in enumerate(prompt) if part == Control("<tool_call>"))
    assert prompt[at : at + 3] == QWEN_XML.replay("put", ARGUMENTS) == DIALECTS[0].replay("put", ARGUMENTS)


TAGS = re.compile(r"</?tool_call|</?function\b|</?parameter\b|<arg_|\{\"name\": \"|\"arguments\": ")


def spelled(path):
    """String constants of a source that spell a tag of a call; docstrings are not code."""
    return {text for _, text, is_doc in facts_of(path).strings if not is_doc and TAGS.search(text)}


def test_no_module_but_the_dialects_spells_a_tag():
    found = {path.relative_to(PACKAGE).as_posix(): spelled(path) for path in FILES}
    tags = set(CONTROL_NAMES) & {"<tool_call>", "</tool_call>"}
    assert found.pop("prompt/segments.py") == tags  # the control tokens of the vocabulary, by name
    assert {path for path, texts in found.items() if texts and "dialects/" not in path} == set()
    assert found["output/dialects/qwen_xml_tags.py"] and found["output/dialects/json_call.py"]
