"""What a reader copies from a page works: it runs on a new machine, or, if that would take a download or minutes, it at
least says nothing that does not exist. `support/documented_commands` says which commands are run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from a3b.cli import build_parser, commands_of
from a3b.commands.examples import EXAMPLES
from tests.support.documented_commands import AT_HAND, ELSEWHERE, Command, commands, pages, parsed
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # starts servers

PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in pages(ROOT)}
HELP = {f"a3b help {name}": "\n".join(f"    {line}" for line in told.splitlines()) for name, told in EXAMPLES.items()}
COMMANDS = [(where, command) for where, page in {**PAGES, **HELP}.items() for command in commands(page)]
START_S = 60


def label(value: object) -> str | None:
    return f"{value.line} {value.text[:40]}" if isinstance(value, Command) else None


class NewMachine:
    """A directory, a home and nothing in it; `a3b` and `python` are those of this environment."""

    def __init__(self, root: Path):
        self.here, home, programs = root / "here", root / "home", root / "bin"
        for path in (self.here, home, programs):
            path.mkdir()
        for name, line in (("a3b", "-m a3b.cli"), ("python", ""), ("python3", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {line} "$@"\n')
            (programs / name).chmod(0o755)
        (home / ".curlrc").write_text("fail-with-body\nsilent\n")  # so that an error of the server fails the command
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = str(sock.getsockname()[1])
        self.env = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(home),
            "A3B_HOME": str(root / "a3b"),
            "A3B_PORT": self.port,
            **{name: os.environ[name] for name in ("PYTHONPATH", "LANG", "A3B_THREADS") if name in os.environ},
        }
        self.exports: list[str] = []
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, command: Command) -> None:
        """Raises AssertionError with what it printed if it fails."""
        text = command.text.replace("8080", self.port)
        if command.is_python:
            done = self.finish([sys.executable, "-c", text])
        elif command.serves:
            self.serve(re.sub(r"&\s*(#.*)?$", "", text))
            return
        else:
            done = self.finish(["bash", "-e", "-o", "pipefail", "-c", "\n".join([*self.exports, text])], "Hello!\n")
            if command.programs == ["export"]:
                self.exports.append(text)
        assert done.returncode == 0, f"{command.text}\n{done.stdout}{done.stderr}"

    def finish(self, words: list[str], typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.here, env=self.env, input=typed, capture_output=True, text=True, timeout=120
        )

    def serve(self, text: str) -> None:
        self.stop()
        log = self.here.parent / "log"
        with log.open("wb") as out:
            words = ["bash", "-c", "\n".join([*self.exports, f"exec {text}"])]
            self.server = subprocess.Popen(words, cwd=self.here, env=self.env, stdout=out, stderr=out)
        deadline = time.monotonic() + START_S
        while self.server.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"{text}\n{log.read_text(errors='replace')}")

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(30)
            self.server = None


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[NewMachine]:
    machine = NewMachine(tmp_path)
    yield machine
    machine.stop()


@pytest.mark.parametrize("where", [where for where in PAGES if any(c.runs for c in commands(PAGES[where]))])
def test_what_a_new_machine_can_run_of_a_page_runs_in_the_order_of_the_page(where, machine):
    """A page that only asks a server finds one."""
    found = [command for command in commands(PAGES[where]) if command.runs]
    if not any(command.serves for command in found) and any("8080" in command.text for command in found):
        machine.serve("a3b serve")
    for command in found:
        if all(program == "export" or shutil.which(program, path=machine.env["PATH"]) for program in command.programs):
            machine.run(command)


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=label)
def test_a_line_of_a_block_of_commands_is_a_command(where, command):
    if not command.is_python:
        unknown = [program for program in command.programs if program not in AT_HAND | ELSEWHERE]
        assert unknown == [], "no known program; what explains a command follows '#'"
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", command.text.split("\n")[0])
        assert "  " not in re.sub(r"(^|\s)#.*", "", bare).strip(), "what explains a command follows '#'"


@pytest.mark.parametrize(("where", "command"), [c for c in COMMANDS if "a3b" in c[1].programs], ids=label)
def test_a3b_has_the_commands_and_options_that_are_written(where, command):
    for words in command.words:
        if words[0] != "a3b" or len(words) == 1:
            continue
        if not command.has_placeholder:
            parsed(words[1:])
            continue
        parser, known = build_parser(), set[str]()
        for word in takewhile(lambda word: word != "--", (word.strip("[]") for word in words[1:])):
            below = commands_of(parser)
            if word in below:
                parser = below[word]
            elif word.startswith("-"):
                known = set(parser._option_string_actions)
                assert word.partition("=")[0] in known
            elif below:
                assert word == "COMMAND", f"a3b has no command {word}"


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=label)
def test_the_files_modules_and_targets_that_are_named_exist(where, command):
    if command.is_python:
        compile(command.text, where, "exec")
        return
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in command.words:
        if words[0] == "make":
            assert {word for word in words[1:] if re.fullmatch("[a-z-]+", word)} <= targets
        if words[:2] == ["python", "-m"] and words[2].startswith(("bench", "nano", "tests", "a3b")):
            assert importlib.util.find_spec(words[2]) is not None
            source = ROOT / words[2].replace(".", "/")
            sources = source.glob("*.py") if source.is_dir() else [source.with_suffix(".py")]
            text = "".join(path.read_text(encoding="utf-8") for path in sources)
            assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == []
        for word in words:
            if re.match(r"(?:tests|examples|bench|docs|src|packaging)/", word):
                assert (ROOT / word).exists(), word


SAMPLE = """Text, and `a3b run`.

    a3b run "What is it?"      # a comment with 'one quote
    A3B_PORT=1 a3b serve --port 8080 &
    a3b pull OWNER/NAME
    echo '{"a": "B C"}' | a3b run - | tee x

    {"output": "of a3b"}

```toml
a3b = "x"
```

```sh
cat > f <<'EOF'
a3b nonsense
EOF
npm install x && a3b chat \\
    --continue
```

    import a3b
    a3b.load()
"""


def test_blocks_of_commands_and_of_python_are_told_from_output_and_files():
    found = commands(SAMPLE)
    assert [command.line for command in found] == [3, 4, 5, 6, 15, 18, 22]
    assert [command.is_python for command in found] == [False] * 6 + [True]
    assert [command.runs for command in found] == [True, True, False, False, True, False, True]
    assert [command.serves for command in found] == [False, True, False, False, False, False, False]
    assert found[3].programs == ["echo", "a3b", "tee"] and found[5].words[1] == ["a3b", "chat", "--continue"]


@pytest.mark.parametrize("line", ["a3b run --no-such-option", "a3b no-such-command", "a3b cache prune --old 1d more"])
def test_a_command_that_a3b_does_not_have_is_found(line):
    with pytest.raises(ValueError, match="unknown|unexpected"):
        parsed(line.split()[1:])


def test_the_page_of_the_command_line_has_a_row_for_every_command():
    page = PAGES["docs/cli.md"]
    table = page[page.index("## Commands") : page.index("## `a3b run")]
    assert set(commands_of(build_parser())) - set(re.findall(r"`a3b ([a-z]+)", table)) == set()


def test_helps_have_examples():
    assert len(HELP) > 5
