"""A changed file is parsed, and never run."""

from __future__ import annotations

import shutil

import pytest

from a3b.agent.tools.syntax import syntax_of


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "x = 1\n", ""),
        ("a.py", "x = (\n", "1: '(' was never closed"),
        ("a.py", "\ufeffx = 1\n", ""),
        ("a.py", "import sys\nsys.exit(3)\nopen('made', 'w')\n", ""),
        ("a.py", "'\\d'\nassert (1, 2)\n", ""),
        ("a.py", "x = 'caf\udce9'\n", "1: (unicode error)"),
        ("a.py", "x = 1\0\n", "1: source code string cannot contain null bytes"),
        ("a.py", "(" * 10_000 + ")" * 10_000, "1: too many nested parentheses"),
        ("a.pyi", "def f() -> int: ...\n", ""),
        ("a.json", '{"a": 1}', ""),
        ("a.json", '{"a": 1,}', "1: "),
        ("a.json", '{\n  // with comments\n  "a": 1,\n}', None),
        ("a.json", "[" * 200_000, "1: nested too deeply"),
        ("a.toml", "a = 1\n", ""),
        ("a.toml", "a = 1\na = 2\n", "2: Cannot overwrite a value"),
        ("a.xml", "<a></a>", ""),
        ("a.xml", "<a>\n</b>", "2: mismatched tag"),
        ("a.txt", "x = (", None),
        ("a.py", "  \n", None),
        ("a.py", "x = 1\n" * 300_000, None),
    ],
)
def test_what_this_interpreter_can_parse_is_checked(tmp_path, monkeypatch, name, text, said):
    monkeypatch.chdir(tmp_path)
    found = syntax_of(name, text)
    assert found == said if not said else found.startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "program", "text", "said"),
    [
        ("a.sh", "bash", "if true; then echo 1; fi\n", ""),
        ("a.sh", "bash", "echo 1\nif true; then\n", "3: syntax error"),
        ("a.js", "node", "let x = 1;\n", ""),
        ("a.js", "node", "let x = 1;\nlet y = ;\n", "2: SyntaxError: Unexpected token ';'"),
        ("a.js", "node", "const a = <div>x</div>;\n", None),
        ("a.mjs", "node", "import x from 'y';\n", ""),
        ("-a.js", "node", "let x = ;\n", "1: SyntaxError"),
    ],
)
def test_what_other_programs_can_parse_is_checked(tmp_path, name, program, text, said):
    assert shutil.which(program), f"{program} is needed to run this test"
    (tmp_path / name).write_text(text)
    found = syntax_of(str(tmp_path / name), text)
    assert found == said if not said else found.startswith(said)


def test_a_checker_that_is_not_there_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.sh").write_text("if\n")
    assert syntax_of(str(tmp_path / "a.sh"), "if\n") is None


def test_a_checker_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / "node").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
    (tmp_path / "node").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("a3b.agent.tools.syntax.SECONDS", 0.1)
    assert syntax_of(str(tmp_path / "a.js"), "let x = ;") is None
