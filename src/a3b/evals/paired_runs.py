"""Two runs of one benchmark, case by case: what the second has more of than the first. Enter at `compare_runs`,
`as_text`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmark import Benchmark
from a3b.evals.compare import COSTS, Tries, Try, amount, chance, common_tries, costs_of, points, scores_of, signed
from a3b.evals.intervals import PairedDifference, ShareInterval, difference, mcnemar, share
from a3b.evals.records import TOKENS
from a3b.evals.report import aligned, settings_of
from a3b.evals.runs import RunDirectory
from a3b.printable import printable

A, B = "A", "B"
SHOWN_LEFT_OUT = 5


@dataclass(frozen=True)
class PairedRun:
    """One of the two, over the tries that both have finished. costs: of a mean try, None where the server did not tell
    all tokens."""

    directory: str
    model: str
    settings: str
    score: ShareInterval
    costs: dict[str, float | None]


@dataclass(frozen=True)
class RunComparison:
    """B less A. left_out: tries that one of them has not finished; test: which one says `p`; costs: None where one of
    both is not known; notes: what else differs."""

    benchmark: str
    a: PairedRun
    b: PairedRun
    cases: int
    tries: int
    left_out: tuple[Try, ...]
    solved: PairedDifference
    test: str
    p: float
    costs: dict[str, PairedDifference | None]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_runs(first: RunDirectory, second: RunDirectory, chosen: Benchmark | None = None) -> RunComparison:
    """chosen: the benchmark, if it is known here. Raises UsageError for runs without a case in common."""
    if first.benchmark != second.benchmark:
        raise UsageError(
            f"{first.path} is a run of {first.benchmark!r} and {second.path} one of {second.benchmark!r}; expected two "
            "of one benchmark"
        )
    if first.path.resolve() == second.path.resolve():
        raise UsageError(f"{first.path} and {second.path} are one run; expected two")
    runs = {A: first.records(), B: second.records()}
    tries, left_out = common_tries(runs)
    if not tries[A]:
        counts = [len({r.case for r in found.values() if r.score is not None}) for found in runs.values()]
        raise UsageError(
            f"{first.path} and {second.path} have finished no case in common, of {counts[0]:,} and {counts[1]:,}; run "
            "the same ones (--data, --set, --limit), or go on with --resume"
        )
    solved = difference(scores_of(tries[A]), scores_of(tries[B]), most=1.0)
    is_binary = solved.p is not None
    a, b = _paired(first, tries[A], chosen), _paired(second, tries[B], chosen)
    return RunComparison(
        first.benchmark,
        a,
        b,
        len(tries[A]),
        sum(map(len, tries[A])),
        left_out,
        solved,
        "McNemar's exact test" if is_binary else "sign test",
        mcnemar(solved.won, solved.lost),  # which is a sign test where cases are no yes or no
        {cost: _difference(a, b, tries, cost) for cost in COSTS},
        tuple(_notes(first, second, a, b, chosen.unsaid if chosen else ())),
    )


def _paired(run: RunDirectory, tries: Tries, chosen: Benchmark | None) -> PairedRun:
    untold = sum(record.cost.untold for record in chain.from_iterable(tries))
    known = [cost for cost in COSTS if cost not in TOKENS or not untold]
    costs = {c: fmean(map(fmean, costs_of(tries, c))) if c in known else None for c in COSTS}
    settings = settings_of(run, chosen)
    return PairedRun(str(run.path), str(run.config["model"]), settings, share(scores_of(tries)), costs)


def _difference(a: PairedRun, b: PairedRun, tries: dict[str, Tries], cost: str) -> PairedDifference | None:
    if a.costs[cost] is None or b.costs[cost] is None:
        return None
    return difference(costs_of(tries[A], cost), costs_of(tries[B], cost))


def _notes(
    first: RunDirectory, second: RunDirectory, a: PairedRun, b: PairedRun, unsaid: Sequence[str]
) -> Iterator[str]:
    """What the runs differ in beside their models."""
    if a.settings != b.settings:
        yield f"set for A: {a.settings or 'nothing'}; for B: {b.settings or 'nothing'}"
    one, other = first.config["options"], second.config["options"]
    if one.get("data") != other.get("data") or _chosen(one, unsaid) != _chosen(other, unsaid):
        yield "--set or --data differ, so cases of one name may be others; only their names are compared"
    if one.get("seed") != other.get("seed"):
        yield f"seeds differ ({one.get('seed')}, {other.get('seed')}), so what is sampled is not paired"


def _chosen(options: Mapping[str, Any], unsaid: Sequence[str]) -> dict[str, Any]:
    """What --set says of the cases."""
    extra = options.get("extra")
    return {name: value for name, value in extra.items() if name not in unsaid} if isinstance(extra, dict) else {}


def as_text(found: RunComparison) -> str:
    """Tables for people: both runs, and what B has more of."""
    tries = "" if found.tries == found.cases else f", {found.tries:,} tries"
    table = [["", "model", "solved, percent", *COSTS]]
    for name, run in ((A, found.a), (B, found.b)):
        score = f"{100 * run.score.mean:.1f} ({100 * run.score.low:.1f} – {100 * run.score.high:.1f})"
        costs = [_amount(run.costs[cost], cost) for cost in COSTS]
        table.append([name, run.model, score, *costs])
    more = [signed(known, cost) if (known := found.costs[cost]) is not None else "unknown" for cost in COSTS]
    table.append(["B − A", "", points(found.solved), *more])
    won, lost = found.solved.won, found.solved.lost
    p = chance(found.p) if found.p < 0.001 else f"= {chance(found.p)}"
    out = [
        f"{printable(found.benchmark)}: {found.cases:,} cases{tries} that both runs have finished",
        "",
        aligned(table),
        "",
        f"B does better in {won:,} cases and worse in {lost:,}: p {p} ({found.test})",
        "intervals of 95 %; costs are of a mean try",
    ]
    if left := found.left_out:
        some = printable(", ".join(f"{case} #{epoch}" for case, epoch in left[:SHOWN_LEFT_OUT]))[:200]
        others = f" and {len(left) - SHOWN_LEFT_OUT:,} more" if len(left) > SHOWN_LEFT_OUT else ""
        out.append(f"not finished by one of them, and left out: {some}{others}")
    out += [printable(note) for note in found.notes]
    return "\n".join([*out, *(f"{name}: {printable(run.directory)}" for name, run in ((A, found.a), (B, found.b)))])


def _amount(value: float | None, cost: str) -> str:
    return "unknown" if value is None else amount(value, cost)
