"""The server of `a3b launch`: one that runs, or one that it starts and ends."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.commands import client_server, launch
from a3b.engine.engine import nano_directory
from tests.support.fake_clients import MODELS
from tests.support.launches import free_port, launch_runtime, started

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


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
