"""The same cases under several policies of thinking: what earlier thinking gains and costs, case by case.

`current-task` keeps thinking since the user's last turn and drops what is older; `none` drops that as well. So what is
gained altogether (all - none) is the sum of what is gained across user turns (all - current-task) and within a tool
loop (current-task - none). Knows no benchmark and no file. Enter at `compare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
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
    done = {p: {key: record for key, record in found.items() if record.score is not None} for p, found in runs.items()}
    every = set().union(*runs.values())
    common = {key for key in every if all(key in found for found in done.values())}
    if not common:
        counts = ", ".join(f"{policy}: {len(found)}" for policy, found in done.items())
        raise UsageError(f"the policies have finished no case in common ({counts}); --resume goes on with them")
    cases = sorted({case for case, _ in common})
    tries: dict[str, Tries] = {
        policy: [[found[key] for key in sorted(common) if key[0] == case] for case in cases]
        for policy, found in done.items()
    }
    return Comparison(
        len(cases),
        len(common),
        tuple(sorted(every - common)),
        {policy: share(_scores(found)) for policy, found in tries.items()},
        {policy: {c: fmean(map(fmean, _costs(found, c))) for c in COSTS} for policy, found in tries.items()},
        tuple(_effect(*effect, tries, seed) for effect in effects_of(runs)),
    )


def effects_of(policies: Iterable[str]) -> list[tuple[str, str, str]]:
    """(name, policy, the one it is held against) of what these policies can tell."""
    given = list(policies)
    found = [effect for effect in EFFECTS if effect[1] in given and effect[2] in given]
    budgets = [policy for policy in given if policy.startswith(BUDGET)]
    return found + [(f"beyond {b.removeprefix(BUDGET)} tokens", ALL, b) for b in budgets if ALL in given]


def _scores(tries: Tries) -> list[list[float]]:
    return [[record.score for record in records if record.score is not None] for records in tries]


def _costs(tries: Tries, cost: str) -> list[list[float]]:
    return [[float(getattr(record.cost, cost)) for record in records] for records in tries]


def _effect(name: str, policy: str, against: str, runs: Mapping[str, Tries], seed: int) -> Effect:
    one, other = runs[policy], runs[against]
    costs = {cost: difference(_costs(other, cost), _costs(one, cost), seed=seed) for cost in COSTS}
    return Effect(name, policy, against, difference(_scores(other), _scores(one), seed=seed, most=1.0), costs)


def as_markdown(found: Comparison) -> str:
    """Two tables: the policies, and what they differ in. Costs are of one try, on average."""
    lines = [f"| policy | solved | {' | '.join(COSTS)} |", "|---" * (2 + len(COSTS)) + "|"]
    for policy, score in found.scores.items():
        solved = f"{score.mean:.1%} ({score.low:.1%} – {score.high:.1%})".replace("%", " %")
        costs = [_number(found.costs[policy][cost], cost) for cost in COSTS]
        lines.append(f"| {policy} | {solved} | {' | '.join(costs)} |")
    lines += ["", f"| earlier thinking | solved, points | better, worse, p | {' | '.join(COSTS)} |"]
    lines.append("|---" * (3 + len(COSTS)) + "|")
    for effect in found.effects:
        s = effect.solved
        points = f"{s.mean * POINTS:+.1f} ({s.low * POINTS:+.1f} – {s.high * POINTS:+.1f})"
        p = "" if s.p is None else ", < 0.001" if s.p < 0.001 else f", {s.p:.3f}"
        costs = [_signed(effect.costs[cost], cost) for cost in COSTS]
        name = f"{effect.name}: {effect.policy} − {effect.against}"
        lines.append(f"| {name} | {points} | {s.won}, {s.lost}{p} | {' | '.join(costs)} |")
    return "\n".join(lines)


def _number(value: float, cost: str, sign: str = "") -> str:
    return format(value, f"{sign},.2f" if cost == "seconds" else f"{sign},.1f" if abs(value) < 10 else f"{sign},.0f")


def _signed(found: PairedDifference, cost: str) -> str:
    mean, low, high = (_number(value, cost, "+") for value in (found.mean, found.low, found.high))
    return mean if found.low == found.high else f"{mean} ({low} – {high})"
