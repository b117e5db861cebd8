"""Drafted tokens: read beside an answer's own token, and kept exactly if they are what is chosen there anyway.

A draft is only a guess of what to read ahead. Each token of an answer is chosen by `Generation.choose` from the model's
own logits, with a draw keyed by (seed, position), and a draft is kept if it equals that token; so no draft can change
an answer, and none has to be good. Enter at `Rows` and `Drafter`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import index
from typing import NamedTuple, Protocol

import numpy as np

from a3b.engine.draft_prices import Prices
from a3b.engine.generation import Generation
from a3b.errors import UsageError
from a3b.interface.events import DraftSource
from a3b.kernels import MAX_DRAFTED
from a3b.model.state import State


class Draft(NamedTuple):
    """A guessed token, and what guessed it."""

    token: int
    source: DraftSource


class Answer(NamedTuple):
    """An answer before a step. feed: its last tokens, which `state` has not read."""

    generation: Generation
    state: State
    feed: Sequence[int]


class Drafter(Protocol):
    """Where the drafts of one answer come from."""

    def propose(self, answer: Answer, most: int, prices: Prices) -> Iterable[Draft]:
        """Tokens that may follow all that the answer has so far, at most so many. Called before each step."""


@dataclass(frozen=True)
class Rows:
    """Logits that an answer has not used yet.

    logits: float32 [1 + n, V], of its last token and of each of the n drafts behind it."""

    logits: np.ndarray
    drafts: Sequence[Draft] = ()

    def kept(self) -> Rows:
        """The same in memory of its own: the model's array may be large."""
        return Rows(self.logits.copy(), self.drafts)

    def num_right(self, ids: Sequence[int]) -> int:
        """How many of the tokens that joined the answer were read as drafts already."""
        num = 0
        while num < min(len(ids), len(self.drafts)) and ids[num] == self.drafts[num].token:
            num += 1
        return num

    def after(self, num: int) -> Rows:
        """What follows that many drafts."""
        return Rows(self.logits[num:], self.drafts[num:])


def most_drafts(generation: Generation) -> int:
    """Drafts that a step can use: no more tokens than the answer may still have, with the one chosen at the end."""
    return max(0, min(MAX_DRAFTED, generation.max_tokens - len(generation.sampled) - 1))


def proposed(drafter: Drafter, answer: Answer, most: int, prices: Prices) -> list[Draft]:
    """What a drafter proposes, at most so many. Raises UsageError for what is no token of the vocabulary."""
    drafts, end = list(islice(drafter.propose(answer, most, prices), most)), answer.generation.tokenizer.num_tokens
    for token, _ in drafts:
        if not 0 <= index(token) < end:
            raise UsageError(f"draft: token {token}; expected 0 to {end - 1}")
    return drafts
