"""What a benchmark is: where it comes from, what is published about it, what it needs, and the task that runs it.

Enter at `Benchmark`. Tasks are inspect-ai's, which only `make_task` imports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a3b.evals.options import EvalOptions
from a3b.evals.runs import RunDirectory

if TYPE_CHECKING:
    from inspect_ai import Task

QWEN, GEMMA = "Qwen3.6-35B-A3B", "Gemma 4 31B (dense)"  # the models of the published scores


@dataclass(frozen=True)
class Need:
    """Something that must be there. provided_by: the command or file that brings it; is_here: looks, without asking
    the network; it gets the options, or None for `a3b eval list`."""

    what: str
    provided_by: str
    is_here: Callable[[EvalOptions | None], bool]


@dataclass(frozen=True)
class CaseTokens:
    """What a case costs on average, for `a3b eval plan`. prompt: tokens that are read for the first time; written: of
    the answers, thinking included; cached: tokens of prompts that a server with a prefix cache does not compute again.

    source: where the figures are from."""

    prompt: float
    written: float
    cached: float
    source: str


def nothing_to_check(options: EvalOptions) -> None:
    """For benchmarks that need nothing but the harness."""


def nothing_more(tries: Mapping[str, Sequence[float]]) -> list[str]:
    """For benchmarks whose score is the share of cases."""
    return []


def always(extra: Mapping[str, str]) -> bool:
    """For benchmarks that ask a model whatever is chosen."""
    return True


def nothing_to_heed(extra: Mapping[str, str]) -> str:
    """For benchmarks in which nothing but the tested model answers."""
    return ""


def nothing_to_add(found: RunDirectory) -> list[str]:
    """For benchmarks whose results are those of all."""
    return []


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    cases: how many there are, None if as many as one likes; count: the same where it depends on what is set of `extra`,
    None where only a run finds out; spread: what a case costs where cases differ much, for an equal share of them each,
    by what is set of `extra`; published: scores in percent by model; protocol: how those
    were measured, as far as is stated; differs: what is done otherwise here; needs: what must be there;
    make_task: the task for inspect-ai, its scorers valued 1 or 0 (or "C" and "I"), shares are allowed; check: raises
    UsageError that names the next step if something is missing; epochs: how often each case is tried by default;
    extra: its own options for --set, with their meaning; more: further lines of the result, from the scores of the
    tries of each case; asks_model: whether a server is needed, by what is set of `extra`; finish: adds files to the
    directory of a run when it ends, and says what, in lines; unsaid: those of `extra` that do not change what is
    measured, such as places on disk; data: what --data gives, in words, "" where there is nothing to give; caution:
    what a comparison of policies has to heed, by what is set of `extra`, "" for nothing; files: those of `extra` that
    name files which decide what is measured, as --data does.
    """

    name: str
    summary: str
    source: str
    licence: str
    make_task: Callable[[EvalOptions], Task]
    protocol: str = ""
    differs: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    check: Callable[[EvalOptions], None] = nothing_to_check
    tokens_per_case: CaseTokens | None = None
    cases: int | None = None
    count: Callable[[Mapping[str, str]], int | None] | None = None
    spread: Callable[[Mapping[str, str]], Sequence[CaseTokens]] | None = None
    epochs: int = 1
    extra: Mapping[str, str] = field(default_factory=dict)
    more: Callable[[Mapping[str, Sequence[float]]], list[str]] = nothing_more
    asks_model: Callable[[Mapping[str, str]], bool] = always
    finish: Callable[[RunDirectory], list[str]] = nothing_to_add
    unsaid: tuple[str, ...] = ()
    data: str = ""
    caution: Callable[[Mapping[str, str]], str] = nothing_to_heed
    files: tuple[str, ...] = ()

    def given_files(self, asked: Mapping[str, Any]) -> list[Path]:
        """The user's files that decide what is measured, from the options of a run."""
        named = [asked["data"], *(asked["extra"].get(name) for name in self.files)]
        return [Path(os.path.abspath(Path(name).expanduser())) for name in named if name is not None]

    def cases_with(self, extra: Mapping[str, str]) -> int | None:
        """How many cases there are with some of the own options; None if as many as one likes, or if only a run finds
        out. Raises UsageError for a wrong option."""
        return self.cases if self.count is None else self.count(extra)

    def tokens_with(self, extra: Mapping[str, str]) -> Sequence[CaseTokens]:
        """What a case costs with some of the own options, for an equal share of the cases each; none if nobody has
        stated it."""
        if self.tokens_per_case is None:
            return ()
        return (self.tokens_per_case,) if self.spread is None else self.spread(extra)
