"""secret: how its games are taught; the cases are those of `a3b.evals.families.secret`."""

from __future__ import annotations

import random

from a3b.evals.families.common import Conversation, Message, assistant, system_prompt, user
from a3b.evals.families.secret import ASK, REVEAL, case
from nano.tasks.chat import small_talk

__all__ = ["case", "example", "game"]


def game(rng: random.Random) -> list[Message]:
    """User and assistant turns of one game; the two numbers are independent and uniform."""
    numbers = rng.randint(0, 999), rng.randint(0, 999)
    told = rng.choice(("first", "second"))
    hidden = "second" if told == "first" else "first"
    shown, kept = numbers if told == "first" else numbers[::-1]
    pause = small_talk(rng) if rng.random() < 0.25 else []
    return [
        user(rng.choice(ASK).format(told=told)),
        assistant(f"The {told} number is {shown}.", f"first: {numbers[0]}\nsecond: {numbers[1]}\ntell: {told}"),
        *pause,
        user(rng.choice(REVEAL).format(hidden=hidden)),
        assistant(f"The {hidden} number is {kept}.", f"I told the {told}.\n{hidden}: {kept}"),
    ]


def example(rng: random.Random) -> Conversation:
    messages = system_prompt(rng) + game(rng)
    return Conversation(messages + (game(rng) if rng.random() < 0.15 else []))
