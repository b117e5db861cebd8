"""secret: think of two numbers, tell one, be asked for the other. Only the earlier thinking knows it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from a3b.evals.families.common import CaseOutcome, Generate, Message, legal, said, system_prompt, user

ASK = [
    "Think of two numbers from 0 to 999. Tell me only the {told}.",
    "Think of two numbers between 0 and 999 and tell me the {told} one.",
    "Pick two secret numbers from 0 to 999. Tell me just the {told}.",
    "Choose two numbers, 0 to 999. Say the {told} one and keep the other.",
    "Please think of two numbers (0-999) and give me only the {told} number.",
    "Let us play. Think of two numbers from 0 to 999, and tell me the {told}.",
    "I want you to pick two numbers from 0 to 999. What is the {told} one? Keep the other secret.",
]
REVEAL = [
    "What was the other number?",
    "And the other number?",
    "Now tell me the other one.",
    "What is the other one?",
    "Which number did you keep?",
    "Tell me the other number now.",
    "What was your other number?",
    "And now the {hidden} number?",
    "What is the {hidden} number?",
    "Tell me the {hidden} one, please.",
]

STATED = (
    "When you are asked for numbers, choose them while you think, and write them in your thinking as two lines, "
    "'first: N' and 'second: N'. In your answer give only what you are asked for."
)
MOST_THINKING = 1 << 18  # characters
MOST_TEXT = 4000  # characters that are searched; Python refuses numbers of more digits


@dataclass
class SecretCase:
    """One game. `play` needs a generate that samples the first turn at temperature 1 (`sample=True`)."""

    opening: list[Message]
    ask: str
    reveal: str
    told: str
    is_stated: bool = False  # the model was asked to think in this form

    def play(self, generate: Generate) -> CaseOutcome:
        messages = [*self.opening, user(self.ask)]
        first = generate(messages, None, sample=True)
        messages += [first, user(self.reveal)]
        second = generate(messages, None)
        messages.append(second)
        valid = legal(first, None) and legal(second, None)
        numbers = stated_thought(first) if self.is_stated else thought(first)
        if numbers is None:
            return CaseOutcome(False, valid, "the first turn does not think of two numbers", messages)
        told, hidden = numbers if self.told == "first" else numbers[::-1]
        if in_text(first) != {told}:
            return CaseOutcome(False, valid, f"told {sorted(in_text(first))}, had thought of {numbers}", messages)
        ok = told != hidden and in_text(second) == {hidden}
        return CaseOutcome(ok, valid, f"told {told}, hid {hidden}, said {sorted(in_text(second))}", messages)


def case(rng: random.Random, is_stated: bool = False) -> SecretCase:
    """is_stated: with instructions how to write the numbers, for models that have not learnt it."""
    told = rng.choice(("first", "second"))
    hidden = "second" if told == "first" else "first"
    opening, ask = system_prompt(rng), rng.choice(ASK).format(told=told)
    if is_stated:
        said = [str(message["content"]) for message in opening]
        opening = [{"role": "system", "content": " ".join([*said, STATED])}]
    return SecretCase(opening, ask, rng.choice(REVEAL).format(hidden=hidden), told, is_stated)


def thought(message: Message) -> tuple[int, int] | None:
    """The two numbers in the thinking of a first turn."""
    found = re.search(r"first: (\d{1,3})\nsecond: (\d{1,3})\b", message.get("reasoning_content") or "")
    return (int(found[1]), int(found[2])) if found else None


def stated_thought(message: Message) -> tuple[int, int] | None:
    """The two numbers in a thinking of any length: those that were written last."""
    text = (message.get("reasoning_content") or "")[-MOST_THINKING:].lower()
    first, second = (re.findall(rf"\b{name}\W{{1,8}}(\d{{1,3}})(?!\d)", text) for name in ("first", "second"))
    return (int(first[-1]), int(second[-1])) if first and second else None


def in_text(message: Message) -> set[int]:
    return {int(n) for n in re.findall(r"\d+", said(message)[:MOST_TEXT])}


def table_score(fitted: list[tuple[int, int]], held_out: list[tuple[int, int]]) -> float:
    """Share of held-out games whose hidden number a told -> hidden table (else the commonest hidden) predicts."""
    table = dict(fitted)
    hidden = [h for _, h in fitted]
    common = max(set(hidden), key=hidden.count) if hidden else 0
    return sum(table.get(told, common) == h for told, h in held_out) / max(len(held_out), 1)
