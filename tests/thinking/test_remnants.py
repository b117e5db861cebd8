"""Turns that clients send back mangled: remnants of our thinking are restored, what was edited stays the client's."""

from __future__ import annotations

import html
import json
import time
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from a3b.prompt.chat_template import REPLAY_KEY
from a3b.prompt.normalise_messages import normalise_messages
from a3b.thinking.policy import ThinkingBlock
from a3b.thinking.remnants import is_remnant, plain, settled
from a3b.thinking.turn import Turn, canonical
from a3b.thinking.turn_memory import TurnMemory
from tests.support.turns import (
    BEFORE,
    IDS,
    LOOK,
    RESULT,
    STOPPED_CUTS,
    WRITTEN,
    Book,
    answer,
    call,
    encode_turn_tail,
    recall,
    remembered,
    stopped,
    user,
)

THOUGHT = (
    "The user wants a <b>blue</b> sky & a caf\u00e9.\n\n1. The PIN is "
    '4711,\n   which I keep.\r\n2. So "blue" it is, then.'
)
TURN = answer(thinking=THOUGHT)
AFTER = [user("Why?")]


def is_restored(sent: str, thinking: str = THOUGHT, **message) -> bool:
    turns = remembered(BEFORE, answer(thinking=thinking))
    messages, blocks = recall(turns, [*BEFORE, answer(thinking=sent, **message), *AFTER])
    if messages[1].get(REPLAY_KEY) == IDS:
        assert messages[1]["reasoning_content"] == thinking and len(blocks) == 1
        return True
    assert (
        blocks == [ThinkingBlock(1, len(sent.split()), is_restored=False)]
        and messages[1]["reasoning_content"].strip() == sent.strip()
    )
    return False


# -- remnants of thinking


@pytest.mark.parametrize(
    "sent",
    [
        "it is, then.",
        "then.",
        ".",
        " then.",
        "The user",
        "T",
        THOUGHT[:60],
        THOUGHT[-60:],
        THOUGHT.replace("\n", "\r\n"),
        " ".join(THOUGHT.split()),
        "\n".join(line.strip() for line in THOUGHT.splitlines()),
        unicodedata.normalize("NFD", THOUGHT),
        html.escape(THOUGHT),
        html.escape(THOUGHT)[:22],
        html.escape(THOUGHT[-40:]),
        html.escape(THOUGHT, quote=False),
        THOUGHT[:50] + "...",
        THOUGHT[:50] + "\u2026",
        THOUGHT[:50] + "\n[truncated]",
        THOUGHT[:50] + " [... 1,024 characters truncated ...]",
        THOUGHT[:50] + "(truncated)",
        THOUGHT[:50] + " [Truncated]",
        "<TRUNCATED> " + THOUGHT[-30:],
        THOUGHT[:50] + "[...]",
        "..." + THOUGHT[-30:],
        "[truncated] " + THOUGHT[-30:],
        THOUGHT + "...",
        "...",
        "[truncated]",
        f"<think>\n{THOUGHT}\n</think>",
        f"<think>{THOUGHT[:30]}",
        f"{THOUGHT[-30:]}</think>",
        THOUGHT + THOUGHT,
        f"{THOUGHT}\n\n{THOUGHT}",
    ],
)
def test_what_a_client_kept_of_the_thinking_counts_as_dropped(sent):
    assert is_restored(sent)


@pytest.mark.parametrize(
    "sent",
    [
        THOUGHT.replace("4711", "0000"),
        THOUGHT.replace("The PIN is 4711,", ""),
        THOUGHT.replace("4711", "..."),
        THOUGHT.replace("4711", "[redacted]"),
        THOUGHT[:80] + " [redacted]",
        "PIN is 4711",
        "..." + THOUGHT[20:50] + "...",
        THOUGHT.replace("blue", "red"),
        THOUGHT + " And red.",
        "No: " + THOUGHT,
        "the user wants",
        THOUGHT.lower(),
        "Red.",
        THOUGHT[:50] + "[truncated] and more",
    ],
)
def test_thinking_that_was_edited_stays_the_clients(sent):
    assert not is_restored(sent)


THINKING = st.text(st.sampled_from("ab \n\u00e9<&.\u4e2d"), min_size=1, max_size=40).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(THINKING, st.data())
def test_every_beginning_and_every_end_is_restored(thinking, data):
    cut = data.draw(st.integers(0, len(thinking)))
    sent = data.draw(st.sampled_from([thinking[:cut], thinking[cut:]]))
    mangle = data.draw(
        st.sampled_from(
            [str, html.escape, str.strip, lambda text: text.replace("\n", "\r\n"), lambda text: f"  {text}\n"]
        )
    )
    assert is_remnant(mangle(sent), plain(thinking))


@settings(max_examples=150, deadline=None)
@given(THINKING, st.data())
def test_whatever_is_neither_beginning_nor_end_is_not(thinking, data):
    start = data.draw(st.integers(0, len(thinking)))
    end = data.draw(st.integers(start, len(thinking)))
    sent = thinking[:start] + data.draw(st.sampled_from(["x", "no, ", "\u4e2dx", ""])) + thinking[end:]
    whole, text = plain(thinking), plain(sent)
    assume(text and not whole.startswith(text) and not whole.endswith(text))
    assume(
        not any(text.startswith(mark) or text.endswith(mark) for mark in ("...", "\u2026"))
        and plain(html.unescape(sent)) == text
    )
    assume(not text.endswith(whole))
    assert not is_remnant(sent, whole)


def test_thinking_that_a_client_added_up_over_the_conversation_is_that_of_each_turn():
    turns, history, thoughts = TurnMemory(), [], []
    for i in range(4):
        history.append(user(f"question {i}"))
        thoughts.append(f"thought {i},\nso.")
        turns.remember("", history, Turn.of(answer(f"answer {i}", thoughts[-1]), (i, 99), False, 5))
        history.append(answer(f"answer {i}", thinking="\n\n".join(thoughts)))
    messages, blocks = recall(turns, [*history, *AFTER])
    assert [message[REPLAY_KEY] for message in messages if message["role"] == "assistant"] == [
        (i, 99) for i in range(4)
    ]
    assert len(blocks) == 4
    history[7] = answer("answer 3", thinking="\n\n".join(["my own", *thoughts[1:]]))
    assert REPLAY_KEY not in recall(turns, history)[0][7]


def test_the_whole_thinking_is_preferred_to_what_may_be_a_remnant():
    turns = TurnMemory()
    for thinking, ids in (("so", (1, 99)), ("and so", (2, 99)), ("and so on", (3, 99))):
        turns.remember("", BEFORE, Turn.of(answer(thinking=thinking), ids, False, 1))
    for sent, ids, is_ours in (
        ("so", (1, 99), False),
        ("and  so", (2, 99), False),
        ("and", (3, 99), True),
        ("on", (3, 99), True),
    ):
        messages, blocks = recall(turns, [*BEFORE, answer(thinking=sent), *AFTER])
        assert (messages[1][REPLAY_KEY], blocks[0].is_restored) == (ids, is_ours)


def test_a_remnant_with_other_content_other_calls_or_in_another_place_is_the_clients():
    turns = remembered(BEFORE, LOOK)
    for history in (
        [*BEFORE, answer("I look away.", "Look", LOOK["tool_calls"]), RESULT],
        [*BEFORE, answer("I look.", "Look")],
        [*BEFORE, answer("I look.", "Look", [call({"path": "b"})]), RESULT],
    ):
        assert REPLAY_KEY not in recall(turns, history)[0][1]
    assert (
        REPLAY_KEY not in recall(remembered(BEFORE, TURN), [user("What else?"), answer(thinking="then."), *AFTER])[0][1]
    )


def test_a_remnant_restores_nothing_of_another_namespace():
    turns = remembered(BEFORE, answer("I look.", THOUGHT, LOOK["tool_calls"]), namespace="a")
    messages, blocks = recall(turns, [*BEFORE, answer("I look.", "then.", LOOK["tool_calls"]), RESULT], namespace="b")
    assert messages[1]["reasoning_content"] == "then." and not blocks[0].is_restored


def test_a_remnant_where_the_conversation_was_rewritten_needs_one_turn_that_fits():
    turns, long = (
        TurnMemory(),
        user("Is the server that we spoke of yesterday in the evening up, as far as you can see from here?"),
    )
    turns.remember("", [user("a"), answer("b"), long], Turn.of(answer("Yes.", "one so"), (1, 99), False, 1))
    elsewhere = [user("Another start"), answer("c"), long, answer("Yes.", "so"), *AFTER]
    assert recall(turns, elsewhere)[0][3][REPLAY_KEY] == (1, 99)
    turns.remember("", [user("d"), answer("b"), long], Turn.of(answer("Yes.", "two so"), (2, 99), False, 1))
    assert REPLAY_KEY not in recall(turns, elsewhere)[0][3]


@pytest.mark.parametrize("inline", ["The sky, so blue.", "The sky", "so blue."])
@pytest.mark.parametrize("beside", ["The sky, so blue.", "blue.", "The"])
def test_thinking_that_comes_inline_and_beside_the_content_is_one(inline, beside):
    message = answer(f"<think>\n{inline}\n</think>\n\nIt is blue.", beside)
    is_known = is_remnant(inline, beside) or is_remnant(beside, inline)
    assert (recall(remembered(BEFORE, WRITTEN), [*BEFORE, message])[0][1].get(REPLAY_KEY) == IDS) is is_known


@pytest.mark.parametrize("sent", ["blue.", " blue.", "The  sky, so blue.", "so blue.\n"])
def test_a_stopped_turn_with_text_knows_the_end_of_its_thinking(sent):
    messages, blocks = recall(stopped(BEFORE, WRITTEN), [*BEFORE, answer("It is", sent), user("Go on.")])
    assert (
        messages[1][REPLAY_KEY] == (*"abc", "close", *"ABC", "end")
        and messages[1]["reasoning_content"] == "The sky, so blue."
    )
    assert blocks[0].is_restored is (plain(sent) != "The sky, so blue.")


def test_of_stopped_turns_the_one_with_the_whole_thinking_is_meant():
    turns = TurnMemory()
    for thinking, ids in (("so", "x"), ("and so", "y")):
        turns.remember("", BEFORE, Turn.of(answer("It is", thinking), (ids,), False, 3, STOPPED_CUTS[:1]))
    assert recall(turns, [*BEFORE, answer("It is", "so")])[0][1]["reasoning_content"] == "so"


# -- content


@pytest.mark.parametrize(
    "content",
    [
        "It is\nblue.\n\nRight\u00e9?",
        "  It is  \nblue.\t\n\nRight\u00e9?\n",
        "It is\r\nblue.\r\n\r\nRight\u00e9?",
        "It is\nblue.\n\nRighte\u0301?",
    ],
)
def test_line_endings_trailing_spaces_and_composition_do_not_count_as_edits(content):
    written = answer("It is\nblue.\n\nRight\u00e9?", "Look.")
    history = [*BEFORE, answer(content), *AFTER]
    turns = remembered(BEFORE, written)
    turns.remember("", [*BEFORE, written, *AFTER], Turn.of(answer("So.", "Next."), (7, 99), False, 1))
    messages, _ = recall(turns, [*history, answer("So.")])
    assert [message.get(REPLAY_KEY) for message in messages] == [None, IDS, None, (7, 99)]


@pytest.mark.parametrize("content", ["It is\n  blue.", "It  is\nblue.", "It is blue."])
def test_other_white_space_is_an_edit_of_the_content(content):
    assert (
        REPLAY_KEY not in recall(remembered(BEFORE, answer("It is\nblue.", "Look.")), [*BEFORE, answer(content)])[0][1]
    )


def ended(stops: tuple[str, ...], ids=IDS, content="Action: look", records=None) -> TurnMemory:
    turns = TurnMemory(records)
    turns.remember("", BEFORE, Turn.of(answer(content, "Look."), ids, False, 7, stops=stops))
    return turns


@pytest.mark.parametrize(
    ("sent", "stops"),
    [
        ("Action: look\nObservation:", ("\nObservation:",)),
        ("Action: look\nObservation: ", ("Observation:",)),
        ("Action: look</a>", ("Observation:", "</a>")),
        ("Action: look END", (" END",)),
    ],
)
@pytest.mark.parametrize("thinking", [None, "Look.", "k."])
def test_a_stop_string_of_the_request_at_the_end_of_the_content_is_known(sent, stops, thinking):
    turns = ended(stops)
    messages, _ = recall(turns, [*BEFORE, answer(sent, thinking), *AFTER])
    assert messages[1][REPLAY_KEY] == (*IDS[:-1], *sent.strip().removeprefix("Action: look"), "end")
    assert messages[1]["reasoning_content"] == "Look." and messages[1]["content"] == sent
    turns.remember("", [*messages, *AFTER], Turn.of(answer("So.", "Next."), (7, 99), False, 1))
    assert recall(turns, [*BEFORE, answer(sent, thinking), *AFTER, *AFTER, answer("So.")])[0][-1][REPLAY_KEY] == (7, 99)


def test_a_turn_of_no_ids_gets_its_thinking_back_before_the_stop_string():
    messages, blocks = recall(ended(("END",), ids=()), [*BEFORE, answer("Action: lookEND"), *AFTER])
    assert REPLAY_KEY not in messages[1] and messages[1]["reasoning_content"] == "Look." and blocks[0].is_restored


@pytest.mark.parametrize(
    "sent", ["Action: look\nResult:", "Action: look\nObservation: 5", "Action:\nObservation:", "\nObservation:"]
)
def test_other_text_at_the_end_of_the_content_is_an_edit(sent):
    assert REPLAY_KEY not in recall(ended(("\nObservation:",)), [*BEFORE, answer(sent), *AFTER])[0][1]
    assert REPLAY_KEY not in recall(ended(()), [*BEFORE, answer("Action: look\nObservation:"), *AFTER])[0][1]


def test_stop_strings_outlive_the_process():
    book = Book()
    ended(("END",), records=book)
    assert recall(TurnMemory(book), [*BEFORE, answer("Action: lookEND")])[0][1]["reasoning_content"] == "Look."


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|im_end|>\n", " <|im_end|>", "<|endoftext|>"])
def test_an_end_of_turn_that_a_client_left_in_the_text_is_taken_away_from_a_turn_that_is_known(mark):
    messages, _ = recall(remembered(BEFORE, WRITTEN), [*BEFORE, answer(f"It is blue.{mark}"), *AFTER])
    assert (messages[1][REPLAY_KEY], messages[1]["content"].strip()) == (IDS, "It is blue.")
    other = answer(f"It is red.{mark}")
    assert recall(remembered(BEFORE, WRITTEN), [*BEFORE, other, *AFTER])[0][1]["content"] == other["content"]


# -- calls

ARGUMENTS = {"path": "a\u00e9<b>", "depth": 2, "big": 12345678901234567890, "list": [1.0, {"z": 1, "a": None}]}


@pytest.mark.parametrize(
    "arguments",
    [
        json.dumps(ARGUMENTS),
        json.dumps(ARGUMENTS, ensure_ascii=False, indent=4),
        json.dumps(ARGUMENTS, sort_keys=True),
        # Go, JavaScript
        json.dumps(ARGUMENTS).replace("<", "\\u003c").replace("12345678901234567890", "12345678901234567000"),
        json.dumps(ARGUMENTS).replace("2,", "2.0,").replace("12345678901234567890", "1.2345678901234567e19"),
    ],
)
@pytest.mark.parametrize("call_id", ["call_1", "call_", "fc6a1b2c3", None, "toolu_" + "x" * 60])
def test_arguments_and_ids_that_were_written_anew_are_the_same_call(arguments, call_id):
    turns = remembered(BEFORE, answer("I look.", "Look.", [call(ARGUMENTS)]))
    history = [*BEFORE, answer("I look.", "ook.", [call(arguments, call_id)]), {**RESULT, "tool_call_id": call_id}]
    assert recall(turns, history)[0][1][REPLAY_KEY] == IDS


def test_numbers_that_javascript_tells_apart_are_other_numbers():
    assert (
        canonical({"a": 2**53 - 1}) != canonical({"a": 2**53 - 2})
        and canonical({"a": 10**400}) == '{"a":1' + "0" * 400 + "}"
    )
    assert canonical({"a": True}) != canonical({"a": 1})


def interleaved(*ids: str) -> list[dict]:
    parts = [
        (answer("", calls=[call({"key": i}, i)]), {"role": "tool", "tool_call_id": i, "content": f"R{i}"}) for i in ids
    ]
    return [message for part in parts for message in part]


def several(*ids: str, content: str = "") -> dict:
    return answer(content, "Look.", [call({"key": i}, i) for i in ids])


@pytest.mark.parametrize("ids", ["ab", "abc", "abcdefghijkl"])
def test_calls_of_one_turn_with_their_results_between_them_are_one_turn(ids):
    turns = remembered(BEFORE, several(*ids))
    normalised = turns.rejoined("", normalise_messages([*BEFORE, *interleaved(*ids), *AFTER])[0])
    messages, blocks = turns.recall("", normalised, len, encode_turn_tail)
    assert [message["content"] for message in messages] == ["What colour?", "", *(f"R{i}" for i in ids), "Why?"]
    assert messages[1][REPLAY_KEY] == IDS and blocks == [ThinkingBlock(1, 7, is_restored=True)]


def test_results_that_come_late_within_such_a_turn_stand_with_their_calls():
    turns = remembered(BEFORE, several(*"abc", content="I look."))
    results = {i: {"role": "tool", "tool_call_id": i, "content": f"R{i}"} for i in "abc"}
    first = answer("I look.", calls=several(*"ab")["tool_calls"])
    history = [
        *BEFORE,
        first,
        results["b"],
        answer("", calls=several("c")["tool_calls"]),
        results["a"],
        results["c"],
        *AFTER,
    ]
    messages, _ = turns.recall("", turns.rejoined("", normalise_messages(history)[0]), len, encode_turn_tail)
    assert [message["content"] for message in messages] == ["What colour?", "I look.", "Ra", "Rb", "Rc", "Why?"]
    assert messages[1][REPLAY_KEY] == IDS


def test_calls_that_were_made_one_after_the_other_stay_so():
    turns = remembered(BEFORE, several("a"))
    turns.remember("", [*BEFORE, *interleaved("a")], Turn.of(several("b"), (7, 99), False, 1))
    turns.remember("other", BEFORE, Turn.of(several("a", "b"), (8, 99), False, 1))
    normalised = normalise_messages([*BEFORE, *interleaved("a", "b")])[0]
    assert turns.rejoined("", normalised) == normalised
    assert [message.get(REPLAY_KEY) for message in turns.recall("", normalised, len, encode_turn_tail)[0]] == [
        None,
        IDS,
        None,
        (7, 99),
        None,
    ]


# -- bounds


def test_hostile_texts_cost_time_in_proportion():
    long = "e" + "\u0301\u0323" * 200_000
    begin = time.process_time()
    for sent in (
        long,
        long + "...",
        "&lt;" * 100_000,
        "[" * 200_000,
        "." * 200_000 + "x",
        " " * 400_000 + "x",
        "\r" * 400_000 + "x",
    ):
        assert not is_remnant(sent, plain("ours " * 50_000))
        settled(sent)
    assert time.process_time() - begin < 20
