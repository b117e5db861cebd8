"""The shape of the source: imports go downwards, files stay readable, importing does nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import a3b

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "a3b"
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
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str) -> set[str]:
    """Rooms of a3b that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "a3b" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("a3b.")}
    return found - {"__version__"}


def wrong_imports(room: str, source: str) -> list[str]:
    """What a source of a room imports although the table does not allow it."""
    assert room in ALLOWED, f"{room} is not in the table: add it, with what it may import"
    return sorted(imports_of(source) - {room} - set(ALLOWED[room].split()))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_the_table_allows(path):
    if room_of(path) not in ("__init__", "__main__"):
        assert wrong_imports(room_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("room", ALLOWED)
def test_a_wrong_import_in_either_direction_is_found(room):
    """Whatever the table does not name is refused, above a room and below it, however the import is written."""
    for other in ALLOWED.keys() - {room} - set(ALLOWED[room].split()):
        lines = f"import a3b.{other}", f"from a3b.{other} import x", f"from a3b import {other}"
        for line in (*lines, f"def f():\n    {lines[0]}.y"):
            assert wrong_imports(room, line) == [other], line


def test_the_table_has_no_circle_and_no_line_too_many():
    below = {}
    for room, names in ALLOWED.items():  # in the table, what is imported stands above
        assert set(names.split()) <= below.keys(), room
        below[room] = names
        files = [path.read_text(encoding="utf-8") for path in FILES if room_of(path) == room]
        assert files, f"{room} is no room"
        assert set(names.split()) == set().union(*map(imports_of, files)) - {room}, f"{room}: allowed, but not imported"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def functions_of(path: Path) -> list[tuple[str, int]]:
    """(name, lines) of all functions of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(node.name, node.end_lineno - node.lineno + 1) for node in functions]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_short(path):
    assert [(name, lines) for name, lines in functions_of(path) if lines > MAX_FUNCTION_LINES] == []


def test_a_public_class_name_means_one_thing():
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
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
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bos\.(environ|getenv)\b", text) or path.name == "settings.py", path


def test_what_commands_print_goes_through_one_function():
    """Names of files, errors and answers are foreign: `say` and `report` keep their control characters from terminals
    and logs."""
    found = []
    for path in FILES:
        if path.name not in ("printable.py", "progress.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    found += [
                        f"{path.name}:{node.lineno}"
                        for arg in node.args
                        if not isinstance(arg, ast.Constant) and not ast.unparse(arg).startswith("json.dumps(")
                    ]
    assert found == []


def test_importing_the_package_prints_nothing_and_loads_no_numpy():
    code = "import sys, a3b; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_no_runtime_module_needs_torch():
    for path in FILES:
        assert "import torch" not in path.read_text(encoding="utf-8"), path


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
        for line in path.read_text(encoding="utf-8").splitlines():
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
