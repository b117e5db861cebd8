"""`a3b code --demo`: nano works in a scratch directory, of which nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # starts servers or commands


def demo(tmp_path, *more):
    (tmp_path / "scratch").mkdir()
    env = os.environ | {"A3B_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch")}
    command = [sys.executable, "-m", "a3b.cli", "code", "--demo", *more]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_the_demo_shows_its_steps_and_what_became_of_the_package(tmp_path):
    done = demo(tmp_path)
    assert "Task: Please fix the bug" in done.stdout and "turns: " in done.stdout, done.stderr
    said = done.stdout.splitlines()[-1]
    assert done.returncode == 0 and said == "book_list.py is repaired, and nothing else was changed."
    assert list((tmp_path / "scratch").glob("a3b-demo-*")) == []
    assert not (tmp_path / "home" / "agent").exists()


def test_options_that_the_demo_sets_itself_are_refused(tmp_path):
    done = demo(tmp_path, "-p", "Do it.")
    assert done.returncode == 2 and "--demo: -p has no place there" in done.stderr
