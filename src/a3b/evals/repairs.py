"""Repairs of *fix*: packages with one bug, given to `a3b code --tools read,edit,bash` in its sandbox.

A package is repaired if its tests pass afterwards and nothing but the broken function has changed. Enter at `cases`,
`repair`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.agent.options import AgentOptions
from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import SandboxLimits, SandboxPolicy
from a3b.evals.agent_run import AgentRun, run_agent
from a3b.evals.families.common import rng_for
from a3b.evals.families.fix import ASK, judge
from a3b.evals.families.fix_package import Package, make_package
from a3b.files import read_bytes

TOOLS = ("read", "edit", "bash")
MOST_TURNS = 16
TEST_S = 20.0
MOST_FILES, MAX_FILE = 50, 1 << 20  # of a package after the repair; it has three small ones


@dataclass
class Repair:
    """How one package ended. why: the verdict in words; run: of the agent."""

    ok: bool
    why: str
    kind: str
    run: AgentRun = field(default_factory=AgentRun)


def cases(count: int, kinds: list[str] | None = None, start: int = 0) -> list[tuple[Package, str]]:
    """Packages of the test split, and how the user asks."""
    out = []
    for index in range(start, start + count):
        rng = rng_for("test", "fix-agent", index)
        out.append((make_package(rng, "test", kinds), rng.choice(ASK["test"])))
    return out


async def repair(
    url: str,
    home: Path,
    package: Package,
    task: str,
    fields: Mapping[str, Any],
    key: str = "",
    model: str | None = None,
    streams: bool = True,
) -> Repair:
    """One session of the agent in a directory of its own, beside `home`, which keeps the session. fields: of each
    request. Raises A3BError if the server fails."""
    with tempfile.TemporaryDirectory(prefix="project-", dir=home.parent) as name:
        directory = Path(name)
        for path, text in package.files.items():
            (directory / path).write_text(text, encoding="utf-8")
        options = AgentOptions(
            directory,
            home,
            url,
            key,
            model,
            tools=TOOLS,
            max_turns=MOST_TURNS,
            sampling={"temperature": 0.0, **fields},
            streams=streams,
        )
        found = Repair(False, "", package.bug.kind)
        found.run = await run_agent(options, task)
        files = await asyncio.to_thread(files_of, directory)
        found.ok, found.why = await asyncio.to_thread(
            judge, package, files, lambda: asyncio.run(outcome_of_tests(directory, home))
        )
        return found


def files_of(directory: Path) -> dict[str, str]:
    """Files of a directory by their paths; more or larger ones than a package has are only named."""
    found: dict[str, str] = {}
    for parent, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(parent, name)
            try:
                text = read_bytes(path, MAX_FILE).decode("utf-8", "replace") if not path.is_symlink() else ""
            except OSError:
                text = ""
            found[str(path.relative_to(directory))] = text
            if len(found) > MOST_FILES:
                return found
    return found


async def outcome_of_tests(directory: Path, home: Path) -> str:
    """What the test script prints, in the sandbox: a model has written what it runs."""
    sandbox = open_sandbox(SandboxPolicy(directory, limits=SandboxLimits(seconds=TEST_S, output=1 << 20)), home=home)
    try:
        process = await sandbox.start(["python3", "test.py"], cwd=directory)
        printed = await process.stdout.read()
        outcome = await process.wait()
    finally:
        sandbox.close()
    if outcome.ended_by == "time":
        return "the tests do not end"
    return printed.decode("utf-8", "replace").strip() or "the tests end with an error"
