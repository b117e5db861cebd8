"""The tasks a3b-nano is trained on and judged by: one module a family, each with `example(rng)` and `case(rng)`.

`example` is a whole conversation to learn; `case` has `play(generate) -> Outcome`, with an exact checker.
"""

from __future__ import annotations

import random

from a3b.evals.families import fix, lookup, needle, revise
from a3b.evals.families.common import Conversation, system_prompt, tool_set
from nano.tasks import calc, chat, secret

FAMILIES = {
    "secret": secret,
    "lookup": lookup,
    "calc": calc,
    "needle": needle,
    "chat": chat,
    "fix": fix,
    "revise": revise,
}


def mixed(rng: random.Random) -> Conversation:
    """Two to four turns of different families in one conversation, one tool set for all of them."""
    lookup_schema, calc_schema = lookup.lookup_tool(rng), calc.calc_tool(rng)
    parts = {
        "secret": lambda: secret.game(rng),
        "lookup": lambda: lookup.task(rng, lookup_schema, rng.choice((1, 1, 2))),
        "calc": lambda: calc.task(rng, calc_schema),
        "chat": lambda: chat.small_talk(rng),
    }
    chosen = rng.sample(list(parts), rng.choice((2, 2, 3)))
    needed = [
        s for name, s in (("lookup", lookup_schema), ("calc", calc_schema)) if name in chosen or rng.random() < 0.4
    ]
    messages = system_prompt(rng) + [m for name in chosen for m in parts[name]()]
    return Conversation(messages, tool_set(rng, needed, most_others=1) or None)
