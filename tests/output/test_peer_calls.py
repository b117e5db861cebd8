"""Situations that the parsers of other servers test, with inputs of our own: calls as Qwen writes them, and values by
their schema.

Of each suite only what applies to one template and one format is here. Each output is read whole, and character by
character. Where the suites differ from this parser on purpose, the table has what this one does: `None` stays text
where text is allowed, and blanks are trimmed around calls as templates trim them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from a3b.interface.events import ToolCallDelta, ToolCallEnd, assistant_message
from a3b.json_schema.types import kinds_of_schema
from a3b.output.parser import OutputParser
from a3b.output.tool_arguments import coerce, loads
from a3b.prompt.segments import Control
from tests.support.outputs import call, param, pieces
from tests.support.paths import DATA

PEERS = json.loads((DATA / "peer_calls.json").read_text(encoding="utf-8"))


def letters(output: list[Any]) -> list[Any]:
    return [letter for piece in output for letter in ([piece] if isinstance(piece, Control) else piece)]


def read(output: list[Any], tools: Any = PEERS["tools"], **options: Any) -> tuple[str, str, list[Any]]:
    parser = OutputParser(tools, **options)
    events = [event for piece in output for event in parser.push(piece)] + parser.finish()
    ends = [event for event in events if isinstance(event, ToolCallEnd)]
    for end in ends:
        assert (
            loads("".join(e.text for e in events if isinstance(e, ToolCallDelta) and e.index == end.index))
            == end.arguments
        )
    message = assistant_message(events)
    return message["reasoning_content"], message["content"], [[end.name, end.arguments] for end in ends]


@pytest.mark.parametrize(
    "case", PEERS["calls"], ids=[f"{case['suite']}: {case['situation']}" for case in PEERS["calls"]]
)
def test_calls_are_read_as_the_peer_expects(case):
    expected = (case.get("thinking", ""), case.get("text", ""), case["calls"])
    output, options = pieces(case["output"]), {"in_thinking": "thinks" in case}
    assert read(output, **options) == expected
    assert read(letters(output), **options) == expected


OF = {
    "str": "string",
    "int": "integer",
    "num": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
    "null": "null",
}


@pytest.mark.parametrize(("suite", "text", "types", "value"), PEERS["values"])
def test_values_are_read_as_the_peer_expects(suite, text, types, value):
    schema = {"anyOf": [{"type": OF[name]} for name in types.split()]} if types else {}
    found = coerce(text, kinds_of_schema(schema, schema))
    assert (found, isinstance(found, bool), isinstance(found, str)) == (
        value,
        isinstance(value, bool),
        isinstance(value, str),
    )


@pytest.mark.parametrize(("name", "text", "value"), PEERS["types"])
def test_types_by_other_names_are_understood(name, text, value):
    assert coerce(text, kinds_of_schema({"type": name}, {})) == value


@pytest.mark.parametrize("root", PEERS["roots"].values(), ids=PEERS["roots"])
def test_arguments_keep_their_types_wherever_the_root_declares_them(root):
    tools = [{"type": "function", "function": {"name": "acme", "parameters": root}}]
    output = pieces(call(param("load", '{"v": "x"}'), name="acme"))
    for cut in (output, letters(output)):
        assert read(cut, tools, in_thinking=False)[2] == [["acme", {"load": {"v": "x"}}]]
