"""Drafters for tests: they know how an answer goes on, and say something else on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from a3b.engine.backend import Job
from a3b.engine.draft_prices import Prices
from a3b.engine.drafts import Answer, Draft
from a3b.interface.events import Event, Finished, Reading, Speculation, Started, ToolCallEnd, ToolCallStart
from a3b.kernels import MAX_DRAFTED

Known = dict[tuple[int, ...], list[list[int]]]  # by prompt: the ids of answers to it


class Scripted:
    """Drafts that follow one of the known answers up to a place, as `choose` says: (drafts, how many are right)."""

    def __init__(self, answers: list[list[int]], choose: Callable[[], tuple[int, int]], wrong: Callable[[int], int]):
        self.answers, self.choose, self.wrong = answers, choose, wrong
        self.num_asked = self.num_right = 0

    def propose(self, answer: Answer, most: int, prices: Prices) -> list[Draft]:
        generation = answer.generation
        done = len(generation.sampled)
        truth = next((ids[done:] for ids in self.answers if ids[:done] == generation.sampled), [])
        num, right = self.choose()
        found = [*truth[:right], *(self.wrong(token) for token in truth[right:])][: min(num, most)]
        self.num_asked += 1
        self.num_right += min(right, len(found))
        return [Draft(token, "repeated") for token in found]


def scripted(known: Known, kind: str, num_tokens: int, special: Sequence[int], made: list[Scripted]):
    """What makes drafters of a kind: "none", "right", "wrong", "first" (only the first is right), "random", "special"
    (wrong ones that mean something)."""
    rng = np.random.default_rng(5)
    choices = {
        "none": lambda: (0, 0),
        "right": lambda: (MAX_DRAFTED, MAX_DRAFTED),
        "wrong": lambda: (3, 0),
        "first": lambda: (4, 1),
        "random": lambda: (int(rng.integers(0, 9)), int(rng.integers(0, 9))),
        "special": lambda: (5, int(rng.integers(0, 4))),
    }

    def other(token: int) -> int:
        if kind == "special":
            return int(rng.choice([i for i in special if i != token]))
        return (token + 1) % num_tokens

    def make(job: Job) -> Scripted:
        made.append(Scripted(known.get(tuple(job.ids), []), choices[kind], other))
        return made[-1]

    return make


def told(events: Sequence[Event]) -> list[Event]:
    """What a client is told, without times, random ids and what is said of drafts."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, Started | Finished):
            found.append(replace(event, usage=replace(event.usage, prefill_s=0, decode_s=0, speculation=Speculation())))
        elif isinstance(event, ToolCallStart | ToolCallEnd):
            found.append(replace(event, id=f"call {event.index}"))
        elif not isinstance(event, Reading):
            found.append(event)
    return found
