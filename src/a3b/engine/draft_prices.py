"""What drafting costs and how often drafts are right: measured while answers are written. Enter at `StepCosts`, `Odds`,
`Balance`.

A drafted token pays if it is right more often than it costs: its price is the time that it adds to a step, in tokens
that the step's answers would have got in that time."""

from __future__ import annotations

from collections import defaultdict, deque
from functools import partial
from statistics import median

PLAIN_STEPS, DRAFTED_STEPS = 9, 17  # that a measure is the median of: a busy neighbour disturbs some of them
PLAIN_EVERY = 48  # steps with drafts after which one without is measured again
FIRST_PRICE = 0.4  # before anything is measured: what most machines ask for a second token
LEAST_PRICE = 0.05  # however the clock jumps


class StepCosts:
    """Seconds of steps without prompts, by the number of answers in them."""

    def __init__(self) -> None:
        self._plain: dict[int, deque[float]] = defaultdict(partial(deque, maxlen=PLAIN_STEPS))
        self._extra: dict[int, deque[float]] = defaultdict(partial(deque, maxlen=DRAFTED_STEPS))  # for a drafted token
        self._num_since_plain: dict[int, int] = defaultdict(int)

    def note(self, num_answers: int, num_drafted: int, seconds: float, drafting_s: float = 0.0) -> float:
        """A step of that many answers took so long, with that many drafted tokens in all; the seconds that it would
        have taken without. drafting_s: of them, for finding the drafts."""
        if not num_drafted:
            self._plain[num_answers].append(seconds - drafting_s)
            self._num_since_plain[num_answers] = 0
            return seconds - drafting_s
        self._num_since_plain[num_answers] += 1
        if (plain := self.plain(num_answers)) is None:
            return seconds
        self._extra[num_answers].append((seconds - plain) / num_drafted)
        return plain

    def plain(self, num_answers: int) -> float | None:
        """Seconds of a step without drafts, None if there was none."""
        found = self._plain.get(num_answers)
        return median(found) if found else None

    def price(self, num_answers: int) -> float:
        """Of a drafted token, in tokens; infinite where a step without drafts has to be measured."""
        plain, extra = self.plain(num_answers), self._extra.get(num_answers)
        if plain is None or self._num_since_plain[num_answers] >= PLAIN_EVERY:
            return float("inf")
        if not extra or plain <= 0:
            return FIRST_PRICE
        return max(LEAST_PRICE, num_answers * median(extra) / plain)


FIRST_TOKENS, MOST_TOKENS = 1.5, 16.0  # that drafts may lose at the beginning, and after any success
ALLOWED = 0.01  # tokens that they may lose for each that is written


class Balance:
    """What drafting has gained an answer, in tokens: it bounds what drafts can lose, however likely they seem."""

    def __init__(self) -> None:
        self._tokens = FIRST_TOKENS

    def most(self, price: float) -> int:
        """Drafts that may be read at that price: as many as may all be wrong."""
        return int(max(self._tokens, 0.0) / price)

    def note(self, num_written: int, num_accepted: int, paid: float) -> None:
        """Tokens were written, some of them accepted drafts; all drafts cost so many tokens."""
        self._tokens = min(MOST_TOKENS, self._tokens + ALLOWED * num_written + num_accepted - paid)


MEMORY = 0.95  # share of what was seen that one more draft leaves
TRUST = 4.0  # drafts that what is known from elsewhere counts for
FORCED, LONGEST = 0, 17  # kinds: forced by a grammar, or as many tokens as matched before, up to the longest
PRIORS = (0.98, 0.1, 0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.78, 0.8, 0.82, 0.84, 0.86, 0.88, 0.89, 0.9, 0.92)


class Odds:
    """How often drafts of a kind were right lately, also those that were thought of and not read."""

    def __init__(self, before: Odds | None = None, memory: float = MEMORY):
        """before: what is believed until there is something to go by, None for guesses."""
        self._before, self._memory = before, memory
        self._right, self._seen = [0.0] * len(PRIORS), [0.0] * len(PRIORS)

    def of(self, kind: int) -> float:
        before = self._before.of(kind) if self._before is not None else PRIORS[kind]
        return (self._right[kind] + TRUST * before) / (self._seen[kind] + TRUST)

    def note(self, kind: int, is_right: bool) -> None:
        self._right[kind] = self._right[kind] * self._memory + is_right
        self._seen[kind] = self._seen[kind] * self._memory + 1
        if self._before is not None:
            self._before.note(kind, is_right)
