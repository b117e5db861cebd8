"""Commands that run tests are told from others."""

from __future__ import annotations

import pytest

from a3b.agent.tools.known_tests import KnownTests, runs_tests


@pytest.mark.parametrize(
    "command",
    [
        "pytest",
        "pytest -q tests/test_a.py",
        "cd src && python -m pytest -x",
        ".venv/bin/python3.12 -m unittest discover",
        "python test_calc.py",
        "python3 -B tests/calc_test.py 2>&1 | tail -5",
        "PYTHONPATH=. uv run --quiet pytest",
        "timeout 60 make test",
        "make -j4 check",
        "npm test",
        "npm run test:unit",
        "yarn test",
        "npx vitest run",
        "cargo test --release",
        "cargo nextest run",
        "go test ./...",
        "./gradlew check",
        "./run_tests.sh",
        "bash test.sh",
        "node --test",
        "python manage.py test",
    ],
)
def test_a_command_that_runs_tests_is_known(command):
    known = KnownTests()
    known.note(command)
    assert known.command == command


@pytest.mark.parametrize(
    "command",
    [
        "pip install pytest",
        "cat test_calc.py",
        "ls tests",
        "cargo check",
        "go build ./...",
        "python setup.py build",
        "git commit -m test",
        "npm install",
        "pytest --version",
        "python latest.py",
        "",
        "((((",
        "timeout",
        "env A=1",
        "python -m",
    ],
)
def test_other_commands_are_not_taken_for_tests(command):
    assert not runs_tests(command)


@pytest.mark.parametrize("line", ["test: make test", "- test: `make test`", "Tests:  make test  "])
def test_agents_md_names_the_test_command(line):
    assert KnownTests(f"# Project\n\n{line}\nmore\n").command == "make test"


def test_the_last_test_command_wins_over_agents_md():
    known = KnownTests("test: make test")
    known.note("pytest -q")
    known.note("ls")
    assert known.command == "pytest -q"


def test_a_command_of_many_lines_is_not_remembered():
    known = KnownTests()
    known.note("pytest <<EOF\nx\nEOF")
    known.note("pytest " + "a" * 500)
    assert known.command == ""
