"""Who makes a patch: `a3b code`, mini-swe-agent, or nobody (the project's own fix, no change, a file of predictions).

Enter at `solve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from a3b.agent.options import AgentOptions
from a3b.agent.sandbox.protection import NAMES
from a3b.errors import UsageError
from a3b.evals.agent_run import run_agent
from a3b.evals.benchmarks.swebench.box import box_environment, open_box
from a3b.evals.benchmarks.swebench.images import SweImage
from a3b.evals.benchmarks.swebench.instances import SweInstance
from a3b.evals.benchmarks.swebench.mini import MiniAgent, run_mini
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, last_lines
from a3b.evals.benchmarks.swebench.predictions import Prediction
from a3b.evals.benchmarks.swebench.verdicts import MAX_PATCH
from a3b.evals.options import EvalOptions
from a3b.evals.records import CaseCost

SCAFFOLDS = ("a3b", "mini-swe-agent", "gold", "empty")
TOOLS = ("read", "write", "edit", "bash")
CARD = {"temperature": 1.0, "top_p": 0.95}  # of the model's card
MAX_TURNS, SOLVE_S = 250, 24 * 3600
WINDOW = 200_000  # tokens, as the card has it
DIFF_S = 300
# What a solver made of .git does not matter: its files are compared with the image, and nothing is written there. New
# files count, ignored ones do not. $1: the image, $2: its commit, $3: "binary" to write every file so
DIFF = """
mkdir /tmp/objects
export GIT_DIR=$1/.git GIT_WORK_TREE=$PWD GIT_INDEX_FILE=/tmp/index
export GIT_OBJECT_DIRECTORY=/tmp/objects GIT_ALTERNATE_OBJECT_DIRECTORIES=$1/.git/objects
echo '* -diff' > /tmp/attributes
git read-tree "$2" || exit 1
git add --all --ignore-errors > /dev/null 2>&1
[ "$3" = binary ] && set -- "$1" "$2" -c core.attributesFile=/tmp/attributes || set -- "$1" "$2"
git "${@:3}" diff --cached --no-color --no-ext-diff --no-textconv --binary "$2" 2> /dev/null
"""
TASK = (
    "Solve this issue of the project in the current directory. Change its source so that the issue is fixed; leave its "
    "tests as they are, they will be replaced. Its environment is installed: python and its test runner work.\n\n"
    "<issue>\n{statement}\n</issue>"
)


@dataclass
class Solution:
    """A patch, None if it is too large to be tried, and how it came about. messages: the conversation, as of chat
    completions."""

    patch: str | None
    cost: CaseCost = CaseCost()
    facts: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Solver:
    """scaffold: one of SCAFFOLDS, or "predictions", which `given` has by instance; mini: where mini-swe-agent is, if it
    is the scaffold; compact_at: tokens from which `a3b code` begins a conversation anew, without earlier thinking."""

    scaffold: str
    places: SwePlaces
    max_turns: int = MAX_TURNS
    seconds: int = SOLVE_S
    given: dict[str, Prediction] | None = None
    mini: MiniAgent | None = None
    compact_at: int = WINDOW


def given_solution(solver: Solver, instance: SweInstance) -> Solution | None:
    """The patch of an instance, where none has to be made."""
    if solver.given is not None:
        found = solver.given.get(instance.id)
        return Solution(found.patch if found else "", facts={"predicted_by": found.model if found else ""})
    patch = {"gold": instance.patch, "empty": ""}.get(solver.scaffold)
    return None if patch is None else Solution(patch, facts={"predicted_by": solver.scaffold})


async def solve(solver: Solver, image: SweImage, options: EvalOptions, seed: int) -> Solution:
    """A patch for an instance. Raises A3BError if the solver could not work: its server or the sandbox failed."""
    await image.begin_anew()
    if solver.scaffold == "a3b":
        return await _by_a3b(solver, image, options, seed)
    if solver.mini is None:
        raise UsageError("mini-swe-agent was not looked for")
    async with open_box(
        image.testbed,
        options.home,
        image.venv,
        readable=[image.environment.prefix],
        hidden=solver.places.hidden,
    ) as box:
        limits = solver.max_turns, solver.seconds
        done = await run_mini(solver.mini, box, image, options, {**CARD, **options.sampling}, seed, limits)
    return Solution(done.submission, done.cost, done.facts, done.messages)


async def _by_a3b(solver: Solver, image: SweImage, options: EvalOptions, seed: int) -> Solution:
    agent = AgentOptions(
        image.testbed,
        solver.places.agent_home,
        options.base_url,
        options.api_key,
        options.model,
        tools=TOOLS,
        max_turns=solver.max_turns,
        max_seconds=solver.seconds,
        compact_at=solver.compact_at,
        paths=tuple(NAMES),
        sampling={**CARD, **options.sampling, **options.fields(), "seed": seed},
        environment=box_environment(image.venv),
        hidden=solver.places.hidden,
        streams=options.streams,
    )
    run = await run_agent(agent, TASK.format(statement=image.instance.statement))
    patch = await changes_of(image, options)
    return Solution(patch, run.cost, {**run.facts(), "said": run.text[:400]}, run.messages)


async def changes_of(image: SweImage, options: EvalOptions) -> str | None:
    """What was changed in the testbed since a solver began, as a patch; None if it is too large to be tried.

    Raises SweEnvironmentError."""
    origin = image.directory / "image"
    for form in "text", "binary":  # bytes that are no UTF-8 go as a binary patch
        async with open_box(image.testbed, options.home, readable=[origin]) as box:
            ran = await box.run(DIFF, [str(origin), image.head, form], seconds=DIFF_S)
        if not any("\udc80" <= c <= "\udcff" for c in ran.output):
            break
    if ran.ended_by in ("output", "time", "disk", "memory"):  # of what a solver has left, not of ours
        return None
    if not ran.went_well:
        raise SweEnvironmentError(f"{image.instance.id}: the changes cannot be read: {last_lines(ran.output)}")
    return ran.output if len(ran.output) <= MAX_PATCH else None
