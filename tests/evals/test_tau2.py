"""Conversations of tau2 are judged if they came to their end; a model that does what is asked wins, others do not.

The case is one of the package inspect-evals."""

from __future__ import annotations

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks import tau2
from tests.support.eval_tasks import options, run, scores

pytest.importorskip("inspect_evals", reason="a package of its own: pip install 'a3b[eval]'")
pytestmark = [
    pytest.mark.slow,  # inspect-ai takes seconds to load
    # inspect-ai's own: streams of anyio that the garbage collector closes, deprecated names of its libraries
    pytest.mark.filterwarnings("ignore"),
]
CASE = "2"  # its actions change the database
DONE = "That is done."


@pytest.fixture
def make(tmp_path):
    def task(**extra):
        made = tau2.make_task(options(tmp_path, extra={"steps": "40", **extra}))
        made.dataset = made.dataset.filter(lambda sample: sample.id == CASE)
        return made

    return task


def plays(task, does=True):
    """Both sides: a customer who goes when he hears DONE, and an agent that does what the case wants, or nothing."""
    wanted = task.dataset[0].metadata["task"]["evaluation_criteria"]

    def answer(messages, tools):
        if not tools:  # the customer
            return "###STOP###" if DONE in messages[-1].text else "Please help me."
        actions = [a for a in wanted["actions"] if a["name"] != "transfer_to_human_agents"] if does else []
        done = sum(len(m.tool_calls or []) for m in messages if m.role == "assistant")
        if done < len(actions):
            return [(actions[done]["name"], actions[done]["arguments"])]
        return " ".join([DONE, *(wanted["communicate_info"] or [])])

    return answer


def test_an_agent_that_does_what_is_wanted_wins(make, tmp_path):
    task = make()
    assert scores(task, plays(task), tmp_path) == {CASE: 1.0}


def test_an_agent_that_does_nothing_loses(make, tmp_path):
    task = make()
    assert scores(task, plays(task, does=False), tmp_path) == {CASE: 0.0}


def test_a_conversation_without_an_end_is_lost_after_its_steps(make, tmp_path):
    log = run(make(steps="7"), lambda *_: "Go on.", tmp_path)
    (sample,) = log.samples
    assert sample.scores["checker"].value == 0
    assert sample.metadata["a3b"]["facts"] == {"ended": "the steps were used up", "steps": 7}


def test_a_model_that_calls_for_ever_is_ended(make, tmp_path):
    def calls(messages, tools):
        return [("calculate", {"expression": "1 + 1"})] if tools else "Please help me."

    log = run(make(steps="9"), calls, tmp_path)
    assert log.samples[0].metadata["a3b"]["facts"]["ended"] == "the steps were used up"


def test_an_error_of_a_request_is_an_error_of_the_case(make, tmp_path):
    def broken(messages, tools):
        raise RuntimeError("the server is gone")

    log = run(make(), broken, tmp_path, fail_on_error=False)
    assert "the server is gone" in log.samples[0].error.message


def test_the_database_stays_out_of_the_log_which_tells_both_sides_apart(make, tmp_path):
    task = make()
    log = run(task, plays(task), tmp_path)
    assert len(log.samples[0].model_dump_json()) < 1_000_000
    assert {event.role for event in log.samples[0].events if event.event == "model"} == {None, tau2.USER}


@pytest.mark.parametrize("name", tau2.DOMAINS)
def test_a_domain_has_as_many_cases_as_are_planned(name, tmp_path):
    made = tau2.make_task(options(tmp_path, extra={"domain": name}))
    assert len(made.dataset) == tau2.BENCHMARK.cases_with({"domain": name})


def test_an_unknown_domain_is_told():
    with pytest.raises(UsageError, match="airline, retail, telecom, banking"):
        tau2.domain({"domain": "trains"})
