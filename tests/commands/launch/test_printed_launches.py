"""`a3b launch --print`: lines for a shell that do what a launch does."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from a3b.cli import main
from a3b.clients.catalogue import CLIENTS
from tests.support.launches import NAMES, SECRET, free_port, started, told

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def shell(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-eu", "-c", text], capture_output=True, text=True, timeout=60)


SHELLS = ("_", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES")  # set by shells and by readline


def own_variables(record: dict[str, Any]) -> dict[str, str]:
    """The variables of a client that are not those of any program."""
    return {name: value for name, value in record["env"].items() if name not in SHELLS}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_does_in_a_shell_what_a_launch_does(name, server, client, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "a 'strange' $place\n#1%41"))
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.lan:3128")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    program = client(name)
    args = ("-p", 'it\'s "here" $HOME')
    started(name, server, args=args)
    by_launch = program.record
    program.forget()
    capsys.readouterr()
    assert started(name, server, "--print", args=args) == 0
    done = shell(capsys.readouterr().out)
    assert done.returncode == 0, done.stderr
    assert program.record["argv"] == by_launch["argv"]
    assert own_variables(program.record) == own_variables(by_launch)
    assert told(name, program.record) == told(name, by_launch)


@pytest.mark.parametrize("name", NAMES)
def test_printing_writes_nothing_starts_nothing_and_says_the_same_again(name, server, client, capsys, tmp_path):
    program = client(name)
    said = []
    for _ in range(2):
        assert started(name, server, "--print") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and not program.was_started and not (tmp_path / "a3b").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_client_is_shown_where_neither_it_nor_a_server_is(name, home, capsys, monkeypatch):
    monkeypatch.setenv("A3B_PORT", str(free_port()))
    assert main(["launch", name, "--print"]) == 0
    said = capsys.readouterr().out
    assert "a3b up" in said and CLIENTS[name].install in said and "a3b-nano" in said.replace("qwen3.6", "a3b-nano")


def test_a_printed_script_reads_a_key_from_where_it_was_given(server, client, capsys, tmp_path, monkeypatch):
    program = client("claude")
    keys = tmp_path / "my keys"
    keys.write_text(f"\n{SECRET}\nanother\n")
    monkeypatch.setenv("A3B_API_KEY", "from-the-environment,another")
    found = []
    for option in (("--api-key-file", str(keys)), ()):
        started("claude", server, *option, "--print")
        text = capsys.readouterr().out
        assert SECRET not in text and "from-the-environment" not in text
        assert shell(text).returncode == 0
        found.append(program.record["env"]["ANTHROPIC_AUTH_TOKEN"])
    assert found == [SECRET, "from-the-environment"]


@pytest.mark.parametrize("place", ["a\x1b[2Jb", "a\udcffb", "a\rb"])
def test_lines_that_a_terminal_would_change_are_not_printed(place, server, client, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_HOME", str(tmp_path / place))
    client("claude")
    assert started("claude", server, "--print") == 1
    assert "characters that no terminal shows" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_place_whose_name_is_no_text_is_no_obstacle(name, server, client, tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "a\udcffb\n"))
    client(name)
    assert started(name, server) == 0


@pytest.mark.parametrize("kept", [",second", " first", "first ,second"])
def test_a_key_that_a_shell_would_read_differently_is_not_printed(kept, server, client, capsys, tmp_path, monkeypatch):
    client("claude")
    monkeypatch.setenv("A3B_API_KEY", kept)
    assert started("claude", server, "--print") == 2
    assert "A3B_API_KEY has blanks or a comma around its first key" in capsys.readouterr().err
    monkeypatch.delenv("A3B_API_KEY")
    (tmp_path / "keys").write_text((kept.partition(",")[0] or " third") + "\n")
    assert started("claude", server, "--print", "--api-key-file", str(tmp_path / "keys")) == 2
    assert "blanks or a comma" in capsys.readouterr().err
