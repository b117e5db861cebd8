"""Virtual environments of repositories, made once for each version from the package registry, then only read.

What a package runs while it is built runs in the sandbox, which reaches the registry and nothing else. Enter at
`Environments.of`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from a3b.evals.benchmarks.swebench.box import Box, open_box
from a3b.evals.benchmarks.swebench.checkout import Clone
from a3b.evals.benchmarks.swebench.instances import SweInstance
from a3b.evals.benchmarks.swebench.interpreters import find_interpreter
from a3b.evals.benchmarks.swebench.official import SweSpec
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, holding, last_lines, remove_tree
from a3b.evals.benchmarks.swebench.programs import run_program
from a3b.settings import process_environment

FORM = 1  # of what is on disk
READY = "ready.json"
BUILD_S = 3600
REGISTRY = ("https://pypi.org", "https://files.pythonhosted.org")
NO_REQUIREMENT = ("-e .", "#", ".[test")
INCLUDED = re.compile(r"-r\s*(\S+)")


@dataclass(frozen=True)
class PythonEnvironment:
    """directory: with `venv` in it; python: the interpreter's version in full; prefix: its installation; seconds: that
    it took to build."""

    directory: Path
    python: str
    prefix: Path
    seconds: float

    @property
    def venv(self) -> Path:
        return self.directory / "venv"


class Environments:
    """The environments in a work directory. tell: gets a line when one is about to be built."""

    def __init__(self, places: SwePlaces, home: Path, tell: Callable[[str], None] = lambda _: None):
        self._places, self._home, self._tell = places, home, tell

    async def of(self, instance: SweInstance, spec: SweSpec, clone: Clone) -> PythonEnvironment:
        """The environment of an instance's repository and version. Raises SweEnvironmentError."""
        requirements = read_requirements(instance, spec, clone)
        plan = [FORM, spec.python, spec.packages, requirements, spec.pip_packages]
        key = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:12]
        directory = self._places.environments / f"{instance.repo.replace('/', '__')}-{key}"  # of several versions
        async with holding(directory.with_name(directory.name + ".lock")):
            if (made := _made(directory)) is not None:
                return made
            python = find_interpreter(spec.python, process_environment())
            prefix = Path(_output([str(python), "-I", "-c", "import sys; print(sys.base_prefix)"]))
            version = _output([str(python), "-I", "-c", "import platform; print(platform.python_version())"])
            self._tell(f"building the environment of {instance.repo} {instance.version} (Python {version})")
            remove_tree(directory)
            directory.mkdir(parents=True)
            (directory / "requirements.txt").write_text(requirements, encoding="utf-8")
            began = time.monotonic()
            async with open_box(directory, self._home, readable=[prefix], hosts=registry_hosts()) as box:
                await _build(box, directory, python, spec, bool(requirements))
            made = PythonEnvironment(directory, version, prefix, time.monotonic() - began)
            write_record(directory / READY, {**asdict(made), "plan": plan})
            return made


async def _build(box: Box, directory: Path, python: Path, spec: SweSpec, has_requirements: bool) -> None:
    python_here = str(directory / "venv/bin/python")
    pip = [python_here, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    asked = ("-r", str(directory / "requirements.txt")) if has_requirements else ()
    tools = ("--upgrade", *spec.tools) if spec.tools else ()
    wanted = [words for words in (tools, spec.packages, asked, spec.pip_packages) if words]
    make = [str(python), "-m", "venv", *([] if wanted or spec.install else ["--without-pip"])]
    steps = [[*make, str(directory / "venv")], *([*pip, *words] for words in wanted)]
    for words in steps:
        await run_step(box, words, directory / "build.log", directory)


async def run_step(box: Box, words: list[str], log: Path, cwd: Path, shown: str = "") -> None:
    """Runs a command, all said in a log. shown: it in short. Raises SweEnvironmentError if it fails."""
    ran = await box.run('"$@"', words, cwd=cwd, seconds=BUILD_S)
    with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"$ {shlex.join(words)}\n{ran.output}\n")
    if not ran.went_well:
        how = ran.detail or f"exit status {ran.status}"
        said = f"{(shown or shlex.join(words))[:300]}: {how}\n{last_lines(ran.output)}"
        raise SweEnvironmentError(f"{said}\nThe whole log: {log}")


def read_requirements(instance: SweInstance, spec: SweSpec, clone: Clone) -> str:
    """What the repository asks for in its file of requirements, those that it names included, as swebench reads it."""
    for path in spec.requirements:
        text = clone.file_at(instance.setup_commit, path)
        if text is None:
            continue
        own, included = [], []
        for line in text.split("\n"):
            if found := INCLUDED.match(line.strip()):
                other = clone.file_at(instance.setup_commit, os.path.normpath(f"{os.path.dirname(path)}/{found[1]}"))
                included += (other or "").split("\n")
            else:
                own.append(line)
        lines = [line.strip() for line in (*included, *own)]
        kept = [line for line in lines if line and not line.startswith(NO_REQUIREMENT)]
        return "\n".join(re.sub(r"^types-pkg_resources\b.*", "types-setuptools", line) for line in kept) + "\n"
    if spec.requirements:
        raise SweEnvironmentError(
            f"{instance.repo} has none of {', '.join(spec.requirements)} at {instance.setup_commit}"
        )
    return ""


def registry_hosts() -> list[str]:
    """Hosts that pip may ask: PyPI, and what the user's settings name instead or as well."""
    environment = process_environment()
    urls = [*REGISTRY]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        urls += environment.get(name, "").split()
    hosts = []
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            hosts.append(f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
    return list(dict.fromkeys(hosts))


def copy_environment(source: Path, target: Path) -> None:
    """A copy of a virtual environment that works in its new place. Files are shared until one is replaced."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:  # another file system
            shutil.copy2(old, new)

    shutil.copytree(source, target, symlinks=True, copy_function=link)
    for file in (target / "pyvenv.cfg", *(target / "bin").iterdir()):
        if file.is_symlink() or not file.is_file():
            continue
        data = file.read_bytes()
        if os.fsencode(source) in data and b"\0" not in data:
            fresh = file.with_name(file.name + ".new")
            fresh.write_bytes(data.replace(os.fsencode(source), os.fsencode(target)))
            shutil.copymode(file, fresh)
            os.replace(fresh, file)


def write_record(path: Path, record: object) -> None:
    """Writes JSON under its final name at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
    os.replace(partial, path)


def read_record(path: Path) -> dict[str, object] | None:
    """What `write_record` has written; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _made(directory: Path) -> PythonEnvironment | None:
    record = read_record(directory / READY)
    if record is None or not (directory / "venv/bin/python").exists():  # its interpreter may be gone
        return None
    return PythonEnvironment(
        directory, str(record["python"]), Path(str(record["prefix"])), float(str(record["seconds"]))
    )


def _output(command: list[str]) -> str:
    return run_program(command).stdout.strip()
