"""Whether an answer gives the numbers that were asked for, in whatever words. Enter at `judged`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from a3b.evals.benchmarks.needle.haystack import Fact, Facts

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
UNITS += "seventeen eighteen nineteen".split()
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80}
TENS |= {"ninety": 90}
WORD = rf"(?:{'|'.join(sorted([*UNITS, *TENS, 'hundred', 'oh'], key=len, reverse=True))})"
SPELLED = re.compile(rf"\b{WORD}(?:(?:[\s-]+and[\s-]+|[\s-]+){WORD})*\b", re.IGNORECASE)
DIGITS = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
MAX_ANSWER = 20_000  # characters that are looked at, from the end


def judged(answer: str, facts: Facts) -> tuple[float, str]:
    """(share of the numbers asked for that the answer gives, what it was compared with).

    A number counts for the thing it is said of: the one whose name precedes it; where no thing is named, in the order
    of the question. A number of another fact takes one away, so that naming all of them is no answer."""
    text = answer[-MAX_ANSWER:]
    numbers = numbers_in(text)
    found = _by_name(text, numbers, facts.asked) if len(facts.asked) > 1 else None
    if found is None:
        found = _in_order(numbers, facts.asked)
    values = {value for _, value in numbers}
    wrong = sum(fact.value in values for fact in facts.others)
    score = max(0.0, (sum(found) - wrong) / len(facts.asked))
    expected = ", ".join(f"{fact.thing}: {fact.value}" for fact in facts.asked)
    return score, f"expected {expected}; answered {answer.strip()[:200]!r}"


def numbers_in(text: str) -> list[tuple[int, int]]:
    """(where, whole number) of all numbers, in digits or in English words up to 999."""
    found = [
        (m.start(), int(m[0].replace(",", ""))) for m in DIGITS.finditer(text) if "." not in m[0] and len(m[0]) < 16
    ]
    found += [(m.start(), value) for m in SPELLED.finditer(text) if (value := spelled(m[0])) is not None]
    return sorted(found)


def spelled(text: str) -> int | None:
    """A number in words; digit by digit, too."""
    words = [word for word in re.split(r"[\s-]+", text.lower()) if word != "and"]
    if len(words) > 1 and all(word == "oh" or (word in UNITS and UNITS.index(word) < 10) for word in words):
        return int("".join("0" if word == "oh" else str(UNITS.index(word)) for word in words[:12]))
    total = part = 0
    for word in words:
        if word == "hundred":
            total, part = total + 100 * max(part, 1), 0
        elif word in TENS:
            part += TENS[word]
        elif word in UNITS:
            part += UNITS.index(word)
        else:
            return None
    return total + part


def _in_order(numbers: Sequence[tuple[int, int]], asked: Sequence[Fact]) -> list[bool]:
    """One thing: its number is there. Several, none of them named: the numbers in the order of the question."""
    values = [value for _, value in numbers]
    if len(asked) == 1:
        return [asked[0].value in values]
    return [i < len(values) and values[i] == fact.value for i, fact in enumerate(asked)]


def _by_name(text: str, numbers: Sequence[tuple[int, int]], asked: Sequence[Fact]) -> list[bool] | None:
    """Whether the first number after a thing's last name, before another thing, is its own; None if none is named."""
    low = text.lower()
    places = {fact: max(low.rfind(fact.thing), low.rfind(fact.also)) for fact in asked}
    if max(places.values()) < 0:
        return None
    out = []
    for fact in asked:
        at = places[fact]
        end = min((place for place in places.values() if place > at), default=len(text))
        following = [value for place, value in numbers if at <= place < end]
        out.append(at >= 0 and following[:1] == [fact.value])
    return out
