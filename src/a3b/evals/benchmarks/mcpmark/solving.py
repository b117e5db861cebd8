"""A try of a task, for inspect-ai: the state, the agent or a program, the verifier. Enter at `make_task`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from a3b.agent.options import AgentOptions
from a3b.evals.agent_run import run_agent
from a3b.evals.benchmarks.mcpmark.kit import install
from a3b.evals.benchmarks.mcpmark.plan import McpMarkPlan, plan_of
from a3b.evals.benchmarks.mcpmark.scripted import solve_by_program
from a3b.evals.benchmarks.mcpmark.states import McpMarkState, Workplace, open_workplace
from a3b.evals.benchmarks.mcpmark.tasks import McpMarkTask
from a3b.evals.benchmarks.mcpmark.verdicts import verdict_of
from a3b.evals.family_task import as_solver, shown, verdict
from a3b.evals.options import EvalOptions
from a3b.evals.tries import current_try
from a3b.printable import printable, say

if TYPE_CHECKING:
    from inspect_ai import Task

NO_COMPACTION = 1 << 40  # tokens: a conversation begins anew only when the context is full
NOTE = "\n\nWork with the tools of the MCP server, to the end: nobody answers questions. What they work on is set up."


def make_task(options: EvalOptions) -> Task:
    """Installs what is missing, then a task whose samples are MCPMark's."""
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample

    plan = plan_of(options, tell=True)
    kit = install(options.home, plan.services, _say, plan.postgres, plan.servers is not None)
    tasks = {task.id: task for task in plan.tasks}
    making = asyncio.Lock()

    async def solve(state: Any, generate: Any) -> Any:
        task, name = tasks[current_try().case], f"{current_try().case} {current_try().epoch}"
        async with open_workplace(name, plan.clone, options.home, kit, making, _say, plan.servers) as place:
            async with place.state(task) as begun:
                solved = await (_work if plan.solver is None else _play)(options, plan, place, task, begun)
                began = time.monotonic()
                judged = await verdict_of(place, task, begun)
        seconds = {"verify_seconds": round(time.monotonic() - began, 1)}
        which = {"service": task.service, "suite": task.suite, "official": task.service not in plan.unofficial}
        facts = {**which, **solved.pop("facts", {}), **seconds}
        detail = judged.why or ("" if judged.passed else judged.reason)
        state.messages = [shown(message) for message in solved.pop("messages", ())] or state.messages
        state.metadata["a3b"] = {"detail": detail, "facts": facts, **solved}
        state.metadata["outcome"] = {"ok": judged.passed, "detail": detail}
        state.metadata["verifier"] = judged.output
        return state

    samples = [Sample(id=task.id, input=task.description) for task in plan.tasks]
    return Task(dataset=MemoryDataset(samples, name="mcpmark"), solver=as_solver("mcpmark", solve), scorer=verdict())


def _say(text: str) -> None:
    say(f"mcpmark: {printable(text)}")


async def _work(
    options: EvalOptions, plan: McpMarkPlan, place: Workplace, task: McpMarkTask, begun: McpMarkState
) -> dict[str, Any]:
    """The agent, with the tools of the servers and no others."""
    given = AgentOptions(
        directory=begun.workspace,
        home=place.agent_home,
        base_url=options.base_url,
        api_key=options.api_key,
        model=options.model,
        tools=("mcp",),
        max_turns=plan.turns,
        max_seconds=plan.seconds,
        compact_at=NO_COMPACTION,
        sampling={"seed": current_try().seed, **options.sampling, **options.fields()},
        mcp_servers=begun.servers,
        mcp_allowed=tuple(begun.servers),
        hidden=(plan.clone,),  # it has the verifiers, and answers
        streams=options.streams,
    )
    run = await run_agent(given, task.description + NOTE)
    return {"messages": run.messages, "cost": asdict(run.cost), "facts": run.facts()}


async def _play(
    options: EvalOptions, plan: McpMarkPlan, place: Workplace, task: McpMarkTask, begun: McpMarkState
) -> dict[str, Any]:
    """The calls of a program."""
    assert plan.solver is not None
    log = await solve_by_program(plan.solver, task, begun, place.agent_home, (plan.clone,))
    told = [{"role": "user", "content": task.description}, {"role": "assistant", "content": log}]
    return {"messages": told, "facts": {"solver": plan.solver.name}}
