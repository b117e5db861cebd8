"""What the model's MTP module guesses for one answer, how often it is right, and when it is asked. Enter at
`MtpGuesses`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from a3b.engine.draft_prices import MEMORY, Odds, Prices
from a3b.engine.drafts import Answer
from a3b.interface.events import DraftSource
from a3b.model.mtp import DraftChain, MtpModule

DEPTHS = (0.8, 0.7, 0.6, 0.5, 0.45, 0.4)  # how likely a guess is right before anything is known, by its place
BUCKETS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95)  # the same by the probability that the module gives to it
# steps without a guess after which one is asked for that will not be read: so many, and more where a guess is dear, so
# that this takes a small share of the steps even if every answer asks
ASK_EVERY, ASK_SHARE = 64, 0.004
NEW_SHARE = 64  # the head takes in rare tokens of the context when one of so many is new
MAX_IDS = 4096  # of those, the latest


class Guess(NamedTuple):
    """A token, how likely it is right, if all before it is, and what guessed it."""

    token: int
    odds: float
    source: DraftSource


@dataclass
class MtpOdds:
    """By depth and by the module's own probability."""

    by_depth: Odds
    by_probability: Odds

    @classmethod
    def new(cls, before: MtpOdds | None = None, memory: float = MEMORY) -> MtpOdds:
        """before: of all answers, which learns from this one."""
        by_depth, by_probability = (None, None) if before is None else (before.by_depth, before.by_probability)
        return cls(Odds(by_depth, memory, DEPTHS), Odds(by_probability, memory, BUCKETS))


class _Asked(NamedTuple):
    place: int
    bucket: int
    token: int


class MtpGuesses:
    """The guesses behind one answer, token by token: `begin`, then `guess` or `skip` for each draft, then `end`."""

    def __init__(
        self,
        module: MtpModule,
        prompt_ids: Sequence[int],
        known: MtpOdds | None = None,
        note_seconds: Callable[[int, float], None] = lambda num_tokens, seconds: None,
    ):
        """note_seconds: told of each guess how many tokens the module read for it, and how long that took."""
        self._module, self._odds, self._note_seconds = module, MtpOdds.new(known), note_seconds
        self._answer: Answer | None = None
        self._chain: DraftChain | None = None
        self._behind: list[int] = []  # tokens that the chain has not read
        self._place = 0
        self._asked: list[_Asked] = []
        self._num_unasked = 0
        self._rare = _RareIds(module, prompt_ids)

    def begin(self, answer: Answer) -> None:
        """Before the drafts of a step."""
        self._answer, self._chain = answer, None
        self._behind, self._place, self._asked = list(answer.feed), 0, []

    def odds(self) -> float:
        """How likely the next guess is right, before it is asked for."""
        return self._odds.by_depth.of(self._place) if self._place < len(DEPTHS) else 0.0

    def price(self, prices: Prices) -> float:
        """Of the next guess: the module reads each token that it has not seen."""
        return len(self._behind) * prices.guess

    def guess(self) -> Guess:
        """What comes next."""
        if self._answer is None:
            raise ValueError("guess before begin")
        self._rare.take_in()
        start = time.perf_counter()
        if self._chain is None:
            self._chain = self._module.chain(self._answer.state)
        num = len(self._behind)
        for token in self._behind:
            self._chain.add(token)
        logits, ids = self._chain.logits(self._rare.head), self._rare.head.ids
        token = self._answer.generation.guess(logits, ids, self._place)
        bucket = min(int(probability(logits, ids, token) * len(BUCKETS)), len(BUCKETS) - 1)
        self._note_seconds(num, time.perf_counter() - start)
        self._asked.append(_Asked(self._place, bucket, token))
        self._behind = []
        return Guess(token, self._odds.by_probability.of(bucket), "mtp")

    def skip(self, token: int) -> None:
        """The draft at this place, whoever guessed it."""
        self._behind.append(token)
        self._place += 1

    def end(self, prices: Prices) -> None:
        """After the drafts of a step."""
        if self._asked:
            self._num_unasked = 0
            return
        self._num_unasked += 1
        is_due = self._num_unasked >= max(ASK_EVERY, prices.guess / ASK_SHARE)  # never while that is infinite
        if is_due and self._place == 0:
            self._num_unasked = 0
            self.guess()

    def learn(self, ids: Sequence[int], drafts: Sequence[int]) -> None:
        """ids: what was chosen since; drafts: what the last step read."""
        for asked in self._asked:
            place = asked.place
            if place < len(ids) and list(ids[:place]) == list(drafts[:place]):
                self._odds.by_depth.note(place, ids[place] == asked.token)
                self._odds.by_probability.note(asked.bucket, ids[place] == asked.token)
        self._asked = []
        self._rare.add(ids)


class _RareIds:
    """Tokens of a context that the module's own head leaves out."""

    def __init__(self, module: MtpModule, ids: Sequence[int]):
        self._module, self._known = module, module.frequent
        self.head = module.default_head
        self._ids: dict[int, None] = {}  # at most MAX_IDS, in the order of their last occurrence
        self._new = 0
        self.add(ids)

    def add(self, ids: Sequence[int]) -> None:
        if self._known is None:
            return
        tokens = np.array(ids, np.int64)
        for token in _latest(tokens[~self._known[tokens]], MAX_IDS):
            self._new += token not in self._ids
            self._ids.pop(token, None)
            self._ids[token] = None
        for token in list(self._ids)[: max(0, len(self._ids) - MAX_IDS)]:
            del self._ids[token]

    def take_in(self) -> None:
        """Make the head anew if enough of them are not in it. For a guess only: that is most of what they cost."""
        if self._new and self._new * NEW_SHARE >= len(self._ids):
            self.head = self._module.default_head  # the old one is let go before there is another
            self.head, self._new = self._module.head_with(np.array(sorted(self._ids))), 0


def _latest(ids: np.ndarray, most: int) -> list[int]:
    """Each token once, in the order of their last occurrence; of many the last."""
    tokens, places = np.unique(ids[::-1], return_index=True)
    found: list[int] = tokens[np.argsort(places)[:most][::-1]].tolist()
    return found


def probability(logits: np.ndarray, ids: np.ndarray, token: int) -> float:
    """Of one of the tokens `ids`, rising, with these logits."""
    chosen = logits[np.searchsorted(ids, token)]
    return 1.0 / float(np.exp(np.minimum(logits - chosen, 80.0)).sum())
