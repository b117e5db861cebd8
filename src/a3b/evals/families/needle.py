"""needle: one fact stands far back in the conversation, among filler and facts of the same form."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from a3b.evals.families.common import (
    CaseOutcome,
    Conversation,
    Generate,
    Message,
    assistant,
    legal,
    said,
    system_prompt,
    user,
)

COLOURS = "red blue green black white gray pink gold dark big small old new long open round".split()
THINGS = "box door file key room list book car table ball card page line code tree cup map bag".split()
FACT = "The number of the {thing} is {value}."
ASK = [
    "What is the number of the {thing}?",
    "Which number does the {thing} have?",
    "Tell me the number of the {thing}.",
    "Do you remember the number of the {thing}?",
]
KEEP = ["Remember this: ", "Note: ", "", "Keep this in mind: "]
SUBJECTS = (
    "The file,The test,The list,The class,A new line,The user,The next call,This method,The value,The old code".split(
        ","
    )
)
VERBS = (
    "is in,was set by,has been read from,comes after,should be,will return,does not use,is added to,looks like".split(
        ","
    )
)
OBJECTS = (
    "the list,the first part,the same file,the last line,the current path,the main thread,the name,the result".split(
        ","
    )
)
TOKENS_PER_SENTENCE = 9


def filler(rng: random.Random, num_tokens: int) -> list[str]:
    """Sentences about nothing, about `num_tokens` tokens together."""
    count = max(0, num_tokens // TOKENS_PER_SENTENCE)
    return [f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}." for _ in range(count)]


def build(rng: random.Random, length: int) -> tuple[list[Message], str, str, int]:
    """Messages up to the question, the question, the thing asked for and its number."""
    num_facts = rng.choice((1, 1, 2, 3)) if length >= 48 else 1
    things: list[str] = []
    while len(things) < num_facts:
        thing = f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
        if thing not in things:
            things.append(thing)
    values = [rng.randint(100, 999) for _ in things]
    sentences = filler(rng, length - 12 * num_facts)
    facts = [rng.choice(KEEP) + FACT.format(thing=t, value=v) for t, v in zip(things, values, strict=True)]
    sentences.insert(rng.randint(0, len(sentences) // 8), facts[0])  # the one asked for stands near the start
    for fact in facts[1:]:
        sentences.insert(rng.randint(0, len(sentences)), fact)
    question = rng.choice(ASK).format(thing=things[0])
    text = " ".join(sentences)
    if rng.random() < 0.5:
        return [], f"{text}\n\n{question}", things[0], values[0]
    noted = [user(text), assistant("Noted.", "a text to keep")]
    return noted, question, things[0], values[0]


def answer(thing: str, value: int) -> Message:
    return assistant(f"The number of the {thing} is {value}.", f"{thing}: {value}")


def example(rng: random.Random, length: int) -> Conversation:
    before, question, thing, value = build(rng, length)
    return Conversation([*system_prompt(rng), *before, user(question), answer(thing, value)])


@dataclass
class NeedleCase:
    messages: list[Message]
    value: int

    def play(self, generate: Generate) -> CaseOutcome:
        message = generate(self.messages, None)
        found = re.findall(r"\d+", said(message))
        return CaseOutcome(
            found == [str(self.value)],
            legal(message, None),
            f"expected {self.value}: {said(message)!r}",
            [*self.messages, message],
        )


def case(rng: random.Random, length: int = 256) -> NeedleCase:
    before, question, _, value = build(rng, length)
    return NeedleCase([*system_prompt(rng), *before, user(question)], value)
