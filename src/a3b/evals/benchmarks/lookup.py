"""lookup: a chain of keys is followed through a tool, one call a step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from a3b.evals.benchmark import Benchmark
from a3b.evals.families import lookup
from a3b.evals.family_task import family_task
from a3b.evals.options import EvalOptions

if TYPE_CHECKING:
    from inspect_ai import Task

HOPS = 2


def make_task(options: EvalOptions) -> Task:
    hops = options.number("hops", HOPS, most=50)
    return family_task("lookup", options, partial(lookup.case, hops=hops))


BENCHMARK = Benchmark(
    name="lookup",
    summary="a chain of keys is followed through a tool, one call a step",
    source="a3b's own generator (a3b.evals.families.lookup)",
    licence="Apache-2.0",
    make_task=make_task,
    extra={"hops": f"steps of a chain (default {HOPS}; a3b-nano has learnt 1 to {lookup.MAX_HOPS})"},
)
