"""fix: packages with one bug, repaired by `a3b code` with read, edit and bash in its sandbox."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a3b.errors import UsageError
from a3b.evals.benchmark import Benchmark
from a3b.evals.families.fix_patterns import UNSEEN_KINDS
from a3b.evals.family_task import CASES, as_solver, shown, verdict
from a3b.evals.options import EvalOptions
from a3b.evals.repairs import cases, repair
from a3b.evals.tries import current_try

if TYPE_CHECKING:
    from inspect_ai import Task

SCRATCH = "/var/tmp"  # a sandbox has a /tmp of its own


def check(options: EvalOptions) -> None:
    if options.extra.get("kinds", "all") not in ("all", "unseen"):
        raise UsageError(f"--set kinds={options.extra['kinds'][:40]!r}: expected all or unseen")


def make_task(options: EvalOptions) -> Task:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample

    kinds = list(UNSEEN_KINDS) if options.extra.get("kinds") == "unseen" else None
    samples = [Sample(id=f"fix-{i}", input=f"package {i}") for i in range(options.limit or CASES)]

    async def solve(state: Any, generate: Any) -> Any:
        number = int(current_try().case.rpartition("-")[2])
        ((package, task),) = cases(1, kinds, start=number)
        fields = {"seed": current_try().seed, **options.sampling, **options.fields()}
        with tempfile.TemporaryDirectory(prefix="a3b-eval-fix-", dir=SCRATCH) as name:
            home = Path(name) / "home"
            home.mkdir()
            found = await repair(
                options.base_url,
                home,
                package,
                task,
                fields,
                options.api_key,
                options.model,
                options.streams,
            )
        state.messages = [shown(message) for message in found.run.messages]
        facts = {"kind": found.kind, **found.run.facts()}
        state.metadata["a3b"] = {"cost": asdict(found.run.cost), "detail": found.why, "facts": facts}
        state.metadata["outcome"] = {"ok": found.ok, "detail": found.why}
        return state

    return Task(dataset=MemoryDataset(samples, name="fix"), solver=as_solver("fix", solve), scorer=verdict())


BENCHMARK = Benchmark(
    name="fix",
    summary="generated packages with one bug, repaired by a3b code in its sandbox",
    source="a3b's own generator (a3b.evals.families.fix)",
    licence="Apache-2.0",
    make_task=make_task,
    check=check,
    extra={"kinds": "unseen: only kinds of bugs that a3b-nano was never taught (default all that it was)"},
)
