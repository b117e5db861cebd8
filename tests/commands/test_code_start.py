"""How `a3b code` begins: with a task typed behind it, with a session chosen from a list, and what it says it uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.past_sessions import past_session, sessions_in
from tests.support.scripted_model import Says, ScriptedModel
from tests.support.terminals import Terminal

pytestmark = pytest.mark.slow  # starts commands

CODE = [sys.executable, "-m", "a3b.cli", "code"]
DONE = Says("All done.")


@pytest.fixture
def env(tmp_path):
    (tmp_path / "project").mkdir(exist_ok=True)
    return {"A3B_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}


@pytest.fixture
def terminal(tmp_path, env, monkeypatch):
    """Starts `a3b code` in the project with further words."""
    monkeypatch.chdir(tmp_path / "project")
    started = []

    def start(*words: str) -> Terminal:
        started.append(Terminal([*CODE, *words], env, size=(24, 100)))
        return started[-1]

    yield start
    for one in started:
        if not one.has_ended:
            os.kill(one.pid, signal.SIGKILL)
            one.ended()


def ran(tmp_path, env, *words, said=""):
    return subprocess.run(
        [*CODE, *words],
        cwd=tmp_path / "project",
        env=os.environ | env,
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_task_behind_the_command_is_the_first_message_at_the_terminal(terminal):
    with ScriptedModel([DONE, Says("More done.")]).serving() as url:
        shown = terminal("fix", "it", "--base-url", url)
        shown.shows(r"> fix it\n\nAll done.\n[^~]*ready", 60)
        shown.type("more\r")
        shown.shows("More done.")
        assert shown.leave() == 0


def test_resume_without_an_id_asks_which_session(terminal, tmp_path):
    sessions = sessions_in(tmp_path)
    for task in ("Write docs", "Fix it"):
        past_session(sessions, {"task": task, "answer": f"{task}: done."})
    with ScriptedModel([DONE]).serving() as url:
        shown = terminal("--resume", "--base-url", url)
        shown.shows(r"1  \d{8}-.* (Fix it|Write docs)\n +2  \d{8}-.*\nwhich one, 1 to 2\?", 60)
        first = shown.shows(r"1  (\d{8}-\S+) .* (Fix it|Write docs)")
        shown.type("3\r")
        shown.shows("3: expected 1 to 2")
        shown.type("1\r")
        shown.shows(rf"> {first[2]}\n\n{first[2]}: done.\n", 60)
        assert shown.leave() == 0
        assert f"--resume {first[1]} goes on" in shown.screen.text


def test_no_choice_opens_nothing(terminal, tmp_path):
    past_session(sessions_in(tmp_path), {"task": "Fix it"})
    shown = terminal("--resume", "--base-url", "http://127.0.0.1:1")
    shown.shows("Enter for none:", 60)
    shown.type("\r")
    assert shown.ended() == 0


def test_without_a_terminal_resume_lists_and_a_task_runs_as_with_p(tmp_path, env):
    id = past_session(sessions_in(tmp_path), {"task": "Fix it"})
    assert id in ran(tmp_path, env, "--resume").stdout
    with ScriptedModel([DONE]).serving() as url:
        done = ran(tmp_path, env, "fix it", "--base-url", url, said="of this text")
        assert (done.returncode, done.stdout) == (0, "All done.\n")


def test_model_and_server_are_said_on_stderr_and_stdout_has_events_alone(tmp_path, env):
    with ScriptedModel([DONE, DONE]).serving() as url:
        plain = ran(tmp_path, env, "-p", "hi", "--base-url", url)
        as_json = ran(tmp_path, env, "-p", "hi", "--base-url", url, "--json")
    for done in (plain, as_json):
        assert done.returncode == 0
        assert f"a3b code: scripted at {url}, context " in done.stderr
    assert plain.stdout == "All done.\n"
    events = [json.loads(line)["type"] for line in as_json.stdout.splitlines()]
    assert events[0] == "session_opened" and events[-1] == "task_finished"
