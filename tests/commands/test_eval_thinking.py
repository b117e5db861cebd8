"""One command compares policies on the same cases: on a3b-nano, whose *secret* only earlier thinking can solve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from a3b import cli
from a3b.commands import eval_thinking

pytestmark = pytest.mark.slow  # starts servers

POLICIES = ["all", "current-task", "budget:32", "none"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `a3b eval thinking`; (status, stdout, stderr)."""
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main(["eval", "thinking", *words.split()])
        except SystemExit as exit:
            status = int(exit.code or 0)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def installed(monkeypatch):
    """What does not run a benchmark needs no inspect-ai."""
    monkeypatch.setattr(eval_thinking, "check_installed", lambda: None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "name the benchmarks"),
        ("secrt --model nano", "'secrt' is no benchmark; did you mean 'secret'"),
        ("secret --model nano --policies all", "expected at least two"),
        ("secret --model nano --policies all,some", "expected all, current-task, none or budget:TOKENS"),
        ("secret --model nano --api-key k", "belongs to a server that is named"),
        ("lookup --model nano --set hop=2", "did you mean 'hops'"),
        ("--resume d --limit 3", "so --limit has no place there"),
        ("secret --resume d", "so secret has no place there"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_next_step(command, installed, words, said):
    status, out, err = command(words)
    assert (status, out) == (2, "") and said in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no test of a3b eval thinking"),
        ("{", "was it edited?"),
        ('{"format": 9}', "format 9"),
        ('{"format": 1, "names": ["secret"], "policies": ["x"], "asked": {"secret": {}}}', "expected all"),
        ('{"format": 1, "names": ["secret"], "policies": ["all", "none"], "asked": []}', "was it edited?"),
        ('{"format": 1, "names": ["../x"], "policies": ["all", "none"], "asked": {}}', "is no benchmark"),
        ('{"format": 1, "names": ["fix"], "policies": ["all", "none"], "asked": {"fix": {"epochs": "x"}}}', "epochs"),
        ('{"format": 1, "names": [], "policies": ["all", "none"], "asked": {}}', "nothing to compare"),
    ],
)
def test_a_directory_that_is_no_test_is_not_gone_on_with(command, installed, tmp_path, content, said):
    (tmp_path / "d").mkdir()
    if content is not None:
        (tmp_path / "d" / "thinking.json").write_text(content)
    status, out, err = command("--resume d")
    assert (status, out) == (1, "") and said in err


def test_policies_of_a_server_that_has_none_are_refused(command, installed, monkeypatch):
    other = eval_thinking.Answering("http://there", "m", "llama.cpp", 8192, 1)
    monkeypatch.setattr(eval_thinking, "endpoint", lambda args: nullcontext(other))
    status, out, err = command("secret --base-url http://there")
    assert (status, out) == (2, "") and "this one is 'llama.cpp'" in err


def test_without_inspect_ai_it_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    status, _, err = command("secret --model nano")
    assert status == 2 and "pip install 'a3b[eval]'" in err


def test_a_resumed_test_on_nano_finds_that_the_secret_needs_thinking_across_turns(tmp_path):
    pytest.importorskip("inspect_ai")
    status, out, err = in_a_process(tmp_path, "secret lookup --model nano --limit 3 --seed 5 --out t")
    assert status == 0, err
    assert "across user turns: all − current-task | +100.0" in out
    runs = {policy: records(tmp_path / "t" / f"secret.{policy.replace(':', '-')}") for policy in POLICIES}
    seeds = {policy: sorted((r["case"], r["seed"]) for r in found) for policy, found in runs.items()}
    assert all(found == seeds["all"] for found in seeds.values()), "the policies get the same seeds"
    cached = {policy: sorted(r["cost"]["cached"] for r in found) for policy, found in runs.items()}
    assert cached["all"] == cached["budget:32"], "no policy finds what another one has read"
    cut = tmp_path / "t" / "lookup.none" / "cases.jsonl"
    cut.write_bytes(cut.read_bytes()[:-10])  # as after kill -9
    status, again, err = in_a_process(tmp_path, "--model nano --resume t --json")
    assert status == 0, err
    assert "2 of 3 are done already" in err
    found = json.loads(again)
    assert found["secret"]["scores"]["none"]["mean"] == 0 and found["lookup"]["cases"] == 3
    assert json.loads((tmp_path / "t" / "comparison.json").read_text()) == found


def in_a_process(directory: Path, words: str) -> tuple[int, str, str]:
    """inspect-ai leaves streams open that pytest would call errors."""
    command = [sys.executable, "-m", "a3b.cli", "eval", "thinking", *words.split()]
    env = os.environ | {"A3B_HOME": str(directory / "home")}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "cases.jsonl").read_text().splitlines()]
