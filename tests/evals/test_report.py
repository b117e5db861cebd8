"""Results beside published scores: what stands in a cell, what is said of it, and what of strangers is escaped."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from a3b.cli import main
from a3b.errors import UsageError
from a3b.evals.benchmark import GEMMA, QWEN, Benchmark, CaseTokens
from a3b.evals.records import CaseCost, RecordFile
from a3b.evals.report import as_markdown, as_text, build_report, cost_table, find_runs, score_table
from a3b.evals.roster import BENCHMARKS, benchmark
from a3b.evals.runs import CASES, CONFIG, config_of, new_run
from tests.evals.test_records import GOOD

PLAIN = Benchmark("plain", "", "", "", make_task=lambda _: None)
KNOWN = {
    "plain": PLAIN,
    "famous": replace(
        PLAIN,
        name="famous",
        cases=10,
        published={QWEN: 73.4, GEMMA: 52.0},
        protocol="theirs",
        differs="ours",
        unsaid=("work",),
    ),
}


def a_run(parent, benchmark, model, scores, cost=GOOD.cost, **options):
    """A run with one try for each letter: 1 right, 0 wrong, e an error, and as many more planned as there are dots."""
    asked = {"limit": None, "epochs": 1, "policy": None, "sampling": {}, "extra": {}, **options}
    run = new_run(parent, benchmark, config_of(benchmark, {"model": model, **asked}, {})).note(tries=len(scores))
    file = RecordFile(run.cases_file)
    for number, letter in enumerate(scores.replace(".", "")):
        score = None if letter == "e" else float(letter)
        file.add(replace(GOOD, case=str(number), score=score, cost=cost, error="" if score is not None else "broke"))
    file.close()
    return run


def reported(*runs):
    return build_report(runs, list(KNOWN), KNOWN.__getitem__)


def test_models_stand_side_by_side_beside_published_scores(tmp_path):
    sparse = a_run(tmp_path, "famous", "sparse", "1" * 8 + "00")
    dense = a_run(tmp_path, "famous", "dense", "1" * 5 + "0" * 5)
    assert score_table(reported(sparse, dense)) == [
        ["benchmark", f"{QWEN}, published", f"{GEMMA}, published", "sparse", "dense"],
        ["famous", "73.4", "52.0", "80.0 (49.0 to 94.3)", "50.0 (23.7 to 76.3)"],
    ]


def test_what_was_not_run_says_so(tmp_path):
    table = score_table(reported(a_run(tmp_path, "plain", "m", "11"), a_run(tmp_path, "plain", "other", "e")))
    assert (
        table[1][-2:] == ["100.0 (34.2 to 100.0)", "no result"]
        and table[2] == ["famous", "73.4", "52.0"] + ["not run"] * 2
    )


def test_why_a_score_does_not_compare_is_said(tmp_path):
    text = as_text(reported(a_run(tmp_path, "famous", "m", "110e..", limit=6, epochs=2)))
    assert "famous: Published: theirs" in text and "famous: Here: ours" in text
    assert "famous: m: the first 6 of 10, 1 ended with an error, not counted, 2 tries not run, 2 tries a case" in text


def test_tokens_that_nobody_told_are_unknown_and_not_none(tmp_path):
    found = reported(a_run(tmp_path, "plain", "m", "10", cost=CaseCost.of_request(0, 0, 0, 0)))
    assert cost_table(found)[1][3:7] == ["unknown"] * 4
    assert found.value()["rows"][0]["cells"]["m"]["cost"]["computed"] is None


def test_a_score_of_some_cases_says_of_how_many(tmp_path):
    runs = [a_run(tmp_path, "famous", "some", "110", limit=3), a_run(tmp_path, "famous", "left", "11011e..")]
    runs += [a_run(tmp_path, "plain", "some", "110", limit=3), a_run(tmp_path, "famous", "all", "1" * 10)]
    found = reported(*runs)
    cells = {row[0]: row[-3:] for row in score_table(found)[1:]}
    assert cells["famous"] == ["66.7 (20.8 to 93.9), 3 of 10", "80.0 (37.6 to 96.4), 5 of 10", "100.0 (72.2 to 100.0)"]
    assert cells["plain"][0] == "66.7 (20.8 to 93.9)"
    (some,) = (row["cells"]["some"] for row in found.value()["rows"] if row["benchmark"] == "famous")
    assert (some["cases"], some["of"]) == (3, 10)


def test_how_many_cases_there_are_depends_on_what_is_set(tmp_path):
    runs = [a_run(tmp_path, "tau2", "m", "1", limit=1, extra=extra) for extra in ({}, {"domain": "retail"})]
    text = as_text(build_report(runs, ["tau2"], benchmark))
    assert "tau2: m: the first 1 of 50" in text and "tau2: m (domain retail): the first 1 of 114" in text


def test_a_choice_of_cases_is_said_and_places_on_disk_are_not(tmp_path):
    text = as_text(reported(a_run(tmp_path, "famous", "m", "110", extra={"work": "/mnt", "hops": "3"})))
    assert "famous: m (hops 3): 3 of 10 cases" in text
    assert "/mnt" not in text


def test_runs_with_other_settings_have_rows_of_their_own(tmp_path):
    runs = [a_run(tmp_path, "plain", "m", "1", policy=policy) for policy in ("all", "none", "none")]
    runs.append(a_run(tmp_path, "plain", "m", "1", sampling={"top_p": 0.5}, extra={"hops": "3"}))
    settings = [row[1] for row in score_table(reported(*runs)) if row[0] == "plain"]
    assert settings == ["policy all", "policy none", "policy none; run 2", "top_p 0.5, hops 3"]


def test_the_name_of_a_model_is_only_text(tmp_path):
    report = reported(a_run(tmp_path, "plain", "m|<b>`\x1b[31m\n# x", "1", extra={"a|b": "\x07"}))
    assert "\x1b" not in as_text(report) and "\x07" not in as_text(report)
    table = as_markdown(report).partition("\n\n")[0].splitlines()
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<b>" not in as_markdown(report) and "\n# x" not in as_markdown(report)


def test_a_run_that_cannot_be_read_is_left_out_and_named(tmp_path, capsys):
    a_run(tmp_path, "lookup", "m", "1")
    edited = a_run(tmp_path, "lookup", "other", "1")
    (edited.path / CASES).write_text("rubbish\n", encoding="utf-8")
    cut = a_run(tmp_path, "lookup", "third", "1")
    (cut.path / CONFIG).write_text("{", encoding="utf-8")
    assert main(["eval", "report", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["models"] == ["m"]
    assert f"left out: {edited.path / CASES}, line 1" in said.err and f"left out: {cut.path / CONFIG}" in said.err


def test_a_directory_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match="there is no run of a3b eval in it"):
        find_runs([tmp_path])
    assert main(["eval", "report", str(tmp_path / "none")]) == 2
    assert "expected a directory with a config.json" in capsys.readouterr().err


def test_without_a_directory_the_runs_of_a3b_home_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("A3B_HOME", str(tmp_path))
    assert main(["eval", "report"]) == 0
    said = capsys.readouterr()
    assert "73.4" in said.out and "computed" not in said.out and "no run is in" in said.err
    a_run(tmp_path / "evals", "lookup", "m", "1")
    assert main(["eval", "report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["m"]


def test_a_benchmark_of_another_version_is_shown(tmp_path):
    text = as_text(reported(a_run(tmp_path, "unheard", "m", "10")))
    assert "unheard" in text and "this a3b does not know the benchmark" in text


def test_a_picture_has_a_line_for_each_row(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the pictures")
    from a3b.commands.eval_plot import draw_scores

    runs = [
        a_run(tmp_path, "plain", name, "110", policy=policy) for name in ("a $x_{", "b") for policy in ("all", "none")
    ]
    draw_scores(reported(*runs), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_says_beside_a_point_of_how_many_cases_it_is(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="draws the pictures")
    from a3b.commands import eval_plot

    figures = []
    monkeypatch.setattr(eval_plot, "save", lambda plt, figure, path: figures.append(figure))
    runs = [a_run(tmp_path, "famous", "some", "110", limit=3), a_run(tmp_path, "famous", "all", "1" * 10)]
    eval_plot.draw_scores(reported(*runs), tmp_path / "p.png")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["3 of 10"]


def test_a_picture_without_matplotlib_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["eval", "report", str(tmp_path), "--plot", "p.png"]) == 2
    assert "pip install 'a3b[bench]'" in capsys.readouterr().err


# -- a3b eval plan


def planned(words, capsys):
    assert main(["eval", "plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["benchmarks"]


def test_hours_follow_from_tokens_and_rates(tmp_path, capsys):
    run = a_run(tmp_path, "lookup", "m", "10e")  # 10 tokens computed, 20 cached and 30 written in each try
    (row,) = planned(["--from", str(run.path), "--limit", "36", "--epochs", "2", "--rates", "10,3"], capsys)
    assert (row["cases"], row["epochs"]) == (36, 2)
    assert row["hours"] == pytest.approx(36 * 2 * (10 / 10 + 30 / 3) / 3600)
    assert row["hours_without_cache"] == pytest.approx(36 * 2 * (30 / 10 + 30 / 3) / 3600)
    assert row["tokens_per_case"]["source"] == "mean of 2 tries with m"


def test_without_names_all_whose_tokens_and_cases_are_known_are_planned(capsys):
    known = {name for name in BENCHMARKS if benchmark(name).tokens_per_case and benchmark(name).cases_with({})}
    assert {row["name"] for row in planned(["--rates", "100,10"], capsys)} == known
    assert {row["name"] for row in planned(["--rates", "100,10", "--limit", "5"], capsys)} >= known


@pytest.mark.parametrize(
    ("words", "cases"),
    [
        ("tau2", 50),
        ("tau2 --set domain=retail", 114),
        ("bfcl", 3641),
        ("bfcl --set categories=live_parallel,multi_turn_base", 216),
        ("reasoning-gym --set families=gcd,chain_sum --set each=50", 100),
        ("mcpmark", 21),
        ("mcpmark --set service=filesystem --set suite=easy", 10),
        ("mcpmark --set tasks=chinook --limit 3", 3),
        ("swebench --set instances=a,b", 2),
        ("needle", 9 * 5 * 3 * 4),
        ("needle --set lengths=8k,1M --set kinds=exact --set depths=0 --set each=1", 2),
    ],
)
def test_the_cases_that_a_run_would_have_are_planned(words, cases, capsys):
    (row,) = planned([*words.split(), "--rates", "100,10"], capsys)
    assert row["cases"] == cases


def test_a_test_of_policies_takes_as_long_as_all_of_them(capsys):
    words = ["tau2", "humaneval", "--limit", "10", "--rates", "100,10"]
    alone = sum(row["hours"] for row in planned(words, capsys))
    assert main(["eval", "plan", "thinking", *words, "--policies", "all,none,budget:64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policies"] == ["all", "none", "budget:64"] and found["hours"] == pytest.approx(3 * alone)
    assert [(row["name"], row["tries"]) for row in found["benchmarks"]] == [("tau2", 30), ("humaneval", 30)]
    assert main(["eval", "plan", "thinking", *words]) == 0
    said = capsys.readouterr().out
    assert "thinking: each case under all, current-task, budget:8192, none" in said
    assert ["all", "of", "them", "80"] in [line.split()[:4] for line in said.splitlines()]


def test_cases_that_differ_much_are_planned_one_by_one(capsys, monkeypatch):
    from a3b.commands import eval_plan

    monkeypatch.setattr(eval_plan, "_seconds", lambda _: (lambda prompt, written: prompt**2, "squares"))
    (row,) = planned(["needle", "--set", "lengths=1k,3k", "--limit", "2"], capsys)
    assert row["hours"] * 3600 == pytest.approx(1024**2 + 3072**2)
    assert row["tokens_per_case"]["prompt"] == 2048


def test_hours_at_the_speed_of_a_machine_are_those_of_a3b_plan(capsys, monkeypatch):
    from a3b.commands import plan
    from a3b.commands.sizes import sizes
    from a3b.packing.presets import PRESETS

    speed = plan.Speed(20e9, 1e12, others_share=0.34)
    monkeypatch.setattr(plan, "measure", lambda *_: (speed, ""))
    tokens = CaseTokens(2048, 100, 0, "stated")
    monkeypatch.setattr(
        "a3b.commands.eval_plan.benchmark", lambda name: replace(PLAIN, tokens_per_case=tokens, cases=3)
    )
    assert main(["eval", "plan", "lookup", "--shape", "27b", "--preset", "fast", "--json"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)["benchmarks"]
    assert "others used 34% of the processors meanwhile" in said.err
    config = plan.find("27b")[0]
    one = plan.task_seconds(config, sizes(config, PRESETS["fast"]), (2048, 100), speed)
    assert rows[0]["hours"] == pytest.approx(3 * one / 3600)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lookup", "--limit", "3", "--rates", "1,1"], "a3b eval lookup --limit 5, then a3b eval plan --from DIR"),
        (["unheard"], "is no benchmark"),
        (["tau2", "--set", "domain=trains", "--rates", "1,1"], "expected one of airline, retail"),
        (["tau2", "--set", "domian=retail", "--rates", "1,1"], "did you mean 'domain'"),
        (["mcpmark", "--set", "tasks=chinook", "--rates", "1,1"], "only its data tells how many cases"),
        (["thinking", "--rates", "1,1"], "name the benchmarks"),
        (["thinking", "tau2", "--policies", "all", "--rates", "1,1"], "expected at least two"),
        (["thinking", "lookup", "--limit", "3", "--rates", "1,1"], "a3b eval lookup --limit 5"),
        (["tau2", "--policies", "all,none", "--rates", "1,1"], "a3b eval plan thinking tau2"),
        (["--rates", "0,1"], "is not two positive numbers"),
        (["--rates", "inf,1"], "is not two positive numbers"),
        (["--from", "/nowhere"], "no run of a3b eval"),
    ],
)
def test_what_cannot_be_planned_names_the_next_step(words, said, capsys):
    try:
        status = main(["eval", "plan", *words])
    except SystemExit as exit:
        status = exit.code
    assert status and said in capsys.readouterr().err
