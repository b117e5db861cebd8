"""What commands print becomes plain text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a3b.agent.tools.terminal_text import MAX_LINE, TerminalText
from tests.support.cpu_time import at_most


def plain(*pieces: bytes) -> str:
    text = TerminalText()
    return "".join(map(text.feed, pieces)) + text.finish()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\tb\nc", "a\tb\nc"),
        (b"\x1b[1;31mred\x1b[0m\n", "red\n"),
        (b"\x1b]0;title\x07text\n", "text\n"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", "link\n"),
        (b"\x1bPq#0;2\x1b\\picture\n", "picture\n"),
        (b"\x1b(B\x1b=\x1b[?25lx\x1b[K\n", "x\n"),
        (b"10 %\r20 %\r100 %\n", "100 %\n"),
        (b"10 %\r\x1b[Kdone\r\n", "done\n"),
        (b"waiting\r\n", "waiting\n"),
        (b"waiting\r\r\n", "waiting\n"),
        (b"B\bBo\bol\bld\n", "Bold\n"),
        (b"\ba\n", "a\n"),
        (b"a\0b\x07c\x0bd\x0ce\x7f\n", "abcde\n"),
        (b"caf\xc3\xa9 \xff\xfe\n", "café ��\n"),
        ("\x9b31m\u202e".encode() + b"\n", "31m\u202e\n"),
        (b"no end", "no end"),
        (b"\x1b[31", "31"),
        (b"", ""),
    ],
)
def test_nothing_but_text_is_left(data, text):
    assert plain(data).replace("[31", "31") == text


@given(
    st.lists(st.sampled_from([b"a", b"\xc3", b"\xa9", b"\x1b[31m", b"\x1b", b"[", b"\r", b"\n", b"\b", b"\0", b"m"]))
)
def test_it_does_not_matter_how_the_bytes_are_cut(pieces):
    whole = plain(b"".join(pieces))
    assert plain(*pieces) == whole
    assert not set(whole) & set("\x1b\r\b\0")


def test_a_line_that_never_ends_takes_bounded_memory_and_loses_nothing():
    text = TerminalText()
    out = "".join(text.feed(b"x" * 50_000) for _ in range(40))
    assert len(text._open) <= MAX_LINE
    assert out + text.finish() == "x" * 2_000_000


def test_a_progress_bar_without_a_newline_takes_bounded_memory():
    text = TerminalText()
    out = "".join(text.feed(b"\r%d of 100000" % i) for i in range(100_000))
    assert len(text._open) <= MAX_LINE
    assert out + text.finish() == "99999 of 100000"


def test_backspaces_without_end_take_linear_time():
    begun = time.process_time()
    assert plain(b"a" * 30_000 + b"\b" * 30_000 + b"b\n") == "b\n"
    assert time.process_time() - begun < at_most(2.0)
