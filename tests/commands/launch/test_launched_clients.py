"""`a3b launch`: each client finds the server by settings of its own, and nothing of the user's is touched."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.support.fake_clients import MODELS
from tests.support.launches import NAMES, SECRET, digest, started, told

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


# -- every client


@pytest.mark.parametrize("name", NAMES)
def test_a_client_is_told_where_the_server_is(name, server, client):
    program = client(name)
    assert started(name, server, "--api-key", SECRET) == 0
    assert told(name, program.record) == (f"{server.url}/v1", "m", SECRET)


@pytest.mark.parametrize("name", NAMES)
def test_a_launch_leaves_the_user_s_files_as_they_are(name, server, client, home):
    client(name)
    before = digest(home), digest(Path.cwd())
    started(name, server)
    assert (digest(home), digest(Path.cwd())) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_client_keeps_the_user_s_shell(name, server, client, monkeypatch):
    program = client(name)
    given = {"SSH_AUTH_SOCK": "/run/agent", "GIT_AUTHOR_NAME": "me", "EDITOR": "vi", "LANG": "C.UTF-8"}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    started(name, server)
    env = program.record["env"]
    assert {variable: env[variable] for variable in (*given, "HOME", "PATH")} == {
        **given,
        "HOME": os.environ["HOME"],
        "PATH": os.environ["PATH"],
    }


@pytest.mark.parametrize("name", NAMES)
def test_arguments_reach_the_client_as_they_are_after_those_of_the_launch(name, server, client):
    program = client(name)
    args = ("-p", 'it\'s "here"\n$HOME', "--", "--model", "", "x y")
    started(name, server, args=args)
    assert tuple(program.record["argv"][-len(args) :]) == args


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_neither_in_a_file_nor_in_an_argument(name, server, client, tmp_path, monkeypatch):
    program = client(name)
    monkeypatch.setenv("A3B_API_KEY", SECRET)
    started(name, server)
    written = b"".join(path.read_bytes() for path in (tmp_path / "a3b").rglob("*") if path.is_file())
    assert SECRET.encode() not in written and SECRET not in " ".join(program.record["argv"])
    assert told(name, program.record)[2] == SECRET


@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_a_client_can_be_read_by_others(name, server, client, tmp_path):
    client(name)
    started(name, server)
    directory = tmp_path / "a3b" / "clients" / name
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (directory, *directory.rglob("*.json"))}
    assert modes <= {0}


HOSTILE = ['a"b\\c', "line\nbreak", "\x1b[2Jm", "-rf", "a/b:c", "x" * 300, "$(id)", "{env:HOME}", "ü 模"]


@pytest.mark.parametrize("model", HOSTILE)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "little-coder"])
def test_a_model_name_that_could_break_settings_becomes_a_plain_one(name, model, server, client):
    """Any name will do: the server has one model."""
    program = client(name)
    server.answers["/v1/models"] = {"data": [{**MODELS["data"][0], "id": model}]}
    assert started(name, server) == 0
    assert told(name, program.record)[1] == "a3b"


# -- settings over time


def test_what_the_user_changed_in_a_client_stays_and_what_a_launch_needs_comes_back(server, client, tmp_path):
    client("claude")
    started("claude", server)
    path = tmp_path / "a3b/clients/claude/settings.json"
    changed = json.loads(path.read_text())
    changed["theme"], changed["permissions"]["defaultMode"] = "light", "acceptEdits"
    changed["permissions"]["allow"], changed["permissions"]["deny"] = ["Bash(git *)"], ["WebFetch"]
    path.write_text(json.dumps(changed))
    started("claude", server)
    found = json.loads(path.read_text())
    assert (found["theme"], found["permissions"]["defaultMode"], found["permissions"]["allow"]) == (
        "light",
        "acceptEdits",
        ["Bash(git *)"],
    )
    assert {"WebFetch", "Agent(claude-code-guide)"} <= set(found["permissions"]["deny"])


def test_a_variable_that_the_user_has_set_counts_more_than_a_recommendation(server, client, monkeypatch):
    program = client("claude")
    monkeypatch.setenv("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "123")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "of the user")
    started("claude", server)
    env = program.record["env"]
    assert env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "123" and "ANTHROPIC_API_KEY" not in env


@pytest.mark.parametrize("broken", ["{", "[]", "\x00", '{"a": ' * 5000])
def test_settings_that_cannot_be_read_are_named_and_not_overwritten(broken, server, client, tmp_path, capsys):
    program = client("claude")
    path = tmp_path / "a3b/clients/claude/settings.json"
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_text(broken)
    assert started("claude", server) == 2
    assert str(path) in capsys.readouterr().err and path.read_text() == broken and not program.was_started


def test_a_place_that_cannot_be_written_is_named(server, client, tmp_path, capsys):
    program = client("claude")
    (tmp_path / "a3b").mkdir()
    (tmp_path / "a3b/clients").write_text("a file")
    assert started("claude", server) == 2
    said = capsys.readouterr().err
    assert "clients" in said and "A3B_HOME" in said and not program.was_started


def test_a_link_in_place_of_a_settings_file_is_replaced_and_its_target_stays(server, client, tmp_path):
    client("pi")
    precious = tmp_path / "precious"
    started("pi", server)
    path = tmp_path / "a3b/clients/pi/models.json"
    for text in ("mine", path.read_text()):  # also one that has the right text today
        precious.write_text(text)
        path.unlink()
        path.symlink_to(precious)
        started("pi", server)
        assert precious.read_text() == text and not path.is_symlink() and "providers" in json.loads(path.read_text())


def test_opencode_s_commands_get_the_user_s_directories_back(server, client, monkeypatch):
    program = client("opencode")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/the/user's")
    started("opencode", server)
    env = program.record["env"]
    assert env["USERS_XDG_CONFIG_HOME"] == "/the/user's" and env["XDG_CONFIG_HOME"].startswith(env["HOME"][:5])
