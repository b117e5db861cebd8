"""secret: the model thinks of two numbers, tells one, and is asked for the other, which only its thinking knew."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from a3b.errors import UsageError
from a3b.evals.benchmark import Benchmark
from a3b.evals.families import secret
from a3b.evals.family_task import family_task
from a3b.evals.options import EvalOptions

if TYPE_CHECKING:
    from inspect_ai import Task


def make_task(options: EvalOptions) -> Task:
    return family_task("secret", options, partial(secret.case, is_stated=options.extra.get("form") == "stated"))


def check(options: EvalOptions) -> None:
    if options.extra.get("form", "nano") not in ("nano", "stated"):
        raise UsageError(f"--set form={options.extra['form'][:40]!r}: expected nano or stated")


BENCHMARK = Benchmark(
    name="secret",
    summary="two numbers are thought of, one is told; can the model say the other?",
    source="a3b's own generator (a3b.evals.families.secret)",
    licence="Apache-2.0",
    make_task=make_task,
    check=check,
    extra={"form": "stated: asks for the form of the thinking from which the numbers are read; nano has learnt it"},
)
