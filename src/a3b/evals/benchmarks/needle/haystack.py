"""A text of a wanted number of tokens with facts at wanted depths, and the question about them.

Filler is generated, or taken from a file of the user's. How many tokens a character makes is measured by the caller.
Enter at `Haystack.text`, `draw_facts`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from a3b.errors import UsageError
from a3b.evals.families.needle import ASK, FACT, KEEP, filler
from a3b.files import read_given

KINDS = ("exact", "paraphrased", "several")
SEVERAL, OTHERS = 4, 2  # facts asked for at once; facts of the same form that nobody asks for
MAX_DATA = 256 << 20
LEAST_DATA = 1000  # characters; less is no text to hide anything in
MAX_SENTENCE = 500  # characters; a longer one is cut
SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"')\]]*|\n+|$)\s*")
COLOURS = {  # what a question says -> what a fact says in other words
    "red": "crimson",
    "blue": "azure",
    "green": "emerald",
    "black": "jet-black",
    "white": "snowy",
    "big": "enormous",
    "small": "tiny",
    "old": "ancient",
}
THINGS = {
    "box": "crate",
    "door": "entrance",
    "book": "volume",
    "car": "automobile",
    "cup": "mug",
    "bag": "sack",
    "room": "chamber",
    "map": "chart",
}
OTHER_WORDS = (
    "Whoever asks about the {thing} is told {value}.",
    "{value} is what somebody painted on the {thing}.",
    "They labelled the {thing} {value} long ago.",
    "To tell it from the rest, the {thing} bears the mark {value}.",
)
ALL_OF = "What are the numbers of {things}?"


@dataclass(frozen=True)
class Fact:
    """A thing and its number. also: the thing in other words; text: the sentence that tells it."""

    thing: str
    also: str
    value: int
    text: str


@dataclass(frozen=True)
class Facts:
    """What is hidden and asked. asked: whose numbers the question wants, in its order; others: of the same form."""

    asked: tuple[Fact, ...]
    others: tuple[Fact, ...]
    question: str


def draw_facts(rng: random.Random, kind: str) -> Facts:
    """Facts of a kind: one asked for in the words that tell it, or in other words, or SEVERAL at once."""
    num = SEVERAL if kind == "several" else 1
    colours, things = rng.sample(list(COLOURS), num + OTHERS), rng.sample(list(THINGS), num + OTHERS)
    values = rng.sample(range(100, 1000), num + OTHERS)
    facts = []
    for colour, thing, value in zip(colours, things, values, strict=True):
        name, also = f"{colour} {thing}", f"{COLOURS[colour]} {THINGS[thing]}"
        if kind == "paraphrased":
            text = rng.choice(OTHER_WORDS).format(thing=also, value=value)
            text = text[0].upper() + text[1:]
        else:
            text = rng.choice(KEEP) + FACT.format(thing=name, value=value)
        facts.append(Fact(name, also, value, text))
    asked = tuple(facts[:num])
    if num == 1:
        question = rng.choice(ASK).format(thing=asked[0].thing)
    else:
        names = [f"the {fact.thing}" for fact in asked]
        question = ALL_OF.format(things=f"{', '.join(names[:-1])} and {names[-1]}")
    return Facts(asked, tuple(facts[num:]), question)


@dataclass(frozen=True)
class Haystack:
    """Where filler comes from. data: a text of the user's; None: generated sentences, whose words a3b-nano knows."""

    data: str | None = None

    @classmethod
    def of(cls, path: Path | None) -> Haystack:
        """Raises UsageError for a file that is no text, or too short."""
        if path is None:
            return cls()
        try:
            text = read_given(path, MAX_DATA)
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"--data {path}: {why}; expected a text file in UTF-8") from None
        if len(text) < LEAST_DATA or SENTENCE.search(text) is None or not text.strip():
            raise UsageError(
                f"--data {path}: {len(text.strip())} characters; expected sentences of at least {LEAST_DATA} together"
            )
        return cls(text)

    def filler(self, rng: random.Random, num_chars: int) -> list[str]:
        """Sentences of at least `num_chars` characters together, without a space at their ends. A text that is
        shorter than that begins again."""
        if self.data is None:
            return _whole(iter(lambda: filler(rng, 9)[0], None), num_chars)
        start = rng.randrange(len(self.data))
        start = max(self.data.rfind(". ", 0, start) + 2, 0) if start else 0
        return _whole(_sentences(self.data, start), num_chars)

    def sample(self, num_chars: int) -> str:
        """Filler by which the tokens of a character are measured."""
        return " ".join(self.filler(random.Random("sample"), num_chars))

    def text(self, seed: str, facts: Facts, num_chars: int, depth: float) -> str:
        """About `num_chars` characters: filler, the facts nobody asks for at places that do not depend on the depth,
        and those asked for: the first at `depth` in [0, 1], further ones spread evenly from there."""
        rng = random.Random(seed)
        hidden = [*facts.asked, *facts.others]
        sentences = self.filler(rng, max(num_chars - sum(len(fact.text) + 1 for fact in hidden), 1))
        places = [(depth + i / len(facts.asked)) % 1 if i else depth for i in range(len(facts.asked))]
        places += [rng.random() for _ in facts.others]
        return " ".join(_with(sentences, [(p, fact.text) for p, fact in zip(places, hidden, strict=True)]))


def _with(sentences: Sequence[str], placed: Sequence[tuple[float, str]]) -> Iterator[str]:
    """Sentences with others before the one that begins at that share of the characters."""
    total, at = sum(len(sentence) + 1 for sentence in sentences), 0
    waiting = sorted(placed, key=lambda pair: pair[0])
    for sentence in sentences:
        while waiting and waiting[0][0] * total <= at:
            yield waiting.pop(0)[1]
        yield sentence
        at += len(sentence) + 1
    yield from (text for _, text in waiting)


def _sentences(text: str, start: int) -> Iterator[str]:
    """From `start` on, and again and again from the beginning; none is longer than MAX_SENTENCE."""
    while True:
        some = False
        for found in SENTENCE.finditer(text, start):
            sentence = found[0].strip()
            for at in range(0, len(sentence), MAX_SENTENCE):
                some = True
                yield sentence[at : at + MAX_SENTENCE]
        if not some and start == 0:
            return
        start = 0


def _whole(sentences: Iterator[str], num_chars: int) -> list[str]:
    out, total = [], 0
    for sentence in sentences:
        out.append(sentence)
        total += len(sentence) + 1
        if total >= num_chars:
            return out
    return out
