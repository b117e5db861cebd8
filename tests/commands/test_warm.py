"""`a3b warm`: a client shows what it sends first, and the server reads what its sessions share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.clients import first_request
from a3b.commands import first_prompt
from tests.support.fake_clients import ASKING, WARM, FakeClient, FakeServer, fake_server

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


@pytest.fixture
def claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    monkeypatch.setattr(first_request, "SETTLE_S", 0.05)
    for name in list(os.environ):
        if name.startswith(("A3B_", "ANTHROPIC_", "CLAUDE")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "a3b"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return FakeClient(tmp_path / "bin", "claude", ASKING)


def asked(server: FakeServer) -> list[dict]:
    return [body for path, _, body in server.asked if path == "/v1/warm"]


def test_both_ways_to_start_claude_are_read(server, claude, capsys):
    assert main(["warm", "claude", "--base-url", server.url]) == 0
    said = capsys.readouterr().out
    assert [len(body["requests"]) for body in asked(server)] == [2, 2]
    assert "Claude Code (terminal): 8,400 of 9,000 tokens of its first prompt (93%) are kept on the disk" in said
    assert "Claude Code (claude -p)" in said


def test_a_json_object_for_each_way(server, claude, capsys):
    assert main(["warm", "claude", "--base-url", server.url, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["way"], one["shared_tokens"]) for one in found] == [("terminal", 8400), ("claude -p", 8400)]


def test_a_launch_then_says_that_the_instructions_are_in_the_store(server, claude, capsys):
    main(["warm", "claude", "--base-url", server.url])
    server.answers["/v1/warm"] = {**WARM, "cached_tokens": 8400}
    assert main(["launch", "claude", "--base-url", server.url]) == 0
    assert "instructions are in the store: 600 of 9,000 tokens are left to read, about 6 s" in capsys.readouterr().err
    assert asked(server)[-1]["read"] is False


def test_after_an_update_of_the_client_what_was_read_no_longer_counts(server, claude, capsys):
    main(["warm", "claude", "--base-url", server.url])
    os.utime(claude.path, (1, 1))
    server.answers["/v1/warm"] = {**WARM, "cached_tokens": 8400}
    main(["launch", "claude", "--base-url", server.url])
    assert "first prompt: about 9,100 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["", "[]", '{"ways": 7}', '{"ways": [7, {"requests": [1]}]}', "{" * 99_999, "\x00"])
def test_a_record_that_is_broken_counts_as_none(record, server, claude, capsys, tmp_path):
    (tmp_path / "a3b/clients").mkdir(parents=True)
    (tmp_path / "a3b/clients/claude.warm").write_text(record)
    (tmp_path / "a3b/clients/speed.json").write_text(record)
    assert main(["launch", "claude", "--base-url", server.url]) == 0
    assert "first prompt: about 9,100 tokens" in capsys.readouterr().err


NUMBERS = (
    {"prompt_tokens": [], "cached_tokens": 1},
    {"prompt_tokens": [1e400], "cached_tokens": 1},
    {"prompt_tokens": [10**4000], "cached_tokens": 1},
    {"prompt_tokens": [-5], "cached_tokens": 1},
)


@pytest.mark.parametrize("answer", [{}, [], {"prompt_tokens": "x", "cached_tokens": 1}, (500, {}, {}), b"{", *NUMBERS])
def test_a_server_that_cannot_tell_what_it_has_does_not_keep_the_client_from_starting(answer, server, claude, capsys):
    main(["warm", "claude", "--base-url", server.url])
    server.answers["/v1/warm"] = answer
    assert main(["launch", "claude", "--base-url", server.url]) == 0
    assert "first prompt: about 9,100 tokens" in capsys.readouterr().err


STREAMED = {"content-type": "text/event-stream"}
EVENTS = b"".join(
    b"data: " + json.dumps({"object": "warm.progress", "read": read, "of": of}).encode() + b"\n"
    for read, of in [(1, None), ("x", 2), (1, 10**400), (1e400, [1])]
)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {"error": {"message": "POST /v1/warm: no such path"}}, {"x-request-id": "r"}), "no such path"),
        ({"object": "other"}, "broke off"),
        ({"object": "warm", "prompt_tokens": 7}, "not understood"),
        ({"object": "warm", "prompt_tokens": [], "shared_tokens": 10**400}, "not understood"),
        (b"[" * 100_000, "recursion"),
        ((200, EVENTS + b"data: {" + b'"a":{' * 100_000, STREAMED), "recursion"),
        ((200, EVENTS, STREAMED), "broke off"),
        ({"error": {"message": "a \x1b[2J refusal"}}, "refusal"),
    ],
)
def test_an_answer_that_is_none_is_an_error_in_one_line(answer, said, server, claude, capsys):
    server.answers["/v1/warm"] = answer
    assert main(["warm", "claude", "--base-url", server.url]) in (1, 2)
    told = capsys.readouterr().err
    assert said in told and "\x1b" not in told and "Traceback" not in told


def test_a_way_that_does_not_work_is_told_and_the_other_read(server, claude, capsys, tmp_path):
    FakeClient(tmp_path / "bin", "claude", f"if sys.argv[1] != '-p': sys.exit('no terminal here')\n{ASKING}")
    assert main(["warm", "claude", "--base-url", server.url]) == 1
    said = capsys.readouterr()
    assert "sent no request (terminal)" in said.err and "no terminal here" in said.err
    assert "Claude Code (claude -p)" in said.out and len(asked(server)) == 1


def test_a_client_that_shows_nothing_at_all_is_an_error(server, claude, capsys, tmp_path):
    FakeClient(tmp_path / "bin", "claude", "sys.exit(1)")
    assert main(["warm", "claude", "--base-url", server.url]) == 1
    assert "nothing of Claude Code could be read" in capsys.readouterr().err and not asked(server)


def test_a_client_that_was_not_tried_is_refused_with_what_works(server, claude, capsys):
    assert main(["warm", "little-coder", "--base-url", server.url]) == 2
    assert "a3b launch little-coder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "about 1 s"), (45, "about 45 s"), (360, "about 6 minutes"), (9000, "about 2.5 hours")],
)
def test_a_time_is_told_as_people_say_it(seconds, told):
    assert first_prompt.duration(seconds) == told


def test_how_much_is_read_and_for_how_long_is_told_while_the_server_reads(server, claude, capsys):
    lines = [{"object": "warm.progress", "read": 512, "of": 8400}, {**WARM, "seconds": 1.0}]
    stream = "".join(f"data: {json.dumps(line)}\n\n" for line in lines).encode()
    server.answers["/v1/warm"] = (200, stream, {"content-type": "text/event-stream"})
    assert main(["warm", "claude", "--base-url", server.url]) == 0
    assert "8,400 tokens are to be read, about 84 s" in capsys.readouterr().err
