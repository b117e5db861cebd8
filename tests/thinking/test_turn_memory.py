"""Turns that come back: recognised with or without thinking, never when the client changed them."""

from __future__ import annotations

import json

import pytest

from a3b.prompt.chat_template import REPLAY_KEY, Closed
from a3b.prompt.normalise_messages import normalise_messages
from a3b.thinking.known_turns import MAX_ALIKE
from a3b.thinking.policy import ThinkingBlock
from a3b.thinking.turn import Turn, canonical
from a3b.thinking.turn_memory import TurnMemory
from tests.support.turns import (
    BEFORE,
    IDS,
    LOOK,
    RESULT,
    WRITTEN,
    Book,
    answer,
    call,
    encode_turn_tail,
    recall,
    remembered,
    user,
)


@pytest.mark.parametrize("sent", [None, "", "The sky, so blue.", "  The sky, so blue.\n"])
def test_a_turn_comes_back_as_sampled_whatever_the_client_kept_of_its_thinking(sent):
    messages, blocks = recall(remembered(BEFORE, WRITTEN), [*BEFORE, answer(thinking=sent), user("Why?")])
    assert messages[1][REPLAY_KEY] == IDS and messages[1]["reasoning_content"] == WRITTEN["reasoning_content"]
    assert blocks == [ThinkingBlock(1, 7, is_restored=not sent)]


DIALECTS = [
    {"reasoning": "The sky, so blue."},
    {"reasoning_content": "The sky, so blue."},
    {"thinking": "The sky, so blue."},
    {
        "reasoning_details": [
            {"type": "reasoning.text", "text": "The sky, so blue."},
            {"type": "reasoning.encrypted", "data": "x"},
        ]
    },
    {"content": "<think>\nThe sky, so blue.\n</think>\n\nIt is blue."},
    {"content": [{"type": "thinking", "thinking": "The sky, so blue."}, {"type": "text", "text": "It is blue."}]},
]


@pytest.mark.parametrize("form", DIALECTS)
def test_thinking_in_every_dialect_is_the_same_turn(form):
    history = [*BEFORE, {**answer(), **form}, user("Why?")]
    messages, blocks = recall(remembered(BEFORE, WRITTEN), history)
    assert messages[1][REPLAY_KEY] == IDS and not blocks[0].is_restored


@pytest.mark.parametrize("form", DIALECTS)
def test_thinking_in_every_dialect_is_kept_when_the_turn_is_unknown(form):
    messages, blocks = recall(TurnMemory(), [*BEFORE, {**answer(), **form}, user("Why?")])
    assert messages[1]["reasoning_content"] == "The sky, so blue." and messages[1]["content"] == "It is blue."
    assert blocks == [ThinkingBlock(1, 4, is_restored=False)]


def test_content_in_parts_is_the_same_turn():
    history = [*BEFORE, answer([{"type": "text", "text": "It is "}, {"type": "text", "text": "blue."}]), user("Why?")]
    assert recall(remembered(BEFORE, WRITTEN), history)[0][1][REPLAY_KEY] == IDS


@pytest.mark.parametrize(
    "changed",
    [
        answer("It is red."),
        answer("It is blue"),
        answer(thinking="Something else."),
        answer(calls=[call({})]),
        answer("<think>other</think>It is blue."),
    ],
)
def test_a_turn_that_the_client_changed_is_the_clients(changed):
    messages, blocks = recall(remembered(BEFORE, WRITTEN), [*BEFORE, changed, user("Why?")])
    assert REPLAY_KEY not in messages[1]
    assert not any(block.is_restored for block in blocks)


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "a", "depth": 2.0},
        '{"depth": 2, "path": "a"}',
        '{ "path":"a",\n"depth":2.0 }',
        {"depth": 2, "path": "a"},
    ],
)
def test_arguments_written_anew_still_match(arguments):
    turns = remembered(BEFORE, answer("", "Look.", [call({"path": "a", "depth": 2})]))
    messages, _ = recall(
        turns,
        [*BEFORE, answer("", calls=[call(arguments)]), {"role": "tool", "content": "x", "tool_call_id": "call_1"}],
    )
    assert messages[1][REPLAY_KEY] == IDS


def test_other_arguments_under_the_same_id_are_an_edit():
    turns = remembered(BEFORE, answer("", "Look.", [call({"path": "a"})]))
    messages, _ = recall(turns, [*BEFORE, answer("", calls=[call({"path": "b"})])])
    assert REPLAY_KEY not in messages[1]


def test_ids_of_calls_find_a_turn_in_a_conversation_that_was_rewritten():
    turns = remembered(BEFORE, answer("I look.", "Look.", [call({"path": "a"}, "call_77")]))
    messages, _ = recall(turns, [user("summary of before"), answer("", calls=[call({"path": "a"}, "call_77")])])
    assert messages[1][REPLAY_KEY] == IDS


def test_calls_whose_ids_the_client_made_itself_are_found_by_their_place():
    turns = remembered(BEFORE, answer("", "Look.", [call({"path": "a"}, "call_77")]))
    messages, _ = recall(turns, [*BEFORE, answer("", calls=[call({"path": "a"}, "toolu_own")])])
    assert messages[1][REPLAY_KEY] == IDS


def test_a_short_answer_is_not_mistaken_for_one_of_another_conversation():
    turns = TurnMemory()
    up, down = (
        "Is the server that we spoke of yesterday in the evening up, as far as you can see?",
        "Is the other one down?",
    )
    for question, thinking, ids in ((up, "First.", (1, 99)), (down, "Second.", (2, 99))):
        turns.remember(
            "", [user("Hi"), answer("Hello"), user(question)], Turn.of(answer("Yes.", thinking), ids, False, 1)
        )
    history = [user("Hi"), answer("Hello"), user(down), answer("Yes."), user("Sure?")]
    assert recall(turns, history)[0][3][REPLAY_KEY] == (2, 99)
    # long enough to tell, too short, not known
    for question, expected in ((up, (1, 99)), (down, None), ("Is it left?", None)):
        elsewhere = [user("Quite another start"), answer("Well"), user(question), answer("Yes."), user("Sure?")]
        assert recall(turns, elsewhere)[0][3].get(REPLAY_KEY) == expected


def test_of_answers_in_the_same_words_the_one_is_meant_whose_thinking_comes_back_else_the_latest():
    turns = TurnMemory()
    for thinking, ids in (("first: 5", (1, 99)), ("first: 6", (2, 99)), ("first: 7", (3, 99))):
        turns.remember("", BEFORE, Turn.of(answer("Done.", thinking), ids, False, 1))
    assert recall(turns, [*BEFORE, answer("Done.", "first: 6")])[0][1][REPLAY_KEY] == (2, 99)
    assert recall(turns, [*BEFORE, answer("Done.")])[0][1][REPLAY_KEY] == (3, 99)


def test_of_more_equal_answers_than_are_kept_the_newest_stay():
    turns = TurnMemory()
    for i in range(MAX_ALIKE + 1):
        turns.remember("", BEFORE, Turn.of(answer("Done.", f"thought {i}"), (i, 99), False, 1))
    assert recall(turns, [*BEFORE, answer("Done.")])[0][1][REPLAY_KEY] == (MAX_ALIKE, 99)
    assert recall(turns, [*BEFORE, answer("Done.", "thought 1")])[0][1][REPLAY_KEY] == (1, 99)
    assert REPLAY_KEY not in recall(turns, [*BEFORE, answer("Done.", "thought 0")])[0][1]


def test_an_answer_given_again_and_again_pushes_no_other_out():
    turns = TurnMemory()
    for thinking in ("other", *["same"] * (MAX_ALIKE + 1)):
        turns.remember("", BEFORE, Turn.of(answer("Done.", thinking), (len(thinking), 99), False, 1))
    assert recall(turns, [*BEFORE, answer("Done.", "other")])[0][1][REPLAY_KEY] == (5, 99)


def test_of_more_equal_answers_on_disk_than_are_kept_the_newest_stay():
    book = Book()
    for i in range(MAX_ALIKE + 1):
        book_of_one = TurnMemory(book)
        book_of_one.remember("", BEFORE, Turn.of(answer("Done.", f"thought {i}"), (i, 99), False, 1))
    turns = TurnMemory(book)
    for _ in range(2):  # read, and then remembered
        assert recall(turns, [*BEFORE, answer("Done.")])[0][1][REPLAY_KEY] == (MAX_ALIKE, 99)
        assert recall(turns, [*BEFORE, answer("Done.", "thought 1")])[0][1][REPLAY_KEY] == (1, 99)


def test_a_reminder_after_the_message_before_may_come_and_go():
    question = "Think of two numbers from 0 to 999. Tell me only the first."
    turns = remembered(
        [user("Before."), answer("Ok."), user(f"{question}\n\nReply in English.")],
        answer("The first number is 62.", "t"),
    )
    history = [
        user("Before."),
        answer("Ok."),
        user(question),
        answer("The first number is 62."),
        user("And the other?"),
    ]
    assert recall(turns, history)[0][3][REPLAY_KEY] == IDS
    other = [*history[:2], user("Think of three numbers from 0 to 999. Tell me only the first."), *history[3:]]
    assert REPLAY_KEY not in recall(turns, other)[0][3]


def test_two_answers_of_the_same_words_to_the_same_message_are_told_apart_by_the_conversation_or_not_at_all():
    turns = TurnMemory()
    more = "go on with the next of the files that I listed above, and tell me when it is done, please"
    for start, ids in (("one", (1, 99)), ("two", (2, 99))):
        turns.remember("", [user(start), answer("ok"), user(more)], Turn.of(answer("Done.", start), ids, False, 1))
    assert recall(turns, [user("two"), answer("ok"), user(more), answer("Done.")])[0][3][REPLAY_KEY] == (2, 99)
    assert REPLAY_KEY not in recall(turns, [user("cut"), answer("ok"), user(more), answer("Done.")])[0][3]


def test_system_messages_may_change_from_request_to_request():
    system = {"role": "system", "content": "Today is Monday."}
    turns = remembered([system, *BEFORE], WRITTEN)
    assert recall(turns, [{**system, "content": "Today is Tuesday."}, *BEFORE, answer()])[0][2][REPLAY_KEY] == IDS


def test_one_namespace_never_sees_the_turns_of_another():
    turns = remembered(BEFORE, answer("It is blue.", "Secret.", [call({}, "call_9")]), namespace="a")
    messages, blocks = recall(turns, [*BEFORE, answer("It is blue.", calls=[call({}, "call_9")])], namespace="b")
    assert REPLAY_KEY not in messages[1] and not blocks and "reasoning_content" not in messages[1]


def test_a_turn_without_thinking_is_replayed_after_a_closed_block():
    messages, blocks = recall(remembered(BEFORE, answer(thinking=""), closed=True), [*BEFORE, answer()])
    assert isinstance(messages[1][REPLAY_KEY], Closed) and not blocks


def test_turns_outlive_the_process_and_torn_records_are_as_if_they_were_not_there():
    book = Book()
    remembered(BEFORE, WRITTEN, records=book)
    assert recall(TurnMemory(book), [*BEFORE, answer()])[0][1][REPLAY_KEY] == IDS
    for page in book.pages.values():
        good = json.loads(page[0])
        page[:] = [
            b"\xff",
            b"[]",
            b"{}",
            json.dumps({**good, "ids": ["x"]}).encode(),
            json.dumps({**good, "calls": [[1]]}).encode(),
        ]
    messages, _ = recall(TurnMemory(book), [*BEFORE, answer()])
    assert REPLAY_KEY not in messages[1]


def test_what_another_process_forgot_is_forgotten_here_too():
    book = Book()
    turns = remembered(BEFORE, WRITTEN, records=book)
    turns.remember("", [user("kept in memory only")], Turn.of(answer("ok", "t"), IDS, False, 1), persist=False)
    book.pages.clear()
    assert recall(turns, [*BEFORE, answer()])[0][1][REPLAY_KEY] == IDS
    book.version = 2
    assert REPLAY_KEY not in recall(turns, [*BEFORE, answer()])[0][1]
    assert recall(turns, [user("kept in memory only"), answer("ok")])[0][1][REPLAY_KEY] == IDS


class Forgetful:
    """Records that give nothing back and change now and then."""

    num_calls = 0

    def put_record(self, *args) -> None:
        pass

    def get_records(self, *args) -> list:
        return []

    def changes(self) -> int:
        self.num_calls += 1
        return self.num_calls // 50


@pytest.mark.parametrize("records", [None, Forgetful()], ids=["memory", "records"])
def test_a_key_that_floods_the_memory_of_turns_takes_none_of_another(records):
    turns = TurnMemory(records, max_tokens=40 * 100)
    for i in range(10):
        turns.remember("quiet", [user(f"What {i}?")], Turn.of(answer(f"It is {i}."), IDS, False, 7), persist=False)
    for i in range(200):
        turns.remember("flood", [user(f"Why {i}?")], Turn.of(answer(f"So it is {i}."), IDS * 5, False, 7))
        turns.recall("flood", [user("x")], len, encode_turn_tail)
    for i in range(10):
        messages, _ = recall(turns, [user(f"What {i}?"), answer(f"It is {i}."), user("And?")], "quiet")
        assert messages[1][REPLAY_KEY] == IDS
    assert turns._known.num_tokens <= 40 * 100 and sum(turns._known._tokens_of.values()) == turns._known.num_tokens


def test_memory_of_turns_is_bounded():
    turns = TurnMemory(max_tokens=30 * 100)
    for i in range(50):
        turns.remember("", [user(str(i))], Turn.of(answer("ok", "t"), IDS, False, 1))
    assert REPLAY_KEY not in recall(turns, [user("0"), answer("ok")])[0][1]
    assert recall(turns, [user("49"), answer("ok")])[0][1][REPLAY_KEY] == IDS


def test_numbers_of_arguments_are_compared_by_value():
    assert canonical({"a": 1.0, "b": [2, {"c": 1e3}]}) == canonical({"b": [2.0, {"c": 1000}], "a": 1})
    assert canonical({"a": "1"}) != canonical({"a": 1}) and canonical({"a": True}) != canonical({"a": 1})


@pytest.mark.parametrize(
    "parts",
    [
        [answer("I look."), answer("", calls=LOOK["tool_calls"])],
        [answer("I look.", "Look."), answer("", calls=LOOK["tool_calls"])],
        [answer("", "Look."), answer("I look."), answer("", calls=LOOK["tool_calls"])],
        [
            answer("I look.", "Look."),
            {"role": "assistant", "content": None, "reasoning": "Look.", "tool_calls": LOOK["tool_calls"]},
        ],
        [answer("", "Look."), answer("I look.", calls=LOOK["tool_calls"])],
        [answer("", "Look."), answer("", calls=LOOK["tool_calls"])],
    ],
)
def test_a_turn_in_several_messages_is_one_turn_and_comes_back_once(parts):
    messages, blocks = recall(remembered(BEFORE, LOOK), [*BEFORE, *parts, RESULT])
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1][REPLAY_KEY] == IDS and [call["id"] for call in messages[1]["tool_calls"]] == ["call_1"]
    assert blocks == [ThinkingBlock(1, 7, is_restored=not any(part.get("reasoning_content") for part in parts))]


def test_calls_that_a_client_spread_over_messages_are_one_turn():
    calls = [call({"path": "a"}), call({"path": "b"}, "call_2")]
    turns = remembered(BEFORE, answer("I look.", "Look.", calls))
    messages, _ = recall(turns, [*BEFORE, answer("I look.", calls=calls[:1]), answer("", calls=calls[1:]), RESULT])
    assert len(messages) == 3 and messages[1][REPLAY_KEY] == IDS and messages[1]["tool_calls"] == calls


def test_text_that_the_client_changed_does_not_come_back_with_the_calls_after_it():
    parts = [answer("I look away."), answer("", calls=LOOK["tool_calls"])]
    messages, blocks = recall(remembered(BEFORE, LOOK), [*BEFORE, *parts, RESULT])
    assert [message["content"] for message in messages] == ["What colour?", "I look away.", "", "x"]
    assert not any(REPLAY_KEY in message for message in messages) and not blocks


def test_two_turns_in_a_row_stay_two():
    turns = remembered(BEFORE, WRITTEN)
    turns.remember("", [*BEFORE, answer()], Turn.of(answer("", "Look.", LOOK["tool_calls"]), (5, 99), False, 1))
    messages, _ = recall(turns, [*BEFORE, answer(), answer("", calls=LOOK["tool_calls"]), RESULT])
    assert [message.get(REPLAY_KEY) for message in messages] == [None, IDS, (5, 99), None]


def test_content_that_is_no_text_is_no_part_of_a_turn():
    image = answer([{"type": "image", "image": "x"}])
    messages, _ = recall(remembered(BEFORE, WRITTEN), [*BEFORE, answer(), image, answer("", calls=LOOK["tool_calls"])])
    assert [message.get(REPLAY_KEY) for message in messages] == [None, IDS, None, None]


def test_a_text_that_no_recognised_turn_knew_keeps_its_own_dates():
    turns = TurnMemory()
    turns.remember("", BEFORE, Turn.of(WRITTEN, IDS, False, 7, dates={"first": ("Monday",)}))
    own = {"first": ("Tuesday",), "second": ("Wednesday",)}
    found = turns.dates("", normalise_messages([*BEFORE, WRITTEN, user("Why?")])[0], own)
    assert found == {"first": ("Monday",), "second": ("Wednesday",)}
