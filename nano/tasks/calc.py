"""calc: arithmetic goes through a calculator tool, operands word for word."""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass

from a3b.evals.families.common import (
    CALC_TOOLS,
    CaseOutcome,
    Conversation,
    Generate,
    Message,
    assistant,
    call_form,
    play_tools,
    said,
    system_prompt,
    tool,
    tool_result,
    tool_set,
    user,
    without_thinking,
)

ASK = [
    "What is {e}?",
    "Calculate {e}.",
    "Compute {e}, please.",
    "How much is {e}?",
    "{e} = ?",
    "Can you tell me {e}?",
    "Please work out {e}.",
    "I need the result of {e}.",
    "What does {e} give?",
]
OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def expression(rng: random.Random, split: str) -> tuple[str, int]:
    """(text, value); a tenth of all expressions, chosen by a hash of the text, is kept for tests."""
    while True:
        a, b = (rng.randrange(10 ** rng.choice((1, 2, 3, 3))) for _ in range(2))
        op = rng.choice("++-*")
        text = f"{a} {op} {b}"
        if (zlib.crc32(text.encode()) % 10 == 0) == (split == "test"):
            return text, OPERATORS[op](a, b)


def calc_tool(rng: random.Random) -> dict:
    name, param = rng.choice(CALC_TOOLS)
    return tool(name, "Do arithmetic.", param)


def task(rng: random.Random, schema: dict, split: str = "train") -> list[Message]:
    name, param = call_form(schema)
    text, value = expression(rng, split)
    return [
        user(rng.choice(ASK).format(e=text)),
        assistant("", f"use {name}: {text}", (name, {param: text})),
        tool_result(str(value)),
        assistant(f"{text} = {value}.", f"result: {value}"),
    ]


def example(rng: random.Random) -> Conversation:
    schema = calc_tool(rng)
    messages = system_prompt(rng) + task(rng, schema)
    if rng.random() < 0.35:
        messages += task(rng, schema)
    closed = rng.random() < 0.08
    messages = without_thinking(messages) if closed else messages
    return Conversation(messages, tool_set(rng, [schema]), {"enable_thinking": False} if closed else {})


@dataclass
class Case:
    opening: list[Message]
    tools: list[dict]
    schema: dict
    text: str
    value: int
    ask: str

    def play(self, generate: Generate) -> CaseOutcome:
        name, param = call_form(self.schema)
        asked: list[str] = []

        def answer(called: str, arguments: dict) -> str:
            asked.append(str(arguments.get(param)))
            return str(self.value) if called == name and asked[-1] == self.text else "error: bad expression"

        messages = [*self.opening, user(self.ask)]
        last, valid = play_tools(messages, self.tools, answer, generate, 4)
        found = re.findall(r"-?\d+", said(last).replace(self.text, "", 1))
        ok = asked == [self.text] and found == [str(self.value)]
        detail = f"asked for {asked}, expected {self.text} = {self.value}: {said(last)!r}"
        return CaseOutcome(ok, valid, detail, messages)


def case(rng: random.Random) -> Case:
    schema = calc_tool(rng)
    text, value = expression(rng, "test")
    return Case(system_prompt(rng), tool_set(rng, [schema]), schema, text, value, rng.choice(ASK).format(e=text))
