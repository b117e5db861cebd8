"""Two dialects of other families, defined to show that adding one takes a class, and outputs in any dialect."""

from __future__ import annotations

import json
import re

import pytest

from a3b.interface.events import ToolCallEnd
from a3b.output.buffer import peek, skip_blank
from a3b.output.dialects import DIALECTS
from a3b.output.dialects.dialect import Dialect, NameRule, RawParameters
from a3b.output.dialects.json_call import JSON_CALL
from a3b.output.json_text import dumps
from a3b.output.marks import END as OUTPUT_END
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control, Text
from a3b.prompt.tokenizer import StreamDecoder
from tests.support.constraints import TOKENIZER, shape, tool

SHAPE = shape(
    {
        "path": {"type": "string"},
        "line": {"type": "integer"},
        "where": shape({"rows": {"type": "array", "items": {"type": "integer"}}}, additionalProperties=False),
    },
    ["path"],
    additionalProperties=False,
)
TOOLS = [tool("put", SHAPE), tool("look", shape({}, additionalProperties=False))]
STRICT = [{**one, "function": {**one["function"], "strict": True}} for one in TOOLS]
ARGUMENTS = {"path": "a/b <c>\n", "line": 7, "where": {"rows": [1, 2]}}
ANY_NAME = NameRule(re.compile(r"\w+\Z"), "letters, digits and _")


class ArgumentsInJson(Dialect):
    """`<|box_start|>name[ARGS]{"key": value}`, after Mistral's form: no closer, an opener for each call."""

    opener, head, between = "<|box_start|>", ("", "[ARGS]"), ""
    first_chars = ""
    tool_names = parameter_names = ANY_NAME

    def open(self, buffer, at, calls, is_bare=False):
        name = re.compile(r"\w{0,64}").match(buffer.text, at)
        if peek(buffer.text, name.end(), "[ARGS]{") == "" or not calls.may_call(name.group()):
            return None
        start = name.end() + len("[ARGS]")
        end, missing = buffer.find_json_end(start)
        arguments = json.loads(buffer.text[start:end] + missing)
        buffer.take(end)
        calls.begin(name.group())
        calls.put(arguments)
        return Ended(calls, complete=missing == "")

    def may_follow(self, last):
        return False

    def arguments_rule(self, rules):
        return rules.json_object()

    def arguments_text(self, arguments):
        return dumps(arguments)


class Ended:
    def __init__(self, calls, complete):
        self.calls, self.complete = calls, complete

    def step(self):
        self.calls.end(self.complete)


class KeysAndValues(Dialect):
    """`<tool_call>name` and lines of <arg_key> and <arg_value>, after GLM's form: the opener of another dialect."""

    opener, closer, head = "<tool_call>", "</tool_call>", ("", "\n")
    first_chars = ""
    tool_names = parameter_names = ANY_NAME
    raw = RawParameters("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", r"\w+", *[("</arg_value>",)] * 2)

    def open(self, buffer, at, calls, is_bare=False):
        name = re.compile(r"\w{0,64}").match(buffer.text, at)
        if peek(buffer.text, name.end(), "\n") == "" or not calls.may_call(name.group()):
            return None
        buffer.take(name.end() + 1)
        calls.begin(name.group())
        return Arguments(buffer, calls)

    def arguments_rule(self, rules):
        return rules.raw_parameters()

    def arguments_text(self, arguments):
        texts = ((key, value if isinstance(value, str) else dumps(value)) for key, value in arguments.items())
        return "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n" for key, text in texts)


class Arguments:
    def __init__(self, buffer, calls):
        self.buffer, self.calls = buffer, calls

    def step(self):
        at = skip_blank(self.buffer.text, 0)
        if peek(self.buffer.text, at, "<arg_key>") == "":
            return self.calls.end(complete=not self.buffer.text.endswith(OUTPUT_END))
        stop = self.buffer.search(re.compile(f"</arg_value>|{OUTPUT_END}"), at, 12)
        key, value = self.buffer.text[at + 9 : stop.start()].split("</arg_key>\n<arg_value>")
        self.buffer.take(stop.start() if stop.group() == OUTPUT_END else stop.end())
        self.calls.open(key)
        self.calls.write(value)
        self.calls.close()


MISTRAL, GLM = ArgumentsInJson(), KeysAndValues()
ALL = [DIALECTS, (JSON_CALL,), (MISTRAL, *DIALECTS), (GLM,), (GLM, MISTRAL)]
NAMES = ["qwen and json", "json", "mistral, qwen and json", "glm", "glm and mistral"]
each_set = pytest.mark.parametrize("dialects", ALL, ids=NAMES)


def ids_of(segments):
    found = []
    for part in segments:
        found += [TOKENIZER.control_id(part.name)] if isinstance(part, Control) else TOKENIZER.encode_text(part.text)
    return found


def segments_of(ids):
    decoder, found = StreamDecoder(TOKENIZER), []
    for token in ids:
        name = TOKENIZER.control_name(token)
        found += [Text(decoder.push(token))] if name is None else [Text(decoder.flush()), Control(name)]
    return found


def read(segments, dialects, size=10**6, **options):
    """Events of an output, cut into pieces of `size` characters."""
    parser, events = OutputParser(TOOLS, dialects=dialects, **options), []
    for part in segments:
        is_text = isinstance(part, Text)
        for piece in [part.text[at : at + size] for at in range(0, len(part.text), size)] if is_text else [part]:
            events += parser.push(piece)
    return events + parser.finish()


def calls_in(events):
    return [(event.name, event.arguments) for event in events if isinstance(event, ToolCallEnd) and event.complete]
