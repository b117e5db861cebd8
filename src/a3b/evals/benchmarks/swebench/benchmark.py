"""SWE-bench Verified as a benchmark of `a3b eval`. Enter at `BENCHMARK`."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a3b.errors import SandboxUnavailable, UsageError
from a3b.evals.benchmark import GEMMA, QWEN, Benchmark, CaseTokens, Need
from a3b.evals.benchmarks.by_kind import lines_by_kind
from a3b.evals.benchmarks.swebench.checkout import find_clone
from a3b.evals.benchmarks.swebench.docker import DockerHarness, find_docker, harness_command
from a3b.evals.benchmarks.swebench.environments import Environments, read_record, write_record
from a3b.evals.benchmarks.swebench.images import Images, SweImage
from a3b.evals.benchmarks.swebench.instances import DATASET, SweInstance, load_instances
from a3b.evals.benchmarks.swebench.interpreters import find_interpreter
from a3b.evals.benchmarks.swebench.mini import find_mini
from a3b.evals.benchmarks.swebench.official import VERSION as OFFICIAL
from a3b.evals.benchmarks.swebench.official import OfficialTable
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, legible
from a3b.evals.benchmarks.swebench.predictions import read_predictions, write_predictions
from a3b.evals.benchmarks.swebench.solvers import (
    MAX_TURNS,
    SCAFFOLDS,
    SOLVE_S,
    WINDOW,
    Solution,
    Solver,
    given_solution,
    solve,
)
from a3b.evals.benchmarks.swebench.verdicts import TEST_S, TOO_LARGE, SweVerdict, judge, runner_files
from a3b.evals.family_task import shown, verdict
from a3b.evals.options import EvalOptions
from a3b.evals.runs import RunDirectory
from a3b.evals.tries import current_try
from a3b.printable import say
from a3b.settings import process_environment

if TYPE_CHECKING:
    from inspect_ai import Task

GET = f"{DATASET}: save its rows as .parquet, .json or .jsonl, and give the file with --data"
YES_NO = ("yes", "no")
USUAL = "3.9"
EXTRA = {
    "scaffold": f"who makes the patch: {', '.join(SCAFFOLDS)} (the project's own fix, no change); default a3b",
    "predictions": "a file of patches in the official form, which are judged instead",
    "instances": "ids, separated by commas, in the order in which they are tried, instead of all that --data has",
    "verdict": "local (the default), or official: by swebench's own harness, which needs Docker",
    "harness": "a Python that has swebench, for verdict=official",
    "clones": "a directory with clones, such as DIR/sympy__sympy; what is missing is cloned from GitHub",
    "work": "where environments and checkouts are made; default beside A3B_HOME",
    "keep": "yes keeps the checkout of each instance for the next run; default no",
    "gold-first": "no judges also where the project's own fix was not seen to pass here; default yes",
    "mini": "a Python that has mini-swe-agent; default that of `mini` on PATH",
    "turns": f"of a solver, at most; default {MAX_TURNS}",
    "seconds": f"of a solver, at most; default {SOLVE_S:,}",
    "compact-at": (
        f"tokens from which a3b code begins a conversation anew from a summary; default {WINDOW:,}, or what the server "
        "holds"
    ),
    "test-seconds": f"of the tests, at most; default {TEST_S:,}, as in the official harness",
}


def places_of(options: EvalOptions) -> SwePlaces:
    """Where the run of some options has its clones and environments."""
    work, clones, given = (
        Path(options.extra[name]) if name in options.extra else None for name in ("work", "clones", "predictions")
    )
    return SwePlaces.beside(options.home, work, clones, [path for path in (options.data, given) if path is not None])


def check(options: EvalOptions) -> None:
    """Raises UsageError, with the next step, for what is missing or wrong."""
    if shutil.which("git") is None:
        raise UsageError("git is not here, which makes checkouts; install it: apt install git")
    places = places_of(options)
    if places.clones is not None and not places.clones.is_dir():
        raise UsageError(f"--set clones={places.clones}: is no directory")
    _solver(options)
    _docker(options)
    instances_of(options)
    _yes(options, "keep"), _yes(options, "gold-first")
    options.number("test-seconds", TEST_S)


def instances_of(options: EvalOptions) -> list[SweInstance]:
    """What is tried. Raises UsageError."""
    if options.data is None:
        raise UsageError(f"swebench needs its dataset: {GET}")
    return load_instances(options.data, named_instances(options.extra))


def named_instances(extra: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in extra.get("instances", "").split(",") if name.strip()]


def make_task(options: EvalOptions) -> Task:
    """A sample is an instance; its solver makes the patch and has it judged, since both need the same testbed."""
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample

    instances = {instance.id: instance for instance in instances_of(options)}
    samples = [Sample(id=i.id, input=i.statement) for i in instances.values()]
    tried = SweTrial(options)

    async def run(state: Any, generate: Any) -> Any:
        current = current_try()
        try:
            solution, found = await tried.run(instances[current.case], current.seed)
        except (SweEnvironmentError, SandboxUnavailable) as error:
            state.metadata["a3b"] = {"error": str(error)}
            state.metadata["outcome"] = {"ok": False, "detail": "not tried"}
            return state
        state.messages = [shown(message) for message in solution.messages]
        state.output.completion = legible(solution.patch or "")
        state.metadata["a3b"] = {
            "cost": asdict(solution.cost),
            "detail": detail_of(found),
            "facts": {**solution.facts, **facts_of(found), **facts_of_patch(solution.patch or "")},
        }
        state.metadata["outcome"] = {"ok": found.resolved, "detail": detail_of(found)}
        state.metadata["tests"] = found.log
        return state

    return Task(dataset=MemoryDataset(samples, name="swebench"), solver=_named(run), scorer=verdict())


def _named(run: Any) -> Any:
    from inspect_ai.solver import solver

    def patch_and_test() -> Any:
        return run

    return solver(patch_and_test)()


class SweTrial:
    """Solves and judges instances, as options say."""

    def __init__(self, options: EvalOptions):
        self.options, self.places, self.solver = options, places_of(options), _solver(options)
        self.table = OfficialTable(self.places)
        environments = Environments(self.places, options.home, lambda line: say(f"a3b eval swebench: {line}"))
        self.images = Images(self.places, options.home, self.table, environments, _yes(options, "keep", "no"))
        self.docker = _docker(options)
        self.test_s = options.number("test-seconds", TEST_S)
        self.sees_gold = _yes(options, "gold-first")

    async def run(self, instance: SweInstance, seed: int) -> tuple[Solution, SweVerdict]:
        """Raises A3BError if the instance cannot be tried, or the solver could not work."""
        given = given_solution(self.solver, instance)
        if given is not None and self.docker is not None:
            return given, await self.docker.judge(instance, given.patch or "", self.options.model)
        async with self.images.opened(instance) as image:
            return await self._run_in(image, given, seed)

    async def _run_in(self, image: SweImage, given: Solution | None, seed: int) -> tuple[Solution, SweVerdict]:
        is_gold = self.solver.scaffold == "gold"
        if self.docker is None and self.sees_gold and not is_gold:
            await self._see_gold(image)
        solution = given or await solve(self.solver, image, self.options, seed)
        solution.facts |= {"python": image.environment.python, "image_s": round(image.seconds, 1)}
        if solution.patch is None:
            return solution, SweVerdict(TOO_LARGE)
        if self.docker is not None:
            return solution, await self.docker.judge(image.instance, solution.patch, self.options.model)
        found = await self._judged(image, solution.patch, runs_empty=self.solver.scaffold == "empty")
        if is_gold and found.resolved:
            self._note_gold(image)
        return solution, found

    async def _judged(self, image: SweImage, patch: str, runs_empty: bool = False) -> SweVerdict:
        home, hidden = self.options.home, self.places.hidden
        return await judge(image, patch, self.table, home, hidden, runs_empty=runs_empty, test_s=self.test_s)

    async def _see_gold(self, image: SweImage) -> None:
        """The project's own fix has to resolve an instance here before a solver is judged on it."""
        record = read_record(self.places.checked / f"{image.instance.id}.json")
        if record is not None and record.get("environment") == image.environment.directory.name:
            return
        found = await self._judged(image, image.instance.patch)
        if not found.resolved:
            raise SweEnvironmentError(
                f"{image.instance.id}: the project's own fix does not pass here ({detail_of(found)}), so its "
                "environment differs from the official one and no solver is judged in it; --set gold-first=no judges "
                "all the same\n"
                f"{found.log[-1500:]}"
            )
        self._note_gold(image)

    def _note_gold(self, image: SweImage) -> None:
        record = {"environment": image.environment.directory.name, "commit": image.instance.commit}
        write_record(self.places.checked / f"{image.instance.id}.json", record)


def detail_of(found: SweVerdict) -> str:
    """A verdict in one line."""
    if not any((*found.fail_to_pass, *found.pass_to_pass)):
        return found.outcome
    (mended, broken), (kept, passing) = found.fail_to_pass, found.pass_to_pass
    failed = f"; fails: {', '.join(found.failed[:3])}"[:300] if found.failed else ""
    return f"{found.outcome}: mends {mended} of {broken}, keeps {kept} of {passing}{failed}"


def facts_of_patch(patch: str) -> dict[str, Any]:
    """runner_files: files that decide how tests run, or what they say."""
    return {"patch_bytes": len(patch.encode(errors="surrogatepass")), "runner_files": runner_files(patch)[:20]}


def facts_of(found: SweVerdict) -> dict[str, Any]:
    return {
        "outcome": found.outcome,
        "fail_to_pass": list(found.fail_to_pass),
        "pass_to_pass": list(found.pass_to_pass),
        "failed": found.failed,
        "test_s": round(found.seconds, 1),
    }


def has_python(_: EvalOptions | None) -> bool:
    """Whether the interpreter of most projects is here."""
    try:
        return find_interpreter(USUAL, process_environment()).exists()
    except SweEnvironmentError:
        return False


def clones_are_here(options: EvalOptions | None) -> bool:
    """Whether nothing has to be cloned."""
    if options is None or options.data is None:
        return False
    places = places_of(options)
    try:
        return all(find_clone(repo, places) for repo in {instance.repo for instance in instances_of(options)})
    except UsageError:
        return False


def _solver(options: EvalOptions) -> Solver:
    """Raises UsageError."""
    scaffold = options.extra.get("scaffold", "a3b")
    if scaffold not in SCAFFOLDS:
        raise UsageError(f"--set scaffold={scaffold[:40]!r}: expected {', '.join(SCAFFOLDS)}")
    file = options.extra.get("predictions")
    if file is not None and "scaffold" in options.extra:
        raise UsageError("--set predictions and --set scaffold: the patches come from one of them; leave one out")
    return Solver(
        "predictions" if file is not None else scaffold,
        places_of(options),
        options.number("turns", MAX_TURNS),
        options.number("seconds", SOLVE_S),
        None if file is None else read_predictions(Path(file)),
        find_mini(options.extra.get("mini")) if scaffold == "mini-swe-agent" else None,
        _compact_at(options, scaffold if file is None else "predictions"),
    )


def _compact_at(options: EvalOptions, scaffold: str) -> int:
    """Raises UsageError for a solver that begins no conversation anew."""
    if "compact-at" in options.extra and scaffold != "a3b":
        raise UsageError(f"--set compact-at: is for the scaffold a3b; the patches come from {scaffold}: leave it out")
    return options.number("compact-at", WINDOW)


def _docker(options: EvalOptions) -> DockerHarness | None:
    """Raises UsageError if it is asked for and not there."""
    chosen = options.extra.get("verdict", "local")
    if chosen not in ("local", "official"):
        raise UsageError(f"--set verdict={chosen[:40]!r}: expected local or official")
    if chosen == "local":
        return None
    return find_docker(options, places_of(options), options.number("test-seconds", TEST_S))


def _yes(options: EvalOptions, name: str, default: str = "yes") -> bool:
    text = options.extra.get(name, default)
    if text not in YES_NO:
        raise UsageError(f"--set {name}={text[:40]!r}: expected yes or no")
    return text == "yes"


def asks_model(extra: Mapping[str, str]) -> bool:
    """Whether a patch is yet to be made."""
    return "predictions" not in extra and extra.get("scaffold", SCAFFOLDS[0]) in ("a3b", "mini-swe-agent")


def finish(found: RunDirectory) -> list[str]:
    """Writes the predictions, and says how the official harness judges them."""
    logs = sorted(found.logs.glob("*.eval"), key=lambda path: path.stat().st_mtime)
    written = write_predictions(found, logs)
    lines = [f"patches    {path}" for path in written]
    if written and found.config["options"]["extra"].get("verdict") != "official":
        rows, run = str(found.config["options"]["data"]), found.path.name
        command = harness_command("python", rows, str(written[0]), run, TEST_S)
        lines.append(f"officially {shlex.join(command)}   # with Docker")
    return lines


BENCHMARK = Benchmark(
    name="swebench",
    summary="500 issues of 12 Python projects; a patch has to mend the tests of the fix, and to break none",
    source=f"{DATASET}; tables and parsers of swebench {OFFICIAL}",
    licence="MIT (harness); the projects' own for their code",
    make_task=make_task,
    published={QWEN: 73.4, GEMMA: 52.0},
    protocol=(
        "Qwen3.6's card: an internal scaffold with bash and file editing, temperature 1.0, top_p 0.95, a window of "
        "200K tokens, verdict of the official harness"
    ),
    differs=(
        "scaffold a3b code (read, write, edit, bash) or mini-swe-agent (bash), same sampling; a3b code begins "
        f"a conversation anew from a summary at {WINDOW:,} tokens, or when the window that is served is full; without "
        "Docker the environments come from the package registry, with today's versions of what swebench does not pin, "
        "and without network while tests run; an instance counts only where the project's own fix passes here"
    ),
    needs=(
        Need("the dataset", GET, lambda options: options is not None and options.data is not None),
        Need("git", "apt install git", lambda _: shutil.which("git") is not None),
        Need("clones of the projects", "cloned from GitHub when missing, or --set clones=DIR", clones_are_here),
        Need(f"Python {USUAL} (others by project)", f"uv python install {USUAL}, or pyenv install {USUAL}", has_python),
    ),
    check=check,
    tokens_per_case=CaseTokens(
        prompt=31_000,
        written=15_000,
        cached=1_500_000,
        source=(
            "136 M prompt tokens in 89 tasks, 98 % of them cached, measured on Terminal-Bench 2.0 with this model and "
            "the agent pi; what is written is an assumption"
        ),
    ),
    cases=500,
    count=lambda extra: len(named_instances(extra)) or 500,
    extra=EXTRA,
    asks_model=asks_model,
    more=lines_by_kind(lambda case: case.rpartition("-")[0]),
    data="the dataset, as .parquet, .json or .jsonl",
    finish=finish,
    unsaid=("instances", "harness", "clones", "work", "keep", "mini"),
    files=("predictions",),
)
