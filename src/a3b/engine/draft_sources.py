"""Where drafts come from: tokens that a grammar forces, text of the context that repeats, the model's MTP module. The
first two cost no weights.

Enter at `drafters`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from a3b.engine.backend import Job
from a3b.engine.draft_prices import FORCED, LONGEST, Balance, Odds, Prices, StepCosts
from a3b.engine.drafts import Answer, Draft, Drafter
from a3b.engine.mtp_guesses import Guess, MtpGuesses, MtpOdds
from a3b.interface.events import DraftSource
from a3b.model.mtp import MtpModule

MAX_MATCH = 16  # tokens that are compared; a longer match is no better
MAX_DRAFTS = 32  # in a step
BYTES_PER_TOKEN = 40  # at most, of a context of equal tokens while it is searched
LONG_MEMORY = 0.995  # as for Odds, of what all answers have in common


class Repeat(NamedTuple):
    """How the context went on where its end occurred before."""

    ids: list[int]
    num_matching: int  # tokens before them that are the same, at most MAX_MATCH


class Repeats:
    """Finds where the last tokens of a context occurred before: the longest match, of several the latest.

    4 to 8 bytes and some nanoseconds a token of the context; nothing is indexed, so adding tokens costs nothing."""

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
    """Drafts of one answer, each from the source that gains most: forced tokens where there are any, what followed the
    same tokens before, or what the MTP module guesses; as long as that is likely enough.

    What followed before is compared with what was chosen also where it was not read: so it is known without reading
    drafts whether they would be right. A guess of the MTP module costs its time, so where it does not pay it is asked
    now and then only, to see whether it would."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        known: Odds | None = None,
        mtp: MtpGuesses | None = None,
        gained: Balance | None = None,
    ):
        """known, gained: of all answers, which learn from this one."""
        self._repeats, self._num_prompt = Repeats(prompt_ids), len(prompt_ids)
        self._odds, self._balance, self._mtp = Odds(known), Balance(gained), mtp
        self._found: list[int] = []  # at the last step: forced, then what followed before
        self._num_forced = self._num_matching = 0
        self._drafts: list[Draft] = []  # of the last step
        self._paid = 0.0  # for those

    def propose(self, answer: Answer, most: int, prices: Prices) -> list[Draft]:
        self._learn(answer.generation.sampled[len(self._repeats) - self._num_prompt :])
        most = min(most, MAX_DRAFTS)
        self._find(answer, most)
        self._drafts, self._paid = [], 0.0
        if self._mtp is not None:
            self._mtp.begin(answer)
        chance = 1.0
        while len(self._drafts) < most and self._balance.affords(self._paid + prices.token):
            best = self._best(chance, prices)
            if best is None or (chance := chance * best.odds) <= prices.token:
                break
            self._paid += prices.token
            self._drafts.append(Draft(best.token, best.source))
        if self._mtp is not None:
            self._mtp.end(prices)
        return self._drafts

    def _find(self, answer: Answer, most: int) -> None:
        forced = answer.generation.forced(most)
        found, self._num_matching = self._repeats.find(forced, most - len(forced))
        if not forced and found and not answer.generation.may_follow(found[0]):
            found = []
        self._found, self._num_forced = forced + found, len(forced)

    def _best(self, chance: float, prices: Prices) -> Guess | None:
        """What to draft next, None if there is nothing."""
        place, mtp, found = len(self._drafts), self._mtp, None
        if place < len(self._found) and [draft.token for draft in self._drafts] == self._found[:place]:
            source: DraftSource = "forced" if place < self._num_forced else "repeated"
            found = Guess(self._found[place], self._odds.of(self._kind(place)), source)
        if mtp is None:
            return found
        best, cost = found, mtp.price(prices)
        gain = max(chance * found.odds - prices.token, 0.0) if found is not None else 0.0
        wants = chance * mtp.odds() - prices.token - cost > gain
        if wants and self._balance.affords(self._paid + cost + prices.token):
            self._paid += cost
            guess = mtp.guess()
            if found is None or guess.odds > found.odds or guess.token == found.token:
                best = guess if found is None or guess.odds > found.odds else found
        if best is not None:
            mtp.skip(best.token)
        return best

    def _kind(self, place: int) -> int:
        """Of a token that was found: a match grows with each token that is right."""
        behind = place - self._num_forced
        return FORCED if behind < 0 else min(self._num_matching + behind, LONGEST)

    def _learn(self, ids: Sequence[int]) -> None:
        for place, (token, found) in enumerate(zip(ids, self._found, strict=False)):
            self._odds.note(self._kind(place), token == found)
            if token != found:
                break
        drafts, num_right = [draft.token for draft in self._drafts], 0
        while num_right < min(len(ids), len(drafts)) and ids[num_right] == drafts[num_right]:
            num_right += 1
        self._balance.note(len(ids), num_right, self._paid)
        if self._mtp is not None:
            self._mtp.learn(ids, drafts)
        self._repeats.extend(ids)


def drafters(module: MtpModule | None, costs: StepCosts) -> Callable[[Job], Drafter]:
    """What makes the drafter of each answer; they learn from each other what is likely to be right. module: the model's
    own, None for drafts that cost no weights. costs: of the scheduler that asks them."""
    known, known_mtp = Odds(memory=LONG_MEMORY), MtpOdds.new(memory=LONG_MEMORY)
    gained = Balance(tokens=0.0)

    def make(job: Job) -> Drafter:
        mtp = None if module is None else MtpGuesses(module, job.ids, known_mtp, costs.note_guess)
        return ContextDrafter(job.ids, known, mtp, gained)

    return make
