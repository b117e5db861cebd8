"""What swebench 4.1.0 knows of a repository: how it is installed and tested, and what a log of its tests says.

Of the package only modules without dependencies are used, from an installed one or from a wheel whose checksum is
known; they run in a process of their own. Enter at `OfficialTable`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench.instances import SweInstance
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, held, last_lines
from a3b.evals.benchmarks.swebench.programs import run_program

VERSION = "4.1.0"
SHA256 = "1243776f720047cc9e20a427f7a52b75c13a07abda6154fb60fe77f82ec8af57"
ANSWER_S, FETCH_S = 120, 600
MAX_LINE = 10_000
PASSED, FAILED = ("PASSED", "XFAIL"), ("FAILED", "ERROR")
STATUSES = (*PASSED, *FAILED, "SKIPPED")
OWN_PARSERS = ("pytest",)
# what an environment of conda has besides Python; from setuptools 81 on there is no pkg_resources
TOOLS = ("pip", "setuptools<81", "wheel")


@dataclass(frozen=True)
class SweSpec:
    """How a repository of a version is installed and tested. python: its version, such as "3.9"; tools, packages,
    pip_packages: names for the registry, in this order; requirements: paths in the repository, of which the first that
    exists is installed before pip_packages; pre_install, install, test: lines for bash, test without the files;
    eval_commands: before the tests; parser: of an instance that has its own specification, None for the official one
    of the repository."""

    python: str
    tools: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    needs_conda: bool = False
    pip_packages: tuple[str, ...] = ()
    pre_install: tuple[str, ...] = ()
    install: str = ""
    eval_commands: tuple[str, ...] = ()
    test: str = ""
    parser: str | None = None


class OfficialTable:
    """The table and the parsers of swebench. Nothing is fetched before the first question."""

    def __init__(self, places: SwePlaces):
        self._places = places
        self._directory: Path | None = None
        self._specs: dict[tuple[str, str], SweSpec] = {}

    def spec(self, instance: SweInstance) -> SweSpec:
        """Of an instance: its own, or the table's for its repository and version. Raises UsageError."""
        if instance.spec is not None:
            return _own_spec(instance)
        key = instance.repo, instance.version
        if key not in self._specs:
            answer = self._ask({"repo": instance.repo, "version": instance.version})
            if answer["spec"] is None:
                known = ", ".join(answer["versions"]) or "no version"
                raise UsageError(
                    f"{instance.id}: swebench {VERSION} has no specification of {instance.repo} {instance.version}; "
                    f"it knows {known}"
                )
            self._specs[key] = _official_spec(answer)
        return self._specs[key]

    def statuses(self, instance: SweInstance, log: str) -> dict[str, str]:
        """What a log says of each test: PASSED, FAILED, ERROR, SKIPPED or XFAIL."""
        if instance.spec is not None:
            return pytest_statuses(log)
        lines = (line[:MAX_LINE] for line in log.split("\n"))  # no name of a test is longer
        answer = self._ask({"repo": instance.repo, "log": "\n".join(lines)})
        if not isinstance(answer, dict):
            raise UsageError(f"{instance.id}: swebench {VERSION} cannot read logs of {instance.repo}")
        return {str(test): str(status) for test, status in answer.items()}

    def _ask(self, question: Mapping[str, Any]) -> Any:
        self._directory = self._directory or _sources(self._places)
        child = Path(__file__).with_name("official_child.py")
        command = [sys.executable, "-I", "-S", "-B", str(child), str(self._directory)]
        try:
            done = run_program(command, ANSWER_S, environment={"PYTHONUTF8": "1"}, given=json.dumps(question))
            answer: Any = json.loads(done.stdout) if done.returncode == 0 else None
        except subprocess.TimeoutExpired:
            raise SweEnvironmentError(f"swebench {VERSION} took more than {ANSWER_S} s for an answer") from None
        if done.returncode:
            raise SweEnvironmentError(
                f"swebench {VERSION} in {self._directory} gives no answer: {last_lines(done.stderr)}"
            )
        return answer


def pytest_statuses(log: str) -> dict[str, str]:
    """Of the lines that `pytest -rA` ends with: "PASSED tests/test_a.py::test_b", "FAILED ... - why"."""
    found = {}
    for line in log.split("\n"):
        word, _, rest = line[:MAX_LINE].partition(" ")
        if word in STATUSES and rest and not rest.startswith("["):
            found[rest.split(" - ")[0].strip()] = word
    return found


def directives(instance: SweInstance) -> list[str]:
    """The tests of the test patch, as arguments of the test command."""
    names = re.findall(r"^diff --git a/.* b/(.*)$", instance.test_patch, re.MULTILINE)
    files = [name for name in names if not name.endswith(NO_TESTS)]
    if instance.repo != "django/django":
        return files
    files = [name for name in files if _is_of_django(name)]
    return [name.removesuffix(".py").removeprefix("tests/").replace("/", ".") for name in files]


NO_TESTS = (".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")


def _is_of_django(name: str) -> bool:
    file = name.rsplit("/", 1)[-1]
    return file == "tests.py" or file.startswith("test_") or "/tests/" in name or "/test_" in name


def _official_spec(answer: Mapping[str, Any]) -> SweSpec:
    spec, packages = answer["spec"], answer["spec"].get("packages", "")
    names = () if packages in ("requirements.txt", "environment.yml") else tuple(_words(packages))
    test = spec["test_cmd"]
    return SweSpec(
        spec["python"],
        TOOLS,
        names,
        tuple(answer["requirements"]) if packages == "requirements.txt" else (),
        packages == "environment.yml",
        tuple(spec.get("pip_packages", ())),
        tuple(spec.get("pre_install", ())),
        spec.get("install", ""),
        tuple(spec.get("eval_commands", ())),
        test if isinstance(test, str) else test[-1],
    )


def _words(packages: str) -> list[str]:
    """Packages of conda in pip's words: one "=" is two there."""
    return [re.sub(r"(?<![<>=!~])=(?![=])", "==", word.strip("'\"")) for word in packages.split()]


def _own_spec(instance: SweInstance) -> SweSpec:
    """Raises UsageError."""
    given, texts = dict(instance.spec or {}), {"python": "", "install": "", "test": "", "parser": "pytest"}
    lists = ("packages", "requirements", "pip_packages", "pre_install", "eval_commands")
    if unknown := sorted(map(str, given.keys() - texts.keys() - set(lists))):
        known = ", ".join((*texts, *lists))
        raise UsageError(f"{instance.id}: spec has {', '.join(unknown)[:200]}; expected of {known}")
    for name, default in texts.items():
        if not isinstance(given.setdefault(name, default), str):
            raise UsageError(f"{instance.id}: {name} in spec is no text")
    for name in lists:
        value = given.setdefault(name, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UsageError(f"{instance.id}: {name} in spec is no list of texts")
        given[name] = tuple(value)
    if given["parser"] not in OWN_PARSERS or not given["test"] or not re.fullmatch(r"\d\.\d{1,2}", given["python"]):
        raise UsageError(
            f"{instance.id}: spec needs python (such as 3.11), test (a line for bash) and, if it has a parser, "
            f"one of {', '.join(OWN_PARSERS)}"
        )
    return SweSpec(**given)


def _sources(places: SwePlaces) -> Path:
    """Where the package is: installed with a3b, or brought into the work directory."""
    try:
        installed = importlib.metadata.distribution("swebench")
        if installed.version == VERSION:
            return Path(str(installed.locate_file("")))
    except importlib.metadata.PackageNotFoundError:
        pass
    directory = places.work / f"swebench-{VERSION}"
    with held(directory.with_name(directory.name + ".lock")):
        if not directory.is_dir():
            _fetch(directory)
    return directory


def _fetch(directory: Path) -> None:
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    wanted = partial / "wanted.txt"
    wanted.write_text(f"swebench=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(partial), "-r", str(wanted)]
    uv = shutil.which("uv")
    commands = [
        [sys.executable, "-m", "pip", "install", "--quiet", *options],
        *([[uv, "pip", "install", *options]] if uv else []),
    ]
    said = ""
    for command in commands:
        done = run_program(command, FETCH_S)
        if done.returncode == 0:
            os.rename(partial, directory)
            return
        said = done.stdout + done.stderr
    raise UsageError(
        f"swebench {VERSION} cannot be had, whose table says how repositories are installed and tested: "
        f"{last_lines(said)}\nIt can be brought by hand: pip install --no-deps --target {directory} swebench=={VERSION}"
    )
