"""Names of models in other commands: they get what is not here, or say how."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.commands import up
from a3b.formats.packed import Manifest, verify
from tests.support.hub_server import REPO
from tests.support.ups import only, ups

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def test_pack_takes_a_short_name_and_a_tag(home, hub, known, capsys):
    assert main(["pack", "tiny:fast", "out"]) == 0
    assert Manifest.read(Path("out")).preset == "fast" and verify(Path("out")) == [] and home.stored() == []


def test_pack_takes_a_file_of_a_repository_by_its_types(home, ggufs, capsys):
    assert main(["pack", f"{REPO}:Q4_K_M", "out"]) == 0
    assert {path for method, path, _ in ggufs.requests if method == "GET"} == {"m-UD-Q4_K_M.gguf"}


def hang_up(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_a_port_that_is_taken_is_told_before_a_download(home, hub, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        threading.Thread(target=hang_up, args=(taken,)).start()  # else it is waited for as a server that is slow
        told = ups(capsys, REPO, "--yes", "--port", str(taken.getsockname()[1]), status=2)
        taken.shutdown(socket.SHUT_RDWR)
    assert "cannot listen on 127.0.0.1" in told and hub.requests == []


def test_serve_gets_a_model_that_is_not_here_if_told_to(home, hub, known, capsys, monkeypatch):
    served = []
    monkeypatch.setattr("a3b.commands.serve.run", lambda args: served.append(args.model) or 0)
    assert main(["serve", "tiny"]) == 2
    assert "'tiny' is known but not here; get it: a3b up tiny" in capsys.readouterr().err
    assert main(["serve", "tiny", "--yes"]) == 0
    assert served == [str(only(home).folder)]


def test_chat_offers_to_get_a_model_at_a_terminal(home, hub, known, capsys, typed, monkeypatch):
    chats = []
    monkeypatch.setattr("a3b.commands.chat.run", lambda args: chats.append(args.model) or 0)
    typed("n\n")
    assert main(["chat", "tiny"]) == 2 and home.stored() == []
    typed("y\n")
    assert main(["chat", "tiny"]) == 0
    assert chats == [str(only(home).folder)] and "Go ahead?" in capsys.readouterr().err


def test_run_says_how_to_get_a_model(home, capsys):
    assert main(["run", "qwen3.6:fast", "Hi"]) == 2
    assert "get it: a3b up qwen3.6:fast" in capsys.readouterr().err
    assert main(["run", "some/where:Q4_K_M", "Hi"]) == 2
    assert "if it is a repository of the hub, get it: a3b up some/where:Q4_K_M" in capsys.readouterr().err


def test_a_model_is_held_while_it_is_served(home, hub, known, capsys, monkeypatch):
    removed = []
    monkeypatch.setattr(up.serve, "run", lambda args, after: removed.append(main(["rm", "tiny", "--yes"])) or 0)
    assert "uses it" in ups(capsys, "tiny", "--yes")
    assert removed == [2] and main(["rm", "tiny", "--yes"]) == 0 and home.stored() == []
