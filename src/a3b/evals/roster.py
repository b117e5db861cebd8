"""The benchmarks by name. A module is imported when its benchmark is looked up. Enter at `BENCHMARKS`, `benchmark`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from a3b.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from a3b.evals.benchmark import Benchmark

BENCHMARKS: dict[str, tuple[str, str]] = {  # name: (what it is, its module below a3b.evals.benchmarks)
    "secret": ("a number that only earlier thinking knows", "secret"),
    "lookup": ("chains of tool calls", "lookup"),
    "revise": ("a wrong earlier thought must be dropped", "revise"),
    "needle": ("facts in a long text, by depth and length", "needle"),
    "fix": ("packages with one bug, repaired by a3b code", "fix"),
    "mcpmark": ("an agent with the tools of one MCP server", "mcpmark.entry"),
    "swebench": ("SWE-bench Verified: issues of Python projects", "swebench.benchmark"),
    "gpqa": ("GPQA Diamond: questions of graduate level", "gpqa"),
    "aime": ("AIME 2026: problems with whole numbers as answers", "aime"),
    "bfcl": ("BFCL v4: the right function with the right arguments", "bfcl"),
    "tau2": ("tau2-bench: customer service with tools", "tau2"),
    "humaneval": ("HumanEval: Python functions, judged by tests", "humaneval"),
    "reasoning-gym": ("puzzles made from a seed, verified by code", "reasoning_gym"),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Its module has it as `BENCHMARK`. Raises UsageError."""
    if name not in BENCHMARKS:
        hint = did_you_mean(name, BENCHMARKS) or f"; expected one of {', '.join(BENCHMARKS)}"
        raise UsageError(f"{name[:40]!r} is no benchmark{hint}")
    found: Benchmark = importlib.import_module(f"a3b.evals.benchmarks.{BENCHMARKS[name][1]}").BENCHMARK
    return found
