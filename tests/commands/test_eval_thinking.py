"""One command compares policies on the same cases: on a3b-nano, whose *secret* only earlier thinking can solve."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from a3b import cli
from a3b.commands import eval_thinking
from a3b.commands.eval_run import set_for
from a3b.evals.benchmarks import tau2
from a3b.evals.roster import benchmark
from tests.support.lookup_player import solved
from tests.support.scripted_model import Says, ScriptedModel

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
        (
            '{"format": 1, "names": ["secret"], "policies": ["all", "none"], "files": {"secret": [1]}, '
            '"asked": {"secret": {"epochs": 1, "seed": 0, "sampling": {}, "extra": {}}}}',
            "no lists of objects with a path",
        ),
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


@pytest.mark.parametrize(("more", "times"), [("", 1), (" --set user-model=other", 0)], ids=["itself", "another"])
def test_that_the_tested_model_plays_the_customer_is_said_once(command, installed, monkeypatch, more, times):
    monkeypatch.setattr(tau2, "is_here", lambda options: True)
    monkeypatch.setattr(eval_thinking, "endpoint", lambda args: nullcontext(eval_thinking.NOBODY))
    status, _, err = command(f"tau2 --base-url http://there{more}")
    assert status == 2 and err.count("tau2: the model that is tested also plays the customer") == times


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


def test_ctrl_c_names_the_command_that_goes_on_with_the_test_and_not_one_of_its_runs(tmp_path):
    pytest.importorskip("inspect_ai")
    out = tmp_path / "t"
    processes: list[subprocess.Popen[str]] = []

    def at_the_third_try(body: dict[str, Any], _: int) -> Says:
        if len(list(records(out / "lookup.all"))) == 2:
            processes[0].send_signal(signal.SIGINT)
            time.sleep(0.5)  # the signal comes before the answer
        return solved(body)

    with ScriptedModel([at_the_third_try]).serving() as url:
        words = f"lookup --policies all,none --limit 4 --parallel 1 --out {out} --base-url {url}"
        command = [sys.executable, "-m", "a3b.cli", "eval", "thinking", *words.split()]
        env = os.environ | {"A3B_HOME": str(tmp_path / "home")}
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
        said = processes[0].communicate(timeout=120)[1]
        assert processes[0].returncode == 130
        assert f"stopped; a3b eval thinking --resume {out} --base-url {url}\n" in said
        assert "a3b eval lookup --resume" not in said and "Traceback" not in said


def test_a_policy_whose_runs_are_complete_needs_no_server_again(command, tmp_path):
    pytest.importorskip("inspect_ai")
    out = tmp_path / "t"
    with ScriptedModel([lambda body, _: solved(body)]).serving() as url:
        words = f"lookup --policies all,none --limit 1 --out {out} --base-url {url}"
        assert in_a_process(tmp_path, words)[0] == 0
    status, said, err = in_a_process(tmp_path, f"--resume {out} --base-url {url} --json")  # nobody answers there now
    assert (status, json.loads(said)["lookup"]["cases"]) == (0, 1), err


def test_every_policy_gets_the_data_that_the_test_was_begun_with(tmp_path):
    pytest.importorskip("inspect_ai")
    out, data = tmp_path / "t", tmp_path / "book.txt"
    data.write_text("Once there was a king. " * 400)
    small = "--set lengths=256 --set depths=0 --set kinds=exact --set each=1"
    with ScriptedModel([Says("I do not know.")]).serving() as url:
        words = f"needle --policies all,none {small} --data {data} --out {out} --base-url {url}"
        status, _, err = in_a_process(tmp_path, words)
        assert status == 0, err
        shutil.rmtree(out / "needle.none")  # as if it had not been begun
        data.write_text("Once there was a queen. " * 400)
        status, _, err = in_a_process(tmp_path, f"--resume {out} --base-url {url}")
    assert status == 2 and f"{data} is not the file it was begun with" in err


@pytest.mark.parametrize(("name", "extra"), [("lookup", {"hops": "3"}), ("tau2", {"domain": "retail"})])
def test_an_option_of_one_benchmark_is_no_fault_of_another(name, extra):
    given = ["hops=3", "domain=retail"]
    every = [benchmark("lookup"), benchmark("tau2")]
    assert set_for(given, benchmark(name), every) == extra


def in_a_process(directory: Path, words: str) -> tuple[int, str, str]:
    """inspect-ai leaves streams open that pytest would call errors."""
    command = [sys.executable, "-m", "a3b.cli", "eval", "thinking", *words.split()]
    env = os.environ | {"A3B_HOME": str(directory / "home")}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def records(directory: Path) -> list[dict[str, Any]]:
    file = directory / "cases.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
