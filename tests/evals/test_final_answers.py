"""What counts as the final answer of a text. All items are made for these tests."""

from __future__ import annotations

import pytest

from a3b.evals.benchmarks.final_answers import MAX_TEXT, between_tags, boxed, whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"So it is \boxed{42}.", 42),
        (r"$$\boxed{042}$$", 42),
        (r"\boxed{7} was wrong, \boxed{8} is right.", 8),
        (r"\boxed {\text{ 12 }}", 12),
        (r"\boxed{45^\circ}", 45),
        (r"\boxed{45^{\circ}}", 45),
        (r"\fbox{3}", 3),
        (r"$\boxed{\,0\,}$", 0),
        (r"\boxed{\mathbf{9}}", 9),
        ("ANSWER: 17", 17),
        ("answer: $017$", 17),
        ("**ANSWER: 17**", 17),
        ("ANSWER: 1\nno,\nANSWER: 2.", 2),
        (r"ANSWER: 5, in a box: \boxed{6}", 6),
        (r"\boxed{1+1}", None),
        (r"\boxed{x = 4}", None),
        (r"\boxed{1.5}", None),
        (r"\boxed{-3}", None),
        (r"\boxed{12 or 13}", None),
        (r"\boxed{\frac{1}{2}}", None),
        (r"\boxed{}", None),
        (r"\boxed{12", None),
        ("ANSWER: 1.5", None),
        ("ANSWER: 1,000", None),
        ("ANSWER: -5", None),
        ("ANSWER: none", None),
        ("It is 42.", None),
        ("", None),
        ("ANSWER: ٤", None),
    ],
)
def test_a_whole_number_is_the_last_that_is_stated(text, number):
    assert whole_number(text) == number


def test_braces_within_a_box_belong_to_it():
    assert boxed(r"\boxed{\{1, 2\} \cup {3}} and") == r"\{1, 2\} \cup {3}"


@pytest.mark.slow
@pytest.mark.parametrize("text", [r"\boxed{" * 200_000, "ANSWER: " * 200_000, "<answer>" * 200_000, "{" * MAX_TEXT])
def test_long_texts_of_openings_are_read_in_linear_time(text):
    assert whole_number(text) is None
    assert between_tags(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 5 </answer>", "5"),
        ("<answer>1</answer> no: <answer>2</answer>.", "2"),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("5</answer>", None),
        ("<answer>5", None),
        ("5", None),
    ],
)
def test_an_answer_between_tags_is_the_last_that_is_closed(text, answer):
    assert between_tags(text) == answer
