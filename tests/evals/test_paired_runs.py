"""Two runs of one benchmark are compared case by case; what cannot be compared is refused, or said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from a3b.cli import main
from a3b.errors import UsageError
from a3b.evals.benchmarks.lookup import BENCHMARK as LOOKUP
from a3b.evals.benchmarks.swebench.benchmark import BENCHMARK as SWEBENCH
from a3b.evals.intervals import mcnemar, wilson
from a3b.evals.paired_runs import as_text, compare_runs
from a3b.evals.records import CaseCost, RecordFile
from tests.evals.test_records import GOOD
from tests.evals.test_report import a_run

NANO, SMOL = "0" * 164, "1" * 6 + "0" * 158  # right and wrong answers of the receipt


@pytest.fixture
def compared(tmp_path, capsys):
    """The JSON of `a3b eval compare`."""

    def run(first, second):
        assert main(["eval", "compare", str(first.path), str(second.path), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_figures_of_the_receipt_come_out_of_one_command(tmp_path, compared):
    found = compared(a_run(tmp_path, "lookup", "nano", NANO), a_run(tmp_path, "lookup", "smol", SMOL))
    solved = {name: round(100 * found["solved"][name], 1) for name in ("mean", "low", "high")}
    assert solved == {"mean": 3.7, "low": 1.2, "high": 6.7}
    assert (found["solved"]["won"], found["solved"]["lost"], found["cases"]) == (6, 0, 164)
    assert found["p"] == found["solved"]["p"] == pytest.approx(2 / 64) and found["test"] == "McNemar's exact test"
    assert (found["a"]["model"], found["b"]["model"]) == ("nano", "smol")
    assert (found["b"]["score"]["low"], found["b"]["score"]["high"]) == wilson(6, 164)


def test_the_text_says_which_run_is_better_and_what_both_cost(tmp_path, capsys):
    first = a_run(tmp_path, "lookup", "a\x1b[31m", "1100110011")
    second = a_run(tmp_path, "lookup", "b", "0000000001", cost=CaseCost(110, 20, 33, 5, 2, 2.5))
    assert main(["eval", "compare", str(first.path), str(second.path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "lookup: 10 cases that both runs have finished" in said
    (last,) = (line for line in said.splitlines() if line.startswith("B − A"))
    assert "-50.0 (" in last and last.split()[-5:] == ["+0.0", "+100", "+0.0", "+3.0", "+1.00"]
    assert "B does better in 0 cases and worse in 5: p = 0.062 (McNemar's exact test)" in said
    assert f"A: {first.path}" in said and f"B: {second.path}" in said


def test_cases_that_only_one_run_has_finished_count_nowhere_and_are_named(tmp_path, compared, capsys):
    first, second = a_run(tmp_path, "lookup", "m", "11e1"), a_run(tmp_path, "lookup", "n", "001")
    found = compared(first, second)
    assert (found["cases"], found["solved"]["mean"]) == (2, -1.0)
    assert found["left_out"] == [["2", 1], ["3", 1]] and found["a"]["score"]["cases"] == 2
    main(["eval", "compare", str(first.path), str(second.path)])
    assert "not finished by one of them, and left out: 2 #1, 3 #1\n" in capsys.readouterr().out
    many = compare_runs(a_run(tmp_path, "lookup", "o", "1" * 9), a_run(tmp_path, "lookup", "p", "1"))
    assert "left out: 1 #1, 2 #1, 3 #1, 4 #1, 5 #1 and 3 more" in as_text(many)


def test_tries_of_a_case_are_paired_by_it_and_shares_get_a_sign_test(tmp_path):
    runs = []
    for name, scores in (("m", ("1.0", "0.5")), ("n", ("0.5", "0.5"))):
        run = a_run(tmp_path, "lookup", name, "", epochs=2)
        file = RecordFile(run.cases_file)
        for case in range(7):
            for epoch, score in enumerate(scores, 1):
                file.add(replace(GOOD, case=str(case), epoch=epoch, score=float(score)))
        file.close()
        runs.append(run)
    found = compare_runs(*runs)
    assert (found.cases, found.tries, found.solved.lost) == (7, 14, 7)
    assert found.test == "sign test" and found.p == mcnemar(0, 7) and found.solved.p is None
    assert found.solved.low < found.solved.mean == -0.25 < found.solved.high


def test_tokens_that_one_server_did_not_tell_are_unknown_and_not_compared(tmp_path, compared, capsys):
    first = a_run(tmp_path, "lookup", "m", "10")
    second = a_run(tmp_path, "lookup", "n", "11", cost=CaseCost.of_request(0, 0, 0, 0))
    found = compared(first, second)
    assert found["b"]["costs"]["written"] is None and found["costs"]["written"] is None
    assert found["a"]["costs"]["written"] == 30 and found["costs"]["seconds"]["mean"] == -1.5
    main(["eval", "compare", str(first.path), str(second.path)])
    assert capsys.readouterr().out.count("unknown") == 8


def test_runs_that_cannot_be_paired_are_refused(tmp_path, capsys):
    first = a_run(tmp_path, "lookup", "m", "10")
    others = {
        "one of 'secret'; expected two of one benchmark": a_run(tmp_path, "secret", "m", "10"),
        "have finished no case in common, of 2 and 0": a_run(tmp_path, "lookup", "n", "ee"),
        "are one run; expected two": first,
    }
    for said, other in others.items():
        assert main(["eval", "compare", str(first.path), str(other.path)]) == 2
        assert said in capsys.readouterr().err
        with pytest.raises(UsageError):
            compare_runs(first, other)
    assert main(["eval", "compare", str(first.path), str(tmp_path)]) == 1
    assert "this is no run of a3b eval" in capsys.readouterr().err


def test_what_else_differs_is_said(tmp_path):
    plain = a_run(tmp_path, "lookup", "m", "1", seed=0)
    assert compare_runs(plain, a_run(tmp_path, "lookup", "n", "1", seed=0), LOOKUP).notes == ()
    other = a_run(tmp_path, "lookup", "o", "1", seed=1, extra={"hops": "3"}, sampling={"top_p": 0.5})
    notes = "\n".join(compare_runs(plain, other, LOOKUP).notes)
    assert "set for A: nothing; for B: top_p 0.5, hops 3" in notes
    assert "cases of one name may be others" in notes and "seeds differ (0, 1)" in notes
    assert "seeds differ" in as_text(compare_runs(plain, other, LOOKUP))


def test_places_on_disk_are_no_difference(tmp_path):
    runs = [a_run(tmp_path, "swebench", "m", "1", extra={"work": place}) for place in ("/a", "/b")]
    assert compare_runs(*runs, SWEBENCH).notes == ()
