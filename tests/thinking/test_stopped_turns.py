"""Turns that were stopped in mid-stream: whatever beginning a client has of one is replayed as it was sampled."""

from __future__ import annotations

import pytest

from a3b.interface.events import TruncationPoint
from a3b.prompt.chat_template import REPLAY_KEY, Closed
from a3b.thinking.policy import ThinkingBlock
from a3b.thinking.turn import Turn
from a3b.thinking.turn_memory import TurnMemory
from tests.support.turns import (
    BEFORE,
    STOPPED_CUTS,
    STOPPED_IDS,
    WRITTEN,
    Book,
    answer,
    call,
    recall,
    remembered,
    stopped,
    user,
)


@pytest.mark.parametrize("sent", [None, "The sky, so blue."])
@pytest.mark.parametrize(
    "content, ids",
    [
        ("It is blue.", "ABCDE"),
        ("It is blue", "ABCD"),
        ("It is bl", [*"ABC", "b", "l"]),
        ("It is", [*"ABC"]),
        ("It i", ["A", "i"]),
        ("I", ["I"]),
        ("It is bl\n\n[Response interrupted by user]", [*"ABC", *"bl\n\n[Response interrupted by user]"]),
        ("It is\n\n[Response interrupted by user]", ["A", *"is\n\n[Response interrupted by user]"]),
    ],
)
def test_a_beginning_of_a_stopped_turn_gets_its_thinking_back_and_no_more_text_than_it_has(content, ids, sent):
    turns = stopped(BEFORE, WRITTEN)
    messages, blocks = recall(turns, [*BEFORE, answer(content, sent), user("Go on.")])
    assert messages[1][REPLAY_KEY] == (*"abc", "close", *ids, "end")
    assert messages[1]["content"] == content and messages[1]["reasoning_content"] == "The sky, so blue."
    assert blocks == [ThinkingBlock(1, 3, is_restored=not sent)]


@pytest.mark.parametrize(
    "changed",
    [
        answer("It was blue."),
        answer("It is blue. And"),
        answer("is blue"),
        answer(""),
        answer("It is", "Something else."),
        answer("It is", "The sky"),
        answer("It is", calls=[call({})]),
        answer("", "sky"),
        answer("[Response interrupted by user]"),
        answer("It is\n\n[I think]"),
        answer("It is [interrupted] so"),
        answer("It was [interrupted]"),
    ],
)
def test_what_is_no_beginning_of_a_stopped_turn_is_the_clients(changed):
    messages, blocks = recall(stopped(BEFORE, WRITTEN), [*BEFORE, changed, user("Go on.")])
    assert REPLAY_KEY not in messages[1] and not any(block.is_restored for block in blocks)


def test_only_a_stopped_turn_is_known_by_a_beginning():
    messages, _ = recall(remembered(BEFORE, WRITTEN), [*BEFORE, answer("It is"), user("Go on.")])
    assert REPLAY_KEY not in messages[1]


@pytest.mark.parametrize(
    "content, sent, ids, thinking",
    [
        ("", None, [*"abc", "close"], "The sky, so blue"),
        ("", "The sky, so blue", [*"abc", "close"], "The sky, so blue"),
        ("", "The sky", ["a", *"sky", "close"], "The sky"),
        ("[interrupted]", "The", ["a", "close", *"[interrupted]"], "The"),
    ],
)
def test_thinking_that_was_stopped_goes_on_to_where_the_client_has_it_and_is_closed(content, sent, ids, thinking):
    cuts = [TruncationPoint(0, True, 0, 0), TruncationPoint(1, True, 4, 0), TruncationPoint(3, True, 16, 0)]
    turns = stopped(BEFORE, answer("", "The sky, so blue"), STOPPED_IDS[:3], cuts)
    messages, _ = recall(turns, [*BEFORE, answer(content, sent), user("Go on.")])
    assert messages[1][REPLAY_KEY] == (*ids, "end") and messages[1]["reasoning_content"] == thinking


def test_a_client_may_lack_the_last_of_the_thinking_although_the_text_had_begun():
    messages, blocks = recall(stopped(BEFORE, WRITTEN), [*BEFORE, answer("", "The sky, s"), user("Go on.")])
    assert messages[1][REPLAY_KEY] == ("a", *"sky, s", "close", "end") and not blocks[0].is_restored
    messages, _ = recall(stopped(BEFORE, WRITTEN), [*BEFORE, answer("", "The sky, so blue."), user("Go on.")])
    assert messages[1][REPLAY_KEY] == (*"abc", "close", "end")


def test_the_calls_that_a_client_got_before_it_left_are_a_beginning_too():
    calls = [call({"key": "x"}), call({"key": "y"}, "call_2")]
    cuts = [*STOPPED_CUTS[:5], TruncationPoint(6, False, 3, 1), TruncationPoint(8, False, 3, 2)]
    turns = stopped(BEFORE, answer("It", "The sky, so blue.", calls), STOPPED_IDS[:8], cuts)
    for num, ids in ((0, "A"), (1, "AB"), (2, "ABCD")):
        messages, _ = recall(turns, [*BEFORE, answer("It", calls=calls[:num]), user("Go on.")])
        assert messages[1][REPLAY_KEY] == (*"abc", "close", *ids, "end")
    messages, _ = recall(turns, [*BEFORE, answer("It", calls=[call({"key": "z"})]), user("Go on.")])
    assert REPLAY_KEY not in messages[1]


def test_a_call_that_was_not_closed_comes_back_as_text_with_the_thinking():
    turns = stopped(BEFORE, answer("It", "The sky, so blue.", [call({})]), STOPPED_IDS, STOPPED_CUTS[:5])
    messages, blocks = recall(turns, [*BEFORE, answer("It", calls=[call({})])])
    assert (
        REPLAY_KEY not in messages[1]
        and messages[1]["reasoning_content"] == "The sky, so blue."
        and blocks[0].is_restored
    )


def test_a_stopped_turn_is_found_where_the_conversation_was_rewritten_only_if_it_says_enough():
    text = "The first thing to say is that the sky has had this colour for as long as anybody can remember."
    cuts = [TruncationPoint(0, False, 0, 0), TruncationPoint(1, False, len(text), 0)]
    turns = stopped([user("Before."), answer("Ok."), *BEFORE], answer(text, ""), ("a",), cuts, closed=True)
    for content, is_known in ((text, True), (text[:85], True), (text[:60], False), ("", False)):
        messages, _ = recall(turns, [user("Summary."), answer("Well."), *BEFORE, answer(content), user("Go on.")])
        assert isinstance(messages[3].get(REPLAY_KEY), Closed) is is_known


def test_of_two_stopped_turns_that_a_rewritten_conversation_could_mean_none_is_taken():
    begun = "The first thing to say is that the sky has had this colour for as long as anybody can remember"
    for ends, is_known in ((("; so.", "; so."), True), (("; so.", "; but."), False)):
        turns = TurnMemory()
        for before, end, ids in (("One.", ends[0], (1,)), ("Two.", ends[1], (2,))):
            cuts = [TruncationPoint(0, False, 0, 0), TruncationPoint(1, False, len(begun), 0)]
            turn = Turn.of(answer(begun + end, "Why?"), ids if not is_known else (1,), False, 1, cuts)
            turns.remember("", [user(before), answer("Ok."), *BEFORE], turn)
        messages, _ = recall(turns, [user("Summary."), answer("Well."), *BEFORE, answer(begun), user("Go on.")])
        assert (messages[3].get("reasoning_content") == "Why?") is is_known


def test_of_several_stopped_turns_at_a_place_the_latest_is_meant_that_begins_so():
    turns = TurnMemory()
    for thinking, content, ids in (("one", "Yes, it is", (1,)), ("two", "Yes, it was", (2,)), ("three", "No", (3,))):
        cuts = [TruncationPoint(0, True, 0, 0), TruncationPoint(1, False, 0, 0)]
        turns.remember("", BEFORE, Turn.of(answer(content, thinking), ids, False, 1, cuts))
    for content, sent, thinking in (
        ("Yes, it i", None, "one"),
        ("Yes,", None, "two"),
        ("Yes,", "one", "one"),
        ("N", None, "three"),
    ):
        assert recall(turns, [*BEFORE, answer(content, sent), user("Go on.")])[0][1]["reasoning_content"] == thinking


def test_stopped_turns_outlive_the_process_and_stay_in_their_namespace():
    book = Book()
    stopped(BEFORE, WRITTEN, tuple(range(9)), namespace="a", records=book)
    history = [*BEFORE, answer("It is"), user("Go on.")]
    assert recall(TurnMemory(book), history, "a")[0][1][REPLAY_KEY] == (*range(7), "end")
    assert REPLAY_KEY not in recall(TurnMemory(book), history, "b")[0][1]
