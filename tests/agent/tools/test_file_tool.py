"""The file tool as a script, and what its results look like."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import a3b.agent.tools.file_tool as file_tool
from a3b.agent.tools.edit import changed_text
from a3b.agent.tools.search_files import search_files
from a3b.agent.tools.text_file import FileToolError

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


PATHS = st.sampled_from(["", ".", "a.py", "a.py/x", "pipe", "\0", "~", "-rf", "\ud800", "new/x", "link"]) | st.text(
    "ab/."
)
TEXTS = st.sampled_from(["", "x", "\n", "x = 1", "\ud800", "\0", "[", "(?P<", "x" * 3000]) | st.text(
    "x=1 \t\r\n", max_size=9
)
NUMBERS = st.integers() | st.integers(-1, 3)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("workspace")
    (path / "a.py").write_text("x = 1\n")
    (path / "link").symlink_to("link")
    os.mkfifo(path / "pipe")
    return path


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_arguments_lead_to_anything_but_a_result_or_a_reason(workspace, data):
    path = data.draw(PATHS.filter(lambda path: ".." not in path and not path.startswith("/")))
    calls = [
        lambda: file_tool.read_file(path, data.draw(NUMBERS), data.draw(NUMBERS), root=str(workspace)).text,
        lambda: file_tool.write_file(path, data.draw(TEXTS), data.draw(st.booleans()), root=str(workspace)).text,
        lambda: file_tool.edit_file(path, data.draw(TEXTS), data.draw(TEXTS), root=str(workspace)).text,
        lambda: search_files(data.draw(TEXTS), path, data.draw(TEXTS), root=str(workspace)),
    ]
    try:
        text = data.draw(st.sampled_from(calls))()
    except FileToolError as error:
        text = str(error)
    assert 0 < len(text) < 20_000
