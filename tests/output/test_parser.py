"""From pieces of model output to events: syntax, recoveries, and independence of how the output was cut."""

from __future__ import annotations

import json
import random
import re

import pytest

from a3b.interface.events import TextDelta, ThinkingDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, assistant_message
from a3b.output.parser import OutputParser
from a3b.prompt.segments import Control
from tests.support.outputs import TOOLS, call, param, parse, pieces, recut, summary


def test_thinking_text_and_call_come_in_order_and_trimmed():
    assert parse("I see\n\nnow\n</think>\n\n Hi <b>\n\n" + call(param("path", "a") + param("count", "2"))) == [
        ThinkingDelta("I see\n\nnow"),
        TextDelta("Hi <b>"),
        ToolCallStart(0, "call_0", "put"),
        ToolCallDelta(0, '{"path": "a", "count": 2}'),
        ToolCallEnd(0, "call_0", "put", {"path": "a", "count": 2}),
    ]


def test_without_thinking_the_output_is_text_from_the_start():
    assert summary("Hi", in_thinking=False) == ("", "Hi", [])


def test_thinking_never_closed_stays_thinking():
    assert summary("hm, \\</think> is spelled\n") == ("hm, </think> is spelled", "", [])


def test_a_call_inside_thinking_ends_thinking():
    assert summary("let me look\n\n" + call(param("path", "x")) + "\nafter") == (
        "let me look",
        "after",
        [("put", {"path": "x"})],
    )


@pytest.mark.parametrize("word", ["<tool_call>", "\\<tool_call>", "</tool_call>", "<think>"])
def test_prose_may_speak_of_tags(word):
    spelled = word.replace("\\", "")
    assert summary(f"the tag {word} is\n</think>\n\nA {word} tag") == (
        f"the tag {spelled} is",
        f"A {spelled} tag",
        [],
    )


def test_prose_about_a_tag_is_not_held_back():
    parser = OutputParser(in_thinking=False)
    parser.push("The ")
    parser.push(Control("<tool_call>"))
    assert parser.push(" t") == [TextDelta(" <tool_call> t")]


def test_spelled_call_in_ordinary_tokens_is_text():
    text = call(param("path", "x"))
    assert summary(["Example:\n", text], in_thinking=False) == ("", "Example:\n" + text, [])


def test_repeated_tags_vanish():
    output = "<think>a</think></think>\n\nb" + call("") + "</tool_call>\n<think>c</think>d"
    assert summary(output) == ("ac", "b\nd", [("put", {})])


def test_other_control_tokens_come_as_their_names():
    assert summary([Control("</think>"), "x ", Control("<|im_start|>")]) == ("", "x <|im_start|>", [])


def test_several_calls_with_text_between_and_after():
    output = "</think>one\n\n" + call(param("count", "1")) + "\n" + call(param("count", "2")) + "\ntwo\n" + call("")
    assert summary(output + " three\n") == (
        "",
        "one\n\ntwo\nthree",
        [("put", {"count": 1}), ("put", {"count": 2}), ("put", {})],
    )


def test_two_functions_in_one_call_are_two_calls():
    inner = param("count", "1") + "</function>\n<function=other>\n" + param("x", "1")
    assert summary(call(inner), in_thinking=False)[2] == [("put", {"count": 1}), ("other", {"x": "1"})]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "\n",
        "a\n",
        "\n\na",
        "x < y && z",
        "<b>bold</b>",
        '"\\',
        "\u2028é😀\x00",
        "</parameter> here",
        "a</parameter>",
        "\n</parameter>\nmore",
        "</function>",
        "</function>\n",
        "<parameter=path>",
        "<param",
        "\n<parameter=path>",
        "\\<tool_call>\n\\</tool_call>",
        "\r\n",
        "  indented\n\ttab ",
    ],
)
def test_values_survive_exactly(value):
    arguments = {"path": value.replace("\\<", "<"), "body": value.replace("\\<", "<")}
    assert summary(call(param("path", value) + param("body", value)), in_thinking=False)[2] == [("put", arguments)]


@pytest.mark.parametrize(
    "value",
    [
        'if "<tool_call>" in text:',
        "<think>",
        "</think>",
        'if "</tool_call>" in text:',
        "see <tool_call>\nx\n</tool_call>.",
        "Example:\n" + call(param("city", "Rome") + param("zip", "1")) + "\nand so on",
        'not "</tool_call>" but\n' + call(param("city", "Rome")) + "\nand so on",
        "Two:\n" + call(param("city", "Rome")) + "\nthen\n" + call(param("city", "Oslo")) + "\nend",
    ],
)
@pytest.mark.parametrize("after", ["", "\n" + call("")])
def test_values_may_speak_of_calls_in_control_tokens(value, after):
    calls = summary(call(param("path", "x.md") + param("body", value)) + after, in_thinking=False)[2]
    assert calls[0] == ("put", {"path": "x.md", "body": value})
    assert len(calls) == 1 + bool(after)


@pytest.mark.parametrize(
    ("inner", "arguments"),
    [
        (
            "<function=put>\n<parameter=path>\na\n<parameter=count>\n1\n</parameter>\n</function>\n</tool_call>",
            {"path": "a", "count": 1},
        ),
        ("<function=put>\n<parameter=path>\na\n</function>\n</tool_call>", {"path": "a"}),
        ("<function=put>\n<parameter=path>\na\n</parameter>\n</tool_call>", {"path": "a"}),
        ("<function=put>\n<parameter=path>\na\n</tool_call>", {"path": "a"}),
        ("<function=put>\n<parameter=path>a</parameter></function></tool_call>", {"path": "a"}),
        (
            "<function=put>\n<parameter=path>\na\n</parameter>\n</parameter>\n</function>\n</tool_call>",
            {"path": "a\n</parameter>"},
        ),
        ('<function="put"><parameter="count">1</parameter></function></tool_call>', {"count": 1}),
        (
            '<function=put>\n{"path": "<b>", "count": "1"}\n</function>\n</tool_call>',
            {"path": "<b>", "count": 1},
        ),
        ("<function=put>\n</tool_call>", {}),
        ('{"name": "put", "arguments": {"path": "a"}}\n</tool_call>', {"path": "a"}),
        ('{"name": "put", "arguments": {"path": "a"}\n</tool_call>', {"path": "a"}),
        ('{"name": "put", "arguments": {"path": "</tool_call>"}}\n</tool_call>', {"path": "</tool_call>"}),
        (param("path", "a").join(("<function=put>\n", "</function>\n\\</tool_call>")), {"path": "a"}),
    ],
)
def test_drift_inside_a_call_is_recovered(inner, arguments):
    thinking, text, calls = summary("t</think>\n\nok\n<tool_call>\n" + inner)
    assert (thinking, text, calls) == ("t", "ok", [("put", arguments)])
    assert parse("</think><tool_call>" + inner)[-1].complete


def test_a_call_after_an_unclosed_one_is_found():
    output = "<tool_call>\n<function=put>\n" + param("path", "a") + call(param("path", "b"))
    assert summary(output)[2] == [("put", {"path": "a"}), ("put", {"path": "b"})]


@pytest.mark.parametrize(
    ("output", "arguments"),
    [
        ("<function=put>\n<parameter=body>\nrm -rf /tmp", {"body": "rm -rf /tmp"}),
        ("<function=put>\n<parameter=body>\na\n", {"body": "a"}),
        ("<function=put>\n<parameter=count>\n12", {"count": 12}),
        (
            "<function=put>\n<parameter=path>\na\n</parameter>\n<parameter=options>\n{",
            {"path": "a", "options": "{"},
        ),
        ("<function=put>\n<parameter=path>\na\n</parameter>\n", {"path": "a"}),
        ("<function=put>", {}),
        ('{"name": "put", "arguments": {"path": "a', {"path": "a"}),
    ],
)
def test_output_that_ends_inside_a_call_gives_an_incomplete_call(output, arguments):
    events = parse("<tool_call>\n" + output)
    assert events[-1] == ToolCallEnd(0, "call_0", "put", arguments, complete=False)
    assert json.loads(events[-2].text) == arguments


@pytest.mark.parametrize(
    "rest", ["", "\n", "\n<function=pu", "\n<function=a b>\nx", '\n{"name": ', "\n{'a': 1}", '{"a": 1}']
)
def test_output_without_a_function_name_is_text(rest):
    assert summary("</think>Hi <tool_call>" + rest) == ("", ("Hi <tool_call>" + rest).strip(), [])


def test_text_inside_a_call_comes_after_it():
    output = call("I call <it> {now}\n" + param("path", "a"))
    assert summary(output, in_thinking=False) == ("", "I call <it> {now}", [("put", {"path": "a"})])


def test_json_within_text_inside_a_call_is_text():
    assert summary(call('see {"path": "b"}\n'), in_thinking=False) == ("", 'see {"path": "b"}', [("put", {})])


def test_an_unknown_tool_is_a_call_with_strings():
    assert summary(call(param("n", "1"), name="nobody"))[2] == [("nobody", {"n": "1"})]


def test_strings_stream_while_they_are_written():
    parser = OutputParser(TOOLS, in_thinking=False)
    parser.push(Control("<tool_call>"))
    assert parser.push("\n<function=put>") == [ToolCallStart(0, "call_0", "put")]
    assert parser.push("\n<parameter=body>\nab") == [ToolCallDelta(0, '{"body": "ab')]
    assert parser.push('"c') == [ToolCallDelta(0, '\\"c')]
    assert parser.push("\n</par") == []
    assert parser.push("ty>") == [ToolCallDelta(0, "\\n</party>")]


def test_call_ids_come_from_the_caller_once_per_call():
    made = []
    parser = OutputParser(call_id=lambda index: made.append(index) or f"id{len(made)}")
    for piece in pieces(call("") + call("")):
        parser.push(piece)
    parser.finish()
    assert made == [0, 1]


def test_finish_twice_gives_nothing_and_push_after_finish_is_refused():
    parser = OutputParser()
    assert parser.push("a") + parser.finish() + parser.finish() == [ThinkingDelta("a")]
    with pytest.raises(RuntimeError, match="after finish"):
        parser.push("b")


def test_lone_surrogates_in_text_are_replaced_and_never_taken_for_tags():
    assert summary(["a\ud800\ud801b"]) == ("a\ufffd\ufffdb", "", [])


@pytest.mark.slow
def test_long_texts_in_one_piece_take_linear_time_and_come_out_whole():
    value = "x = '<'\n" * 20_000
    assert summary(call(param("body", value)), in_thinking=False)[2] == [("put", {"body": value})]


# Properties, over random outputs

SOUP = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "\\<tool_call>",
    "\\</tool_call>",
    "<function=put>",
    "<function=",
    "</function>",
    "<parameter=path>",
    "<parameter=body>",
    "<parameter=count>",
    "<parameter=note>",
    "<parameter=",
    "</parameter>",
    "\n<parameter=path>\n",
    "\n</parameter>\n",
    ">",
    "<",
    "{",
    "}",
    '{"name": "put", "arguments": {',
    '"a": 1',
    "null",
    "5",
    '"',
    "\\\\",
    "\n",
    "\n\n",
    " ",
    "\n" * 70,
    "é😀",
    "<tool_call>\n<function=put>\n",
    "</parameter>\n</function>\n</tool_call>",
    "<tool_call>\n",
    "\n<function=put>\n<parameter=path>\n",
    "</function>\n",
    "</parameter",
    "</param>",
    "</function",
    "</invoke>\n",
    "\n```\n",
    "'",
    "[",
    '[{"name": "put", "arguments": {}}, ',
    "]",
    "True,",
]


def random_soup(rng):
    """Random output full of tags; each word in it occurs once."""
    parts = [rng.choice(SOUP) if rng.random() < 0.75 else f"word{n}w" for n in range(rng.randrange(1, 25))]
    return pieces("".join(parts))


@pytest.mark.slow
def test_however_the_output_is_cut_the_events_are_the_same():
    rng = random.Random(1)
    for _ in range(900):
        output = random_soup(rng)
        options = {"in_thinking": rng.random() < 0.5}
        whole = parse(output, **options)
        for size in (1, 3, 12):
            assert parse(recut(output, rng, size), **options) == whole, output


def test_no_word_is_lost_and_fragments_always_parse_to_the_arguments():
    rng = random.Random(2)
    for _ in range(2500):
        output = random_soup(rng)
        events = parse(output, in_thinking=rng.random() < 0.5)
        shown = "".join(getattr(event, "text", "") + getattr(event, "name", "") for event in events)
        text = "".join(piece for piece in output if isinstance(piece, str))
        assert set(re.findall(r"word\d+w", text)) == set(re.findall(r"word\d+w", shown)), output
        calls = [event for event in events if isinstance(event, ToolCallEnd)]
        for number, end in enumerate(calls):
            deltas = [e.text for e in events if isinstance(e, ToolCallDelta) and e.index == number]
            assert json.loads("".join(deltas)) == end.arguments
        assert [e.index for e in events if isinstance(e, ToolCallStart)] == [e.index for e in calls]


ATOMS = [
    "a",
    "B",
    " ",
    "\n",
    "\n\n",
    "<",
    ">",
    "&",
    "</b>",
    '"',
    "\\",
    "{",
    "é",
    "😀",
    "</parameter>",
    "</function>",
    "<parameter=zz>",
    "<parameter=path>",
    "<tool_call>",
    "</think>",
    "\t",
    "null",
    "5",
    "<|im_end|>",
]
AMBIGUOUS = re.compile(r"</(parameter|function)>\s*<(parameter|function)=")


def any_text(rng):
    return "".join(rng.choices(ATOMS, k=rng.randrange(12)))


def random_text(rng):
    while AMBIGUOUS.search(text := any_text(rng)):
        pass
    return text


def random_arguments(rng):
    """JSON may hold any text, strings none that ends them."""
    values = {
        "path": random_text(rng),
        "body": random_text(rng),
        "note": rng.choice([None, "x" + random_text(rng)]),
        "count": rng.randrange(-5, 10**20),
        "force": rng.random() < 0.5,
        "options": {any_text(rng): [rng.random(), None, any_text(rng)]},
        "names": [any_text(rng), {}],
    }
    return {key: values[key] for key in rng.sample(list(values), rng.randrange(len(values)))}


def render(message):
    """An assistant message as the chat template writes it, from inside `<think>` on: pieces."""
    output = [
        message["reasoning_content"].strip() + "\n",
        Control("</think>"),
        "\n\n" + message["content"].strip(),
    ]
    for number, tool_call in enumerate(message.get("tool_calls", ())):
        output.append("\n" if number else "\n\n" if message["content"].strip() else "")
        inner = "".join(
            param(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for key, value in tool_call["function"]["arguments"].items()
        )
        output += [Control("<tool_call>"), f"\n<function=put>\n{inner}</function>\n", Control("</tool_call>")]
    return output


def test_a_message_rendered_and_parsed_is_the_same_message():
    rng = random.Random(3)
    for _ in range(400):
        calls = [
            {
                "id": f"call_{n}",
                "type": "function",
                "function": {"name": "put", "arguments": random_arguments(rng)},
            }
            for n in range(rng.randrange(3))
        ]
        message = {
            "role": "assistant",
            "content": random_text(rng).strip(),
            "reasoning_content": random_text(rng).strip(),
        } | ({"tool_calls": calls} if calls else {})
        events = parse(recut(render(message), rng, 9))
        assert assistant_message(events) == message
        assert all(event.complete for event in events if isinstance(event, ToolCallEnd))


@pytest.mark.parametrize("stray", ["note\n", "note\n" + param("path", "x"), " " * 80, "</parameter>\n"])
def test_a_number_ends_at_its_tag_whatever_follows(stray):
    output = "</think>" + call(param("count", "5") + stray)
    _, text, [(name, arguments)] = summary(output)
    assert name == "put" and arguments["count"] == 5 and ("note" in text) == ("note" in stray)
    assert arguments.keys() == ({"count", "path"} if "path" in stray else {"count"})
    one_by_one = [char for piece in pieces(output) for char in ([piece] if isinstance(piece, Control) else piece)]
    assert parse(one_by_one) == parse(output)
