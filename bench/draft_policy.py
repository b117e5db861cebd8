"""What the controller makes of drafts on simulated machines, beside the best that is possible: no model, no clock.

    python -m bench.draft_policy [--answers 6] [--tokens 160] [--seeds 30] [--json]

A step takes a tenth of a second, times what a machine asks for a step with so many drafts (`MACHINES`: as measured in
docs/bench.md, Drafts), times noise: of each step, and of spells in which everything is slower. The MTP module is right
as often as was published (bench/draft_speed.py), or never while it seems to be sure. Answers come one after the other
and learn from each other, as in a server. Best: the same number of drafts in each step, the one that gains most.
Columns: times as fast as without drafts, the mean of all seeds; in parentheses the lowest."""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from a3b.engine.draft_prices import Balance, Odds, StepCosts
from a3b.engine.draft_sources import LONG_MEMORY, ContextDrafter
from a3b.engine.drafts import Answer
from a3b.engine.mtp_guesses import BUCKETS, DEPTHS, Guess, MtpGuesses, MtpOdds
from bench.draft_speed import PUBLISHED, by_place

STEP_S, GUESS = 0.1, 0.036  # a step without drafts; a guess, in such steps
# what a step with 1, 2, .. drafts takes longer
MACHINES: dict[str, Callable[[int], float]] = {
    "Zen 4": lambda num: (0.0, 0.30, 0.65)[num] if num < 3 else 0.3 * num,
    "Xeon": lambda num: (0.0, 0.37, 0.70, 1.02)[num] if num < 4 else 0.35 * num,
    "computes": lambda num: 1.0 * num,
}
NOISE = {"quiet": (0.03, 0.0), "noisy": (0.15, 0.25)}  # of a step, as a share; of a spell
RATES = {**{text: tuple(by_place(shares)) for text, shares in PUBLISHED.items()}, "lies": (0.0,) * len(DEPTHS)}


class Simulated(MtpGuesses):
    """Guesses that are right as often as `rates` say, by their place."""

    def __init__(self, known: MtpOdds, costs: StepCosts, rates: Sequence[float], rng: random.Random):
        super().__init__(SimpleNamespace(frequent=None, default_head=None), (), known)  # type: ignore[arg-type]
        self._costs, self._rates, self._rng = costs, rates, rng
        self._next_id = 1
        self.num_read = 0  # tokens that the module read in this step

    def odds(self) -> float:
        return super().odds() if self._place < len(self._rates) else 0.0

    def guess(self) -> Guess:
        self.num_read += len(self._behind)
        self._behind = []
        token = 0 if self._rng.random() < self._rates[self._place] else self._next_id  # 0 is always chosen
        bucket = max(len(BUCKETS) - 2 - self._place, 0)
        self._asked.append(SimpleNamespace(place=self._place, bucket=bucket, token=token))  # type: ignore[arg-type]
        return Guess(token, self._odds.by_probability.of(bucket), "mtp")


class Zeros:
    """Stands in for a Generation: it chooses 0 each time."""

    def __init__(self) -> None:
        self.sampled: list[int] = []

    def forced(self, most: int) -> list[int]:
        return []

    def may_follow(self, token: int) -> bool:
        return False  # repetitions are not what is simulated


def slowness(noise: tuple[float, float], rng: random.Random) -> Iterator[float]:
    of_step, of_spell = noise
    while True:
        spell = 1 + rng.choice((0.0, 0.0, 0.5, 1.0)) * of_spell
        for _ in range(rng.randint(10, 120)):
            yield spell * rng.lognormvariate(0, of_step)


def seconds(
    step: Callable[[int], float],
    rates: Sequence[float],
    noise: tuple[float, float],
    answers: int,
    tokens: int,
    seed: int,
) -> tuple[float, float]:
    """Of all answers with drafts, and of the same without."""
    rng, machine, costs = random.Random(seed), slowness(noise, random.Random(seed)), StepCosts()
    known, gained = MtpOdds.new(memory=LONG_MEMORY), Balance(tokens=0.0)
    with_drafts = 0.0
    for _ in range(answers):
        text, guesses = Zeros(), Simulated(known, costs, rates, rng)
        drafter = ContextDrafter([], Odds(memory=LONG_MEMORY), guesses, gained)
        while len(text.sampled) < tokens:
            guesses.num_read = 0
            answer = Answer(text, SimpleNamespace(), [0])  # type: ignore[arg-type]
            drafts = drafter.propose(answer, tokens - len(text.sampled) - 1, costs.prices(1))
            plain_s = STEP_S * next(machine)
            guessing_s = plain_s * GUESS * guesses.num_read
            if guesses.num_read:
                costs.note_guess(guesses.num_read, guessing_s)
            taken = plain_s * (1 + step(len(drafts))) + guessing_s
            costs.note(1, len(drafts), taken, guessing_s)
            with_drafts += taken
            right = next((num for num, draft in enumerate(drafts) if draft.token), len(drafts))
            text.sampled += [0] * (right + 1)
    machine = slowness(noise, random.Random(seed))
    return with_drafts, sum(STEP_S * next(machine) for _ in range(answers * tokens))


def best(step: Callable[[int], float], rates: Sequence[float]) -> float:
    gains, tokens, chance = [1.0], 1.0, 1.0
    for num, rate in enumerate(rates, 1):
        chance *= rate
        tokens += chance
        gains.append(tokens / (1 + step(num) + GUESS * num))
    return max(gains)


def row(machine: str, text: str, noise: str, answers: int, tokens: int, seeds: int) -> dict[str, Any]:
    pairs = [seconds(MACHINES[machine], RATES[text], NOISE[noise], answers, tokens, seed) for seed in range(seeds)]
    gains = [without / with_drafts for with_drafts, without in pairs]
    return {
        "machine": machine, "text": text, "noise": noise, "gain": statistics.mean(gains), "lowest": min(gains),
        "best": best(MACHINES[machine], RATES[text]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=160, help="of an answer")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    args = parser.parse_args()
    if not args.json:
        print("| machine | text | noise | gain | best |\n|---|---|---|---|---|")
    for machine in MACHINES:
        for text in RATES:
            for noise in NOISE:
                found = row(machine, text, noise, args.answers, args.tokens, args.seeds)
                gain = f"{found['gain']:.2f} ({found['lowest']:.2f})"
                told = f"| {machine} | {text} | {noise} | {gain} | {found['best']:.2f} |"
                print(json.dumps(found) if args.json else told, flush=True)


if __name__ == "__main__":
    main()
