"""Sub-agents: forks that cost their own tokens, say what they are, and report back."""

from __future__ import annotations

import json

import pytest

from a3b.agent.events import ToolFinished, ToolOutput, TurnFinished
from a3b.agent.transcript import read_transcript
from tests.support.agent_sessions import end_of, events_of, of, session_of
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # whole sessions of the agent

DONE = Says("All done.")


def spawning(task="Count the lines.", *others):
    return Says("I ask for help.", thinking="Two tasks.", calls=[*others, ("agent", {"task": task})])


@pytest.fixture
def run(tmp_path):
    """Runs a task whose answers are given: the model, the events, the tree of sessions."""

    def work(answers, **options):
        model = ScriptedModel(answers)

        async def use(session, tool):
            return await events_of(session), session.tree()

        return model, *session_of(tmp_path, model, use, **{"tools": ("agent",), **options})

    return work


def test_a_child_begins_with_its_parents_conversation_and_is_told_what_it_is(run):
    model, events, _ = run([spawning(), Says("There are 7."), DONE])
    child, parent = model.bodies[1]["messages"], model.bodies[0]["messages"]
    assert child[: len(parent)] == parent and model.bodies[1]["tools"] == model.bodies[0]["tools"]
    assert "You are a sub-agent now" in child[-1]["content"] and "Count the lines." in child[-1]["content"]
    assert end_of(events).status == "done"


def test_a_fork_costs_its_own_tokens_and_the_parent_goes_on_as_if_there_had_been_none(run):
    work = [Says(calls=[("note", {"text": f"{i}"})]) for i in range(5)]
    model, events, _ = run([*work[:2], spawning(), *work[2:], Says("There are 7."), *work[:1], DONE])
    assert [event.recomputed for event in of(events, TurnFinished)] == [0] * 5
    lines = [event.text for event in of(events, ToolOutput) if "cached" in event.text]
    assert len(lines) == 4 and not any("again" in line for line in lines)
    assert model.bodies[-1]["messages"][-3]["content"] == "There are 7."


def test_the_last_message_of_a_child_is_the_result_of_the_call(run):
    model, events, _ = run([spawning(), Says("There are 7."), DONE])
    assert of(events, ToolFinished)[-1].text == "There are 7."
    assert model.bodies[2]["messages"][-1] == {"role": "tool", "tool_call_id": "call_1_0", "content": "There are 7."}


def test_a_child_starts_no_further_agent(run):
    model, _, _ = run([spawning(), spawning("Deeper!"), Says("I did it myself."), DONE])
    assert "starts no further agent" in model.bodies[2]["messages"][-1]["content"]


def test_other_calls_of_the_same_answer_are_not_left_open(run):
    first = Says(calls=[("note", {"text": "before"}), ("agent", {"task": "x"}), ("note", {"text": "after"})])
    model, _, _ = run([first, Says("Found."), DONE])
    child, parent = (body["messages"] for body in model.bodies[1:3])
    assert [m["content"][:20] for m in child if m["role"] == "tool"] == [
        "noted before",
        "You are a sub-agent ",
        "Error: not run here:",
    ]
    assert [m["content"] for m in parent if m["role"] == "tool"] == ["noted before", "Found.", "noted after"]


def test_a_child_that_does_not_finish_is_an_error_for_the_parent(run):
    model, events, _ = run([spawning(), *[Says(thinking="Hm.")] * 4, DONE])
    assert "did not finish (stuck)" in of(events, ToolFinished)[0].text and end_of(events).status == "done"


def test_limits_of_the_task_hold_for_its_children(run):
    answers = [spawning(), *(Says(calls=[("note", {"text": f"{i}"})]) for i in range(20)), DONE]
    model, events, _ = run(answers, max_tokens=2000)
    assert end_of(events).status == "limit" and len(model.bodies) < 20


def test_a_child_has_a_transcript_of_its_own(run, tmp_path):
    _, events, tree = run([spawning(), Says("There are 7."), DONE])
    assert [node.kind for node in tree] == ["session", "sub-agent"] and tree[1].parent == tree[0].id
    path = next(tmp_path.glob(f"home/agent/projects/*/{tree[1].id}.jsonl"))
    _, state, _, problem = read_transcript(path)
    assert (problem, state.words, state.messages[-1]["content"]) == ("", "Count the lines.", "There are 7.")
    assert json.dumps(tree[1].id)[1:-1] in of(events, ToolOutput)[0].text
