"""The one rule by which results are cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3b.agent.tools.cut import MAX_CHARACTERS, MAX_LINES, cut, join


def test_a_short_result_stays_as_it_is():
    assert cut("a\n" * 50, "/kept") == "a\n" * 50


def test_head_and_tail_of_a_long_result_stay_and_the_gap_names_the_file():
    lines = cut("\n".join(map(str, range(1000))), "/kept/1").split("\n")
    assert (lines[0], lines[99], lines[101], lines[-1]) == ("0", "99", "900", "999")
    assert lines[100] == "[... 800 lines left out; all of it is in /kept/1]"


def test_a_long_line_is_cut_visibly():
    text = cut("x" * 5000, "/kept")
    assert text == "x" * 2000 + "[... 3,000 more characters of this line]\n[long lines are cut; all of it is in /kept]"


def test_lines_that_are_already_gone_are_counted():
    assert join(["a"], 1234, ["b"], "") == "a\n[... 1,234 lines left out]\nb"


@pytest.mark.parametrize("width", [1, 79, 1000, 3000])
def test_few_wide_lines_keep_their_tail_too(width):
    text = cut("\n".join(f"{i} ".ljust(width, "x") for i in range(400)), "/kept")
    assert text.startswith("0 ") and re.search(r"^399 ", text, re.MULTILINE)


@given(st.lists(st.integers(0, 3000).map(lambda n: "y" * n), max_size=400))
def test_no_result_is_longer_than_the_rule_and_every_line_is_counted(lines):
    text = cut("\n".join(lines), "/kept")
    got = text.split("\n")
    assert len(got) <= MAX_LINES + 1 and len(text) <= MAX_CHARACTERS + 100
    if found := re.search(r"\[\.\.\. ([\d,]+) lines left out", text):
        assert int(found[1].replace(",", "")) + len(got) - 1 == len(lines)
