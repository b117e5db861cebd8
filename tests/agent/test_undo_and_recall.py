"""Undo and recall in a session: what the model and the user get of them."""

from __future__ import annotations

import pytest

from a3b.agent.events import Notice
from a3b.agent.journal.journal import Journal
from a3b.agent.sessions import ProjectSessions
from a3b.errors import JournalError
from tests.support.agent_sessions import end_of, events_of, of, session_of, task_of
from tests.support.past_sessions import past_session
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # starts sandboxes


def bash(command, **more):
    return Says(calls=[("bash", {"command": command, **more})])


def test_undo_takes_back_what_a_command_did_and_the_model_hears_it(tmp_path):
    model = ScriptedModel([bash("echo agent > notes; mkdir made"), Says("Done."), Says("I see.")])
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes").write_text("mine\n")

    async def use(session, note):
        await events_of(session)
        told = await session.undo()
        await events_of(session, "Go on.")
        return told

    told = session_of(tmp_path, model, use, tools=("bash",))
    assert told.splitlines()[1:] == ["  removed made", "  changed notes"]
    assert "Taken back: " in told and "echo agent" in told
    assert (project / "notes").read_text() == "mine\n"
    assert not (project / "made").exists()
    assert "The user took changes of files back." in model.bodies[-1]["messages"][-1]["content"]


def test_redo_takes_an_undo_back(tmp_path):
    model = ScriptedModel([bash("echo agent > notes"), Says("Done.")])

    async def use(session, note):
        await events_of(session)
        await session.undo()
        assert not (tmp_path / "project/notes").exists()
        return await session.redo()

    told = session_of(tmp_path, model, use, tools=("bash",))
    assert told.splitlines() == ["Done again: $ echo agent > notes.", "  created notes"]
    assert (tmp_path / "project/notes").read_text() == "agent\n"


def test_an_undo_of_what_the_user_has_put_back_himself_says_that_no_file_changed(tmp_path):
    model = ScriptedModel([bash("echo agent > notes"), Says("Done.")])

    async def use(session, note):
        await events_of(session)
        (tmp_path / "project/notes").unlink()
        return await session.undo()

    assert session_of(tmp_path, model, use, tools=("bash",)).splitlines() == [
        "Taken back: $ echo agent > notes.",
        "  no file changed by this: all of them were like that already",
    ]


def test_a_redo_is_told_to_the_model_and_without_an_undo_there_is_none(tmp_path):
    model = ScriptedModel([bash("echo agent > notes"), Says("Done."), Says("I see.")])

    async def use(session, note):
        await events_of(session)
        with pytest.raises(JournalError, match="nothing to redo: no undo came last"):
            await session.redo()
        await session.undo()
        await session.redo()
        await events_of(session, "Go on.")

    session_of(tmp_path, model, use, tools=("bash",))
    assert "The user took an undo of files back. Done again: " in model.bodies[-1]["messages"][-1]["content"]


def test_the_diff_of_a_session_has_what_it_changed_and_nothing_of_others(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes").write_text("one\ntwo\nthree\n")
    model = ScriptedModel([bash("sed -i s/two/2/ notes; echo 1 > made; mkdir empty"), Says("Done.")])

    async def use(session, note):
        before = await session.diff()
        (project / "mine").write_text("mine\n")
        await events_of(session)
        both, one = await session.diff(), await session.diff("made")
        await session.undo()
        return before, both, one, await session.diff()

    before, both, one, after = session_of(tmp_path, model, use, tools=("bash",))
    assert before.files == after.files == 0 and (both.files, both.added, both.removed) == (2, 2, 1)
    assert both.text.split("\n") == [
        *("--- /dev/null", "+++ made", "@@ -0,0 +1,1 @@", "+1"),
        *("--- notes", "+++ notes", "@@ -1,3 +1,3 @@", " one", "-two", "+2", " three"),
    ]
    assert one.text.startswith("--- /dev/null\n+++ made") and one.files == 1


def test_a_command_of_the_user_runs_in_the_sandbox_and_the_model_hears_of_it_with_the_next_task(tmp_path):
    model = ScriptedModel([Says("I see.")])
    outside = tmp_path / "outside"

    async def use(session, note):
        events = [event async for event in session.run_command(f"echo one; touch {outside}; exit 3")]
        await events_of(session, "Why?")
        return events

    started, *_, finished = session_of(tmp_path, model, use, tools=("bash",))
    assert started.summary.startswith("$ echo one") and finished.text.startswith("one\n")
    assert finished.text.endswith("[exit status 3]") and not outside.exists()
    (said,) = [message["content"] for message in model.bodies[0]["messages"] if message["role"] == "user"]
    assert "The user ran a command himself.\n$ echo one" in said and said.endswith("Why?")


def test_a_file_that_the_user_changed_stays_until_undo_is_forced(tmp_path):
    model = ScriptedModel([bash("echo agent > notes"), Says("Done.")])

    async def use(session, note):
        await events_of(session)
        (tmp_path / "project/notes").write_text("mine\n")
        told = await session.undo()
        assert (tmp_path / "project/notes").read_text() == "mine\n"
        await session.undo(force=True)
        return told

    told = session_of(tmp_path, model, use, tools=("bash",))
    assert "left as it is: notes: changed since by somebody else" in told
    assert "'/undo force' overwrites" in told
    assert not (tmp_path / "project/notes").exists()


def test_a_session_that_changed_nothing_names_what_an_earlier_one_changed(tmp_path):
    model = ScriptedModel([bash("echo agent > notes"), Says("Done.")])
    session_of(tmp_path, model, lambda session, note: events_of(session), tools=("bash",))

    async def use(session, note):
        with pytest.raises(JournalError, match="echo agent"):
            await session.undo()
        return await session.undo(earlier=True)

    assert "removed notes" in session_of(tmp_path, ScriptedModel([]), use)


def test_what_a_background_job_changes_between_calls_can_be_undone(tmp_path):
    command = "until [ -e go ]; do sleep 0.02; done; echo 1 > late; until [ -e end ]; do sleep 0.02; done"
    wait = "touch go; until [ -e late ]; do sleep 0.02; done"
    model = ScriptedModel([bash(command, background=True), bash(wait), Says("Done.")])

    async def use(session, note):
        await events_of(session)
        return await session.undo()

    assert "removed late" in session_of(tmp_path, model, use, tools=("bash",))
    assert not (tmp_path / "project/late").exists()


def test_the_model_recalls_the_thinking_of_an_earlier_session(tmp_path):
    (tmp_path / "project").mkdir()
    sessions = ProjectSessions(tmp_path / "home", tmp_path / "project")
    id = past_session(sessions, {"task": "Speed", "thinking": "A trampoline would help."})
    model = ScriptedModel([Says(calls=[("recall", {"query": "trampoline"})]), Says("Done.")])
    session_of(tmp_path, model, lambda session, note: events_of(session), tools=("recall",))
    result = [m["content"] for m in model.bodies[-1]["messages"] if m["role"] == "tool"][0]
    assert result.startswith(f"session {id}, turn 1, ")
    assert "| A trampoline would help." in result


def test_a_journal_that_fails_is_told_once_and_keeps_nobody_from_working(tmp_path, monkeypatch):
    def full(journal, *args):
        raise JournalError("records: No space left on device")

    monkeypatch.setattr(Journal, "begin", full)
    model = ScriptedModel([bash("echo one"), bash("echo two"), Says("Done.")])
    events = task_of(tmp_path, model, tools=("bash",))
    assert end_of(events).status == "done"
    assert [notice.text for notice in of(events, Notice)] == [
        "records: No space left on device; what this call changes cannot be undone"
    ]


def test_a_session_goes_on_after_a_task_that_failed_in_the_middle_of_its_calls(tmp_path):
    calls = [("bash", {"command": "echo one"}), ("bash", {"command": "echo two"})]
    model = ScriptedModel([Says(calls=calls), Says("Done.")])
    project = tmp_path / "project"

    async def use(session, note):
        project.rmdir()
        gone = await events_of(session)
        project.mkdir()
        return end_of(gone), end_of(await events_of(session, "Go on."))

    gone, done = session_of(tmp_path, model, use, tools=("bash",))
    assert gone.status == "failed" and "is gone" in gone.text
    assert done.status == "done"
    assert [message["role"] for message in model.bodies[-1]["messages"][2:]] == ["assistant", "tool", "tool", "user"]


def test_what_a_sub_agent_changed_in_several_turns_is_taken_back_with_the_turn_that_started_it(tmp_path):
    start = Says(calls=[("agent", {"task": "Make files."})])
    child = [bash("echo 1 > one"), bash("echo 2 > two"), Says("Made.")]
    model = ScriptedModel([bash("echo 0 > zero"), start, *child, bash("echo 3 > three"), Says("Done.")])
    project = tmp_path / "project"

    async def use(session, note):
        await events_of(session)
        left = []
        for _ in range(3):
            await session.undo()
            left.append(sorted(path.name for path in project.iterdir()))
        return left

    assert session_of(tmp_path, model, use, tools=("bash", "agent")) == [["one", "two", "zero"], ["zero"], []]
