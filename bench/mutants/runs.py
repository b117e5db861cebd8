"""Run the tests of each mutant in a forked process, in its own copy of the tree."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.mutants.contexts import HYPOTHESIS, environment_of
from bench.mutants.faults import Mutant

PRELOADED = "numpy tokenizers hypothesis httpx starlette.testclient uvicorn openai anthropic jsonschema requests gguf"
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-p", HYPOTHESIS, "--hypothesis-seed=0"]
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is loaded here already
BROKEN = 70  # exit status of a process that could not run the tests
MEMORY = 6 << 30  # bytes that a mutant's process may allocate


@dataclass(frozen=True)
class Job:
    group: str
    mutant: Mutant
    tests: dict[str, list[str]]  # by file
    seconds: float  # of one processor, before it counts as a timeout; ten times that on the clock
    state: str  # of the sources with this change
    tested: str  # the state of the tests


@dataclass(frozen=True)
class Running:
    job: Job
    tree: Path
    directory: str
    began: float


def copy_tree(root: Path, tree: Path) -> None:
    """Copy what the tests need; byte code is checked by content, as a mutant may have the size and time of the file."""
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(
        root,
        tree,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis"),
    )
    for library in () if list(tree.glob("src/a3b/kernels/_native*.so")) else libraries_installed():
        shutil.copy(library, tree / "src/a3b/kernels")
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "src", "tests"]
    subprocess.run(command, cwd=tree, check=True)


def libraries_installed() -> list[Path]:
    """The compiled kernels of the installed package, found without an import, which forked processes would share."""
    return [path for place in site.getsitepackages() for path in Path(place).glob("a3b/kernels/_native*.so")]


class FirstFailure:
    """A plugin of pytest that remembers the test which failed."""

    test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.test = self.test or (report.nodeid if report.failed else "")


def run_tests(tree: Path, directory: str, job: Job) -> int:
    """What the forked process does; leaves the name of the test that failed in `directory`/failed."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(job.seconds), int(job.seconds) + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.chdir(tree)
    os.environ.clear()
    os.environ.update(environment_of(tree, directory))
    sys.path[:0] = [f"{tree}/src", str(tree)]
    tempfile.tempdir = None
    if (imported := Path(importlib.import_module("a3b").__file__ or "")) != tree / "src/a3b/__init__.py":
        raise RuntimeError(f"a3b was imported from {imported}")
    silence = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(silence, number)
    for file, tests in job.tests.items():
        first = FirstFailure()
        code = pytest.main([*OPTIONS, *tests], plugins=[first])
        if code != pytest.ExitCode.OK:
            Path(directory, "failed").write_text(first.test or file)
            return int(code)
    return 0


def start(job: Job, tree: Path) -> tuple[int, Running]:
    directory = tempfile.mkdtemp(prefix="a3b-mutants-")
    (tree / "src/a3b" / job.mutant.path).write_text(job.mutant.text)
    if (pid := os.fork()) == 0:
        code = BROKEN
        try:
            code = run_tests(tree, directory, job)
        except BaseException:
            Path(directory, "failed").write_text(traceback.format_exc())
        os._exit(code)
    return pid, Running(job, tree, directory, time.monotonic())


def finished(pid: int, running: Running) -> int | None:
    """The wait status of the process once it is over, or is late and killed; its group is killed in any case."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done and time.monotonic() - running.began < 10 * running.job.seconds:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return status if done else os.waitpid(pid, 0)[1]


def clear(running: Running, original: Path, status: int) -> tuple[str, str]:
    """Restore the tree; returns the outcome and the test that noticed."""
    path = Path("src/a3b", running.job.mutant.path)
    shutil.copyfile(original / path, running.tree / path)
    noticed = Path(running.directory, "failed")
    by = noticed.read_text() if noticed.exists() else ""
    shutil.rmtree(running.directory, ignore_errors=True)
    if not os.WIFEXITED(status):
        return "timeout", by
    if os.WEXITSTATUS(status) == BROKEN:
        raise RuntimeError(f"the process for a mutant could not run its tests:\n{by}")
    return ("survived" if os.WEXITSTATUS(status) == 0 else "killed"), by


def run(jobs: Sequence[Job], original: Path, trees: Sequence[Path]) -> Iterator[tuple[Job, str, str, float]]:
    """Run all jobs, one per tree at a time; yields job, outcome, the test that noticed, and seconds, as they end."""
    for module in PRELOADED.split():
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    live: dict[int, Running] = {}
    free, waiting = list(trees), list(reversed(jobs))
    try:
        while waiting or live:
            while waiting and free:
                pid, running = start(waiting.pop(), free.pop())
                live[pid] = running
            time.sleep(0.02)
            for pid, running in list(live.items()):
                if (ended := finished(pid, running)) is not None:
                    del live[pid]
                    free.append(running.tree)
                    outcome = clear(running, original, ended)
                    yield running.job, *outcome, time.monotonic() - running.began
    finally:
        for pid, running in live.items():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            shutil.rmtree(running.directory, ignore_errors=True)
