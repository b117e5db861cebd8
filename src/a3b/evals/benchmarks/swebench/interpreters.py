"""Interpreters by version: on PATH, of uv, of pyenv. Enter at `find_interpreter`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from a3b.evals.benchmarks.swebench.places import SweEnvironmentError
from a3b.evals.benchmarks.swebench.programs import run_program

ASK = "import sys, venv; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"
ANSWER_S = 30


def find_interpreter(version: str, environment: Mapping[str, str]) -> Path:
    """A Python of a version such as "3.9" that can make virtual environments. environment: of the user.

    Raises SweEnvironmentError that says how to install one."""
    for candidate in _candidates(version, environment):
        with suppress(OSError, subprocess.TimeoutExpired):
            done = run_program([str(candidate), "-I", "-c", ASK], ANSWER_S)
            lines = done.stdout.split("\n")
            if done.returncode == 0 and lines[0] == version:
                return Path(lines[1])
    raise SweEnvironmentError(
        f"there is no Python {version} on PATH, of uv or of pyenv; install it: uv python install {version}, "
        f"or pyenv install {version}"
    )


def _candidates(version: str, environment: Mapping[str, str]) -> Iterator[Path]:
    path = environment.get("PATH", "")
    if found := shutil.which(f"python{version}", path=path):
        yield Path(found)
    if uv := shutil.which("uv", path=path):
        with suppress(OSError, subprocess.TimeoutExpired):
            done = run_program([uv, "python", "find", "--no-project", version], ANSWER_S)
            if done.returncode == 0 and done.stdout.strip():
                yield Path(done.stdout.strip())
    root = Path(environment.get("PYENV_ROOT") or Path(environment.get("HOME") or "/root") / ".pyenv")
    found_here = list((root / "versions").glob(f"{version}.*/bin/python"))
    yield from sorted(found_here, key=lambda p: [int(n) if n.isdigit() else -1 for n in p.parts[-3].split(".")])[::-1]
