"""`a3b run`: which word is MODEL, which is PROMPT, and what comes on stdin."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from a3b.cli import main
from a3b.commands import piped_input
from a3b.commands.run import model_and_prompt
from a3b.engine.engine import nano_directory
from a3b.errors import UsageError

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NANO = str(nano_directory())
COMMAND = [sys.executable, "-m", "a3b.cli"]


@pytest.fixture
def stdin(monkeypatch):
    """Sets what stdin holds: bytes, or None for a terminal."""

    def put(data: bytes | None) -> None:
        stream = io.TextIOWrapper(io.BytesIO(data or b""), "utf-8")
        if data is None:
            stream.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stream)

    put(b"")
    return put


def refusal(words: list[str], named: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        model_and_prompt(words, named, 5.0)
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b" \n", None])
def test_a_directory_alone_is_a_model_whose_prompt_is_missing(stdin, tmp_path, data):
    stdin(data)
    told = refusal([str(tmp_path)])
    assert str(tmp_path) in told and "PROMPT is missing" in told and f"a3b chat {tmp_path}" in told


def test_a_gguf_file_alone_is_a_model_too(stdin, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert "PROMPT is missing" in refusal([str(tmp_path / "m.gguf")])


@pytest.mark.parametrize("word", ["/no/such/model", "./model", "../model", "~/no-such-model"])
def test_a_word_that_looks_like_a_path_is_no_prompt(stdin, word):
    told = refusal([word])
    assert word in told and "PROMPT is missing" in told


@pytest.mark.parametrize("word", ["35b-a3b", "27B", "a3b-nano", "nano", "Qwen/Qwen3.6-35B-A3B"])
def test_the_name_of_a_model_alone_is_no_prompt(stdin, word):
    assert f"{word!r} is taken as MODEL, and a PROMPT is missing" in refusal([word])


def test_the_embedded_model_has_a_name(capsys, stdin, tmp_path, monkeypatch):
    assert main(["run", "a3b-nano", "hello", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "a3b-nano"
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    # a directory with a model comes first
    assert main(["run", "nano", "hello"]) == 1 and "nano/config.json" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["TCP/IP", "hello", "/help me please", "what is a/b?", "x" * 5000])
def test_any_other_word_alone_is_the_prompt(stdin, word):
    assert model_and_prompt([word], None, 5.0) == (None, word)


def test_piped_text_is_the_prompt_of_a_model_named_alone(stdin, tmp_path):
    stdin(b"Name three birds.\n")
    assert model_and_prompt([str(tmp_path)], None, 5.0) == (str(tmp_path), "Name three birds.\n")


def test_piped_text_alone_is_the_prompt(stdin):
    stdin(b"Hello!\n")
    assert model_and_prompt([], None, 5.0) == (None, "Hello!\n")


def test_piped_text_follows_a_prompt_after_a_blank_line(stdin):
    stdin("größer\n".encode())
    assert model_and_prompt(["Translate:"], None, 5.0) == (None, "Translate:\n\ngrößer\n")
    stdin("größer\n".encode())
    assert model_and_prompt(["./m", "Translate:"], None, 5.0) == ("./m", "Translate:\n\ngrößer\n")


def test_a_named_model_makes_every_word_a_prompt(stdin, tmp_path):
    assert model_and_prompt([str(tmp_path)], "m", 5.0) == ("m", str(tmp_path))
    assert "--model" in refusal(["a", "b"], "m")


def test_no_words_and_no_text_are_refused_with_something_to_type(stdin):
    for data in (None, b"", b"\n"):
        stdin(data)
        assert "PROMPT is missing" in refusal([]) and "a3b run 'Name" in refusal([])
    assert "stdin is empty" in refusal(["-"])


def test_words_without_quotes_are_refused_as_such(stdin):
    assert "quotes" in refusal(["a", "b", "c"])
    assert "quotes" in refusal(["tell me", "all"]) and "'hello' is not a directory" in refusal(["hello", "world"])


def test_a_wait_of_no_seconds_leaves_stdin_unread(stdin):
    stdin(b"text")
    assert model_and_prompt(["hello"], None, 0.0) == (None, "hello")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x89PNG\r\n", "byte 0x89 at 0"),
        (b"caf\xe9", "iconv"),
        (b"ab\0c", "zero byte at 2"),
        ("hi".encode("utf-16"), "UTF-8"),
    ],
)
def test_binary_and_other_encodings_on_stdin_are_refused_by_the_byte(stdin, data, told):
    stdin(data)
    assert told in refusal(["hello"])


def test_text_on_stdin_has_a_bound(stdin, monkeypatch):
    monkeypatch.setattr(piped_input, "MAX_BYTES", 10)
    stdin(b"0123456789")
    assert model_and_prompt(["a"], None, 5.0)[1] == "a\n\n0123456789"
    stdin(b"0123456789x")
    assert "more than" in refusal(["a"])


def test_a_byte_order_mark_is_no_part_of_the_text(stdin):
    stdin(b"\xef\xbb\xbfhello")
    assert model_and_prompt([], None, 5.0)[1] == "hello"


def test_an_empty_model_is_refused_and_not_taken_as_none(capsys, stdin):
    for argv in (["run", "", "hello"], ["info", ""], ["run", "-m", "", "hello"], ["chat", ""]):
        assert main(argv) == 2
        assert "empty" in capsys.readouterr().err


def run(*argv: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, "run", *argv, "--max-tokens", "3", "--json"], capture_output=True, timeout=60, **kwargs
    )


def prompt_tokens(done: subprocess.CompletedProcess) -> int:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["usage"]["prompt_tokens"]


def test_a_pipe_adds_its_text_and_an_unreadable_or_closed_stdin_adds_none():
    alone = prompt_tokens(run("hello", stdin=subprocess.DEVNULL))
    assert prompt_tokens(run("hello", input=b"some more words")) > alone
    unreadable = os.open(os.devnull, os.O_WRONLY)  # as nohup leaves it
    assert prompt_tokens(run("hello", stdin=unreadable)) == alone
    os.close(unreadable)
    closed = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m a3b.cli run hello --max-tokens 3 --json <&-'], capture_output=True
    )
    assert prompt_tokens(closed) == alone


def test_a_pipe_that_is_never_written_is_refused_in_time_and_not_waited_for_forever():
    reader, writer = os.pipe()
    done = run("hello", "--stdin-timeout", "0.2", stdin=reader)
    assert done.returncode == 2 and b"nothing came in 0.2 s" in done.stderr and b"</dev/null" in done.stderr
    assert not done.stdout
    assert prompt_tokens(run("hello", "--stdin-timeout", "0", stdin=reader)) > 0
    os.close(reader), os.close(writer)
