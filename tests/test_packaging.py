"""What goes to others beside the source: metadata, Dockerfile, units, workflows and the Makefile's first words.

`make wheel-check` builds and installs; here only what can be read or is refused at once."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from a3b.settings import VARIABLES
from tests.support.documented_commands import parsed
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGING = ROOT / "packaging"
TEXTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "Dockerfile", *PACKAGING.iterdir(), *(ROOT / ".github" / "workflows").iterdir())
    if path.is_file()
}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
PYTHONS = [text.split()[-1] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_metadata_names_each_python_from_the_oldest_on():
    oldest = numbers(PROJECT["requires-python"].removeprefix(">="))
    assert [numbers(version) for version in PYTHONS] == [(3, minor) for minor in range(oldest[1], 15)]


def test_wheels_are_built_for_and_checked_on_every_python_of_the_metadata():
    built = re.findall(r'"(3\.\d+)"', re.search(r"BUILDERS = (.*)", TEXTS["make_wheels.py"])[1])
    checked = re.findall(r'"(3\.\d+)"', re.search(r"VERSIONS = (.*)", TEXTS["check_wheels.py"])[1])
    published = re.findall(r'"(3\.\d+)"', re.search(r"python: (.*)", TEXTS["publish.yml"])[1])
    assert built == checked == published == PYTHONS
    assert f"for version in {' '.join(v.replace('.', '') for v in PYTHONS)};" in TEXTS["publish.yml"]


def test_the_license_is_an_expression_with_its_file_and_no_classifier():
    assert PROJECT["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])
    assert [text for text in PROJECT["classifiers"] if text.startswith("License ::")] == []


def test_all_addresses_are_of_one_project():
    addresses = PROJECT["urls"]
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} == set(addresses)
    assert all(address.startswith(addresses["Homepage"]) for address in addresses.values())


def test_an_address_that_is_no_address_is_not_published():
    """The reserved name stands until there is one; the workflow looks for it."""
    has_one = ".example" not in PROJECT["urls"]["Homepage"]
    assert has_one or "grep -F '.example' pyproject.toml" in TEXTS["publish.yml"]


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "publish.yml"])
def test_the_wheel_that_the_image_takes_is_one_that_is_made(name):
    text = (ROOT / name).read_text(encoding="utf-8") if name == ".dockerignore" else TEXTS[name]
    platform = re.search(r'PLATFORM = "(.*)"', TEXTS["make_wheels.py"])[1]
    found = set(re.findall(r"manylinux_\w+", text)) | set(re.findall(r"a3b-\*-(cp\S+)\.whl", text))
    assert found == ({platform} if name == "publish.yml" else {platform, f"cp312-abi3-{platform}"})


def commands_in(name: str) -> list[list[str]]:
    """The arguments of each a3b command of a file that is not Python."""
    text = TEXTS[name]
    if name == "Dockerfile":
        return [re.findall(r'"([^"]*)"', re.search(r"^CMD (.*)", text, re.MULTILINE)[1])]
    found = re.findall(r"^ExecStart=\S+/a3b (.*)|docker run .* a3b ((?:run|serve).*?)(?: \||$)", text, re.MULTILINE)
    return [re.sub(r'"[^"]*"', "TEXT", one or other).split() for one, other in found]


@pytest.mark.parametrize("name", ["Dockerfile", "a3b.service", "a3b-user.service", "publish.yml"])
def test_the_commands_of_image_units_and_workflow_exist(name):
    assert commands_in(name)
    for arguments in commands_in(name):
        assert parsed(arguments).command == arguments[0]


@pytest.mark.parametrize("name", ["Dockerfile", "a3b.service", "a3b-user.service"])
def test_the_variables_of_image_and_units_exist(name):
    assert {word.lower() for word in re.findall(r"\bA3B_([A-Z_]+)", TEXTS[name])} <= VARIABLES.keys()


@pytest.mark.parametrize("name", ["Dockerfile", "a3b.service"])
def test_a_server_for_others_has_keys(name):
    (arguments,) = commands_in(name)
    assert "--api-key-file" in arguments


@pytest.mark.parametrize("name", TEXTS)
def test_the_targets_and_files_that_are_named_exist(name):
    targets = re.findall(r"(?:^ *|`|run: |# +|&& )make ([a-z][a-z-]*)(?=[` ]| &&|$)", TEXTS[name], re.MULTILINE)
    assert set(targets) <= TARGETS
    files = re.findall(r"(?<![\w./-])((?:packaging|tests|docs)/[\w./-]+\.\w+)", TEXTS[name])
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_options_of_the_check_that_makefile_and_workflow_give_exist():
    given = re.findall(r"check_wheels\.py .*", MAKEFILE + TEXTS["publish.yml"])
    assert len(given) == 2
    for option in re.findall(r"--[a-z-]+", " ".join(given)):
        assert f'"{option}"' in TEXTS["check_wheels.py"]


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_linter_finds_nothing(arguments):
    command = [sys.executable, "-m", "ruff", arguments[0], "--no-cache", *arguments[1:], "packaging"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


PYTHON = """#!/bin/sh
case "$2" in *{lacks}*) exit 1;; esac
exit 0
"""


class Machine:
    """A copy of the Makefile where PATH has a shell, make, and what a test puts there."""

    def __init__(self, root: Path):
        self.root, self.programs = root, root / "programs"
        self.programs.mkdir()
        for name in ("sh", "make"):
            (self.programs / name).symlink_to(shutil.which(name))
        shutil.copy(ROOT / "Makefile", root)
        shutil.copytree(PACKAGING, root / "packaging")

    def add(self, name: str, text: str = "#!/bin/sh\n") -> None:
        (self.programs / name).write_text(text, encoding="utf-8")
        (self.programs / name).chmod(0o755)

    def make(self, *arguments: str, **variables: str) -> list[str]:
        """Lines of its refusal."""
        env = {"PATH": str(self.programs), **variables}
        command = ["make", *arguments]
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make: *** [")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("target", ["chat", "test", "quick", "wheel"])
@pytest.mark.parametrize(
    ("lacks", "named"),
    [("version_info", "3.11"), ("ensurepip", "python3-venv"), ("Python.h", "python3-dev"), ("nothing", "g++")],
)
def test_make_names_what_is_missing_in_one_line(machine, target, lacks, named):
    machine.add("python3", PYTHON.format(lacks=lacks))
    (line,) = machine.make(target)
    assert line.startswith("a3b: needs ") and named in line


def test_make_names_a_missing_python_in_one_line(machine):
    (line,) = machine.make("chat", "PYTHON=python3.99")
    assert "there is no python3.99" in line


def test_make_names_the_compiler_that_was_asked_for(machine):
    machine.add("python3", PYTHON.format(lacks="nothing"))
    machine.add("g++")
    (line,) = machine.make("chat", CXX="/opt/gcc/g++ -m64")
    assert "there is no /opt/gcc/g++" in line


@pytest.mark.parametrize("name", ["c++", "g++", "clang++"])
def test_any_compiler_is_one(machine, name):
    machine.add("python3", PYTHON.format(lacks="nothing"))
    machine.add(name)
    done = subprocess.run(
        ["packaging/needed.sh", "python3"], cwd=machine.root, env={"PATH": str(machine.programs)}, check=False
    )
    assert done.returncode == 0


def test_make_wheel_names_the_interpreter_that_is_missing_in_one_line(machine):
    machine.add("g++")
    (line,) = machine.make("wheel", f"PYTHON={sys.executable}", "PYTHON312=/nowhere/python3.12", HOME="/nowhere")
    assert re.fullmatch(r"make wheel: needs CPython 3\.1[12].* try: make wheel PYTHON31[12]=/path/.*", line)


def test_make_wheel_leaves_out_the_wheel_whose_python_is_not_here(monkeypatch, capsys):
    make_wheels = runpy.run_path(str(ROOT / "packaging" / "make_wheels.py"))
    for name in make_wheels["BUILDERS"]:
        monkeypatch.delenv(name, raising=False)
    functions = make_wheels["interpreters"].__globals__
    monkeypatch.setitem(functions, "candidates", lambda version: ["/usr/bin/python3.11"] if version == "3.11" else [])
    monkeypatch.setitem(functions, "facts", lambda path: "cpython 3.11 with GIL, with headers")
    assert make_wheels["interpreters"]() == {"PYTHON311": "/usr/bin/python3.11"}
    (line,) = capsys.readouterr().err.splitlines()
    assert "left out" in line and "PYTHON312=" in line and "PYTHON311" not in line
    monkeypatch.setitem(functions, "candidates", lambda version: [])
    with pytest.raises(SystemExit, match="make wheel: needs CPython 3"):
        make_wheels["interpreters"]()
