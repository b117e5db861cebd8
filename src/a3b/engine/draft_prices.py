"""What drafting costs and how often drafts are right: measured while answers are written. Enter at `StepCosts`, `Odds`,
`Balance`, `Effort`.

A drafted token pays if it is right more often than it costs: its price is the time that it adds to a step, in tokens
that the step's answers would have got in that time. Where the model itself has to guess, that has a price too."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

# that a measure is the median of: a busy neighbour disturbs some of them
PLAIN_STEPS, DRAFTED_STEPS, GUESSES = 5, 17, 7
PLAIN_EVERY = 48  # steps with drafts after which one without is measured again ...
PLAIN_AT_ONCE = 3  # ... or several: before anything is known, and where it took another time than expected
CHANGED = 0.15  # by this share
# what a step without drafts took says nothing after a pause of seconds, or so many tokens further in the answers
PAUSE_S, DEEPER = 30.0, 8192
FEW = 5  # measures that one disturbed step may have spoilt
# steps without drafts after which a lower price is tried: at first, and doubled each time up to; times the square of
# the answers, since all of them try and each waits for all
FIRST_PATIENCE, MOST_PATIENCE = 64, 1024
RETRY_PRICE = 0.8  # which only guesses that are next to certain are worth
RETRY_KEEPS = 2  # measures, so that what is found then counts
FIRST_PRICE = 0.4  # before anything is measured: what most machines ask for a second token
LEAST_PRICE = 0.12  # whatever the clock says
FIRST_GUESS_PRICE = 0.06  # of the MTP module: a layer of forty, and a part of the head


class Prices(NamedTuple):
    """In tokens. Infinite where a step without drafts has to be measured."""

    token: float  # of reading a drafted token
    guess: float = 0.0  # of a guess of the MTP module, read or not


class _DraftedStep:
    """A step with drafts. What the machine gives changes within seconds, so it is compared with the next steps without
    drafts where the last ones were long before it."""

    def __init__(self, num_drafted: int, seconds: float, plain_s: float, num_since_plain: int):
        self._num_drafted, self._seconds = num_drafted, seconds
        self._num_awaited = PLAIN_AT_ONCE if num_since_plain > PLAIN_STEPS else 0
        self._compare(plain_s)

    def note_plain(self, plain_s: float) -> None:
        """Another step without drafts was measured; the median by now."""
        if self._num_awaited:
            self._num_awaited -= 1
            self._compare(plain_s)

    def _compare(self, plain_s: float) -> None:
        # what a drafted token added, in steps without drafts
        self.extra = (self._seconds - plain_s) / self._num_drafted / plain_s


class StepCosts:
    """Seconds of steps without prompts, by the number of answers in them."""

    def __init__(self) -> None:
        self._plain: dict[int, deque[float]] = defaultdict(partial(deque, maxlen=PLAIN_STEPS))
        self._drafted: dict[int, deque[_DraftedStep]] = defaultdict(partial(deque, maxlen=DRAFTED_STEPS))
        self._num_since_plain: dict[int, int] = defaultdict(int)
        self._num_since_drafted: dict[int, int] = defaultdict(int)
        self._num_due: dict[int, int] = defaultdict(lambda: PLAIN_AT_ONCE)  # steps without drafts
        self._patience: dict[int, int] = defaultdict(lambda: FIRST_PATIENCE)
        self._guess: deque[float] = deque(maxlen=GUESSES)
        self.guessing_s = 0.0  # of the MTP module, since the last step
        self._depth: dict[int, int] = {}  # tokens in all, where steps without drafts were measured
        self._last_at: dict[int, float] = {}

    def expect(self, num_answers: int, num_tokens: int, now: float) -> None:
        """The next step is one of that many answers, which have so many tokens in all. now: seconds of a clock."""
        depth = self._depth.setdefault(num_answers, num_tokens)
        if abs(num_tokens - depth) > DEEPER or now - self._last_at.get(num_answers, now) > PAUSE_S:
            self._plain[num_answers].clear()
            self._num_due[num_answers] = PLAIN_AT_ONCE
            self._depth[num_answers] = num_tokens
        self._last_at[num_answers] = now

    def skip(self, num_answers: int) -> float | None:
        """A step read a part of a prompt, too, and is no measure; the seconds of one without, if they are known."""
        self.guessing_s = 0.0
        return self.plain(num_answers)

    def note(self, num_answers: int, num_drafted: int, seconds: float, drafting_s: float = 0.0) -> float:
        """A step of that many answers took so long, with that many drafted tokens in all; the seconds that it would
        have taken without. drafting_s: of them, for finding the drafts, with what the MTP module took."""
        guessing_s, self.guessing_s = self.guessing_s, 0.0
        if not num_drafted:
            self._note_plain(num_answers, seconds - drafting_s)
            return seconds - drafting_s
        self._num_since_plain[num_answers] += 1
        if self._is_retry(num_answers):
            self._patience[num_answers] = min(2 * self._patience[num_answers], MOST_PATIENCE)
        elif self._num_since_drafted[num_answers] < PLAIN_STEPS and len(self._drafted[num_answers]) >= FEW:
            self._patience[num_answers] = FIRST_PATIENCE
        self._num_since_drafted[num_answers] = 0
        if (plain := self.plain(num_answers)) is None:
            return seconds
        step = _DraftedStep(num_drafted, seconds - guessing_s, plain, self._num_since_plain[num_answers])
        self._drafted[num_answers].append(step)
        return plain

    def _note_plain(self, num_answers: int, seconds: float) -> None:
        before, due = self.plain(num_answers), self._num_due
        due[num_answers] = max(due[num_answers] - 1, 0)
        if before is not None and self._num_since_plain[num_answers] and abs(seconds - before) > CHANGED * before:
            due[num_answers] = PLAIN_AT_ONCE - 1  # a neighbour came or left, or one step was disturbed
        self._plain[num_answers].append(seconds)
        self._num_since_plain[num_answers] = 0
        self._num_since_drafted[num_answers] += 1
        if self._num_since_drafted[num_answers] <= PLAIN_AT_ONCE and (plain := self.plain(num_answers)):
            for step in self._drafted[num_answers]:
                step.note_plain(plain)

    def note_guess(self, num_tokens: int, seconds: float) -> None:
        """For a guess the MTP module read so many tokens, in so long."""
        self._guess.append(seconds / num_tokens)
        self.guessing_s += seconds

    def plain(self, num_answers: int) -> float | None:
        """Seconds of a step without drafts, None if there was none."""
        found = self._plain.get(num_answers)
        return median(found) if found else None

    def _is_retry(self, num_answers: int) -> bool:
        """Whether nothing was drafted for long."""
        return self._num_since_drafted[num_answers] >= num_answers**2 * self._patience[num_answers]

    def prices(self, num_answers: int) -> Prices:
        """Of drafts in a step for that many answers."""
        plain, drafted = self.plain(num_answers), self._drafted[num_answers]
        is_due = self._num_due[num_answers] or self._num_since_plain[num_answers] >= PLAIN_EVERY
        if plain is None or plain <= 0 or is_due:
            return Prices(float("inf"), float("inf"))
        # a price of a disturbed moment would keep drafts away, and so itself, for ever
        is_retry = self._is_retry(num_answers)
        while is_retry and len(drafted) > RETRY_KEEPS:
            drafted.popleft()
        token = FIRST_PRICE
        if drafted:
            extra = [step.extra for step in drafted]
            # one of few may have been disturbed
            token = median([*extra, FIRST_PRICE / num_answers] if len(extra) < FEW else extra)
            token = max(LEAST_PRICE, num_answers * token)
        if is_retry:
            token = min(token, RETRY_PRICE)
        # the first ones read weights from the disk
        guess = num_answers * median(self._guess) / plain if len(self._guess) >= FEW else FIRST_GUESS_PRICE
        return Prices(token, guess)


FIRST_TOKENS, MOST_TOKENS = 2.0, 16.0  # that drafts may lose at the beginning, and after any success
BORROWED = 4.0  # of what others gained, that one answer may lose
ALLOWED = 0.008  # tokens that they may lose for each that is written
ALLOWED_EFFORT = 0.006  # the same for looking for them
FIRST_EFFORT, MOST_EFFORT = 0.25, 2.0  # tokens that looking may cost at the beginning, and after any success
LOOK = 0.5  # the most that one look is charged with: a thread may be stopped in the middle of it


class Balance:
    """What drafting has gained an answer, in tokens: it bounds what drafts can lose, however likely they seem."""

    def __init__(self, common: Balance | None = None, tokens: float = FIRST_TOKENS):
        """common: of all answers, which learns from this one; what they have gained may be lost by any."""
        self._common, self._tokens = common, tokens

    def affords(self, paid: float) -> bool:
        """Whether drafts may cost so many tokens, if all may be wrong."""
        if paid <= max(self._tokens, 0.0):
            return True
        return self._common is not None and self._tokens - paid >= -BORROWED and self._common.affords(paid)

    def note(self, num_written: int, num_accepted: int, paid: float) -> None:
        """Tokens were written, some of them accepted drafts; all drafts cost so many tokens."""
        self._tokens = min(MOST_TOKENS, self._tokens + ALLOWED * num_written + num_accepted - paid)
        if self._common is not None:
            self._common.note(num_written, num_accepted, paid)


class Effort:
    """Whether looking for drafts is worth its time to an answer: it may take a small share of its steps, and more where
    drafts are accepted. Guesses of the MTP module have a price, which `Balance` bounds, and do not count."""

    def __init__(self) -> None:
        self._tokens = FIRST_EFFORT

    @property
    def is_spent(self) -> bool:
        return self._tokens < 0

    def pay(self, tokens: float) -> None:
        """A look took as long as so many tokens of all answers."""
        self._tokens -= min(tokens, LOOK)

    def note(self, num_accepted: int) -> None:
        """A token was chosen, and with it so many drafts were accepted."""
        self._tokens = min(MOST_EFFORT, self._tokens + ALLOWED_EFFORT + num_accepted)


MEMORY = 0.95  # share of what was seen that one more draft leaves
TRUST = 8.0  # drafts that what is known from elsewhere counts for
FORCED, LONGEST = 0, 17  # kinds: forced by a grammar, or as many tokens as matched before, up to the longest
PRIORS = (0.98, 0.1, 0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.78, 0.8, 0.82, 0.84, 0.86, 0.88, 0.89, 0.9, 0.92)


class Odds:
    """How often drafts of a kind were right lately, also those that were thought of and not read."""

    def __init__(self, before: Odds | None = None, memory: float = MEMORY, priors: Sequence[float] = PRIORS):
        """before: what is believed until there is something to go by, None for `priors`, one per kind."""
        self._before, self._memory, self._priors = before, memory, priors
        self._right, self._seen = [0.0] * len(priors), [0.0] * len(priors)

    def of(self, kind: int) -> float:
        before = self._before.of(kind) if self._before is not None else self._priors[kind]
        return (self._right[kind] + TRUST * before) / (self._seen[kind] + TRUST)

    def note(self, kind: int, is_right: bool) -> None:
        self._right[kind] = self._right[kind] * self._memory + is_right
        self._seen[kind] = self._seen[kind] * self._memory + 1
        if self._before is not None:
            self._before.note(kind, is_right)
