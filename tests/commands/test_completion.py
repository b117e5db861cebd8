"""Completion in shells: the script is valid, and completes commands, options, choices and files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from a3b.cli import main
from a3b.commands.options import COMMANDS

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds

DRIVER = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_a3b a3b "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
echo "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path, capsys):
    """Writes the script of a shell; returns its path."""

    def write(shell: str) -> str:
        assert main(["completion", shell]) == 0
        path = tmp_path / f"a3b.{shell}"
        path.write_text(capsys.readouterr().out)
        return str(path)

    return write


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_valid_and_knows_every_command(script, shell):
    path = script(shell)
    text = Path(path).read_text()
    assert all(name in text for name in COMMANDS)
    if shutil.which(shell):  # zsh and fish are not everywhere
        subprocess.run([shell, "-n", path], check=True, timeout=60)


def test_bash_completes_commands_options_choices_and_files(script, tmp_path):
    path, model = script("bash"), tmp_path / "model"
    model.mkdir()
    (tmp_path / "messages.json").touch()

    def completed(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", DRIVER, "driver", path, "a3b", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "LC_ALL": "C"},
            timeout=60,
        )
        return sorted(done.stdout.split())

    assert completed("ru") == ["run"]
    assert completed("run", "--tempe") == ["--temperature"]
    assert completed("cache", "") == ["forget", "list", "prune", "verify"]
    assert completed("pack", "--preset", "") == ["balanced", "faithful", "fast"]
    assert completed("up", "qwen3.6") == [
        "qwen3.6",
        "qwen3.6-27b",
        "qwen3.6-27b-dense",
        "qwen3.6-35b",
        "qwen3.6-35b-a3b",
    ]
    assert completed("info", "mo") == ["model"]  # a directory, so messages.json of `me` is none
    assert completed("info", "me") == []
    assert completed("render", "--messages", "me") == ["messages.json"]
