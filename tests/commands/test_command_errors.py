"""What the command line says when it is used wrongly, and when its output cannot be written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from a3b import cli
from a3b.cli import main
from a3b.commands.argument_types import byte_size, duration, whole
from a3b.engine.engine import nano_directory

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

NANO = str(nano_directory())
COMMAND = [sys.executable, "-m", "a3b.cli"]


def said(capsys, *argv: str) -> tuple[int, str]:
    """(status, stderr) of a command that must fail in one line."""
    try:
        status = main(list(argv))
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured
    return status, captured.err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["rnu", "hi"], "did you mean 'run'?"),
        (["Chat"], "did you mean 'chat'?"),
        (["run", "hi", "--temprature", "1"], "did you mean '--temperature'?"),
        (["run", "hi", "--max-token=1", "--hide-thinkin", "--seeed=3"], "did you mean '--seed'?"),
        (["serve", "--prot", "80"], "did you mean '--port'?"),
        (["cache", "lsit"], "did you mean 'list'?"),
        (["cache", "prune", "--older-then", "7d"], "did you mean '--older-than'?"),
        (["run", "hi", "--preset", "codng"], "did you mean 'coding'?"),
        (["pack", "a", "b", "--preset", "fsat"], "did you mean 'fast'?"),
        (["run", "hi", "--preserve-thinking", "onn"], "did you mean 'on'?"),
        (["zzzzzz"], "expected one of up, chat, run"),
        (["help", "chta"], "did you mean 'chat'?"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_one(capsys, argv, told):
    status, line = said(capsys, *argv)
    assert status == 2 and told in line


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["run", "hi", "--seed", "1e9"], "'1e9' is not a whole number"),
        (["run", "hi", "--temperature", "warm"], "'warm' is not a number"),
        (["run", "hi", "--temperature", "nan"], "temperature"),
        (["run", "hi", "--temperature", "-inf"], "temperature"),
        (["run", "hi", "--presence-penalty", "-1e3"], "[-2, 2]"),
        (["run", "hi", "--top-p", "0"], "top_p"),
        (["run", "hi", "--max-tokens", "0"], "--max-tokens"),
        (["run", "hi", "--seed", "9" * 5000], "not a whole number"),
        (["run", "hi", "--seed", "9" * 30], "seed"),
        (["run", "hi", "--stop", ""], "stop"),
        (["run", "hi", "--stdin-timeout", "-1"], "seconds"),
        (["run", "--unknown"], "after '--'"),
        (["info", "a", "b"], "unexpected argument 'b'"),
        (["render"], "--messages"),
        (["verify", ""], "empty"),
        (["logits", NANO, "--ids", "/", "--out", "x"], "directory"),
        (["render", "--messages", "/"], "directory"),
        (["render", "--messages", ""], "cannot read"),
        (["render", "--messages", NANO + "/model.safetensors"], "UTF-8"),
        (["plan", "--bandwidth", "nan"], "positive"),
        (["code", "-p", "hi", "--mcp-config", "/no/such/file"], "expected a file of MCP servers"),
        (["code", "-p", "hi", "--mcp-config", NANO + "/model.safetensors"], "expected"),
        (["code", "--acp", "--mcp-config", "/no/such/file"], "expected a file of MCP servers"),
        (["code", "-p", "hi", "--yes"], "belongs to 'a3b code forget'"),
    ],
)
def test_a_wrong_value_is_one_line_and_status_2(capsys, argv, told):
    status, line = said(capsys, *argv)
    assert status == 2 and told in line


@pytest.mark.parametrize(
    "argv",
    [
        ["info", "?"],
        ["run", "?", "hi"],
        ["run", "-m", "?", "hi"],
        ["chat", "?"],
        ["chat", "--resume", "?"],
        ["pack", "?", "x"],
        ["render", "?", "--messages", "-"],
        ["render", "--messages", "?"],
        ["logits", "?", "--ids", "-", "--out", "x"],
        ["logits", NANO, "--ids", "?", "--out", "x"],
        ["verify", "?"],
        ["plan", "?", "--bandwidth", "1", "--operations", "1"],
        ["eval", "quality", "?"],
        ["eval", "quality", "--against", "?"],
        ["bench", "start", "--model", "?"],
    ],
)
@pytest.mark.parametrize("name", ["/no/such/place", "~nobody-here/x", "x" * 5000, "a\x1b[31mb", "a\nb"])
def test_a_name_of_nothing_is_one_short_line_without_control_characters(capsys, monkeypatch, argv, name):
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1]"))
    try:
        status = main([word.replace("?", name) for word in argv])
    except SystemExit as exit:
        status = exit.code
    told = capsys.readouterr().err
    assert "\x1b" not in told and len(told) < 3000 and "Traceback" not in told
    assert status in (1, 2)
    assert told.count("\n") == 1 or name == "a\nb"


def test_a_user_without_a_home_is_told_so(capsys, monkeypatch):
    def nobody(path, *_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("A3B_CACHE", raising=False)
    monkeypatch.delenv("A3B_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    status, line = said(capsys, "cache", "list")
    assert status == 2 and "A3B_HOME" in line


def test_a_negative_number_in_powers_of_ten_is_a_value(capsys):
    assert main(["run", "hi", "--presence-penalty", "-1e-1", "--max-tokens", "1", "--json"]) == 0
    assert whole("-3") == -3


def test_help_explains_a_command_with_examples(capsys):
    for argv in (["help", "run"], ["run", "--help"]):
        with pytest.raises(SystemExit) as exit:
            main(argv)
        out = capsys.readouterr().out
        assert exit.value.code == 0 and "--temperature" in out and "examples:\n  a3b run " in out
    with pytest.raises(SystemExit):
        main(["help", "cache", "prune"])
    assert "--older-than" in capsys.readouterr().out


def test_every_command_has_help_and_is_on_the_first_screen(capsys):
    main([])
    first = capsys.readouterr().out
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert capsys.readouterr().out.startswith("usage: a3b " + name) and name in first
    assert 'a3b run "' in first and "a3b help" in first


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--version"],
        ["--help"],
        ["info"],
        ["help", "run"],
        ["render", "--messages", "MESSAGES"],
        ["completion", "bash"],
        ["run", "hello", "--max-tokens", "80"],
    ],
)
def test_output_that_cannot_be_written_is_one_line_and_status_1(argv, tmp_path):
    messages = tmp_path / "m.json"
    messages.write_text(json.dumps([{"role": "user", "content": "a"}]))
    words = " ".join(f"'{word}'" for word in [*COMMAND, *argv]).replace("MESSAGES", str(messages))
    for target, told in ((">/dev/full", "No space left"), (">&-", "Bad file descriptor")):
        done = subprocess.run(
            ["sh", "-c", f"exec {words} {target}"], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and last.endswith(
            f"a3b: cannot write the output: {told}" + " on device" * (told == "No space left")
        )
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_reader_that_went_away_is_no_failure():
    reader, writer = os.pipe()
    os.close(reader)
    for argv in (["info"], ["--help"], ["run", "hello", "--hide-thinking"]):
        done = subprocess.run(
            [*COMMAND, *argv], stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    os.close(writer)


def test_a_closed_stderr_and_a_closed_stdin_are_no_failure():
    words = " ".join(f"'{word}'" for word in COMMAND)
    done = subprocess.run(["sh", "-c", f"exec {words} run hello <&- 2>&-"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_in_mid_answer_ends_with_its_status_and_without_a_traceback(number, status):
    process = subprocess.Popen(
        [*COMMAND, "run", "hi", "--temperature", "50", "--top-k", "0", "--top-p", "1", "--seed", "77"],  # 8,000 tokens
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stderr.read(1)  # it thinks
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == status and b"Traceback" not in rest


def test_a_signal_removes_temporary_files(tmp_path):
    ids, out = tmp_path / "ids.json", tmp_path / "out.npy"
    ids.write_text(json.dumps([1] * 4000))
    process = subprocess.Popen(
        [*COMMAND, "logits", NANO, "--ids", str(ids), "--out", str(out)],
        stderr=subprocess.PIPE,
        env={**os.environ, "A3B_ISA": "reference"},
    )
    end = time.monotonic() + 60
    while not (part := out.with_name("out.npy.part")).exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and not part.exists() and not out.exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_characters_that_stdout_cannot_show_are_escaped(tmp_path, environment):
    messages = tmp_path / "m.json"
    messages.write_text(json.dumps([{"role": "user", "content": "\U0001f642"}]))
    done = subprocess.run(
        [*COMMAND, "render", "--messages", str(messages)], capture_output=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0 and (b"\\U0001f642" in done.stdout or "\U0001f642".encode() in done.stdout)


@pytest.mark.parametrize("text", ["2GiB", "2gib", "2 GiB", "2147483648", "2147483648b"])
def test_a_size_in_binary_units(text):
    assert byte_size(text) == 2 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1kb", 10**3),
        ("1.5MB", 1_500_000),
        ("3gb", 3 * 10**9),
        ("1tb", 10**12),
        ("1kib", 1 << 10),
        ("1mib", 1 << 20),
        ("1tib", 1 << 40),
        ("7b", 7),
        ("0", 0),
    ],
)
def test_units_of_sizes_are_powers_of_1000_unless_they_have_an_i(text, size):
    assert byte_size(text) == size


@pytest.mark.parametrize(("text", "age"), [("90s", 90), ("2m", 120), ("12h", 43_200), ("7d", 604_800), ("1w", 604_800)])
def test_units_of_ages(text, age):
    assert duration(text) == age


class Screen:
    """The other end of a pseudo-terminal that a command has as its stdin."""

    def __enter__(self):
        self.master, self.slave = pty.openpty()
        return self

    def __exit__(self, *_):
        for handle in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(handle)


def test_run_without_a_prompt_at_a_terminal_does_not_wait():
    with Screen() as screen:
        done = subprocess.run([*COMMAND, "run"], stdin=screen.slave, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "PROMPT is missing" in done.stderr
