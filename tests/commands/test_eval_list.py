"""`a3b eval list`: what can be run, and what each benchmark needs, without the harness."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from a3b.cli import main
from a3b.commands import eval_list
from a3b.evals.benchmark import Need
from a3b.evals.roster import BENCHMARKS, benchmark


def test_every_benchmark_is_listed_with_its_options(capsys):
    assert main(["eval", "list"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{said}" for name in BENCHMARKS)
    assert "--set hops=..." in said


@pytest.mark.slow
def test_the_list_loads_no_harness():
    code = "import sys; from a3b.cli import main; main(['eval', 'list']); print('inspect_ai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_what_is_missing_is_named_with_what_brings_it(capsys, monkeypatch):
    needs = (
        Need("a file", "get it from its authors", lambda _: False),
        Need("a tool", "apt install it", lambda _: True),
    )
    monkeypatch.setattr(eval_list, "benchmark", lambda name: replace(benchmark(name), needs=needs))
    main(["eval", "list"])
    said = capsys.readouterr().out
    assert "needs a file: missing: get it from its authors" in said and "needs a tool: here" in said
    assert main(["eval", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["benchmarks"]
    assert rows[0]["needs"][0] == {"what": "a file", "provided_by": "get it from its authors", "is_here": False}


def test_the_help_of_a3b_loads_nothing_that_computes_or_runs_benchmarks():
    code = "import sys; from a3b.cli import build_parser; build_parser(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "inspect_ai", "httpx2", "a3b.evals.benchmark"} & set(ast.literal_eval(done.stdout)) == set()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_help_of_a_benchmark_has_its_own_settings_and_what_it_needs(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", name, "--help"])
    said, found = " ".join(capsys.readouterr().out.split()), eval_list.describe(name)
    assert ended.value.code == 0 and "inspect-ai: " in said
    assert all(f"--set {option}=...: {meaning[:20]}" in said for option, meaning in found["options"].items())
    assert all(need["what"] + ": " in said for need in found["needs"])
    assert f"--data PATH: {found['data']}" in said or not found["data"]


def test_the_help_of_all_benchmarks_loads_none():
    code = (
        "import sys; from a3b.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print([n for n in sys.modules if n.startswith('a3b.evals.benchmarks')])"
    )
    done = subprocess.run([sys.executable, "-c", code, "eval", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_says_where_it_is_from(name):
    found = benchmark(name)
    assert found.name == name and found.source and found.licence
    assert not found.published or found.protocol and found.differs


def test_without_the_harness_a_run_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    assert main(["eval", "lookup", "--base-url", "http://127.0.0.1:9"]) == 2
    assert "pip install 'a3b[eval]'" in capsys.readouterr().err
