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
LAYERS = [
    ("errors", "files", "printable"),
    ("units", "work", "machine", "events"),
    ("variables", "formats", "isolation", "mangled", "volatile"),
    ("config", "tokens", "kernels", "sampler"),
    ("requests", "rope", "shapes", "cache", "weights", "matcher", "renderer", "turn", "budget"),
    ("model", "answer", "constrain", "turns"),
    ("packing", "engine", "scheduler"),
    ("service",),
    ("server",),
    ("commands",),
    ("cli",),
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MAX_LINES, LONGER = 500, {"model.py": 600}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Top-level parts of a3b that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "a3b" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("a3b.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    here = module_of(path)
    if here in ("__init__", "__main__"):
        return
    assert here in RANK, f"{here} has no layer: add it to LAYERS"
    for name in imports_of(path) - {here, "__version__"}:
        assert RANK[name] < RANK[here], f"{here} imports {name}, which does not lie below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGER.get(path.name, MAX_LINES)


def test_only_config_reads_the_environment():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bos\.(environ|getenv)\b", text) or path.name == "config.py", path


def test_what_commands_print_goes_through_one_function():
    """Names of files, errors and answers are foreign: `say` and `report` keep their control characters from terminals and logs."""
    found = []
    for path in FILES:
        if path.name not in ("printable.py", "progress.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    found += [f"{path.name}:{node.lineno}" for arg in node.args if not isinstance(arg, ast.Constant)
                              and not ast.unparse(arg).startswith("json.dumps(")]  # fmt: skip
    assert found == []


def test_importing_the_package_prints_nothing_and_loads_no_numpy():
    code = "import sys, a3b; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_no_runtime_module_needs_torch():
    for path in FILES:
        assert "import torch" not in path.read_text(encoding="utf-8"), path


def test_the_linter_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "src", "tests", "nano", "bench"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_names_exist():
    assert len(a3b.__all__) <= 12
    for name in a3b.__all__:
        assert getattr(a3b, name)
