"""The measure of *fix* through the agent itself: what counts as repaired, and the rule beside the model."""

from __future__ import annotations

import asyncio

import pytest

from a3b.evals.agent_run import AgentRun
from a3b.evals.families.fix_package import COMMAND, change_of
from a3b.evals.families.fix_patterns import UNSEEN_KINDS
from a3b.evals.records import CaseCost
from a3b.evals.repairs import Repair, cases, repair
from nano.fix_agent import by_rule, report, summary
from tests.support.scripted_model import Says, ScriptedModel

SPOIL = ("bash", {"command": "echo 'print(\"ok\")' > test.py"})
RUN = ("bash", {"command": COMMAND})


def edit_of(package):
    old, new = change_of(package.bug)
    return "edit", {"path": package.module + ".py", "old": old, "new": new}


def repair_by(tmp_path, calls):
    """What becomes of the first package when a model makes these calls, one a turn, and then says so."""
    (package, task), *_ = cases(1)
    home = tmp_path / "home"
    home.mkdir()
    model = ScriptedModel([*(Says(calls=[c(package) if callable(c) else c]) for c in calls), Says("Done.")])
    with model.serving() as url:
        return asyncio.run(repair(url, home, package, task, {"thinking_policy": "none"})), model


@pytest.mark.slow
def test_the_edit_that_mends_the_function_is_a_repair(tmp_path):
    found, model = repair_by(tmp_path, [RUN, edit_of, RUN])
    assert found.ok, found.run.log
    assert found.run.turns == 4 and found.run.cost.written > 0
    assert [body["thinking_policy"] for body in model.bodies] == ["none"] * 4
    assert [tool["function"]["name"] for tool in model.bodies[0]["tools"]] == ["read", "edit", "bash"]


@pytest.mark.slow
def test_tests_that_pass_because_they_were_changed_are_no_repair(tmp_path):
    found, _ = repair_by(tmp_path, [SPOIL, RUN])
    assert not found.ok and found.why == "another file was changed"


def test_the_rule_tries_the_commonest_fix_first_and_no_more_than_it_may():
    package = next(p for p, _ in cases(60) if p.bug.kind == "start value")
    table = [("no such word", "x"), ("1", "2"), ("1", "0"), ("2", "0")]
    assert by_rule(package, table, 3).ok
    assert not by_rule(package, [("return", "retur")] * 3 + table, 2).ok
    assert by_rule(package, [("return", "retur")] * 3 + table, 2).run.turns == 2


def test_cases_are_of_the_kinds_that_are_asked_for():
    assert not {package.bug.kind for package, _ in cases(40)} & set(UNSEEN_KINDS)
    assert {package.bug.kind for package, _ in cases(40, list(UNSEEN_KINDS))} == set(UNSEEN_KINDS)


def test_the_report_counts_repairs_by_kind():
    runs = AgentRun(turns=4, cost=CaseCost(100, 0, 50)), AgentRun(turns=6, cost=CaseCost(300, 0, 70), recomputed=5)
    row = summary([Repair(True, "", "slice", runs[0]), Repair(False, "", "slice", runs[1])])
    assert row["repaired"] == 0.5 and row["turns"] == 5 and row["recomputed"] == 5
    text = report({"all": row})
    assert "50.0%" in text and "all: slice 1/2" in text
