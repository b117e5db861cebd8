"""Answers are judged by the numbers they give, in whatever words."""

from __future__ import annotations

import pytest

from a3b.evals.benchmarks.needle.haystack import Fact, Facts
from a3b.evals.benchmarks.needle.judge import judged, numbers_in, spelled

BOX = Fact("red box", "crimson crate", 417, "The number of the red box is 417.")
DOOR = Fact("blue door", "azure entrance", 512, "The number of the blue door is 512.")
CUP = Fact("old cup", "ancient mug", 930, "The number of the old cup is 930.")
ONE = Facts((BOX,), (CUP,), "What is the number of the red box?")
TWO = Facts((BOX, DOOR), (CUP,), "What are the numbers of the red box and the blue door?")


@pytest.mark.parametrize(
    "answer",
    [
        "417",
        "The number of the red box is 417.",
        "It's #417!",
        "**417**",
        "$417$",
        "the code was four hundred seventeen",
        "Four hundred and seventeen.",
        "four-one-seven",
        "417. There are 3 boxes in all.",
        "It says (417).",
        "no. 417",
    ],
)
def test_the_number_counts_however_it_is_written(answer):
    assert judged(answer, ONE)[0] == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I do not know.",
        "418",
        "4170",
        "1417",
        "41.7",
        "417.5",
        "x417",
        "forty-seven",
        "417 or 930",
        "four hundred",
        "417,000",
    ],
)
def test_another_number_no_number_and_a_list_of_all_numbers_do_not(answer):
    assert judged(answer, ONE)[0] == 0.0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("The red box has 417 and the blue door has 512.", 1.0),
        ("red box: 417\nblue door: 512", 1.0),
        ("Blue door: 512; red box: 417.", 1.0),
        ("The crimson crate is 417, the azure entrance 512.", 1.0),
        ("417 and 512", 1.0),
        ("512 and 417", 0.0),
        ("red box: 512, blue door: 417", 0.0),
        ("The red box has 417. I do not know the blue door.", 0.5),
        ("red box: 417, blue door: 513", 0.5),
        ("417", 0.5),
        ("You asked for the red box and the blue door. The red box: 417. The blue door: 512.", 1.0),
        ("red box: 417, blue door: 512, old cup: 930", 0.5),
        ("930", 0.0),
        ("", 0.0),
    ],
)
def test_several_numbers_count_for_the_things_they_are_said_of(answer, score):
    assert judged(answer, TWO)[0] == score


def test_the_verdict_says_what_was_expected_and_what_came():
    assert judged("It is 5.", ONE)[1] == "expected red box: 417; answered 'It is 5.'"


def test_an_answer_of_any_size_is_judged_in_a_moment():
    for text in ("1" * 200_000, "one " * 100_000, "twenty-" * 100_000, "red box " * 50_000, "1,234," * 50_000):
        assert judged(text, TWO)[0] == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("seven", 7),
        ("one hundred", 100),
        ("hundred", 100),
        ("nine hundred ninety-nine", 999),
        ("two hundred and five", 205),
        ("five oh three", 503),
        ("nine nine nine", 999),
        ("forty two", 42),
    ],
)
def test_numbers_in_words_are_read(text, number):
    assert spelled(text) == number and numbers_in(f"It is {text}.")[0][1] == number


def test_words_that_only_contain_a_number_are_none():
    assert numbers_in("someone often weighs a tone in the phone") == []
