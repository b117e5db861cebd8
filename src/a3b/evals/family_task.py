"""Tasks of the families for inspect-ai: a sample is a number, from which the case is drawn. Enter at `family_task`."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from a3b.agent.client import ModelClient
from a3b.evals.families.common import Message, rng_for
from a3b.evals.options import EvalOptions
from a3b.evals.player import PlayedCase, play
from a3b.evals.tries import current_try

if TYPE_CHECKING:
    from inspect_ai import Task

CASES = 100  # without --limit
GREEDY: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 4096}
SAMPLED: Mapping[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 4096}

Family = Callable[[random.Random], PlayedCase]


def family_task(name: str, options: EvalOptions, make_case: Family, sampled: Mapping[str, Any] = SAMPLED) -> Task:
    """Cases of the test split of a family, played over HTTP and judged by the family itself.

    sampled: of requests that a case wants sampled; what the user set counts before it, and before `GREEDY`."""
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample

    samples = [Sample(id=f"{name}-{i}", input=f"case {i} of {name}") for i in range(options.limit or CASES)]

    async def solve(state: Any, generate: Any) -> Any:
        number = int(str(current_try().case).rpartition("-")[2])
        case = make_case(rng_for("test", name, number))
        seed = {"seed": current_try().seed}
        greedy, drawn = {**GREEDY, **options.sampling, **seed}, {**sampled, **options.sampling, **seed}
        client = ModelClient(options.base_url, options.api_key, options.model, streams=options.streams)
        async with aclosing(client):
            outcome, played = await play(client, case, greedy, drawn, options.fields())
        state.messages = [shown(message) for message in played.messages]
        facts = {"legal": outcome.valid}
        state.metadata["a3b"] = {"cost": asdict(played.cost), "detail": outcome.detail, "facts": facts}
        state.metadata["outcome"] = {"ok": outcome.ok, "detail": outcome.detail}
        return state

    return Task(dataset=MemoryDataset(samples, name=name), solver=as_solver(name, solve), scorer=verdict())


def as_solver(name: str, solve: Any) -> Any:
    """A solver of inspect-ai from its function."""
    from inspect_ai.solver import solver

    def played() -> Any:
        return solve

    played.__name__ = f"play_{name}"
    return solver(played)()


def verdict() -> Any:
    """A scorer that repeats what the solver found: metadata "outcome", with `ok` and `detail`."""
    from inspect_ai.scorer import Score, accuracy, scorer, stderr

    def checker() -> Any:
        async def score(state: Any, target: Any) -> Any:
            outcome = state.metadata["outcome"]
            return Score(value=float(outcome["ok"]), explanation=outcome["detail"])

        return score

    return scorer(metrics=[accuracy(), stderr()])(checker)()


def shown(message: Message) -> Any:
    """A message of a chat completion as inspect-ai's transcripts have it."""
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
        ContentReasoning,
        ContentText,
    )
    from inspect_ai.tool import ToolCall

    text, role = str(message.get("content") or ""), message["role"]
    if role == "system":
        return ChatMessageSystem(content=text)
    if role == "tool":
        return ChatMessageTool(content=text, tool_call_id=message.get("tool_call_id"))
    if role == "user":
        return ChatMessageUser(content=text)
    thinking = str(message.get("reasoning_content") or message.get("reasoning") or "")
    content = [*([ContentReasoning(reasoning=thinking)] if thinking else []), ContentText(text=text)]
    calls = [
        ToolCall(
            id=call["id"],
            function=call["function"]["name"] or "?",
            arguments={"arguments": call["function"]["arguments"]},
        )
        for call in message.get("tool_calls", ())
    ]
    return ChatMessageAssistant(content=content, tool_calls=calls or None)
