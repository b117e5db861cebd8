"""secret: the model thinks of two numbers, tells one, and is asked for the other, which only its thinking knew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from a3b.evals.benchmark import Benchmark
from a3b.evals.families import secret
from a3b.evals.family_task import family_task
from a3b.evals.options import EvalOptions

if TYPE_CHECKING:
    from inspect_ai import Task


def make_task(options: EvalOptions) -> Task:
    return family_task("secret", options, secret.case)


BENCHMARK = Benchmark(
    name="secret",
    summary="two numbers are thought of, one is told; can the model say the other?",
    source="a3b's own generator (a3b.evals.families.secret)",
    licence="Apache-2.0",
    make_task=make_task,
)
