"""Dates and times of a prompt: which are found, where they may be held, and which a conversation began with."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta

import pytest

from a3b.cache.disk_store import Store
from a3b.prompt.normalise_messages import normalise_messages
from a3b.thinking.known_turns import MAX_ALIKE
from a3b.thinking.stable_dates import (
    CLOSE,
    MASK,
    MAX_CHARS,
    MAX_DATES,
    OPEN,
    DatePreamble,
    undated,
    without_billing,
    without_billing_lines,
)
from a3b.thinking.turn import Turn
from a3b.thinking.turn_memory import TurnMemory


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def found(text: str) -> list[str]:
    return [date for dates in DatePreamble([system(text)]).dates.values() for date in dates]


WHOLE = """2026-11-25|2026/11/25|2026-11-25T17:05:12Z|2026-11-25T17:05:12.123456+01:00|2026-11-25 17:05
2026-11-25T17:05+0100|11/25/2026|25.11.2026|Nov 25, 2026|November 25th, 2026|Wed Nov 25 2026
Wed Nov  4 17:05:12 UTC 2026|25 November 2026|25. November 2026|Wednesday, November 25, 2026
Wednesday the 25th of November 2026|25-Nov-2026|Wed, 25 Nov 2026|Wednesday, November 25
2026-11-25 (Wednesday)|2026年11月25日|17:05:12|17:05:12.123|5:05 PM|5:05:12\u202fp.m.|17:05 UTC
17:05:12 GMT+0100 (Central European Standard Time)"""


@pytest.mark.parametrize("date", WHOLE.replace("\n", "|").split("|"))
@pytest.mark.parametrize("around", ["{}", "It is {}.", "<date>{}</date>", "- Today's date: {}\nNext", "[{}]", '"{}",'])
def test_dates_and_times_are_found_whole(date, around):
    assert found(around.format(date)) == [date]


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("Current time: 17:05", ["17:05"]),
        ("Time:17:05", ["17:05"]),
        ("at 17:05 on 25 November 2026", ["17:05", "25 November 2026"]),
        ("Today is Wednesday.", ["Wednesday"]),
        ("Day: Wed", ["Wed"]),
        ("timestamp: 1764090312", ["1764090312"]),
        ('{"timestamp":1764090312123}', ["1764090312123"]),
        ("Date:2026-11-25", ["2026-11-25"]),
        ("今天是2026-11-25", ["2026-11-25"]),
        ("11/25/2026, 5:05:12 PM", ["11/25/2026", "5:05:12 PM"]),
    ],
)
def test_what_is_ambiguous_alone_is_found_next_to_context(text, dates):
    assert found(text) == dates


@pytest.mark.parametrize(
    "text",
    [
        "John 3:16",
        "see 10:25",
        "a.py:12:30",
        "a.py:12:30:12",
        "09:00-17:00",
        "09:00:00-17:00:00",
        "gpt-4o-2024-08-06",
        "v1.2.2024",
        "1.2.3",
        "/logs/2026-11-25/",
        "2026-11-25.log",
        "2026-11-25-rc1",
        "log_2026-11-25",
        "fe80::12:30",
        "12:34:56:78:9a:bc",
        "10.0.0.1:8080",
        "2026",
        "Nov 25",
        "Closed on Wednesday",
        "id 1764090312",
        "2026-13-01",
        "2026-11-32",
        "25:05:12",
        "17:65:12",
        "12026-11-25",
        "C:\\2026-11-25",
    ],
)
def test_what_only_looks_like_a_date_is_none(text):
    assert found(text) == []


# -- where


REMINDED = f"{OPEN}\nToday's date is 2026-11-25.\n{CLOSE}\nWhat was on 2026-11-24?"


def test_dates_are_held_in_the_system_message_and_in_reminders_before_the_first_answer_and_nowhere_else():
    tool = {"role": "tool", "content": "2026-11-23"}
    messages = [system("It is 2026-11-25."), user(REMINDED), tool, answer("2026-11-22"), user(REMINDED)]
    preamble = DatePreamble(messages)
    assert sorted(preamble.dates.values()) == [("2026-11-25",), ("2026-11-25",)]
    out = preamble.with_dates(dict.fromkeys(preamble.dates, ("1999-01-01",)))
    assert out == [
        system("It is 1999-01-01."),
        user(REMINDED.replace("11-25", "01-01").replace("2026-01", "1999-01")),
        *messages[2:],
    ]
    assert preamble.with_dates(preamble.dates) == messages


@pytest.mark.parametrize(
    "text", [f"{OPEN} 2026-11-25", f"2026-11-25 {CLOSE}", f"{CLOSE} 2026-11-25 {OPEN}", "2026-11-25"]
)
def test_what_is_in_no_closed_reminder_is_the_users(text):
    assert DatePreamble([user(text)]).dates == {} and undated([user(text)]) == [user(text)]


def test_a_beginning_with_very_many_dates_or_characters_stays_as_it_is():
    assert len(found("2026-11-25 " * MAX_DATES)) == MAX_DATES and found("2026-11-25 " * (MAX_DATES + 1)) == []
    assert len(found("2026-11-25" + " " * (MAX_CHARS - 10))) == 1 and found("2026-11-25" + " " * (MAX_CHARS - 9)) == []


def test_messages_that_are_no_text_are_left_alone():
    parts = [{"type": "text", "text": REMINDED}, {"type": "image", "image": "x"}]
    assert DatePreamble([{"role": "user", "content": parts}]).dates == {}


# -- fuzz


FORMS = (
    "%Y-%m-%d|%Y/%m/%d|%Y-%m-%dT%H:%M:%SZ|%b %d, %Y|%a %b %d %Y|%A, %d %B "
    "%Y|%m/%d/%Y|%c|now %H:%M|%I:%M:%S %p|timestamp: %s"
    "|%a %b %d %H:%M:%S UTC %Y|%a, %d %b %Y %H:%M:%S GMT|Today is %A|%Y年%m月%d日|%d %B %Y"
).split("|")
FILLERS = ["You help.\n", " - ", "\n", ". It is ", ", ", f"{MASK} ", " (", "1.2.3 ", "x=", "\u00e9 ", f" {OPEN}"]


def test_any_two_texts_that_differ_by_their_dates_are_made_the_same():
    rng = random.Random(5)
    for _ in range(400):
        pieces = [rng.choice(FILLERS if rng.random() < 0.5 else FORMS) for _ in range(rng.randrange(1, 12))]
        days = [datetime(2026, 1, 1) + timedelta(seconds=rng.randrange(40_000_000)) for _ in range(2)]
        first, second = ([system("; ".join(d.strftime(p) if "%" in p else p for p in pieces))] for d in days)
        before, after = DatePreamble(first), DatePreamble(second)
        assert list(before.dates) == list(after.dates), (first, second)
        assert after.with_dates(before.dates) == first


def test_any_text_is_itself_with_its_own_dates():
    rng = random.Random(6)
    alphabet = ["\n", " ", MASK, *"2026|11|25|-|/|:|T|Z|Nov|Wed|,|PM|17|5|.|time|日|GMT|+01:00".split("|")]
    for _ in range(3000):
        messages = [
            system("".join(rng.choices(alphabet, k=rng.randrange(30)))),
            user(OPEN + "".join(rng.choices(alphabet, k=20)) + CLOSE),
        ]
        preamble = DatePreamble(messages)
        assert preamble.with_dates(preamble.dates) == messages


HARD = [
    "a",
    "1",
    " ",
    "Mon ",
    "17:05 ",
    "2026-11-25 ",
    "Wed Nov 25 17:05:12 ",
    "1764090312 ",
    "1:",
    "17:05:12.",
    "17:05 UTC (A",
    "time",
    "Nov  5 ",
    "2026/11/25T17:05:12",
    "now",
    "\n",
    OPEN,
    CLOSE,
    OPEN + CLOSE,
    f"{OPEN}17:05 {CLOSE}",
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", HARD)
@pytest.mark.parametrize("size", [MAX_CHARS, 4_000_000])
def test_a_search_is_linear_and_bounded(unit, size):
    text = (unit * (size // len(unit) + 1))[:size]
    begin = time.process_time()
    DatePreamble([system(text)])
    DatePreamble([user(text)])
    undated([user(text)])
    assert time.process_time() - begin < 5


# -- which dates a conversation began with


DAY1, DAY2, DAY3 = ([system(f"Today's date: 2026-11-{day}"), user("What colour?")] for day in (25, 26, 27))
LATER = [answer("It is blue."), user("Why?")]


def remember(turns: TurnMemory, messages: list, text: str = "It is blue.", namespace: str = "", **more) -> None:
    normalised = normalise_messages(messages)[0]
    turns.remember(
        namespace, normalised, Turn.of(answer(text), (1, 2), False, 0, dates=DatePreamble(normalised).dates), **more
    )


def told(turns: TurnMemory, messages: list, namespace: str = "") -> list:
    """The messages with the dates that their conversation began with."""
    normalised = normalise_messages(messages)[0]
    preamble = DatePreamble(normalised)
    return preamble.with_dates(turns.dates(namespace, normalised, preamble.dates))


def test_a_conversation_that_goes_on_keeps_the_dates_it_began_with_and_a_new_one_takes_its_own():
    turns = TurnMemory()
    remember(turns, DAY1)
    assert told(turns, [*DAY2, *LATER]) == [*DAY1, *LATER]
    assert told(turns, DAY2) == DAY2
    assert told(turns, [*DAY2, *LATER], "another key") == [*DAY2, *LATER]


def test_it_keeps_them_however_long_it_goes_on():
    turns, messages = TurnMemory(), list(DAY1)
    for i in range(5):
        remember(turns, messages, f"Answer {i}.")
        messages += [answer(f"Answer {i}."), user(f"Question {i}?")]
        assert told(turns, [*DAY2, *messages[2:]]) == messages


def test_examples_that_a_client_puts_before_its_question_begin_nothing():
    examples = [answer("It is blue."), user("Which shape?")]
    turns = TurnMemory()
    remember(turns, [*DAY1, *examples], "It is round.")
    assert told(turns, [*DAY2, *examples]) == [*DAY2, *examples]
    later = [*examples, answer("It is round."), user("Why?")]
    assert told(turns, [*DAY2, *later]) == [*DAY1, *later]


def test_a_turn_that_the_client_changed_and_a_changed_system_prompt_hold_nothing():
    turns = TurnMemory()
    remember(turns, DAY1)
    changed = [*DAY2, answer("It is red."), user("Why?")]
    assert told(turns, changed) == changed
    other = [system("The date today: 2026-11-26"), DAY2[1], *LATER]
    assert told(turns, other) == other


def test_of_conversations_alike_the_one_is_meant_whose_dates_these_are_else_the_one_answered_last():
    turns = TurnMemory()
    remember(turns, DAY1)
    remember(turns, DAY2)
    assert told(turns, [*DAY1, *LATER]) == [*DAY1, *LATER] and told(turns, [*DAY2, *LATER]) == [*DAY2, *LATER]
    assert told(turns, [*DAY3, *LATER]) == [*DAY2, *LATER]
    remember(turns, DAY1)
    assert told(turns, [*DAY3, *LATER]) == [*DAY1, *LATER]


def test_if_there_are_too_many_alike_the_dates_of_the_request_stay():
    turns = TurnMemory()
    for minute in range(10, 11 + MAX_ALIKE):
        remember(turns, [system(f"Now: 17:{minute}:00"), user("What colour?")])
    request = [system("Now: 17:10:00"), user("What colour?"), *LATER]
    assert told(turns, request) == request


def test_a_date_in_a_reminder_does_not_hide_the_turn_that_follows_it():
    first, later = (
        [user(REMINDED.replace("Today's date is 2026-11-25", f"It is now {now}"))]
        for now in ("2026-11-25", "2026-12-01")
    )
    turns = TurnMemory()
    remember(turns, first)
    assert told(turns, [*later, *LATER]) == [*first, *LATER]
    assert turns.recall("", [*later, *LATER], len, None)[0][1]["reasoning_content"] == ""
    edited = [user(first[0]["content"].replace("2026-11-24", "2026-11-20")), *LATER]
    assert told(turns, edited) == edited, "the user asks of another day"


def test_dates_outlive_the_process_per_key_and_go_when_the_conversation_is_forgotten(tmp_path):
    with Store(tmp_path) as store:
        remember(TurnMemory(store), DAY1, namespace="a", node=b"n" * 32)
    with Store(tmp_path) as store:
        assert told(TurnMemory(store), [*DAY2, *LATER], "a") == [*DAY1, *LATER]
        assert told(TurnMemory(store), [*DAY2, *LATER], "b") == [*DAY2, *LATER]
        turns = TurnMemory(store)
        remember(turns, DAY3, namespace="a")
        assert told(turns, [*DAY1, *LATER], "a") == [*DAY1, *LATER], "what was known before is known beside what is new"
        store._index.records.drop()
        assert told(TurnMemory(store), [*DAY2, *LATER], "a") == [*DAY2, *LATER]


def test_a_turn_without_dates_that_an_older_version_wrote_can_be_read():
    turn = Turn.of(answer("a"), (1,), False, 0, dates={"text": ("2026-11-25",)})
    assert Turn.from_bytes(turn.to_bytes()).dates == {"text": ("2026-11-25",)}
    assert Turn.from_bytes(turn.to_bytes().replace(b'"dates"', b'"data"')).dates == {}
    for wrong in (b"[7]", b"7"):
        with pytest.raises(ValueError):
            Turn.from_bytes(turn.to_bytes().replace(b'["2026-11-25"]', wrong))


# -- the line of Claude Code


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x-anthropic-billing-header: cch=1;\nBe kind.", "Be kind."),
        ("Be kind.\nx-anthropic-billing-header: cch=1;", "Be kind.\n"),
        ("Of x-anthropic-billing-header: nothing", "Of x-anthropic-billing-header: nothing"),
        ("x-anthropic-billing-header:", ""),
    ],
)
def test_the_line_of_bills_is_left_out(text, left):
    assert without_billing(text) == left
    assert without_billing_lines(system(text)) == system(left) and without_billing_lines(user(text)) == user(text)
    parts = [{"type": "text", "text": text}, {"type": "image"}, "x"]
    assert without_billing_lines({"role": "developer", "content": parts})["content"] == [
        {"type": "text", "text": left},
        *parts[1:],
    ]
