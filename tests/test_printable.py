"""What reaches a terminal or a log from elsewhere cannot move, recolour, reorder or forge it."""

from __future__ import annotations

import io
import json

import pytest

from a3b.printable import fit_for, printable, say

BAD = [
    "\x00",
    "\x07",
    "\x08",
    "\r",
    "\x1b",
    "\x7f",
    "\x80",
    "\x85",
    "\x9b",
    "\x9f",
    "\u2028",
    "\u2029",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\ud800",
    "\udc1b",
    "\udfff",
]


@pytest.mark.parametrize("character", BAD, ids=lambda c: f"{ord(c):x}")
def test_every_kind_of_control_becomes_an_escape_that_says_which_it_is(character):
    for text in (printable(f"a{character}b"), printable(f"a{character}b", lines=True)):
        assert text.isascii() and text.isprintable()
        assert json.loads(f'"{text}"') == f"a{character}b"


def test_what_people_write_stays_as_it_is():
    text = "naïve 日本語 עברית العربية \U0001f469\u200d\U0001f4bb \u00a0 \\x1b \ufffd"
    assert printable(text) == printable(text, lines=True) == text


def test_newlines_and_tabs_stay_only_where_lines_may():
    assert printable("a\n\tb\r\nc", lines=True) == "a\n\tb\nc"
    assert printable("a\n\tb\r\nc") == "a\\n\\tb\\r\\nc"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_gets_every_character_and_a_terminal_harmless_ones():
    assert fit_for(io.StringIO(), "\x1b[31m\r\n") == "\x1b[31m\r\n"
    assert fit_for(Terminal(), "\x1b[31m\r\n") == "\\u001b[31m\n"


def test_messages_are_harmless_in_a_file_too():
    out = io.StringIO()
    say("\x1b]0;evil\x07 \u202etxt.exe", to=out)
    assert out.getvalue() == "\\u001b]0;evil\\u0007 \\u202etxt.exe\n"
