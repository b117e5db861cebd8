"""`a3b eval plan NAME...`: how long a benchmark takes, from the tokens of a case and the speed of this machine; after
`thinking`, how long a test of policies takes.

Tokens of a case are from a stated source, or from a run (--from DIR). The speed is the roofline of `a3b plan` over
rates measured here, or two given rates. One case at a time: answers that are written together take less. Enter at
`run`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from a3b.commands import plan
from a3b.commands.benchmarks.speed import disturbance
from a3b.commands.eval_run import set_for
from a3b.commands.eval_thinking import policies_of
from a3b.commands.model_home import ModelHome
from a3b.commands.model_names import local_model
from a3b.commands.sizes import sizes
from a3b.errors import UsageError
from a3b.evals.benchmark import Benchmark, CaseTokens
from a3b.evals.options import MOST_CASES
from a3b.evals.records import total_cost
from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.evals.runs import open_run
from a3b.machine import Machine
from a3b.model.known_models import known_shape
from a3b.packing.presets import PRESETS
from a3b.printable import printable, report, say
from a3b.units import span

THINKING = "thinking"
SAME_COST = "each policy is taken to cost what the benchmark costs; those that drop thinking compute some prompts again"
Seconds = Callable[[float, float], float]  # of a case, from tokens that are read and written


@dataclass(frozen=True)
class PlannedBenchmark:
    """cases, of: how many are planned, and how many the published score has, None where there is none; policies: under
    how many each is tried; seconds: of the whole benchmark, under all of them; uncached_seconds: on a server that
    computes every prompt anew."""

    name: str
    cases: int
    of: int | None
    epochs: int
    policies: int
    tokens: CaseTokens
    seconds: float
    uncached_seconds: float

    @property
    def tries(self) -> int:
        return self.cases * self.epochs * self.policies


def run(args: Namespace) -> int:
    measured = None if args.measured is None else _from_run(args)
    named, policies = _named(args)
    names = named or ([measured.name] if measured else _known(args))
    if measured is not None and names != [measured.name]:
        raise UsageError(f"--from {args.measured}: is a run of {measured.name!r}; give that name, or none")
    chosen = [_asked(args, name, names, measured) for name in names]
    seconds, source = _seconds(args)
    planned = [_planned(args, found, seconds, max(len(policies), 1)) for found in chosen]
    if args.json:
        hours = sum(row.seconds for row in planned) / 3600
        rows = [_value(row) for row in planned]
        report(json.dumps({"speed": source, "policies": policies, "hours": hours, "benchmarks": rows}, indent=2))
    else:
        report("\n".join(lines(planned, source, policies)))
    return 0


def _named(args: Namespace) -> tuple[list[str], tuple[str, ...]]:
    """The benchmarks that are named, and the policies of `thinking` beside them, () without it. Raises UsageError."""
    names = [name for name in dict.fromkeys(args.names) if name != THINKING]
    if THINKING not in args.names:
        if args.policies is not None:
            asked = " ".join(names) or "NAME"
            raise UsageError(
                f"--policies: are compared by another command; a3b eval plan {THINKING} {asked} plans that"
            )
        return names, ()
    if not names and args.measured is None:
        raise UsageError(f"name the benchmarks that are run under each policy: a3b eval plan {THINKING} tau2 swebench")
    return names, policies_of(args.policies)


@dataclass(frozen=True)
class MeasuredRun:
    """What a run says for a plan. extra: what was set for it."""

    name: str
    tokens: CaseTokens
    extra: Mapping[str, str]


@dataclass(frozen=True)
class AskedBenchmark:
    """What is planned. cases: None if nobody knows how many; spread: tokens of a case, an equal share of cases each."""

    benchmark: Benchmark
    cases: int | None
    spread: Sequence[CaseTokens]


def _known(args: Namespace) -> list[str]:
    """The benchmarks whose tokens and cases are known without more options."""
    found = [benchmark(name) for name in BENCHMARKS]
    return [b.name for b in found if b.tokens_per_case is not None and (args.limit or b.cases_with({})) is not None]


def _asked(args: Namespace, name: str, names: Sequence[str], measured: MeasuredRun | None) -> AskedBenchmark:
    """Raises UsageError for what cannot be planned."""
    found = benchmark(name)
    extra = {**(measured.extra if measured else {}), **set_for(args.set, found, [benchmark(other) for other in names])}
    cases = found.cases_with(extra)
    if measured is not None:
        return AskedBenchmark(found, cases, [measured.tokens])
    spread = found.tokens_with(extra)
    if not spread:
        raise UsageError(
            f"{name}: nobody has stated what a case costs; run some and give them: a3b eval {name} --limit 5, then "
            "a3b eval plan --from DIR --limit N"
        )
    return AskedBenchmark(found, cases, spread)


def _from_run(args: Namespace) -> MeasuredRun:
    """The mean cost of the tries of a run. Raises UsageError."""
    found = open_run(args.measured)
    records = [record for record in found.records().values() if record.score is not None]
    if not records:
        raise UsageError(f"--from {args.measured}: no try of this run has ended")
    cost, count = total_cost(records), len(records)
    if cost.untold:
        raise UsageError(f"--from {args.measured}: its server did not tell the tokens of {cost.untold:,} requests")
    source = f"mean of {count} tries with {printable(str(found.config['model']))}"
    tokens = CaseTokens(cost.computed / count, cost.written / count, cost.cached / count, source)
    extra = found.config["options"].get("extra")
    return MeasuredRun(found.benchmark, tokens, extra if isinstance(extra, dict) else {})


def _seconds(args: Namespace) -> tuple[Seconds, str]:
    """How long a case takes, and where the speed is from. Raises UsageError where it cannot be measured."""
    if args.rates is not None:
        read, write = args.rates
        return (
            lambda prompt, written: prompt / read + written / write,
            f"given: {read:g} read, {write:g} written a second",
        )
    is_shape = known_shape(args.shape)
    config, name = plan.find(args.shape if is_shape else local_model(args.shape, ModelHome(args.runtime.home)))
    machine, sample = Machine.read(), plan.DENSE_SAMPLE if config.dense else plan.SAMPLE
    speed, note = plan.measure(args.runtime, machine, None, None, sample)
    if note:
        say(note)
    if speed is None or speed.int8_operations is None:
        raise UsageError("this machine's speed is not known; give --rates PREFILL,DECODE")
    if told := disturbance(speed.others_share):
        say(f"a3b eval plan: {told}; plan again on a quiet machine")
    found = sizes(config, PRESETS[args.preset])
    read, write = (
        1 / (plan.task_seconds(config, found, (512, 0), speed) / 512),
        1 / plan.decode_seconds(config, found, 0, speed),
    )
    source = (
        f"{name} in {args.preset}, expected on this machine: {read:.0f} read, {write:.1f} written a second at first"
    )
    return lambda prompt, written: plan.task_seconds(config, found, (round(prompt), round(written)), speed), source


def _planned(args: Namespace, asked: AskedBenchmark, seconds: Seconds, policies: int) -> PlannedBenchmark:
    """Raises UsageError where nobody says how many cases there are."""
    found = asked.benchmark
    if args.limit is None and asked.cases is None:
        why = "only its data tells how many cases that is" if found.cases else f"{found.name} has any number of cases"
        raise UsageError(f"{why}; say how many with --limit N")
    cases = min(n for n in (args.limit, asked.cases, MOST_CASES) if n is not None)
    epochs = args.epochs or found.epochs
    tries = cases * epochs * policies
    one = fmean(seconds(tokens.prompt, tokens.written) for tokens in asked.spread)
    again = fmean(_again(tokens, seconds) for tokens in asked.spread)
    mean = {name: fmean(getattr(tokens, name) for tokens in asked.spread) for name in ("prompt", "written", "cached")}
    tokens = CaseTokens(**mean, source=asked.spread[0].source)
    return PlannedBenchmark(
        found.name, cases, found.cases, epochs, policies, tokens, tries * one, tries * (one + again)
    )


def _again(tokens: CaseTokens, seconds: Seconds) -> float:
    """Prompts that grow, read from their beginning each time."""
    whole = max(tokens.prompt + tokens.written, 1)
    return tokens.cached / whole * seconds(whole, 0)


def _value(row: PlannedBenchmark) -> dict[str, Any]:
    return {
        "name": row.name,
        "cases": row.cases,
        "published_cases": row.of,
        "epochs": row.epochs,
        "tries": row.tries,
        "tokens_per_case": vars(row.tokens),
        "hours": row.seconds / 3600,
        "hours_without_cache": row.uncached_seconds / 3600,
    }


def lines(planned: list[PlannedBenchmark], source: str, policies: Sequence[str] = ()) -> list[str]:
    out = [
        f"speed      {source}",
        "           one case at a time; a server writes several answers in less time than one by one",
        "",
        f"{'benchmark':<14} {'tries':>6} {'read':>9} {'cached':>10} {'written':>8} {'a try':>8} {'in all':>9} "
        f"{'no cache':>10}",
    ]
    for row in planned:
        tries, tokens = row.tries, row.tokens
        out.append(
            f"{row.name:<14} {tries:>6,} {tokens.prompt:>9,.0f} {tokens.cached:>10,.0f} {tokens.written:>8,.0f} "
            f"{span(row.seconds / tries):>8} {long_span(row.seconds):>9} {long_span(row.uncached_seconds):>10}"
        )
    if len(planned) > 1:
        tries = sum(row.tries for row in planned)
        total, uncached = sum(row.seconds for row in planned), sum(row.uncached_seconds for row in planned)
        out.append(f"{'all of them':<14} {tries:>6,} {'':>38} {long_span(total):>9} {long_span(uncached):>10}")
    notes = [f"{THINKING}: each case under {', '.join(policies)}; {SAME_COST}"] if policies else []
    notes += [
        f"{row.name}: {row.cases:,} of the {row.of:,} published cases"
        for row in planned
        if row.of and row.cases < row.of
    ]
    return [*out, "", *notes, *(f"{row.name}: tokens of a case: {row.tokens.source}" for row in planned)]


def long_span(seconds: float) -> str:
    """A time that may be days."""
    return span(seconds) if seconds < 48 * 3600 else f"{seconds / 86_400:,.1f} days"
