"""`a3b code forget`: what the agent and the server keep of a session is gone, and only that."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from a3b.cli import main
from tests.support.past_sessions import past_session, sessions_in

pytestmark = pytest.mark.slow  # runs commands and servers

WORD = "trampoline"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A3B_HOME; the current directory is a project."""
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "home"


def conversations(home, capsys):
    capsys.readouterr()
    assert main(["cache", "list", "--json", "--dir", str(home / "sessions" / "a3b-nano")]) == 0
    return sum(session["turns"] > 0 for session in json.loads(capsys.readouterr().out)["sessions"])


def worked(task):
    """A session with nano, one answer long, by a server of its own."""
    command = [sys.executable, "-m", "a3b.cli", "code", "-p", task, "--max-turns", "1", "--yolo", "--model", "a3b-nano"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "turn 1" in done.stderr, done.stderr


def test_words_and_states_of_a_forgotten_session_are_gone_and_those_of_others_stay(tmp_path, home, capsys):
    worked(f"Say {WORD}.")
    worked("Say hello.")
    assert conversations(home, capsys) == 2
    sessions = sessions_in(tmp_path)
    (id,) = (id for id in sessions.ids() if WORD.encode() in sessions.path(id).read_bytes())
    assert main(["code", "sessions", "--search", WORD]) == 0
    assert f"session {id}, turn 1" in capsys.readouterr().out
    assert main(["code", "forget", id]) == 0
    assert "Forgotten: 1 session," in capsys.readouterr().out
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert WORD.encode() not in kept and b"Say hello." in kept
    assert conversations(home, capsys) == 1
    assert main(["code", "forget", "--all"]) == 0
    assert conversations(home, capsys) == 0  # but for the instructions, which all sessions share
    assert sessions.ids() == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["forget"], "expected the ID of a session"),
        (["forget", "2026", "--all"], "expected the ID of a session"),
        (["forget", "nonsense"], "not among those of"),
        (["forget", "--search", "word"], "belongs to 'a3b code sessions'"),
        (["sessions", "--all"], "belongs to 'a3b code forget'"),
        (["sessions", "more"], "'more' is not expected"),
        (["sessions", "--search", "?!"], "has no word"),
        (["forgets"], "did you mean 'forget'?"),
        (["--from-turn", "1", "-p", "Go on."], "expected --resume ID or --continue"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_forgotten(tmp_path, home, capsys, argv, message):
    id = past_session(sessions_in(tmp_path), {"task": "stay"})
    assert main(["code", *argv]) == 2
    assert message in capsys.readouterr().err
    assert sessions_in(tmp_path).ids() == [id]


@pytest.mark.parametrize(("typed", "left"), [("n\n", 1), ("y\n", 0), ("", 1)])
def test_at_a_terminal_everything_goes_only_after_a_question(tmp_path, home, monkeypatch, capsys, typed, left):
    sessions = sessions_in(tmp_path)
    past_session(sessions, {"task": "Keep me."})
    terminal = io.StringIO(typed)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["code", "forget", "--all"]) == left
    assert len(sessions.ids()) == left and "Forget 1 session of" in capsys.readouterr().err
