"""Foreign text becomes lines that a terminal shows literally and that end somewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.utils import get_cwidth

from a3b.agent.terminal.lines import LONGEST_LINE, LineBuffer, fit_line, output_lines, rows_of
from a3b.printable import UNFIT


@given(st.text())
def test_a_line_has_no_character_that_a_terminal_obeys(text):
    assert not UNFIT.search(fit_line(text))


def test_a_long_line_is_cut_and_says_what_is_missing():
    assert fit_line("x" * (LONGEST_LINE + 1500)) == "x" * LONGEST_LINE + " [... 1,500 more characters]"
    assert fit_line("x" * LONGEST_LINE) == "x" * LONGEST_LINE


def test_the_colours_of_an_output_are_taken_out_and_other_sequences_are_shown():
    assert output_lines("\x1b[1;31mred\x1b[0m\r\n\x1b]0;x\x07\n\ttab\n") == ["red", "\\u001b]0;x\\u0007", "    tab"]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=300), st.integers(4, 30), st.integers(1, 5))
def test_rows_fit_the_terminal_and_are_the_end_of_the_text(text, width, most):
    rows = rows_of(text, width, most)
    assert len(rows) <= most and all(sum(map(get_cwidth, row)) <= width for row in rows)
    assert text.replace("\n", "").endswith("".join(rows))


@given(st.lists(st.text("ab\n", max_size=20)), st.integers(1, 7))
def test_pieces_come_out_as_lines_in_order_and_completely(pieces, longest):
    buffer = LineBuffer(longest)
    lines = [line for piece in pieces for line in buffer.add(piece)]
    assert len(buffer.rest) <= longest
    lines += buffer.end()
    assert "".join(lines) == "".join(pieces).replace("\n", "")


@pytest.mark.parametrize("text", ["a\nb\n\nc", "", "\n"])
def test_lines_are_those_of_the_text(text):
    buffer = LineBuffer()
    assert buffer.add(text + "\n") == text.split("\n")
    assert buffer.end() == []
