"""`a3b eval swebench` from the command to the files in its directory, on hand-made instances."""

from __future__ import annotations

import gc
import json

import pytest

from a3b.cli import main
from tests.support.scripted_model import Says, ScriptedModel
from tests.support.swe_instances import SPEC, MadeInstances

pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
pytestmark = [
    pytest.mark.slow,  # starts sandboxes and servers
    # inspect-ai leaves streams of anyio to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def no_streams_left():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return MadeInstances(tmp_path_factory.mktemp("swe"))


def evaluated(made, out, *arguments, rows=()):
    """(exit status, records by case)."""
    places = ("--set", f"clones={made.places.clones}", "--set", f"work={made.places.work}", "--set", "keep=yes")
    status = main(["eval", "swebench", "--data", str(made.write(*rows)), "--out", str(out), *places, *arguments])
    return status, {c["case"]: c for c in json.loads((out / "results.json").read_text())["cases"]}


def predictions(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_project_s_fix_resolves_without_a_server_and_becomes_a_prediction(made, tmp_path, capsys):
    status, cases = evaluated(made, tmp_path / "run", "--set", "scaffold=gold")
    (case,) = cases.values()
    assert (status, case["score"], case["detail"]) == (0, 1.0, "resolved: mends 1 of 1, keeps 1 of 1")
    (row,) = predictions(tmp_path / "run" / "predictions.jsonl")
    assert (row["instance_id"], row["model_name_or_path"]) == ("acme__words-7", "gold")
    assert row["model_patch"] == made.row()["patch"]
    said = capsys.readouterr().out
    assert "swebench.harness.run_evaluation --dataset_name" in said and "predictions.jsonl --run_id run" in said


def test_what_cannot_be_tried_is_an_error_with_its_reason_and_stops_nothing(made, tmp_path):
    broken = SPEC | {"install": "echo no compiler >&2; false"}
    rows = [made.row(instance_id=f"acme__words-{n}", spec=broken) for n in range(20, 27)] + [made.row()]
    order = "instances=" + ",".join(row["instance_id"] for row in rows)
    status, cases = evaluated(made, tmp_path / "run", "--set", "scaffold=empty", "--set", order, rows=rows)
    assert status == 1 and len(cases) == 8
    assert [case["score"] for case in cases.values()] == [None] * 7 + [0.0]
    assert "no compiler" in cases["acme__words-20"]["error"]
    assert [row["instance_id"] for row in predictions(tmp_path / "run" / "predictions.jsonl")] == ["acme__words-7"]


def test_each_epoch_of_an_agent_is_a_file_of_predictions_and_a_transcript(made, tmp_path):
    edit = {"path": "words.py", "old": "split()[1]", "new": "split()[0]"}
    turns = [Says(calls=[("read", {"path": "words.py"})]), Says(calls=[("edit", edit)]), Says("Done.")]
    model = ScriptedModel([*turns, Says("I do not know.")])
    with model.serving() as url:
        _, cases = evaluated(made, tmp_path / "run", "--base-url", url, "--epochs", "2", "--parallel", "1")
    found = [predictions(tmp_path / "run" / f"predictions-{epoch}.jsonl")[0]["model_patch"] for epoch in (1, 2)]
    assert "split()[0]" in found[0] and found[1] == ""
    results = json.loads((tmp_path / "run" / "results.json").read_text())["cases"]
    assert [(case["score"], case["facts"]["outcome"]) for case in results] == [(1.0, "resolved"), (0.0, "empty patch")]
    assert results[0]["cost"]["requests"] == 3 and results[0]["seed"] != results[1]["seed"]


def test_policies_of_thinking_are_compared_on_instances(made, tmp_path, capsys):
    """With a model that mends the bug only where its earlier thinking stays."""
    edit = {"path": "words.py", "old": "split()[1]", "new": "split()[0]"}

    def answer(body, _):
        if body["thinking_policy"] == "none" or body["messages"][-1]["role"] == "tool":
            return Says("Done.", "Nothing is left to do.")
        return Says(thinking="It takes the wrong word.", calls=[("edit", edit)])

    places = ("--set", f"clones={made.places.clones}", "--set", f"work={made.places.work}", "--set", "keep=yes")
    out = tmp_path / "test"
    with ScriptedModel([answer]).serving() as url:
        words = ["eval", "thinking", "swebench", "--data", str(made.write()), "--policies", "all,none", *places]
        assert main([*words, "--base-url", url, "--out", str(out)]) == 0
        said = capsys.readouterr()
        assert "| altogether: all − none | +100.0" in said.out
        assert str(out / "swebench.all" / "predictions.jsonl") in said.err
        assert main(["eval", "thinking", "--resume", str(out), "--base-url", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["swebench"]["scores"]["all"]["mean"] == 1
    patches = [predictions(out / f"swebench.{policy}" / "predictions.jsonl")[0] for policy in ("all", "none")]
    assert "split()[0]" in patches[0]["model_patch"] and patches[1]["model_patch"] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "swebench needs its dataset"),
        (["--data", "rows", "--set", "scaffold=gold"], "asks no model with these options"),
    ],
)
def test_policies_that_cannot_be_compared_are_refused_before_a_server_starts(
    words, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("a3b.commands.eval_thinking.endpoint", lambda args: pytest.fail("a server was asked for"))
    assert main(["eval", "thinking", "swebench", "--model", "nano", "--out", str(tmp_path / "test"), *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "test").exists()


def test_what_is_missing_is_said_before_a_model_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("a3b.commands.eval_run.endpoint", lambda args: pytest.fail("a server was asked for"))
    assert main(["eval", "swebench"]) == 2
    assert "swebench needs its dataset: https://huggingface.co/" in capsys.readouterr().err
