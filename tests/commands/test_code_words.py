"""`a3b code`: options that do not go together are refused, and text comes from slow programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from a3b.cli import main
from a3b.commands.piped_input import writer_of
from tests.support.past_sessions import past_session, sessions_in


@pytest.fixture
def id(tmp_path, monkeypatch):
    """Of a session of the current directory."""
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "project")
    return past_session(sessions_in(tmp_path), {"task": "Fix it."})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--resume -p hi", "expected the ID of a session with -p"),
        ("--resume --json", "with --json"),
        ("--resume --from-turn 1", "with --from-turn"),
        ("--resume ID --continue -p hi", "each names a session"),
        ("sessions -p hi", "-p: has no place"),
        ("sessions --resume ID", "--resume: has no place"),
        ("sessions --search it --json", "--json: has no place"),
        ("forget ID --continue", "--continue: has no place"),
        ("forget ID --json", "--json: has no place"),
        ("fix it -p hi", "-p: has no place beside a task for the terminal"),
        ("fix it --acp", "--acp: has no place beside a task"),
        ("fix it --json", "--json: has no place beside a task"),
        ("fix it --demo", "a task has no place there"),
        ("sesions", "did you mean 'sessions'?"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(id, capsys, words, said):
    assert main(["code", *words.replace("ID", id).split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../other", "/etc", ".", "a/.."])
def test_a_path_outside_is_not_allowed_silently(id, capsys, path):
    assert main(["code", "-p", "hi", "--base-url", "http://127.0.0.1:1", "--allow-path", path]) == 2
    assert f"--allow-path '{path}': expected a protected file" in capsys.readouterr().err


def test_a_directory_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["code", "-p", "hi"]) == 2
    assert "the current directory is gone" in capsys.readouterr().err


def test_sessions_are_listed_for_programs(id, capsys):
    assert main(["code", "sessions", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["id"] == id and json.loads(line)["words"] == "Fix it."


def test_a_program_before_the_bar_is_seen_and_a_parent_is_not():
    """A parent that holds the pipe may never write and never end."""
    script = "import sys; from a3b.commands.piped_input import writer_of; print(writer_of(sys.stdin))"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.read() == "None\n"
        process.stdin.close()
    reader, writer = os.pipe()
    with subprocess.Popen(["sleep", "60"], stdout=writer) as slow, open(reader) as ours:
        os.close(writer)
        assert writer_of(ours) == slow.pid
        slow.kill()
