"""lookup: follow a chain of keys through a tool, one call a step."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from a3b.evals.families.common import (
    LOOKUP_TOOLS,
    CaseOutcome,
    Conversation,
    Generate,
    Message,
    Tool,
    assistant,
    call_form,
    play_tools,
    said,
    system_prompt,
    tool,
    tool_result,
    tool_set,
    user,
)

ASK = [
    "Start at {key} and follow the chain for {n} {steps}. Where do you end?",
    "Follow the chain from {key}, {n} {steps}. What is the last value?",
    "Look up {key} and go on for {n} {steps} in all. What do you find at the end?",
    "Take the key {key}. Follow it for {n} {steps} and tell me the result.",
    "Go {n} {steps} from {key}. What is there?",
]
MAX_HOPS = 4
LETTERS = "abcdefghjkmnpqrstuvwxyz"
DIGITS = "0123456789"


def key(rng: random.Random) -> str:
    """A key of single-token characters: letter, digit, letter, digit."""
    return rng.choice(LETTERS) + rng.choice(DIGITS) + rng.choice(LETTERS) + rng.choice(DIGITS)


def lookup_tool(rng: random.Random) -> Tool:
    name, param = rng.choice(LOOKUP_TOOLS)
    return tool(name, f"Get the value of one {param}.", param)


def chain(rng: random.Random, hops: int) -> list[str]:
    keys: list[str] = []
    while len(keys) <= hops:
        if (k := key(rng)) not in keys:
            keys.append(k)
    return keys


def question(rng: random.Random, start: str, hops: int) -> str:
    return rng.choice(ASK).format(key=start, n=hops, steps="step" if hops == 1 else "steps")


def task(rng: random.Random, schema: Tool, hops: int) -> list[Message]:
    name, param = call_form(schema)
    keys = chain(rng, hops)
    messages = [user(question(rng, keys[0], hops))]
    for step, (k, value) in enumerate(pairwise(keys), 1):
        messages += [assistant("", f"step {step} of {hops}: {k}", (name, {param: k})), tool_result(value)]
    return [*messages, assistant(f"The value is {keys[-1]}.", f"all {hops} done: {keys[-1]}")]


def example(rng: random.Random) -> Conversation:
    schema = lookup_tool(rng)
    messages = system_prompt(rng) + task(rng, schema, rng.choice((1, 2, 2, 3, 3, 4)))
    if rng.random() < 0.2:
        messages += task(rng, schema, rng.choice((1, 2)))
    return Conversation(messages, tool_set(rng, [schema]))


@dataclass
class LookupCase:
    opening: list[Message]
    tools: list[Tool]
    schema: Tool
    keys: list[str]
    ask: str

    def play(self, generate: Generate) -> CaseOutcome:
        name, param = call_form(self.schema)
        table = dict(pairwise(self.keys))
        wrong: list[str] = []

        def answer(called: str, arguments: dict[str, Any]) -> str:
            value = table.get(str(arguments.get(param))) if called == name else None
            if value is None:
                wrong.append(f"{called}({arguments})")
            return value or "not found"

        messages = [*self.opening, user(self.ask)]
        last, valid = play_tools(messages, self.tools, answer, generate, len(self.keys) + 2)
        num_calls = sum(m["role"] == "tool" for m in messages)
        end = self.keys[-1]
        found = re.findall(r"\w*\d\w*", said(last))
        ok = not wrong and num_calls == len(self.keys) - 1 and found == [end]
        return CaseOutcome(ok, valid, f"{num_calls} calls, wrong {wrong}, expected {end}: {said(last)!r}", messages)


def case(rng: random.Random, hops: int = 2) -> LookupCase:
    schema, keys = lookup_tool(rng), chain(rng, hops)
    return LookupCase(system_prompt(rng), tool_set(rng, [schema]), schema, keys, question(rng, keys[0], hops))
