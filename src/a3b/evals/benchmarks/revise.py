"""revise: facts come one by one, and a guess that an earlier thought made must be dropped when they rule it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from a3b.evals.benchmark import Benchmark
from a3b.evals.families import revise
from a3b.evals.family_task import family_task
from a3b.evals.options import EvalOptions

if TYPE_CHECKING:
    from inspect_ai import Task


def make_task(options: EvalOptions) -> Task:
    return family_task("revise", options, revise.case)


BENCHMARK = Benchmark(
    name="revise",
    summary="facts rule out what an earlier thought took for true; does the model drop it?",
    source="a3b's own generator (a3b.evals.families.revise)",
    licence="Apache-2.0",
    make_task=make_task,
)
