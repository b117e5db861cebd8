"""The shape of the source: imports go downwards, files stay readable, importing does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import a3b
from tests.support.paths import ROOT
from tests.support.sources import FILES, PACKAGE, SourceFacts, facts_of, read_facts

ALLOWED = {  # a room, and the rooms that it may import; a module of the top level is a room of its own
    "errors": "",
    "files": "",
    "printable": "",
    "machine": "",
    "isolation": "errors",
    "units": "errors",
    "settings": "errors units",
    "interface": "errors",
    "hub": "errors files",
    "clients": "errors files",
    "agent": "errors files machine printable settings units",
    "evals": "agent errors files machine printable settings units",
    "formats": "errors files",
    "json_schema": "errors",
    "kernels": "errors formats machine",
    "model": "errors files formats kernels machine",
    "prompt": "errors files isolation",
    "output": "interface json_schema prompt",
    "constrain": "errors interface isolation json_schema output prompt",
    "thinking": "interface isolation output prompt",
    "cache": "errors files formats interface kernels model",
    "packing": "errors files formats kernels model prompt",
    "engine": (
        "cache constrain errors files formats hub interface isolation kernels machine model output prompt thinking"
    ),
    "api": "cache engine errors interface prompt settings",
    "server": "errors interface isolation printable prompt thinking",
    "commands": (
        "agent cache clients engine errors evals files formats hub interface kernels machine model "
        "packing printable prompt server settings thinking units"
    ),
    "cli": "commands errors printable settings",
}
MAX_LINES = 500
MAX_FUNCTION_LINES = 60


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(facts: SourceFacts) -> set[str]:
    """Rooms of a3b that a source imports."""
    return {name.split(".")[1] for name in facts.modules if name.startswith("a3b.")} - {"__version__"}


def wrong_imports(room: str, facts: SourceFacts) -> list[str]:
    """What a source of a room imports although the table does not allow it."""
    assert room in ALLOWED, f"{room} is not in the table: add it, with what it may import"
    return sorted(imports_of(facts) - {room} - set(ALLOWED[room].split()))


def by_file(find: Callable[[Path], object]) -> dict[str, object]:
    """What is found in each file of the package, of those where something is."""
    return {str(path.relative_to(PACKAGE)): found for path in FILES if (found := find(path))}


def test_a_room_imports_only_what_the_table_allows():
    outside = ("__init__", "__main__")
    assert by_file(lambda p: room_of(p) not in outside and wrong_imports(room_of(p), facts_of(p))) == {}


def test_a_wrong_import_in_either_direction_is_found():
    """Whatever the table does not name is refused, above a room and below it, however the import is written."""
    for room in ALLOWED:
        for other in ALLOWED.keys() - {room} - set(ALLOWED[room].split()):
            lines = f"import a3b.{other}", f"from a3b.{other} import x", f"from a3b import {other}"
            for line in (*lines, f"def f():\n    {lines[0]}.y"):
                assert wrong_imports(room, read_facts(line)) == [other], (room, line)


def test_the_table_has_no_circle_and_no_line_too_many():
    below = {}
    for room, names in ALLOWED.items():  # in the table, what is imported stands above
        assert set(names.split()) <= below.keys(), room
        below[room] = names
        files = [facts_of(path) for path in FILES if room_of(path) == room]
        assert files, f"{room} is no room"
        assert set(names.split()) == set().union(*map(imports_of, files)) - {room}, f"{room}: allowed, but not imported"


def test_files_stay_short():
    assert by_file(lambda path: (n := len(facts_of(path).text.splitlines())) > MAX_LINES and n) == {}


def test_functions_stay_short():
    long = by_file(lambda p: [(name, n) for name, n in facts_of(p).functions if n > MAX_FUNCTION_LINES])
    assert long == {}


def test_a_public_class_name_means_one_thing():
    found: dict[str, list[str]] = {}
    for path in FILES:
        for name in facts_of(path).classes:
            if not name.startswith("_"):
                found.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_the_design_draws_the_table():
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    drawn = dict(
        re.findall(r"^    ([a-z_]+) {2,}((?:nothing|(?:[a-z_]+ ?)+))$", text[: text.index("## Life")], re.MULTILINE)
    )
    left_out = {"errors", "files", "printable", "machine", "units", "settings"}
    rooms = {room: set(names.split()) - left_out for room, names in ALLOWED.items() if room not in left_out}
    assert {room: set(names.split()) - {"nothing"} for room, names in drawn.items() if room != "room"} == rooms


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "DESIGN.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")],
    ids=lambda p: p.name,
)
def test_documents_name_files_that_exist(page):
    if page.name == "log.md":  # tells of its day
        return
    names = set(
        re.findall(r"(?<![\w./-])((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|cc|h|md|json))\b", page.read_text(encoding="utf-8"))
    )
    names -= {name for name in names if name.startswith("build/")}
    assert [name for name in sorted(names) if not (ROOT / name).exists() and not (PACKAGE / name).exists()] == []


def test_only_settings_read_the_environment():
    reads = re.compile(r"\bos\.(environ|getenv)\b")
    assert [p for p in FILES if p.name != "settings.py" and reads.search(facts_of(p).text)] == []


def test_what_commands_print_goes_through_one_function():
    """Names of files, errors and answers are foreign: `say` and `report` keep their control characters from terminals
    and logs."""
    found = [
        f"{path.name}:{line}"
        for path in FILES
        if path.name not in ("printable.py", "progress.py")
        for line, args in facts_of(path).prints
        for arg in args
        if not isinstance(arg, ast.Constant) and not ast.unparse(arg).startswith("json.dumps(")
    ]
    assert found == []


def test_importing_the_package_prints_nothing_and_loads_no_numpy():
    code = "import sys, a3b; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_no_runtime_module_needs_torch():
    assert [path for path in FILES if "import torch" in facts_of(path).text] == []


def test_the_linter_finds_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "src", "tests", "nano", "bench"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # 20 s without its cache
def test_the_type_checker_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_type_that_is_ignored_says_why():
    found = []
    for path in FILES:
        for line in facts_of(path).text.splitlines():
            if "type: ignore" in line:
                found.append(line.strip())
    assert len(found) <= 40
    for line in found:
        assert re.search(r"# type: ignore\[[a-z, -]+\]  # \S", line), line


def test_the_formatter_changes_nothing():
    command = [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "src", "tests", "nano", "bench"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_at_most_15_places_are_kept_from_the_formatter():
    found = [p for p in ROOT.rglob("*.py") if not {".venv", "build"} & set(p.parts) and p != Path(__file__)]
    assert sum(path.read_text(encoding="utf-8").count("fmt: skip") for path in found) <= 15


def test_public_names_exist():
    assert len(a3b.__all__) <= 20
    for name in a3b.__all__:
        assert getattr(a3b, name)
