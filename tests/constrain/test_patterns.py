"""Patterns and formats of strings beside Python's."""

from __future__ import annotations

import random
import re

import llguidance
import pytest

from a3b.json_schema.regex_terminals import FORMATS, search_terminal
from tests.support.constraints import (
    BYTES,
)

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def matcher(terminal):
    return llguidance.LLMatcher(BYTES, f"%llguidance {{}}\nstart: T\nT: {terminal}\n")


def matches(judge, text):
    one, data = judge.deep_copy(), list(text.encode())
    return one.try_consume_tokens(data) == len(data) and one.is_accepting()


def random_pattern(r, depth=0):
    atoms = [
        "a",
        "b",
        "1",
        "-",
        r"\.",
        r"\d",
        r"\w",
        r"\W",
        "[ab]",
        "[^a-]",
        r"[\d-]",
        "[[&&~]",
        ".",
        r"\/",
        r"\$",
        ",",
    ]
    parts = []
    for _ in range(r.randrange(4)):
        atom = r.choice(atoms)
        if depth < 2 and r.random() < 0.3:
            atom = f"({r.choice(['', '?:'])}{random_pattern(r, depth + 1)})"
        parts.append(atom + r.choice(["", "", "", "*", "+", "?", "{1,2}", "+?"]))
    one = "".join(parts)
    if depth == 0:
        one = r.choice(["", "^", "^(?=.*a)", "^(?!.*b)"]) + one + r.choice(["", r"$"])
    return one if r.random() < 0.75 else f"{one}|{random_pattern(r, depth + 1)}"


@pytest.mark.filterwarnings("ignore:Possible")
def test_patterns_mean_what_they_mean_to_python():
    r = random.Random(1)
    num_found = num_compared = 0
    for _ in range(250):
        pattern = random_pattern(r)
        try:
            expected = re.compile(pattern, re.ASCII)
        except re.error:
            continue  # "(?:)+*" and the like
        judge = matcher(search_terminal(pattern))
        assert not judge.is_error(), (pattern, judge.get_error())
        for _ in range(25):
            text = "".join(r.choices("aab1-.[&~/$,é x", k=r.randrange(6)))
            found = expected.search(text) is not None
            num_compared, num_found = num_compared + 1, num_found + found
            assert matches(judge, text) == found, (pattern, text)
    assert num_compared > 5000 and 0.2 < num_found / num_compared < 0.9


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2024-02-29 2000-02-29 2023-12-31", "2023-02-29 1900-02-29 2023-04-31 2023-13-01 2023-1-1"),
        ("time", "12:00:00Z 23:59:59.5+02:00", "12:00 24:00:00Z 12:00:00"),
        ("date-time", "2024-02-29T12:00:00Z", "2024-02-29T24:00:00Z 2023-02-29T12:00:00Z 2024-02-29"),
        ("duration", "P1D PT1H30M P1Y2M3DT4H P3W", "P PT 1D P1H"),
        ("email", "a@b.co a.b+c@d-e.f", "a@b a@@b.c .a@b.c a"),
        ("hostname", "a a-b.c", "-a a..b a_b a-"),
        ("ipv4", "1.2.3.4 255.255.255.255", "256.1.1.1 01.1.1.1 1.2.3"),
        (
            "ipv6",
            "::1 :: 1:: 1:2:3:4:5:6:7:8 1::8 fe80::1:2 1:2:3:4:5:6:7::",
            "1:2 ::1::2 1:2:3:4:5:6:7:8:9 1:2:3:4:5:6:7::8 12345::",
        ),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000 x"),
        ("uri", "http://a.b/c?d=e#f mailto:a@b.c file:///etc/x http://[::1]:80/ urn:isbn:12", "http: //x a http://a|b"),
    ],
)
def test_formats_hold_valid_texts_alone(name, good, bad):
    judge = matcher(f"/{FORMATS[name]}/")
    assert [text for text in good.split() if not matches(judge, text)] == []
    assert [text for text in bad.split() if matches(judge, text)] == []
