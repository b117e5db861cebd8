"""The form of the C++ sources, and the stub of the module that they make."""

from __future__ import annotations

import subprocess

import clang_format
import pytest

from tests.support import native_stub
from tests.support.paths import ROOT

CSRC = ROOT / "src" / "a3b" / "kernels" / "csrc"
SOURCES = sorted(CSRC.iterdir())
MAX_COLUMNS, MAX_LINES, MAX_FUNCTION_LINES = 120, 400, 60


def long_functions(source: str) -> list[str]:
    """Beginnings of functions over MAX_FUNCTION_LINES, in formatted code: blocks that a parameter list opens."""
    found, opened = [], {}
    for number, line in enumerate(source.splitlines()):
        indent = len(line) - len(line.lstrip())
        if line.endswith("{") and ")" in line and not line.lstrip().startswith(("for ", "if ", "while ", "} else")):
            opened[indent] = number, line.strip()
        elif line.lstrip().startswith("}") and indent in opened:
            start, beginning = opened.pop(indent)
            if number - start + 1 > MAX_FUNCTION_LINES:
                found.append(beginning)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_lines_files_and_functions_stay_short(path):
    source = path.read_text(encoding="utf-8")
    assert [line for line in source.splitlines() if len(line) > MAX_COLUMNS] == []
    assert len(source.splitlines()) <= MAX_LINES
    assert long_functions(source) == []


def test_a_long_function_is_found():
    body = ["  x++;"] * MAX_FUNCTION_LINES
    assert long_functions("\n".join(["int f(int x) {", *body, "}"])) == ["int f(int x) {"]
    assert long_functions("\n".join(["int f(int x) {", *body[2:], "}"])) == []


def test_clang_format_changes_nothing():
    command = [clang_format.get_executable("clang-format"), "--dry-run", "-Werror", *map(str, SOURCES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_files_of_an_instruction_set_name_its_instructions():
    for path in SOURCES:
        if not path.name.startswith(("simd_", "emulated", "pool.cc")):
            assert "_mm" not in path.read_text(encoding="utf-8"), path.name


def test_the_stub_is_what_the_module_says_of_itself():
    found = native_stub.PATH.read_text(encoding="utf-8")
    assert found == native_stub.generated(), "run python -m tests.support.native_stub"
