"""A dialect is one object: what it writes its grammar allows, and nothing that the parser would read otherwise."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest

from a3b.constrain.constraints import Grammars
from a3b.errors import UsageError
from a3b.interface.request import Request
from a3b.output.dialects import DIALECTS
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control, Text
from a3b.thinking.budget import ThinkingTokens
from tests.support.constraints import END, TOKENIZER, walk
from tests.support.dialects import (
    ARGUMENTS,
    MISTRAL,
    SHAPE,
    STRICT,
    TOOLS,
    ArgumentsInJson,
    calls_in,
    each_set,
    ids_of,
    read,
    segments_of,
)

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


@each_set
def test_a_required_call_can_be_written_and_no_other(dialects):
    grammars = Grammars(TOKENIZER, dialects)
    request = Request(tools=TOOLS, tool_choice="required")
    for calls in ([("put", ARGUMENTS)], [("look", {}), ("put", {"path": "x"})]):
        constraint = grammars.of(request)
        for number, call in enumerate(calls):
            between = Text(dialects[0].between if number else "")
            for token in ids_of([between, *dialects[0].replay(*call)]):
                constraint.accept(token)
        assert constraint.mask()[END]
    for name, arguments in (("putt", ARGUMENTS), ("put", {"line": 7}), ("put", {"path": "x", "line": "x"})):
        constraint = grammars.of(request)
        with pytest.raises(UsageError, match="grammar"):
            for token in [*ids_of(dialects[0].replay(name, arguments)), END]:
                constraint.accept(token)
    grammars.close()


@each_set
def test_what_the_grammar_allows_the_parser_reads_as_the_schema_has_it(dialects):
    grammars, num_calls = Grammars(TOKENIZER, dialects), 0
    for seed in range(12):
        ids = walk(grammars.of(Request(tools=TOOLS, tool_choice="required")), seed, limit=150) or ()
        for name, arguments in calls_in(read(segments_of(ids), dialects, in_thinking=False)):
            num_calls += 1
            jsonschema.validate(arguments, SHAPE if name == "put" else {"maxProperties": 0})
    assert num_calls > 5
    grammars.close()


@each_set
@pytest.mark.parametrize("tools", [TOOLS, STRICT], ids=["loose", "strict"])
@pytest.mark.parametrize("arguments", [ARGUMENTS, {"path": "x", "line": "x"}], ids=["right", "wrong"])
def test_a_call_that_the_model_begins_is_held_to_the_schema_of_a_strict_tool(dialects, tools, arguments):
    grammars = Grammars(TOKENIZER, dialects)
    constraint = grammars.of(Request(tools=tools))
    parser = OutputParser(tools, in_thinking=False, only_offered=True, dialects=dialects)

    def is_allowed(token):
        mask = constraint.mask()
        return mask is None or bool(mask[token])

    tokens = iter([*TOKENIZER.encode_text("I look.\n\n"), *ids_of(dialects[0].replay("put", arguments)), END])
    for token in tokens:
        if token == END or not is_allowed(token):
            break
        constraint.accept(token)
        name = TOKENIZER.control_name(token)
        parser.push(Control(name) if name else TOKENIZER.token_bytes(token).decode())
        constraint.at(parser.place, parser.tool, parser.num_calls)
    ends = token == END and is_allowed(END)
    assert ends == (tools == TOOLS or arguments == ARGUMENTS)
    constraint.close()
    grammars.close()


@pytest.mark.parametrize("dialects", [DIALECTS, (MISTRAL,), (MISTRAL, *DIALECTS)], ids=["qwen", "mistral", "both"])
def test_free_text_may_come_around_a_call_but_no_opener_of_a_dialect_that_grammars_do_not_write(dialects):
    grammars = Grammars(TOKENIZER, dialects)
    constraint, parser = grammars.of(Request(tools=TOOLS)), OutputParser(TOOLS, in_thinking=False, dialects=dialects)
    barred = {TOKENIZER.control_id(one.opener) for one in dialects} - {TOKENIZER.control_id(dialects[0].opener)}
    for parts in ([Text("I look.")], dialects[0].replay("look", {}), [Text(" And more")]):
        for part in parts:
            parser.push(part if isinstance(part, Control) else part.text)
            constraint.at(parser.place, parser.tool, parser.num_calls)
        mask = constraint.mask()
        assert (set() if mask is None else set(np.flatnonzero(~mask))) == barred
    assert parser.num_calls == 1
    constraint.close()
    grammars.close()


@each_set
def test_without_tools_no_opener_can_be_written(dialects):
    grammars = Grammars(TOKENIZER, dialects)
    barred = {TOKENIZER.control_id(dialect.opener) for dialect in dialects}
    assert set(np.flatnonzero(~grammars.of(Request()).mask())) == barred
    grammars.close()


def test_a_dialect_whose_opener_the_vocabulary_lacks_does_no_harm():
    other = ArgumentsInJson()
    other.opener = "<|no_such_token|>"
    assert len(ThinkingTokens.of(TOKENIZER, dialects=(*DIALECTS, other)).calls) == 1
    grammars = Grammars(TOKENIZER, (*DIALECTS, other))
    assert grammars.of(Request()).mask().any()
    grammars.close()
