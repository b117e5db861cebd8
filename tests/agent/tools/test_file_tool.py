"""The file tool as a script, and what its results look like."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import a3b.agent.tools.file_tool as file_tool
from a3b.agent.tools.edit import changed_text

TOOLS = Path(file_tool.__file__).parent


def answers(call, directory, **arguments):
    """What the script prints for a call."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", file_tool.__file__],
        input=json.dumps({"call": call, "arguments": arguments}).encode(),
        capture_output=True,
        check=True,
        cwd=directory,
    )
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_script_edits_and_then_checks_the_file(tmp_path):
    (tmp_path / "a.py").write_text("x = (1)\n")
    outcome, checked = answers("edit", tmp_path, path="a.py", old="(1)", new="(1")
    assert (outcome["text"], checked) == ("Edited a.py, line 1.", {"syntax": "1: '(' was never closed"})


def test_the_script_says_errors(tmp_path):
    assert answers("read", tmp_path, path="a.py") == [{"error": "a.py does not exist; paths start at the workspace."}]


def test_the_script_searches(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    assert answers("search", tmp_path, pattern="x")[0]["text"] == "a.py:1: x = 1\n[1 match]"


@pytest.mark.parametrize("name", ["file_tool", "text_file", "replace", "closest", "syntax", "cut", "search_files"])
def test_what_runs_in_the_sandbox_needs_the_standard_library_alone(name):
    for node in ast.walk(ast.parse((TOOLS / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert module.split(".")[0] in sys.stdlib_module_names or module.startswith("a3b.agent.tools")


@pytest.mark.parametrize(
    ("syntax", "tests", "text"),
    [
        (None, "", "Edited a, line 1."),
        ("", "", "Edited a, line 1. Syntax is fine."),
        ("", "pytest", "Edited a, line 1. Syntax is fine.\nNow run the tests: pytest"),
        (None, "pytest", "Edited a, line 1.\nNow run the tests: pytest"),
        ("2: invalid syntax", "pytest", "Edited a, line 1. Syntax error: 2: invalid syntax"),
    ],
)
def test_a_changed_file_is_told_with_its_syntax_and_the_tests_to_run(syntax, tests, text):
    assert changed_text("Edited a, line 1.", syntax, tests) == text
