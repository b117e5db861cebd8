"""What a resumed session shows: the user's own words, what was called, and the turns to go on from."""

from __future__ import annotations

import asyncio
import json

import pytest

from a3b.agent.events import Notice, Steered, TextChunk, ThinkingChunk, ToolFinished, ToolStarted
from a3b.agent.past import past_events
from a3b.agent.sessions import ProjectSessions, outline_lines
from a3b.agent.tools.toolbox import Toolbox
from a3b.agent.transcript import TranscriptState, read_transcript
from a3b.errors import UsageError
from tests.support.agent_sessions import NotesTool, events_of, of, session_of
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # whole sessions of the agent


def note(text):
    return Says(thinking="I note it.", calls=[("note", {"text": text})])


def said_in(events):
    return [event.text for event in of(events, Steered)]


def past_of(tmp_path, id, **options):
    async def use(session, tool):
        return session.past()

    return session_of(tmp_path, ScriptedModel([]), use, resume=id, **options)


def tasks(tmp_path, answers, *given, **options):
    """The id of a session with these tasks."""

    async def use(session, tool):
        for task in given:
            await events_of(session, task)
        return session.id

    return session_of(tmp_path, ScriptedModel(answers), use, **options)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "AGENTS.md").write_text("Use tabs.")
    return tmp_path / "project"


def store(tmp_path):
    return ProjectSessions(tmp_path / "home", tmp_path / "project")


def test_a_resumed_session_has_the_words_of_the_user_and_each_call_with_its_result(tmp_path, project):
    id = tasks(tmp_path, [note("a"), Says("Noted."), Says("Yes.")], "Note a letter.", "Done?")
    id = tasks(tmp_path, [Says("Hello.")], "hi", resume=id)
    events = past_of(tmp_path, id)
    assert said_in(events) == ["Note a letter.", "Done?", "hi"]
    assert [type(event) for event in events[:5]] == [Steered, ThinkingChunk, ToolStarted, ToolFinished, TextChunk]
    assert (events[2].summary, events[3].text) == ("note a", "noted a")


def test_the_same_call_until_the_agent_was_told_that_it_goes_in_circles_is_no_word_of_the_user(tmp_path):
    id = tasks(tmp_path, [*[note("a")] * 4, Says("I stop.")], "Note it.")
    assert said_in(past_of(tmp_path, id)) == ["Note it."]


def test_what_was_typed_while_the_agent_worked_is_the_users(tmp_path):
    async def use(session, tool):
        async for event in session.run("Note it."):
            if isinstance(event, ToolStarted):
                session.steer("<notice> mine </notice>")
        return session.id

    id = session_of(tmp_path, ScriptedModel([note("a"), Says("Done.")]), use)
    assert said_in(past_of(tmp_path, id)) == ["Note it.", "<notice> mine </notice>"]


def test_a_fork_and_its_fork_have_the_words_of_the_user(tmp_path, project):
    id = tasks(tmp_path, [note("a"), Says("Noted."), Says("Yes.")], "Note a letter.", "Done?")
    fork = store(tmp_path).fork(id, 3)
    again = store(tmp_path).fork(tasks(tmp_path, [Says("Hello.")], "hi", resume=fork))
    assert said_in(past_of(tmp_path, again)) == ["Note a letter.", "Done?", "hi"]


def test_after_a_compaction_a_summary_is_no_word_of_the_user(tmp_path, project):
    async def use(session, tool):
        for task in "Note a letter.", "Another.":
            await events_of(session, task)
        [event async for event in session.compact()]
        return session.id

    answers = [note("a"), Says("Noted."), note("b"), Says("Noted."), Says("The user wanted letters. " * 4)]
    id = session_of(tmp_path, ScriptedModel(answers), use)
    events = past_of(tmp_path, id)
    assert said_in(events) == ["Note a letter.", "Another."]
    assert "from a summary" in of(events, Notice)[0].text


def test_an_older_fork_that_does_not_say_what_was_typed_has_the_first_task(tmp_path, project):
    id = tasks(tmp_path, [Says("Noted.")], "Note a letter.")
    fork = store(tmp_path).fork(id)
    path = store(tmp_path).path(fork)
    head, begin = map(json.loads, path.read_text().splitlines())
    del begin["said"]
    path.write_text(f"{json.dumps(head)}\n{json.dumps(begin)}\n")
    assert said_in(past_of(tmp_path, fork)) == ["Note a letter."]


@pytest.mark.parametrize("said", [[[9, "x"], [0, "x"], ["1", "x"], [1], 3, [1, 2]], "x", {"1": "x"}])
def test_what_a_damaged_file_claims_of_the_user_shows_nothing(said):
    state = TranscriptState()
    begin = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    state.add({"turn": 0, "begin": begin, "said": said})
    assert list(past_events(state, Toolbox(()))) == []


def test_calls_of_any_form_are_told():
    call = {"id": "c", "function": {"name": "read", "arguments": '{"path": "a.py"}'}}
    odd = {"id": "d", "function": {"name": "note", "arguments": "[1"}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call, odd]}
    state = TranscriptState([answer, {"role": "tool", "tool_call_id": "c", "content": "Error: none"}])
    events = list(past_events(state, Toolbox([NotesTool()])))
    assert [e.summary for e in of(events, ToolStarted)] == ["read a.py", "note None"]
    assert [(e.text, e.is_error) for e in of(events, ToolFinished)] == [("Error: none", True), ("", False)]


# -- turns to go on from


def test_the_turns_are_listed_with_what_was_said_and_called(tmp_path):
    id = tasks(tmp_path, [note("a"), Says("Noted.\nAll of it."), Says("Yes.")], "Note a letter.", "Done?")
    assert outline_lines(store(tmp_path).outline(id)) == [
        "> Note a letter.",
        "    1  note",
        "    2  Noted. All of it.",
        "> Done?",
        "    3  Yes.",
    ]


def test_a_fork_can_be_forked_at_a_turn_that_it_began_with(tmp_path):
    id = tasks(tmp_path, [Says("One."), Says("Two."), Says("Three.")], "1", "2", "3")
    fork = tasks(tmp_path, [Says("Four.")], "4", resume=store(tmp_path).fork(id, 2))
    lines = outline_lines(store(tmp_path).outline(fork))
    assert lines == ["> 1", "    1  One.", "> 2", "    2  Two.", "> 4", "    3  Four."]
    for turn, last in (1, "One."), (2, "Two."), (3, "Four."):
        state = read_transcript(store(tmp_path).path(store(tmp_path).fork(fork, turn)))[1]
        assert (state.turn, state.messages[-1]["content"]) == (turn, last)


def test_a_turn_that_there_is_not_is_answered_with_those_that_there_are(tmp_path):
    id = tasks(tmp_path, [Says("One."), Says("Two.")], "1", "2")
    with pytest.raises(UsageError, match=r"turn 9: session .* has turns 1 to 2:\n> 1\n    1  One.\n> 2\n    2  Two."):
        store(tmp_path).fork(id, 9)


def test_an_open_session_names_the_options_that_go_on_from_a_copy(tmp_path):
    id = tasks(tmp_path, [Says("One.")], "1")

    async def use():
        with store(tmp_path).held(id), pytest.raises(UsageError, match=f"--resume {id} --from-turn N"):
            with store(tmp_path).held(id):
                pass

    asyncio.run(use())
