"""The MTP module is asked while its guesses gain, beside what the context says; time and the module are simulated."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from a3b.engine.draft_prices import Odds, Prices, StepCosts
from a3b.engine.draft_sources import ContextDrafter
from a3b.engine.drafts import Answer
from a3b.engine.mtp_guesses import ASK_EVERY, ASK_SHARE, BUCKETS, MAX_IDS, NEW_SHARE, MtpGuesses, MtpOdds, probability

V = 50


class Text:
    """Stands in for a Generation that nothing constrains."""

    def __init__(self, sampled=()) -> None:
        self.sampled = list(sampled)

    def forced(self, most: int) -> list[int]:
        return []

    def may_follow(self, token: int) -> bool:
        return True

    def guess(self, logits: np.ndarray, ids: np.ndarray, ahead: int) -> int:
        return int(ids[logits.argmax()])


class Chain:
    """A chain that says what `Module.next` makes of the tokens that it read."""

    def __init__(self, module: Module):
        self.module, self.read = module, []

    def add(self, token: int) -> None:
        self.read.append(token)
        self.module.num_read += 1

    def logits(self, head: object) -> np.ndarray:
        token, margin = self.module.next(self.read)
        found = np.zeros(V, np.float32)
        found[token] = margin
        return found


class Module:
    """Stands in for an MtpModule. next: tokens read -> (guess, how much its logit is above all others)."""

    def __init__(self, next, frequent=None):
        self.next, self.frequent, self.num_read = next, frequent, 0
        self.default_head = SimpleNamespace(ids=np.arange(V))
        self.heads: list[np.ndarray] = []  # tokens that joined the default one

    def chain(self, state: object) -> Chain:
        return Chain(self)

    def head_with(self, ids: np.ndarray) -> object:
        self.heads.append(ids)
        return SimpleNamespace(ids=ids)


def tokens_of(drafter: ContextDrafter, answer: Answer, most: int, prices: Prices) -> list[int]:
    return [draft.token for draft in drafter.propose(answer, most, prices)]


def simulated(next, choose, tokens: int = 600, extra: float = 0.28, each: float = 0.05, prompt=()) -> tuple:
    """Seconds with drafts, seconds without, tokens of steps. A step takes a second, `extra` more for a drafted token,
    `each` more for a token that the module reads."""
    module, costs, text = Module(next), StepCosts(), Text()
    drafter = ContextDrafter(prompt, Odds(memory=0.995), MtpGuesses(module, prompt, MtpOdds.new()))
    with_drafts, num_counted, sizes, feed = 0.0, 0, [], [1]
    while len(text.sampled) < tokens:
        before, counts = module.num_read, len(text.sampled) >= 64
        drafts = tokens_of(drafter, Answer(text, None, feed), 8, costs.prices(1))
        if num := module.num_read - before:
            costs.note_guess(num, each * num)
        costs.note(1, len(drafts), 1 + extra * len(drafts) + each * num, each * num)
        for place in range(len(drafts) + 1):
            text.sampled.append(choose(text.sampled))
            if place == len(drafts) or text.sampled[-1] != drafts[place]:
                break
        feed = [text.sampled[-1]]
        if counts:
            with_drafts += 1 + extra * len(drafts) + each * (module.num_read - before)
            num_counted += place + 1
            sizes.append(place + 1)
    return with_drafts, float(num_counted), sizes


def scattered(ids) -> int:
    """A text without repetitions that anyone can compute who knows its last token."""
    return (ids[-1] * 7 + 3) % 47 if len(ids) else 5


def test_guesses_that_are_right_are_read_as_far_as_they_pay():
    with_drafts, plain, sizes = simulated(lambda read: (scattered(read), 9.0), scattered)
    assert plain / with_drafts > 1.8 and max(sizes) >= 4


@pytest.mark.parametrize("each", [0.02, 0.05, 0.2])
def test_guesses_that_are_wrong_cost_next_to_nothing(each: float):
    with_drafts, plain, _ = simulated(lambda read: ((scattered(read) + 1) % 47, 9.0), scattered, 1500, each=each)
    assert with_drafts <= 1.02 * plain


def test_where_the_module_is_sure_only_now_and_then_its_probability_tells_which_guesses_to_read():
    rng = random.Random(3)
    words = [rng.randrange(V) for _ in range(900)]

    def choose(sampled) -> int:
        return words[len(sampled)]

    place = {"at": 0}

    def next(read):
        truth = words[place["at"] + len(read) - 1]
        return (truth, 9.0) if (place["at"] + len(read)) % 3 else ((truth + 1) % V, 0.5)

    module, costs, text = Module(next), StepCosts(), Text()
    drafter = ContextDrafter([], Odds(), MtpGuesses(module, [], MtpOdds.new()))
    right = read = 0
    while len(text.sampled) < 800:
        place["at"] = len(text.sampled)
        drafts = tokens_of(drafter, Answer(text, None, [1]), 8, costs.prices(1))
        costs.note(1, len(drafts), 1 + 0.28 * len(drafts))
        for i in range(len(drafts) + 1):
            text.sampled.append(choose(text.sampled))
            if i == len(drafts) or text.sampled[-1] != drafts[i]:
                break
        if len(text.sampled) > 400:
            right, read = right + i, read + len(drafts)
    assert right / read > 0.9


def test_what_the_context_says_is_read_without_asking_where_it_is_as_likely():
    module = Module(lambda read: (9, 9.0))
    prompt = [*range(1, 40), *range(1, 30)]
    drafter = ContextDrafter(prompt, None, MtpGuesses(module, prompt))
    drafts = tokens_of(drafter, Answer(Text(), None, [29]), 6, Prices(0.1, 0.05))
    assert drafts == [30, 31, 32, 33, 34, 35] and module.num_read == 0


def test_an_infinite_price_asks_nothing():
    module = Module(lambda read: (9, 9.0))
    guesses = MtpGuesses(module, [])
    drafter = ContextDrafter([], None, guesses)
    for _ in range(3 * ASK_EVERY):
        assert tokens_of(drafter, Answer(Text(), None, [1]), 6, Prices(float("inf"), float("inf"))) == []
    assert module.num_read == 0


@pytest.mark.parametrize(("price", "steps"), [(0.2, ASK_EVERY), (1.0, 1 / ASK_SHARE), (4.0, 4 / ASK_SHARE)])
def test_where_guesses_do_not_pay_one_is_asked_for_the_less_often_the_dearer_they_are(price: float, steps: float):
    module = Module(lambda read: (9, 9.0))
    drafter = ContextDrafter([], None, MtpGuesses(module, []))
    for _ in range(4 * round(steps)):
        assert tokens_of(drafter, Answer(Text(), None, [1]), 6, Prices(0.95, price)) == []
    assert module.num_read == 4


def test_several_tokens_that_were_not_read_yet_are_read_first():
    seen = []
    module = Module(lambda read: (seen.append(list(read)) or len(read), 9.0))
    drafter = ContextDrafter([], None, MtpGuesses(module, []))
    assert tokens_of(drafter, Answer(Text(), None, [7, 8]), 2, Prices(0.01, 0.01)) == [2, 3]
    assert seen == [[7, 8], [7, 8, 2]]


def test_rare_tokens_of_the_context_join_the_head_and_the_latest_stay():
    frequent = np.zeros(100_000, bool)
    frequent[:100] = True
    module = Module(lambda read: (1, 9.0), frequent)
    guesses = MtpGuesses(module, [5, 700, 300, 700])

    def learn(ids) -> None:
        guesses.learn(ids, [])
        guesses.begin(Answer(Text(), None, [1]))
        guesses.guess()

    learn([])
    assert [ids.tolist() for ids in module.heads] == [[300, 700]]
    learn(list(range(1000, 1000 + 2 * NEW_SHARE)))
    assert len(module.heads) == 2 and len(module.heads[-1]) == 2 * NEW_SHARE + 2
    learn([5000, 5001])  # with one of NEW_SHARE new, the matrix is not worth building again
    assert len(module.heads) == 2
    learn([5002])
    assert len(module.heads[-1]) == 2 * NEW_SHARE + 5
    learn(list(range(10_000, 10_000 + MAX_IDS)))
    assert module.heads[-1].tolist() == list(range(10_000, 10_000 + MAX_IDS))
    learn([10_000, *range(20_000, 20_000 + MAX_IDS // 2)])  # one that is seen again is one of the latest
    assert 10_000 in module.heads[-1] and 10_001 not in module.heads[-1]


def test_rare_tokens_are_copied_for_guesses_only_and_a_bounded_number_of_rows_for_each_new_one():
    frequent = np.zeros(100_000, bool)
    module = Module(lambda read: (1, 9.0), frequent)
    guesses = MtpGuesses(module, range(50_000))
    for start in range(50_000, 100_000, 32):
        guesses.learn(range(start, min(start + 32, 100_000)), [])
    assert module.heads == [] and len(guesses._rare._ids) == MAX_IDS
    guesses = MtpGuesses(module, [])
    for start in range(0, 50_000, 32):  # as many as a step has drafts, none of them seen before
        guesses.learn(range(start, start + 32), [])
        guesses.begin(Answer(Text(), None, [1]))
        guesses.guess()
    assert sum(map(len, module.heads)) <= NEW_SHARE * 50_000 and len(module.heads[-1]) == MAX_IDS


def test_of_a_context_of_many_rare_tokens_the_latest_are_kept_in_the_order_of_their_last_occurrence():
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 9000, 60_000).tolist()
    guesses = MtpGuesses(Module(lambda read: (1, 9.0), np.zeros(9000, bool)), ids)
    expected = list(dict.fromkeys(reversed(ids)))[:MAX_IDS][::-1]
    assert list(guesses._rare._ids) == expected


def test_a_probability_is_that_of_the_tokens_that_have_logits():
    logits, ids = np.array([1.0, 3.0, 2.0], np.float32), np.array([7, 20, 300])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [probability(logits, ids, token) for token in ids] == pytest.approx(expected, rel=1e-5)
    assert probability(np.array([-500.0, 500.0], np.float32), ids[:2], 7) < 1e-30
    assert len(BUCKETS) == 8
