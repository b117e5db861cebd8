"""Drafts that cost no weights: text of the context that repeats, and tokens that a grammar forces.

Enter at `ContextDrafter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from a3b.engine.generation import Generation

MAX_MATCH = 16  # tokens that are compared; a longer match is no better
MIN_MATCH = 2  # what one token was followed by says little
PER_MATCH = 2  # tokens drafted for each that matched: a short match is often wrong


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
    """Forced tokens where there are any, then what followed the same tokens before."""

    def __init__(self, prompt_ids: Sequence[int]):
        self._repeats, self._num_prompt = Repeats(prompt_ids), len(prompt_ids)

    def propose(self, generation: Generation, most: int) -> list[int]:
        self._repeats.extend(generation.sampled[len(self._repeats) - self._num_prompt :])
        forced = generation.forced(most)
        ids, num_matching = self._repeats.find(forced, most - len(forced))
        if num_matching < MIN_MATCH or (not forced and ids and not generation.may_follow(ids[0])):
            return forced
        return forced + ids[: PER_MATCH * num_matching]
