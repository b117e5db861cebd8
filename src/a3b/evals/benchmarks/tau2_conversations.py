"""tau2's conversations with a bound and an end: what inspect-evals leaves out of the authors' rules, and what it hides.

Its loop prints an error and goes on, up to a hundred times, so a server that fails looks like a model that is wrong; it
lets a model call tools for ever; and it judges a conversation that never came to its end, in which doing nothing may be
right. Here the first error ends the case as an error, the steps are counted, and a conversation without an end is lost,
as the authors' simulator has it. Enter at `conversation`, `without_copies`."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from a3b.errors import A3BError

VERSIONS = "pip install 'inspect-ai==0.3.285' 'inspect-evals==0.26'"
MOST_STEPS = 200  # requests of both sides, as the authors' simulator
ENDS = ("###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###")  # what the user says at the end

_steps: ContextVar[list[int]] = ContextVar("a3b_tau2_steps")  # what is left, in a list that tasks of a case share


class _Broken(BaseException):
    """Carries an error, or the reason of an end, past the library's `except Exception`."""

    def __init__(self, cause: Exception | str):
        super().__init__(str(cause))
        self.cause = cause


def without_copies() -> Any:
    """A solver that comes first: from there on the database, of some megabytes, is not copied before and after each
    call of a tool to see what changed. What the calls were is in the transcript."""
    from inspect_ai.solver import solver

    _adapt_library()
    from inspect_ai.util import _store

    async def begin(state: Any, generate: Any) -> Any:
        _store._store_events_suspended.set(True)
        return state

    def tau2_without_copies() -> Any:
        return begin

    return solver(tau2_without_copies)()


def conversation(solve: Any, judge: Any, most_steps: int = MOST_STEPS) -> Any:
    """The solver of a tau2 task under these rules. It asks the task's scorer too, since the database can then go before
    it is written into the log, and leaves the outcome for `family_task.verdict`."""
    from inspect_ai.scorer import CORRECT, Target
    from inspect_ai.solver import solver
    from inspect_ai.util import store

    async def converse(state: Any, generate: Any) -> Any:
        _steps.set([most_steps])
        state, ended = await _until_its_end(solve, state, generate)
        ok, detail = False, f"not judged, since {ended}"
        if ended in ENDS:
            score = await judge(state, Target(state.target.text))
            ok, detail = score.value == CORRECT, score.explanation or ""
        kept = store()
        for key in [key for key in kept.keys() if key.endswith(":db")]:
            kept.delete(key)
        state.metadata["a3b"] = {"facts": {"ended": ended.strip("#"), "steps": most_steps - _steps.get()[0]}}
        state.metadata["outcome"] = {"ok": ok, "detail": detail}
        return state

    def tau2_conversation() -> Any:
        return converse

    return solver(tau2_conversation)()


async def _until_its_end(solve: Any, state: Any, generate: Any) -> tuple[Any, str]:
    """The state afterwards, and how it ended: one of ENDS, or what kept it from an end."""
    try:
        state = await solve(state, generate)
    except _Broken as broken:
        if isinstance(broken.cause, Exception):
            raise broken.cause from None
        return state, broken.cause
    said = state.output.completion if state.output.choices else ""
    return state, next((mark for mark in ENDS if mark in said), "the conversation had no end")


async def _turn(role: str, model: Any, messages: list[Any], tools: Sequence[Any], trajectory: list[Any]) -> Any:
    """One side's turn: its calls are run until it says something. Stands for `generate_loop` of the library."""
    from inspect_ai.model import execute_tools
    from inspect_evals.tau2.common.agents import TrajectoryMessage

    def keep(new: Sequence[Any]) -> None:
        messages.extend(new)
        trajectory.extend(TrajectoryMessage(role=role, message=message) for message in new)

    try:
        while True:
            left = _steps.get()
            if left[0] <= 0:
                raise _Broken("the steps were used up")
            left[0] -= 1
            output = await model.generate(messages, tools=tools)
            if output.stop_reason == "model_length":
                raise _Broken("the context was full")
            keep([output.message])
            if not output.message.tool_calls:
                return output
            results, output_of_tools = await execute_tools(messages, tools)
            keep(results)
            if output_of_tools is not None:
                return output_of_tools
    except Exception as error:
        raise _Broken(error) from error


@lru_cache(maxsize=1)
def _adapt_library() -> None:
    """Puts our turn in the place of the library's, and keeps one copy of each file that it decompresses: it makes one
    in the temporary directory for every conversation, and removes none."""
    from inspect_ai.util import _store
    from inspect_evals.tau2 import utils
    from inspect_evals.tau2.common import agents

    wanted = ((agents, "generate_loop"), (utils, "uncompress_file"), (_store, "_store_events_suspended"))
    for module, name in wanted:
        if not hasattr(module, name):
            raise A3BError(f"{module.__name__} has no {name}; expected versions that have it: {VERSIONS}")
    agents.generate_loop = _turn
    uncompress = utils.uncompress_file

    @lru_cache(maxsize=64)
    def once(path: str) -> str:
        made = str(uncompress(path))
        if made != path:
            atexit.register(_remove, made)
        return made

    utils.uncompress_file = once


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
