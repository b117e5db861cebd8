"""What a run of MCPMark does, from its options. Enter at `plan_of`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.errors import UsageError, did_you_mean
from a3b.evals.benchmarks.mcpmark.states import missing_state
from a3b.evals.benchmarks.mcpmark.tasks import (
    SOURCE,
    SUITES,
    TREES,
    McpMarkTask,
    check_official,
    chosen_tasks,
    read_tasks,
)
from a3b.evals.options import EvalOptions
from a3b.files import read_text
from a3b.printable import printable, say

TURNS, SECONDS = 100, 3600  # of MCPMark's own agent
COUNTS = {"standard": {"postgres": 21, "filesystem": 30}, "easy": {"postgres": 10, "filesystem": 10}}  # tasks
OTHER_SERVICES = {
    "github": "GitHub accounts with tokens, for repositories that MCPMark makes there (23 tasks, 10 easy ones)",
    "notion": "a Notion workspace with MCPMark's pages, and its integration key (28 tasks, 10 easy ones)",
    "playwright": "the public web and MCPMark's own site (4 tasks)",
    "playwright_webarena": "WebArena's shops and forum in Docker (21 tasks, 10 easy ones)",
    "supabase": "Supabase's command line and Docker (the tasks of postgres once more)",
    "insforge": "InsForge's server in Docker (the tasks of postgres once more)",
}


@dataclass(frozen=True)
class McpMarkPlan:
    """What a run does. unofficial: services whose files differ from MCPMark's commit; servers: entries of
    mcpServers that the user named, None for those of the kit."""

    clone: Path
    tasks: tuple[McpMarkTask, ...]
    services: tuple[str, ...]
    unofficial: tuple[str, ...]
    solver: Path | None
    servers: Mapping[str, Any] | None
    postgres: Path | None
    turns: int
    seconds: int


def task_count(extra: Mapping[str, str]) -> int | None:
    """How many tasks some options choose, where all their states are here; None if tasks are named: the clone tells how
    many those are. Raises UsageError."""
    services = [_service(word.strip()) for word in extra.get("service", "postgres").split(",")]
    suite = _suite(extra)
    return None if "tasks" in extra else sum(COUNTS[suite][service] for service in services)


def _suite(extra: Mapping[str, str]) -> str:
    suite = extra.get("suite", "standard")
    if suite not in SUITES:
        raise UsageError(f"--set suite={suite[:40]!r}: expected {' or '.join(SUITES)}")
    return suite


def plan_of(options: EvalOptions, tell: bool = False) -> McpMarkPlan:
    """What the options ask for; with `tell`, says which tasks are left out since their state is not here.

    Raises UsageError with the next step."""
    if options.data is None:
        raise UsageError(f"mcpmark: needs a clone of MCPMark: {SOURCE}; then --data DIR")
    services = tuple(_service(word.strip()) for word in options.extra.get("service", "postgres").split(","))
    suite, wanted = _suite(options.extra), options.extra.get("tasks")
    every = [task for service in services for task in read_tasks(options.data, service, suite)]
    chosen = chosen_tasks(every, wanted)
    missing = {task.id: why for task in chosen if (why := missing_state(options.data, task))}
    there = tuple(task for task in chosen if task.id not in missing)
    if missing and (wanted is not None or not there):
        name, why = next(iter(missing.items()))
        raise UsageError(f"{name}: {why}" + (f"; {len(missing) - 1} more lack theirs" if len(missing) > 1 else ""))
    changed = {service: said for service in services if (said := check_official(options.data, service))}
    if "mcp" in options.extra and len(services) > 1:
        raise UsageError("--set mcp: is for the tasks of one service; run each by itself with --set service=NAME")
    if tell:
        _tell(changed, missing, len(chosen))
    solver = options.extra.get("solver", "agent")
    return McpMarkPlan(
        options.data,
        there,
        services,
        tuple(changed),
        None if solver == "agent" else _file("solver", solver),
        _read_servers(_file("mcp", options.extra["mcp"])) if "mcp" in options.extra else None,
        Path(options.extra["postgres"]).expanduser() if "postgres" in options.extra else None,
        options.number("turns", TURNS),
        options.number("seconds", SECONDS),
    )


def _tell(changed: Mapping[str, str], missing: Mapping[str, str], count: int) -> None:
    for said in changed.values():
        say(f"mcpmark: {printable(said)}")
    if missing:
        say(f"mcpmark: {len(missing)} of {count} tasks are left out, since what they begin from is not here:")
        for why in dict.fromkeys(missing.values()):
            say(f"  {printable(why)} ({sum(other == why for other in missing.values())} tasks)")


def _service(word: str) -> str:
    if word in TREES:
        return word
    if word in OTHER_SERVICES:
        raise UsageError(
            f"--set service={word}: not run by a3b eval; MCPMark's own runner needs {OTHER_SERVICES[word]}"
        )
    hint = did_you_mean(word, [*TREES, *OTHER_SERVICES]) or f"; expected {' or '.join(TREES)}"
    raise UsageError(f"--set service={word[:40]!r}: no service of MCPMark{hint}")


def _file(name: str, text: str) -> Path:
    path = Path(os.path.abspath(Path(text).expanduser()))
    if not path.is_file():
        raise UsageError(f"--set {name}={text[:200]}: there is no such file")
    return path


def _read_servers(path: Path) -> Mapping[str, Any]:
    try:
        servers = json.loads(read_text(path, 1 << 20))["mcpServers"]
        if not isinstance(servers, dict) or not servers or not all(isinstance(e, dict) for e in servers.values()):
            raise ValueError("mcpServers names no server")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f'--set mcp={path}: {error}; expected {{"mcpServers": {{"NAME": {{...}}}}}}') from None
    return servers
