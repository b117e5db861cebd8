"""The try that runs: which case, which epoch, which seed. Solvers and the model read it. Enter at `current_try`."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class CaseTry:
    """One try of one case. case: its id in the benchmark's dataset; epoch: from 1; seed: of its sampling."""

    case: str
    epoch: int
    seed: int


_current: ContextVar[CaseTry] = ContextVar("a3b_eval_try")


def current_try() -> CaseTry:
    """The try whose solver, scorer or request runs. Raises LookupError outside of `a3b eval`."""
    return _current.get()


def begin_try(found: CaseTry) -> None:
    """For the rest of this sample's tasks."""
    _current.set(found)
