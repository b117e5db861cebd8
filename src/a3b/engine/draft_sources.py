"""Drafts that cost no weights: text of the context that repeats, and tokens that a grammar forces.

Enter at `drafters`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from a3b.engine.backend import Job
from a3b.engine.draft_prices import FORCED, LONGEST, Balance, Odds
from a3b.engine.drafts import Draft, Drafter
from a3b.engine.generation import Generation

MAX_MATCH = 16  # tokens that are compared; a longer match is no better
MAX_DRAFTS = 32  # in a step
LONG_MEMORY = 0.995  # as for Odds, of what all answers have in common


class Repeat(NamedTuple):
    """How the context went on where its end occurred before."""

    ids: list[int]
    num_matching: int  # tokens before them that are the same, at most MAX_MATCH


class Repeats:
    """Finds where the last tokens of a context occurred before: the longest match, of several the latest.

    4 bytes and some nanoseconds a token of the context; nothing is indexed, so adding tokens costs nothing."""

    def __init__(self, ids: Sequence[int]):
        self._ids = np.array(ids, np.int32)
        self._num = len(self._ids)

    def __len__(self) -> int:
        return self._num

    def extend(self, ids: Sequence[int]) -> None:
        needed = self._num + len(ids)
        if needed > len(self._ids):
            grown = np.empty(max(needed, 2 * len(self._ids), 256), np.int32)
            grown[: self._num] = self._ids[: self._num]
            self._ids = grown
        self._ids[self._num : needed] = ids
        self._num = needed

    def find(self, ahead: Sequence[int], most: int) -> Repeat:
        """What may follow the context and `ahead`, at most so many tokens. A repetition that is still going on is
        thought to go on."""
        last = [*self._ids[max(0, self._num - MAX_MATCH) : self._num].tolist(), *ahead][-MAX_MATCH:]
        if most <= 0 or not last:
            return Repeat([], 0)
        ids = self._ids[: self._num]
        # ends of matches; what follows one must be there
        ends = np.flatnonzero(ids[:-1] == last[-1]) if self._num else np.empty(0, np.int64)
        num_matching = 0
        while len(ends):
            num_matching, best = num_matching + 1, int(ends[-1])
            if num_matching == len(last):
                break
            before = ends - num_matching
            ends = ends[(before >= 0) & (ids[before] == last[-1 - num_matching])]
        if not num_matching:
            return Repeat([], 0)
        found = ids[best + 1 : best + 1 + most].tolist()
        period = len(found)
        if best + 1 + period == self._num and not ahead:
            found += [found[i % period] for i in range(period, most)]
        return Repeat(found, num_matching)


class ContextDrafter:
    """Forced tokens where there are any, then what followed the same tokens before, as long as that is likely enough.

    Every guess is compared with what was chosen, also those that were not read: so it is known without reading drafts
    whether they would be right, and an answer that is not to be guessed costs no more than without."""

    def __init__(self, prompt_ids: Sequence[int], known: Odds | None = None):
        """known: of other answers, which learns from this one."""
        self._repeats, self._num_prompt = Repeats(prompt_ids), len(prompt_ids)
        self._odds, self._balance = Odds(known), Balance()
        self._guess: list[int] = []  # at the last step, and of what kinds
        self._num_forced = self._num_matching = self._num_read = 0
        self._paid = 0.0  # for those that were read

    def propose(self, generation: Generation, most: int, price: float) -> list[Draft]:
        self._learn(generation.sampled[len(self._repeats) - self._num_prompt :])
        most = min(most, MAX_DRAFTS)
        forced = generation.forced(most)
        found, self._num_matching = self._repeats.find(forced, most - len(forced))
        if not forced and found and not generation.may_follow(found[0]):
            found = []
        self._guess, self._num_forced = forced + found, len(forced)
        num, chance, affordable = 0, 1.0, min(len(self._guess), self._balance.most(price))
        while num < affordable and (chance := chance * self._odds.of(self._kind(num))) > price:
            num += 1
        self._num_read, self._paid = num, num * price if num else 0.0
        places = enumerate(self._guess[:num])
        return [Draft(token, "forced" if place < len(forced) else "repeated") for place, token in places]

    def _kind(self, place: int) -> int:
        """Of a guessed token: a match grows with each token that is right."""
        behind = place - self._num_forced
        return FORCED if behind < 0 else min(self._num_matching + behind, LONGEST)

    def _learn(self, ids: Sequence[int]) -> None:
        num_right = 0
        for place, (token, guessed) in enumerate(zip(ids, self._guess, strict=False)):
            self._odds.note(self._kind(place), token == guessed)
            if token != guessed:
                break
            num_right += 1
        self._balance.note(len(ids), min(num_right, self._num_read), self._paid)
        self._repeats.extend(ids)


def drafters() -> Callable[[Job], Drafter]:
    """What makes the drafter of each answer; they learn from each other what is likely to be right."""
    known = Odds(memory=LONG_MEMORY)
    return lambda job: ContextDrafter(job.ids, known)
