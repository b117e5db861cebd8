"""Turns that come back: recognised with or without thinking, never when the client changed them; policies."""

from __future__ import annotations

import json

import pytest

from a3b.errors import UsageError
from a3b.interface.events import TruncationPoint
from a3b.prompt.chat_template import REPLAY_KEY, Closed
from a3b.prompt.normalise_messages import normalise_messages
from a3b.thinking.known_turns import MAX_ALIKE
from a3b.thinking.policy import ThinkingBlock, apply_policy
from a3b.thinking.turn import Turn, canonical
from a3b.thinking.turn_memory import TurnMemory

IDS = (11, 12, 13, 99)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(content: str = "It is blue.", thinking: str | None = None, calls: list | None = None) -> dict:
    message = {"role": "assistant", "content": content}
    if thinking is not None:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def call(arguments: object, call_id: str = "call_1", name: str = "get") -> dict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def remembered(before: list, message: dict, namespace: str = "", closed: bool = False, records=None) -> TurnMemory:
    turns = TurnMemory(records)
    turns.remember(namespace, before, Turn.of(message, IDS, closed, 7))
    return turns


def encode_turn_tail(ids, thinking: str | None, text: str) -> list:
    """A token of text is a character here."""
    return [*ids, *([] if thinking is None else [*thinking, "close"]), *text, "end"]


def recall(turns: TurnMemory, messages: list, namespace: str = ""):
    return turns.recall(namespace, normalise_messages(messages)[0], lambda text: len(text.split()), encode_turn_tail)


WRITTEN = answer(thinking="The sky, so blue.")
BEFORE = [user("What colour?")]


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


def test_a_reminder_behind_the_message_before_may_come_and_go():
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


def test_a_turn_without_thinking_is_replayed_behind_a_closed_block():
    messages, blocks = recall(remembered(BEFORE, answer(thinking=""), closed=True), [*BEFORE, answer()])
    assert isinstance(messages[1][REPLAY_KEY], Closed) and not blocks


class Book:
    """Records as a store keeps them."""

    def __init__(self):
        self.pages: dict[tuple[str, bytes], list[bytes]] = {}
        self.version = 1

    def put_record(self, namespace, key, value, node=None):
        self.pages.setdefault((namespace, key), []).append(value)

    def get_records(self, namespace, key):
        return self.pages.get((namespace, key), [])

    def changes(self):
        return self.version


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
    turns.forget()
    assert turns._known.num_tokens == 0 == max(turns._known._tokens_of.values())


def test_memory_of_turns_is_bounded():
    turns = TurnMemory(max_tokens=30 * 100)
    for i in range(50):
        turns.remember("", [user(str(i))], Turn.of(answer("ok", "t"), IDS, False, 1))
    assert REPLAY_KEY not in recall(turns, [user("0"), answer("ok")])[0][1]
    assert recall(turns, [user("49"), answer("ok")])[0][1][REPLAY_KEY] == IDS


def test_numbers_of_arguments_are_compared_by_value():
    assert canonical({"a": 1.0, "b": [2, {"c": 1e3}]}) == canonical({"b": [2.0, {"c": 1000}], "a": 1})
    assert canonical({"a": "1"}) != canonical({"a": 1}) and canonical({"a": True}) != canonical({"a": 1})


# -- turns that were stopped in mid-stream


STOPPED_IDS = (*"abc", "close", *"ABCDE")
STOPPED_CUTS = [
    TruncationPoint(0, True, 0, 0),
    TruncationPoint(1, True, 4, 0),
    TruncationPoint(3, True, 18, 0),
    TruncationPoint(4, False, 0, 0),
    TruncationPoint(5, False, 3, 0),
    TruncationPoint(7, False, 6, 0),
    TruncationPoint(8, False, 10, 0),
    TruncationPoint(9, False, 11, 0),
]


def stopped(
    before: list, message: dict, ids=STOPPED_IDS, cuts=STOPPED_CUTS, closed=False, namespace="", records=None
) -> TurnMemory:
    turns = TurnMemory(records)
    turns.remember(namespace, before, Turn.of(message, ids, closed, 3, cuts))
    return turns


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


# -- a turn in two messages


LOOK = answer("I look.", "Look.", [call({"path": "a"})])
RESULT = {"role": "tool", "content": "x", "tool_call_id": "call_1"}


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


def test_text_that_the_client_changed_does_not_come_back_with_the_calls_behind_it():
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


# -- policies


def conversation(*sizes: int) -> tuple[list[dict], list[ThinkingBlock]]:
    messages, blocks = [], []
    for i, size in enumerate(sizes):
        messages += [user(f"q{i}"), {**answer(f"a{i}", f"t{i}"), REPLAY_KEY: (i, 99)}]
        blocks.append(ThinkingBlock(2 * i + 1, size, is_restored=i % 2 == 0))
    return [*messages, user("last")], blocks


def kept(messages: list[dict]) -> list[int]:
    return [i for i, message in enumerate(messages) if REPLAY_KEY in message]


def test_all_keeps_every_block_and_counts_who_brought_it():
    messages, blocks = conversation(5, 6, 7)
    out, fates, keep = apply_policy(messages, blocks, "all")
    assert kept(out) == [1, 3, 5] and keep
    assert (fates.sent, fates.restored, fates.dropped) == (6, 12, 0)


def test_none_takes_all_thinking_out_and_leaves_the_answers():
    messages, blocks = conversation(5, 6)
    out, fates, _ = apply_policy(messages, blocks, "none")
    assert kept(out) == [] and [m["reasoning_content"] for m in out if m["role"] == "assistant"] == ["", ""]
    assert [m["content"] for m in out] == [m["content"] for m in messages] and fates.dropped == 11


def test_current_task_is_the_templates_own_rule():
    messages, blocks = conversation(5, 6)
    messages = messages[:-1]  # the last turn is the assistant's, behind the last question
    _, fates, keep = apply_policy(messages, blocks, "current-task")
    assert not keep and (fates.dropped, fates.sent) == (5, 6)


def test_a_budget_lets_the_oldest_leave_in_one_batch_and_then_the_beginning_stays_for_a_while():
    sizes = (30,) * 12
    lasting = []
    for n in range(1, 13):
        messages, blocks = conversation(*sizes[:n])
        out, fates, _ = apply_policy(messages, blocks, "budget:100")
        assert fates.sent + fates.restored <= 100
        lasting.append(kept(out)[0])
    changes = sum(a != b for a, b in zip(lasting, lasting[1:], strict=False))
    assert lasting[:3] == [1, 1, 1] and changes <= 4, lasting


def test_a_budget_that_is_just_spent_lets_nothing_leave():
    messages, blocks = conversation(40, 60)
    assert apply_policy(messages, blocks, "budget:100")[1].dropped == 0
    assert apply_policy(messages, blocks, "budget:99")[1].dropped == 100  # what is left must be half of it at most


def test_a_block_above_the_whole_budget_leaves_too():
    messages, blocks = conversation(500)
    assert apply_policy(messages, blocks, "budget:100")[1].dropped == 500


@pytest.mark.parametrize("policy", ["some", "budget", "budget:", "budget:-1", "budget:x", "all:1", ""])
def test_unknown_policies_are_refused(policy):
    with pytest.raises(UsageError, match="thinking policy"):
        apply_policy([], [], policy)
