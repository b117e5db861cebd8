"""The process behind `a3b serve`: it writes what is pending when it is stopped, even in the middle of an answer; two
servers side by side."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from a3b.cli import main

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

ENDLESS = {"prompt": "hello", "max_tokens": 3500, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "stream": True}


def asked(url: str, path: str, body: dict):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=30)


# 130 is Ctrl-C, as in every command
@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_told_to_stop_in_the_middle_of_an_answer_keeps_its_sessions_and_ends_well(how, status, tmp_path):
    command = [sys.executable, "-m", "a3b.cli", "serve", "--port", "0", "--cache-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = next(found[1] for line in process.stderr if (found := re.search(r"Anthropic: (http://\S+)", line)))
            asked(
                url, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}
            ).read()
            with asked(url, "/v1/completions", ENDLESS) as stream:
                stream.readline()
                process.send_signal(how)
                assert process.wait(30) == status, process.stderr.read()
        finally:
            process.kill()
    listed = [sys.executable, "-m", "a3b.cli", "cache", "list", "--json", "--dir", str(tmp_path)]
    assert "hello" in subprocess.run(listed, capture_output=True, text=True, check=True).stdout


@contextmanager
def server(cache: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    command = [sys.executable, "-m", "a3b.cli", "serve", "--port", "0", *options]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "A3B_CACHE": str(cache)}
    ) as process:
        try:
            yield (
                next(found[1] for line in process.stderr if (found := re.search(r"Anthropic: (http://\S+)", line))),
                process,
            )
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_two_servers_of_one_model_work_side_by_side_and_all_their_sessions_are_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("A3B_CACHE", str(tmp_path))

    def cached(*argv: str) -> str:
        assert main(["cache", *argv]) == 0
        return capsys.readouterr().out

    def labels() -> list[str]:
        return sorted(found["label"] for found in json.loads(cached("list", "--json"))["sessions"])

    with server(tmp_path) as (one, _), server(tmp_path) as (two, _):
        for url, text in ((one, "hello"), (two, "goodbye")):
            asked(
                url, "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 8}
            ).read()
    assert labels() == ["goodbye", "hello"]
    shown = cached("list")
    assert (
        str(tmp_path / "sessions" / "a3b-nano.2") in shown
        and "hello" in shown
        and cached("verify").count("every byte") == 2
    )
    ids = {found["label"]: found["id"] for found in json.loads(cached("list", "--json"))["sessions"]}
    cached("forget", ids["hello"][:12])
    assert labels() == ["goodbye"]
    cached("prune", "--max-bytes", "0")
    assert labels() == []


def test_the_log_has_the_time_the_reason_and_no_control_character_and_a_half_closed_client_its_answer(tmp_path):
    with server(tmp_path, "--no-persist", "--max-body", "1k") as (url, process):
        port = int(url.rpartition(":")[2])
        replies = []
        get = b"GET /health HTTP/1.1\r\nHost: %s\r\n\r\n"
        for data in (
            get % b"localhost",
            get % b"a\x1b[2J",
            b"\x1b]0;\x07\r\n\r\n",
            b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000,
        ):
            with socket.create_connection(("127.0.0.1", port), 30) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                replies.append(client.makefile("rb").readline())
        process.terminate()
        log = process.stderr.read().splitlines()
    assert [reply.split()[1] for reply in replies] == [b"200", b"403", b"400", b"413"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT[0-9:.]+[+-]\d\d:\d\d \S+ \S+ \S+ \d{3} seconds=", line) for line in log), log
    assert all(line.isprintable() for line in log) and [" reason=" in line for line in log] == [False, True, True, True]
