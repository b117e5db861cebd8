"""Beginning anew: what the summary costs, what stays, and what happens if there is none."""

from __future__ import annotations

import asyncio
import re

import pytest

from a3b.agent.compaction import ASKED
from a3b.agent.events import Compacted, Notice, ThinkingChunk, TurnFinished
from a3b.agent.transcript import read_transcript
from tests.support.agent_sessions import end_of, events_of, of, session_of
from tests.support.scripted_model import Says, ScriptedModel, prompt_of

pytestmark = pytest.mark.slow  # whole sessions of the agent

DONE = Says("All done.")
LONG = Says("All done.", thinking=" ".join(f"Well, {i}." for i in range(300)))
SUMMARY = Says("Task: note letters. Done so far: a to e. Next: f. Nothing was forbidden.", thinking="What matters?")


def note(text):
    return Says(thinking=f"I think of {text}.", calls=[("note", {"text": text})])


def is_asked(body):
    return body["messages"][-1]["content"] == ASKED


class Forgetful(ScriptedModel):
    """Notes letters; writes `summary` when asked for one."""

    def __init__(self, turns, summary=SUMMARY, done=DONE, **more):
        def answer(body, number):
            if is_asked(body):
                return summary
            if turns and len([m for m in body["messages"] if m["role"] == "tool"]) < 40:
                self.turns = getattr(self, "turns", 0) + 1
                return note("x" * 200 + str(self.turns)) if self.turns <= turns else done
            return done

        super().__init__([answer], **more)


@pytest.fixture
def run(tmp_path):
    def work(model, **options):
        async def use(session, tool):
            return await events_of(session, "Note letters."), session.cost(), session._transcript.path

        return session_of(tmp_path, model, use, **options)

    return work


def test_a_long_conversation_begins_anew_at_the_mark_and_the_task_goes_on(run):
    model = Forgetful(20)
    events, cost, _ = run(model, compact_at=4000)
    (first, *_) = of(events, Compacted)
    assert end_of(events).status == "done" and first.before >= 4000 > first.after
    assert cost.in_context < 5000


def test_a_summary_costs_its_own_tokens_only(run):
    model = Forgetful(20)
    run(model, compact_at=4000)
    at = next(i for i, body in enumerate(model.bodies) if is_asked(body))
    asked, before = model.bodies[at], model.bodies[at - 1]
    assert asked["messages"][: len(before["messages"])] == before["messages"]
    assert asked["tools"] == before["tools"] and "tool_choice" not in asked
    known = max(len(known) for known in model._known if prompt_of(asked).startswith(known))
    last_results = asked["messages"][len(before["messages"]) + 1 :]
    assert len(prompt_of(asked)) - known == sum(len(prompt_of({"messages": [m]})) - 2 for m in last_results)


def test_the_new_conversation_has_the_beginning_the_summary_and_the_last_turns(run):
    model = Forgetful(20)
    run(model, compact_at=4000)
    at = next(i for i, body in enumerate(model.bodies) if is_asked(body))
    old, new = model.bodies[at]["messages"], model.bodies[at + 1]["messages"]
    assert new[:2] == old[:2] and SUMMARY.text in new[2]["content"]
    assert [m["role"] for m in new[3:]] == ["assistant", "tool"] * 3
    assert new[3:] == old[-7:-1]


def test_the_old_conversation_stays_in_the_transcript(run):
    model = Forgetful(20)
    _, _, path = run(model, compact_at=4000)
    _, state, _, _ = read_transcript(path, 3)
    assert [m["role"] for m in state.messages[2:]] == ["assistant", "tool"] * 3
    assert read_transcript(path)[1].compactions >= 1


@pytest.mark.parametrize(
    ("summary", "why"),
    [
        (Says("", thinking="Hm."), "wrote nothing"),
        (Says("Too long, " * 9, reason="length"), "became too long"),
        (Says(calls=[("note", {"text": "more"})]), "called a tool"),
        (400, "refused with 400"),
    ],
)
def test_without_a_summary_a_list_of_the_calls_takes_its_place(run, summary, why):
    model = Forgetful(40, summary)
    events, _, _ = run(model, compact_at=9000)
    told = [notice.text for notice in of(events, Notice) if notice.level == "warning"]
    (first, *_) = of(events, Compacted)
    assert first.after < first.before
    assert why in told[0] and end_of(events).status == "done"
    assert "note {" in of(events, Compacted)[0].summary and "\n  -> " in of(events, Compacted)[0].summary


def test_a_small_context_is_never_exceeded(run):
    model = Forgetful(40, context=6000)
    events, _, _ = run(model)
    assert end_of(events).status == "done" and of(events, Compacted)
    assert all(len(prompt_of(body)) + body["max_tokens"] <= 6000 for body in model.bodies)


def test_an_answer_that_fills_the_context_leaves_with_a_new_beginning(tmp_path):
    def answer(body, number):
        return Says(" ".join(map(str, range(1300))), reason="length") if number == 1 else DONE

    model = ScriptedModel([answer], context=8000)
    events = session_of(tmp_path, model, lambda session, _: events_of(session))
    assert end_of(events).status == "done" and of(events, Compacted)


def test_compaction_on_demand_leaves_a_conversation_that_goes_on(tmp_path):
    model = Forgetful(5)

    async def use(session, tool):
        await events_of(session, "Note letters.")
        told = [event async for event in session.compact()]
        return told, await events_of(session, "And now?")

    told, events = session_of(tmp_path, model, use)
    assert of(told, Compacted)[0].summary == SUMMARY.text and end_of(events).status == "done"
    assert model.bodies[-1]["messages"][-1]["content"] == "And now?"


def test_a_compaction_on_demand_that_would_gain_nothing_changes_nothing(tmp_path):
    model = Forgetful(3, Says(" ".join(f"Point {i} matters." for i in range(900))))

    async def use(session, tool):
        await events_of(session, "Note letters.")
        before = session.history()
        return [event async for event in session.compact()], before == session.history()

    told, is_same = session_of(tmp_path, model, use)
    assert is_same and not of(told, Compacted)
    assert re.fullmatch(
        r"[\d,]+ tokens would become [\d,]+: there is nothing to gain, and all .* as it is", told[-1].text
    )


def test_a_short_conversation_is_not_compacted_and_asks_nobody(tmp_path):
    model = ScriptedModel([DONE])

    async def use(session, tool):
        await events_of(session, "Hi.")
        return [event async for event in session.compact()]

    (told,) = session_of(tmp_path, model, use)
    assert told == Notice("The conversation is short: there is nothing to begin anew from.", "info")
    assert len(model.bodies) == 1


def test_a_compaction_that_is_stopped_changes_nothing(tmp_path):
    model = Forgetful(5, Says("slow " * 99, pause=0.05))

    async def use(session, tool):
        await events_of(session, "Note letters.")
        before = session.history()
        told = []
        async for event in session.compact():
            told.append(event)
            session.stop()
        return told, before == session.history()

    told, is_same = session_of(tmp_path, model, use)
    assert is_same and not of(told, Compacted) and "as it was" in told[-1].text


def test_nothing_is_read_again_between_compactions(run):
    model = Forgetful(20)
    events, _, _ = run(model, compact_at=4000)
    assert {event.recomputed for event in of(events, TurnFinished)} == {0}


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("a3b.agent.session.SETTLE_S", 0)


def test_a_conversation_that_became_long_begins_anew_while_the_user_reads(tmp_path, at_once):
    model = Forgetful(5, done=LONG)

    async def use(session, tool):
        before = await events_of(session, "Note letters.")
        await asyncio.wait_for(session._idle._task, 10)
        return before, await events_of(session, "And now?")

    before, after = session_of(tmp_path, model, use, compact_at=5000)
    assert not of(before, Compacted) and of(after, Compacted)[0].summary == SUMMARY.text
    assert SUMMARY.thinking[:7] not in [chunk.text for chunk in of(after, ThinkingChunk)]
    assert of(after, TurnFinished)[0].usage.read < 200


def test_a_task_ends_what_is_computed_while_the_user_reads(tmp_path, at_once):
    model = Forgetful(5, Says("slow " * 99, pause=0.05), LONG)

    async def use(session, tool):
        await events_of(session, "Note letters.")
        while not is_asked(model.bodies[-1]):
            await asyncio.sleep(0.01)
        session._compactor.compact_at = 90_000
        return await events_of(session, "And now?")

    events = session_of(tmp_path, model, use, compact_at=5000)
    assert end_of(events).status == "done" and not of(events, Compacted)
    assert [len(body["messages"]) for body in model.bodies[-2:]] == [14, 14] and not is_asked(model.bodies[-1])


def test_a_server_that_may_cost_money_reads_nothing_ahead(tmp_path):
    model = Forgetful(5, owner="somebody")

    async def use(session, tool):
        await events_of(session, "Note letters.")
        async for _ in session.compact():
            pass
        asked = len(model.bodies)
        await asyncio.wait_for(session._idle._task, 10)
        return asked

    assert session_of(tmp_path, model, use) == len(model.bodies)


def test_the_new_beginning_is_read_while_the_user_reads(tmp_path):
    model = Forgetful(5)

    async def use(session, tool):
        await events_of(session, "Note letters.")
        async for _ in session.compact():
            pass
        asked = len(model.bodies)
        await asyncio.wait_for(session._idle._task, 10)
        return asked, await events_of(session, "And now?")

    asked, events = session_of(tmp_path, model, use)
    warm, last = model.bodies[asked], model.bodies[-1]
    assert warm["max_tokens"] == 1 and last["messages"][: len(warm["messages"])] == warm["messages"]
    assert of(events, TurnFinished)[0].usage.read < 200
