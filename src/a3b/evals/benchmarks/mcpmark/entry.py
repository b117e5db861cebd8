"""MCPMark: tasks for an agent that has nothing but the tools of one MCP server, judged by the official verifiers.

Enter at `BENCHMARK`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from a3b.errors import SandboxUnavailable
from a3b.evals.benchmark import GEMMA, QWEN, Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.mcpmark.jail import working_bubblewrap
from a3b.evals.benchmarks.mcpmark.plan import OTHER_SERVICES, SECONDS, TURNS, plan_of, task_count
from a3b.evals.benchmarks.mcpmark.scores import score_lines
from a3b.evals.benchmarks.mcpmark.tasks import COMMIT, SOURCE
from a3b.evals.options import EvalOptions

if TYPE_CHECKING:
    from inspect_ai import Task


def check(options: EvalOptions) -> None:
    """Raises A3BError if something is missing."""
    plan_of(options)
    working_bubblewrap()


def make_task(options: EvalOptions) -> Task:
    from a3b.evals.benchmarks.mcpmark import solving

    return solving.make_task(options)


def _has_tasks(options: EvalOptions | None) -> bool:
    return options is not None and options.data is not None and (options.data / "tasks").is_dir()


def _is_confined(options: EvalOptions | None) -> bool:
    try:
        return bool(working_bubblewrap())
    except SandboxUnavailable:
        return False


BENCHMARK = Benchmark(
    name="mcpmark",
    summary="MCPMark: an agent with the tools of one MCP server, official tasks and verifiers",
    source=f"github.com/eval-sys/mcpmark at {COMMIT[:7]}",
    licence="Apache-2.0",
    make_task=make_task,
    check=check,
    published={QWEN: 37.0, GEMMA: 18.1},
    protocol=(
        "127 tasks of five services by MCPMark's own agent (100 turns at most, 60 s a call, no compaction). The model "
        "card names GitHub's MCP server 0.30.3 and Playwright's answers cut at 32k tokens, and no sampling."
    ),
    differs=(
        "postgres (21 tasks) and filesystem (30), as far as the states they begin from are here; a3b code with the "
        "tools of the server alone; PostgreSQL 16 with pgvector 0.6 from a wheel instead of 17 with 0.8, and a server "
        "of five tools instead of postgres-mcp's nine, which no longer installs (--set postgres=DIR and --set mcp=FILE "
        "take others)."
    ),
    needs=(
        Need("a clone of MCPMark", f"{SOURCE}; then --data mcpmark", _has_tasks),
        Need("bubblewrap, which confines the benchmark's scripts and database", "apt install bubblewrap", _is_confined),
        Need(
            "postgres: chinook, dvdrental, employees, lego, sports (security and vectors need none)",
            "their .backup from https://storage.mcpmark.ai/postgres/ (or .sql) in CLONE/postgres_state",
            lambda options: _has_tasks(options) and _is_there(options, "postgres_state"),
        ),
        Need(
            "filesystem: Node.js, and the directories the tasks begin from",
            "https://storage.mcpmark.ai/filesystem/CATEGORY.zip, unpacked in CLONE/test_environments",
            lambda options: _has_tasks(options) and _is_there(options, "test_environments"),
        ),
        *(
            Need(f"for {name}, which a3b eval does not run, MCPMark's own runner", needs, lambda options: False)
            for name, needs in OTHER_SERVICES.items()
        ),
    ),
    tokens_per_case=CaseTokens(
        24_000,
        11_000,
        200_000,
        "16.2 turns a task (arXiv 2509.24002); 1,500 tokens of results and 700 written in each are assumed",
    ),
    cases=127,
    count=task_count,
    epochs=4,
    extra={
        "service": "postgres, filesystem, or both with a comma between (default postgres)",
        "suite": "standard or easy (default standard)",
        "tasks": "names of tasks or categories, with commas between (default all whose state is here)",
        "solver": "agent, or a program that prints the calls to make (default agent)",
        "mcp": "a file of MCP servers to use instead, with ${DATABASE_URI}, ${SOCKET}, ${DIRECTORY} in its texts",
        "postgres": "bin directory of another PostgreSQL with pgvector",
        "turns": f"most turns of the agent (default {TURNS})",
        "seconds": f"most seconds of the agent (default {SECONDS:,})",
    },
    more=score_lines,
    data="a clone of MCPMark",
    files=("mcp",),
    asks_model=lambda extra: extra.get("solver", "agent") == "agent",
)


def _is_there(options: EvalOptions | None, name: str) -> bool:
    return options is not None and options.data is not None and (options.data / name).is_dir()
