"""Policies are compared case by case, and what earlier thinking gains is split into turns and tool loops."""

from __future__ import annotations

import json

import pytest

from a3b.errors import UsageError
from a3b.evals.compare import as_markdown, compare, effects_of
from a3b.evals.intervals import wilson
from a3b.evals.records import CaseCost, CaseRecord


def record(case: int, score: float | None, cost: int = 1, epoch: int = 1) -> CaseRecord:
    spent = CaseCost(cost, cost, cost, cost, 1, float(cost))
    return CaseRecord(f"case-{case}", epoch, 0, score, "" if score is not None else "broke", cost=spent)


def run(scores: str, costs: list[int] | None = None, epoch: int = 1) -> dict[tuple[str, int], CaseRecord]:
    """A case for each sign: 0, 1, or x for an error."""
    found = [
        record(index, None if sign == "x" else float(sign), costs[index] if costs else 1, epoch)
        for index, sign in enumerate(scores)
    ]
    return {one.key: one for one in found}


def effect(found, name):
    return next(e for e in found.effects if e.name == name)


def test_a_gain_is_the_sum_of_that_across_turns_and_that_within_a_tool_loop():
    found = compare({"all": run("1111"), "current-task": run("1100"), "none": run("1000")})
    turns, loop, whole = (
        effect(found, name).solved.mean for name in ("across user turns", "within a tool loop", "altogether")
    )
    assert (turns, loop, whole) == (0.5, 0.25, 0.75)


def test_cases_that_got_better_and_worse_are_counted_in_both_directions():
    found = effect(compare({"all": run("110010"), "none": run("001010")}), "altogether").solved
    assert (found.won, found.lost, found.p) == (2, 1, 1.0)


def test_a_policy_that_solves_less_gives_a_negative_effect():
    found = effect(compare({"all": run("0" * 12), "none": run("1" * 12)}), "altogether")
    assert found.solved.high < 0
    assert found.solved.p < 0.001


def test_costs_are_compared_in_pairs():
    seconds = effect(compare({"all": run("11", [1000, 10]), "none": run("11", [1003, 13])}), "altogether").costs[
        "seconds"
    ]
    assert (seconds.mean, seconds.low, seconds.high) == (-3, -3, -3)


def test_a_case_that_one_policy_lacks_or_that_broke_there_is_in_no_figure_and_is_named():
    found = compare({"all": run("1111"), "none": run("10x")})
    assert (found.cases, found.left_out) == (2, (("case-2", 1), ("case-3", 1)))
    assert found.scores["all"].cases == 2


def test_tries_of_a_case_are_no_further_cases():
    twice = {policy: run(scores) | run(scores, epoch=2) for policy, scores in {"all": "1110", "none": "1000"}.items()}
    found, once = compare(twice), compare({"all": run("1110"), "none": run("1000")})
    assert (found.cases, found.tries) == (4, 8)
    assert found.effects == once.effects


def test_runs_without_a_common_case_are_refused_with_their_counts():
    with pytest.raises(UsageError, match=r"all: 1, none: 0.*resume"):
        compare({"all": run("1"), "none": {}})


def test_effects_are_those_that_the_policies_can_tell():
    assert [name for name, *_ in effects_of(["all", "none"])] == ["altogether"]
    assert effects_of(["none", "budget:64"]) == []
    assert effects_of(["budget:64", "all"]) == [("beyond 64 tokens", "all", "budget:64")]


def test_the_tables_have_every_policy_with_its_interval_and_every_effect():
    text = as_markdown(compare({"all": run("1" * 20), "current-task": run("0" * 20), "none": run("0" * 20)}))
    low, _ = wilson(20, 20)
    assert f"| all | 100.0 % ({low * 100:.1f} % – 100.0 %) |" in text
    assert "| across user turns: all − current-task | +100.0 (+72.2 – +100.0) | 20, 0, < 0.001 |" in text
    assert "| within a tool loop: current-task − none | +0.0 (-13.9 – +13.9) | 0, 0, 1.000 |" in text


def test_a_comparison_is_json():
    found = compare({"all": run("10"), "none": run("00")})
    assert json.loads(json.dumps(found.as_json()))["effects"][0]["solved"]["won"] == 1
