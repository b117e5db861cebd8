"""Outputs of a model under test: written as one string, cut into pieces, and what the parser makes of them."""

from __future__ import annotations

import re

from a3b.interface.events import assistant_message, merge_events
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control

PARAMETERS = {
    "path": {"type": "string"},
    "body": {"type": "string"},
    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "count": {"type": "integer"},
    "options": {"type": "object"},
    "names": {"type": "array"},
    "force": {"type": "boolean"},
}
TOOLS = [{"type": "function", "function": {"name": "put", "parameters": {"properties": PARAMETERS}}}]
TAG = re.compile(r"(?<!\\)(</?think>|</?tool_call>)")


def pieces(text):
    """Output written as one string; tags in it are control tokens, `\\<` is a spelled `<`."""
    parts = (part for part in TAG.split(text) if part)
    return [Control(p) if TAG.fullmatch(p) else p.replace("\\<", "<") for p in parts]


def parse(output, **options):
    """All events of an output (a string as in `pieces`, or pieces), merged."""
    parser = OutputParser(TOOLS, **options)
    output = pieces(output) if isinstance(output, str) else output
    events = [event for piece in output for event in parser.push(piece)]
    return merge_events(events + parser.finish())


def summary(output, **options):
    """(thinking, text, [(name, arguments)]) of an output."""
    message = assistant_message(parse(output, **options))
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", ())]
    return message["reasoning_content"], message["content"], calls


def call(inner, name="put"):
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def param(key, value):
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def recut(output, rng, size):
    """The same output with its text cut into pieces of up to `size` characters."""
    for piece in output:
        while isinstance(piece, str) and piece:
            num = rng.randint(1, size)
            yield piece[:num]
            piece = piece[num:]
        if isinstance(piece, Control):
            yield piece
