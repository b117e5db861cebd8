"""The official harness's verdict, where Docker is: swebench runs an instance in its own image.

Enter at `find_docker`."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench.instances import SweInstance
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, last_lines, remove_tree
from a3b.evals.benchmarks.swebench.predictions import Prediction, predictions_text
from a3b.evals.benchmarks.swebench.programs import run_program
from a3b.evals.benchmarks.swebench.verdicts import EMPTY, NO_TIME, NOT_APPLIED, RESOLVED, UNRESOLVED, SweVerdict
from a3b.evals.options import EvalOptions
from a3b.files import read_text
from a3b.settings import process_environment

INSTALL = "pip install swebench in an environment of its own, and name its Python: --set harness=/PATH/bin/python"
ASK_S, PULL_S = 60, 3 * 3600
FAILED_TO_APPLY, TIMED_OUT = ">>>>> Patch Apply Failed", "Test timed out"


@dataclass(frozen=True)
class DockerHarness:
    """python: that has swebench; test_s: what the tests may take."""

    python: str
    work: Path
    test_s: int

    async def judge(self, instance: SweInstance, patch: str, model: str) -> SweVerdict:
        """Raises SweEnvironmentError if the harness gives no verdict."""
        if not patch.strip():
            return SweVerdict(EMPTY)
        run = f"a3b-{secrets.token_hex(6)}"
        directory = self.work / "docker" / run
        directory.mkdir(parents=True)
        (directory / "rows.jsonl").write_text(json.dumps(instance.row, default=str) + "\n", encoding="utf-8")
        prediction = predictions_text([Prediction(instance.id, model, patch)])
        (directory / "predictions.jsonl").write_text(prediction, encoding="utf-8")
        command = harness_command(self.python, "rows.jsonl", "predictions.jsonl", run, self.test_s)
        said = await _run(command, directory, PULL_S + self.test_s)
        logs = directory / "logs" / "run_evaluation" / run / model.replace("/", "__") / instance.id
        found = _read(logs, instance, said)
        await asyncio.to_thread(remove_tree, directory)
        return found


def harness_command(python: str, rows: str, predictions: str, run: str, test_s: int) -> list[str]:
    """The command line of the official harness."""
    asked = ["--dataset_name", rows, "--predictions_path", predictions, "--run_id", run, "--timeout", str(test_s)]
    return [python, "-m", "swebench.harness.run_evaluation", *asked, "--max_workers", "1"]


def find_docker(options: EvalOptions, places: SwePlaces, test_s: int) -> DockerHarness:
    """Raises UsageError if Docker does not answer, or the harness is not there."""
    python, environment = options.extra.get("harness", sys.executable), process_environment()
    docker = shutil.which("docker", path=environment.get("PATH"))
    if docker is None:
        raise UsageError("verdict=official needs Docker, which is not on PATH; without it the verdict is local")
    problem = _problem([docker, "version", "--format", "{{.Server.Version}}"])
    if problem:
        raise UsageError(f"verdict=official needs Docker, which does not answer: {problem}; start it, or leave it out")
    problem = _problem([python, "-c", "import swebench.harness.run_evaluation"])
    if problem:
        raise UsageError(f"verdict=official needs swebench, which {python} does not have: {problem}; {INSTALL}")
    return DockerHarness(python, places.work, test_s)


def _problem(command: list[str]) -> str:
    try:
        done = run_program(command, ASK_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else last_lines(done.stdout + done.stderr)[-300:]


async def _run(command: list[str], directory: Path, seconds: float) -> str:
    pipe, both = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=both, cwd=directory
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), seconds)
        return out.decode("utf-8", "replace")
    except TimeoutError:
        raise SweEnvironmentError(f"the official harness did not end within {seconds:,.0f} s") from None
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _read(logs: Path, instance: SweInstance, said: str) -> SweVerdict:
    try:
        report: dict[str, Any] = json.loads(read_text(logs / "report.json"))[instance.id]
        status = report.get("tests_status") or {}
        counts, failed = [], []
        for name in ("FAIL_TO_PASS", "PASS_TO_PASS"):
            good, bad = (list(status.get(name, {}).get(kind, ())) for kind in ("success", "failure"))
            counts.append((len(good), len(good) + len(bad)))
            failed += bad
        outcome = RESOLVED if report["resolved"] is True else UNRESOLVED
        return SweVerdict(outcome, counts[0], counts[1], failed[:20], log=last_lines(said))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    log = ""
    try:
        log = read_text(logs / "run_instance.log")
    except (OSError, UnicodeDecodeError):
        pass
    for mark, outcome in (FAILED_TO_APPLY, NOT_APPLIED), (TIMED_OUT, NO_TIME):
        if mark in log:
            return SweVerdict(outcome, log=last_lines(log))
    raise SweEnvironmentError(f"{instance.id}: the official harness gave no verdict: {last_lines(log or said)}")
