"""The same cases under several policies of thinking: what earlier thinking gains and costs, case by case.

`current-task` keeps thinking since the user's last turn and drops what is older; `none` drops that as well. So what is
gained altogether (all - none) is the sum of what is gained across user turns (all - current-task) and within a tool
loop (current-task - none). Knows no benchmark and no file. Enter at `compare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from typing import Any

from a3b.errors import UsageError
from a3b.evals.intervals import PairedDifference, ShareInterval, difference, share
from a3b.evals.records import CaseRecord

ALL, TASK, NONE, BUDGET = "all", "current-task", "none", "budget:"
COSTS = ("thinking", "computed", "cached", "written", "seconds")
EFFECTS = (("across user turns", ALL, TASK), ("within a tool loop", TASK, NONE), ("altogether", ALL, NONE))
POINTS = 100  # percent

Try = tuple[str, int]  # case, epoch
Tries = list[list[CaseRecord]]  # of each case


@dataclass(frozen=True)
class Effect:
    """What a policy has more of than the one it is held against, on the same cases. solved: in [-1, 1]; costs: each
    a mean over cases."""

    name: str
    policy: str
    against: str
    solved: PairedDifference
    costs: dict[str, PairedDifference]


@dataclass(frozen=True)
class Comparison:
    """cases, tries: those that every policy has finished; left_out: those that some have not, and no figure counts."""

    cases: int
    tries: int
    left_out: tuple[Try, ...]
    scores: dict[str, ShareInterval]
    costs: dict[str, dict[str, float]]
    effects: tuple[Effect, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(runs: Mapping[str, Mapping[Try, CaseRecord]], seed: int = 0) -> Comparison:
    """runs: what became of each try, by policy. Raises UsageError if they have none in common."""
    tries, left_out = common_tries(runs)
    cases = next(iter(tries.values()))
    if not cases:
        counts = ", ".join(f"{policy}: {len(_finished(found))}" for policy, found in runs.items())
        raise UsageError(f"the policies have finished no case in common ({counts}); --resume goes on with them")
    return Comparison(
        len(cases),
        sum(map(len, cases)),
        left_out,
        {policy: share(scores_of(found)) for policy, found in tries.items()},
        {policy: {c: fmean(map(fmean, costs_of(found, c))) for c in COSTS} for policy, found in tries.items()},
        tuple(_effect(*effect, tries, seed) for effect in effects_of(runs)),
    )


def common_tries(runs: Mapping[str, Mapping[Try, CaseRecord]]) -> tuple[dict[str, Tries], tuple[Try, ...]]:
    """By run, the tries that all runs have finished, in the same order, and those that some have not."""
    done = {name: _finished(found) for name, found in runs.items()}
    every = set().union(*runs.values())
    common = {key for key in every if all(key in found for found in done.values())}
    tries = {
        name: [[found[key] for key in keys] for _, keys in groupby(sorted(common), itemgetter(0))]
        for name, found in done.items()
    }
    return tries, tuple(sorted(every - common))


def _finished(found: Mapping[Try, CaseRecord]) -> dict[Try, CaseRecord]:
    return {key: record for key, record in found.items() if record.score is not None}


def effects_of(policies: Iterable[str]) -> list[tuple[str, str, str]]:
    """(name, policy, the one it is held against) of what these policies can tell."""
    given = list(policies)
    found = [effect for effect in EFFECTS if effect[1] in given and effect[2] in given]
    budgets = [policy for policy in given if policy.startswith(BUDGET)]
    return found + [(f"beyond {b.removeprefix(BUDGET)} tokens", ALL, b) for b in budgets if ALL in given]


def scores_of(tries: Tries) -> list[list[float]]:
    return [[record.score for record in records if record.score is not None] for records in tries]


def costs_of(tries: Tries, cost: str) -> list[list[float]]:
    return [[float(getattr(record.cost, cost)) for record in records] for records in tries]


def _effect(name: str, policy: str, against: str, runs: Mapping[str, Tries], seed: int) -> Effect:
    one, other = runs[policy], runs[against]
    costs = {cost: difference(costs_of(other, cost), costs_of(one, cost), seed=seed) for cost in COSTS}
    return Effect(name, policy, against, difference(scores_of(other), scores_of(one), seed=seed, most=1.0), costs)


def as_markdown(found: Comparison) -> str:
    """Two tables: the policies, and what they differ in. Costs are of one try, on average."""
    lines = [f"| policy | solved | {' | '.join(COSTS)} |", "|---" * (2 + len(COSTS)) + "|"]
    for policy, score in found.scores.items():
        solved = f"{score.mean:.1%} ({score.low:.1%} – {score.high:.1%})".replace("%", " %")
        costs = [amount(found.costs[policy][cost], cost) for cost in COSTS]
        lines.append(f"| {policy} | {solved} | {' | '.join(costs)} |")
    lines += ["", f"| earlier thinking | solved, points | better, worse, p | {' | '.join(COSTS)} |"]
    lines.append("|---" * (3 + len(COSTS)) + "|")
    for effect in found.effects:
        s = effect.solved
        p = "" if s.p is None else f", {chance(s.p)}"
        costs = [signed(effect.costs[cost], cost) for cost in COSTS]
        name = f"{effect.name}: {effect.policy} − {effect.against}"
        lines.append(f"| {name} | {points(s)} | {s.won}, {s.lost}{p} | {' | '.join(costs)} |")
    return "\n".join(lines)


def chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def points(found: PairedDifference) -> str:
    """A difference of shares, in points of a hundred."""
    mean, low, high = (f"{value * POINTS:+.1f}" for value in (found.mean, found.low, found.high))
    return f"{mean} ({low} – {high})"


def amount(value: float, cost: str, sign: str = "") -> str:
    return format(value, f"{sign},.2f" if cost == "seconds" else f"{sign},.1f" if abs(value) < 10 else f"{sign},.0f")


def signed(found: PairedDifference, cost: str) -> str:
    mean, low, high = (amount(value, cost, "+") for value in (found.mean, found.low, found.high))
    return mean if found.low == found.high else f"{mean} ({low} – {high})"
