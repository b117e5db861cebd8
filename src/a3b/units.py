"""Sizes, numbers of tokens and ages as people type them: 256M, 2GiB, 128k, 7d.

A single letter means 1024s, as for llama-server, ollama and docker; KB and MB are 1000s, KiB and MiB 1024s. What reads
a text raises UsageError that says what was expected. Enter at `byte_size`, `token_count`, `duration`, `span`,
`counted` and `moment`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from a3b.errors import UsageError

BASES = {"": 1024, "i": 1024, "ib": 1024, "b": 1000}  # by what follows the letter
BYTES = {"": 1, "b": 1} | {
    f"{letter}{rest}": base**i for i, letter in enumerate("kmgt", 1) for rest, base in BASES.items()
}
TOKENS = {"": 1, "k": 1024, "ki": 1024, "m": 1 << 20, "mi": 1 << 20}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MOST = (1 << 63) - 1
MOST_TOKENS = (1 << 31) - 1
NUMBER = re.compile(r"(\d+|\d{1,3}(?:,\d{3})+|\d{1,3}(?:_\d{3})+)(\.\d+)?\s*([a-z]*)")  # 131072, 131,072, 1.5


def counted(number: int, thing: str) -> str:
    """A number and what it counts: "1 turn", "1,200 turns"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def moment(value: object) -> float:
    """Seconds since 1970, as a record of any origin has them; 0 for what is no time that a calendar has."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 << 40 else 0.0


def byte_size(text: str) -> int:
    """A size in bytes; 0 is allowed. A size beyond any disk becomes the largest integer of SQLite."""
    return min(_amount(text, BYTES, "a size, such as 256M, 2GiB or 500MB"), MOST)


def token_count(text: str) -> int:
    """A number of tokens, at least one; k is 1024."""
    expected = "a positive number of tokens, such as 32768, 128k or 1M"
    if not 1 <= (number := _amount(text, TOKENS, expected)) <= MOST_TOKENS:
        raise UsageError(f"{text[:40]!r} is not {expected}")
    return number


def duration(text: str) -> int:
    """An age in seconds; the unit is required."""
    return min(_amount(text, SECONDS, "an age, such as 7d or 12h"), MOST)


def span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _amount(text: str, units: dict[str, int], expected: str) -> int:
    found = NUMBER.fullmatch(text.strip().lower()) if text.isascii() and len(text) <= 40 else None
    if not found or found[3] not in units:
        raise UsageError(f"{text[:40]!r} is not {expected}")
    return int(Fraction(re.sub("[,_]", "", found[1]) + (found[2] or "")) * units[found[3]])
