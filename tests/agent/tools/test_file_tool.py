"""What read, write and edit make of files of every kind. In this process; the sandbox has its own tests."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import a3b.agent.tools.file_tool as file_tool
from a3b.agent.tools.edit import changed_text
from a3b.agent.tools.file_tool import FileToolError, edit_file, read_file

TOOLS = Path(file_tool.__file__).parent


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(call, *args, **keywords):
    with pytest.raises(FileToolError) as caught:
        call(*args, **keywords)
    return str(caught.value)


def test_a_file_is_read_as_plain_lines(root):
    (root / "a.py").write_text("def f():\n\treturn 1\n")
    assert read_file("a.py").text == "def f():\n\treturn 1"


def test_a_long_file_is_read_in_parts_that_join(root):
    lines = [f"line {i}" for i in range(1, 813)]
    (root / "a").write_text("\n".join(lines) + "\n")
    first = read_file("a").text.split("\n")
    assert first[-1] == "[lines 1-300 of 812; go on with offset 301]"
    second = read_file("a", 301, 600).text.split("\n")
    assert first[:-1] + second[:-1] == lines


def test_an_edit_replaces_the_one_place_and_says_its_line(root):
    (root / "calc.py").write_text("def add(a, b):\n    x = 1\n    return a - b\n")
    outcome = edit_file("calc.py", "    x = 1\n    return a - b", "    x = 1\n    return a + b")
    assert outcome.text == "Edited calc.py, line 3."
    assert (root / "calc.py").read_text() == "def add(a, b):\n    x = 1\n    return a + b\n"


def test_a_text_that_occurs_twice_is_not_replaced(root):
    (root / "a").write_text("x = 1\ny = 1\nx = 1\n")
    message = error_of(edit_file, "a", "x = 1", "x = 2")
    assert message.startswith("old occurs 2 times in a, in lines 1, 3.")
    assert (root / "a").read_text() == "x = 1\ny = 1\nx = 1\n"


def test_a_missed_edit_shows_the_closest_lines_and_what_differs(root):
    (root / "a.py").write_text("import os\n\n\ndef add(a, b):\n    return a - b\n")
    message = error_of(edit_file, "a.py", "def add(a, b):\n    return a + b", "x")
    assert message == (
        "old is not in a.py. Closest, lines 4-5:\n4: def add(a, b):\n5:     return a - b\n"
        "Line 5 differs, old has:     return a + b"
    )


def test_the_script_answers_as_the_functions_do(root):
    (root / "a.py").write_text("x = (1)\n")
    call = {"call": "edit", "arguments": {"path": "a.py", "old": "(1)", "new": "(1"}}
    done = subprocess.run(
        [sys.executable, "-I", "-S", file_tool.__file__],
        input=json.dumps(call),
        capture_output=True,
        text=True,
        check=True,
    )
    outcome, checked = map(json.loads, done.stdout.splitlines())
    assert (outcome["text"], checked) == ("Edited a.py, line 1.", {"syntax": "1: '(' was never closed"})


@pytest.mark.parametrize("name", ["file_tool", "text_file", "replace", "closest", "syntax", "cut"])
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
