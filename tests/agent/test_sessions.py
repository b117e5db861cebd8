"""Sessions on disk: what is kept, listed, resumed, forked, and what a kill or another process does to it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest

from a3b.agent.options import AgentOptions
from a3b.agent.resuming import close_calls
from a3b.agent.session import open_session
from a3b.agent.sessions import ProjectSessions
from a3b.agent.transcript import read_transcript
from a3b.errors import UsageError
from tests.support.agent_sessions import NotesTool, end_of, events_of, session_of
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # whole sessions of the agent

DONE = Says("All done.")


def note(text):
    return Says(thinking="I note it.", calls=[("note", {"text": text})])


def first_session(tmp_path, **served):
    """The id of a session with a finished task, and the messages of its last request."""
    model = ScriptedModel([note("a"), note("b"), DONE], **served)

    async def use(session, tool):
        await events_of(session, "Note letters.")
        return session.id

    return session_of(tmp_path, model, use), model.bodies[-1]["messages"]


def store(tmp_path):
    return ProjectSessions(tmp_path / "home", tmp_path / "project")


def test_a_session_that_was_resumed_goes_on_with_the_same_messages(tmp_path):
    id, sent = first_session(tmp_path)
    model = ScriptedModel([DONE])
    session_of(tmp_path, model, lambda session, _: events_of(session, "And c?"), resume=id)
    again = model.bodies[0]["messages"]
    assert again[: len(sent)] == sent and again[len(sent)]["content"] == "All done."
    assert again[-1]["role"] == "user" and again[-1]["content"].endswith("\n\nAnd c?")
    assert "is resumed now" in again[-1]["content"] and "Files are as they are now" in again[-1]["content"]


def test_transcripts_are_private_and_not_in_the_workspace(tmp_path):
    id, _ = first_session(tmp_path)
    path = store(tmp_path).path(id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list((tmp_path / "project").iterdir()) == []


def test_a_session_without_a_task_leaves_nothing(tmp_path):
    async def use(session, tool):
        return session.id

    session_of(tmp_path, ScriptedModel([DONE]), use)
    assert store(tmp_path).nodes() == []


def test_sessions_are_listed_with_their_first_words(tmp_path):
    id, _ = first_session(tmp_path)
    (node,) = store(tmp_path).nodes()
    assert (node.id, node.words, node.turns, node.is_open) == (id, "Note letters.", 3, False)
    assert node.tokens > 0 and store(tmp_path).find(id[-4:]) == store(tmp_path).latest() == id


def test_a_name_of_no_session_says_where_they_are_listed(tmp_path):
    with pytest.raises(UsageError, match="a3b code sessions lists them"):
        store(tmp_path).find("2020")


def test_sessions_of_another_directory_are_not_seen(tmp_path):
    first_session(tmp_path)
    (tmp_path / "other").mkdir()
    assert ProjectSessions(tmp_path / "home", tmp_path / "other").nodes() == []


# -- what a kill leaves


def cut_after(path, keep):
    """Keeps the records of a transcript up to the last one that `keep` is true of."""
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if keep(json.loads(line)))
    path.write_bytes(b"".join(lines[: last + 1]))


@pytest.mark.parametrize(("ended_at", "told"), [("call", "while this call ran"), ("message", "before this call ran")])
def test_a_call_without_a_result_gets_one_that_says_what_is_known(tmp_path, ended_at, told):
    id, _ = first_session(tmp_path)
    last_one = "call" if ended_at == "call" else "tool_calls"
    cut_after(store(tmp_path).path(id), lambda record: last_one in record or last_one in record.get("message", {}))
    model = ScriptedModel([DONE])
    session_of(tmp_path, model, lambda session, _: events_of(session, "Go on."), resume=id)
    last = [m for m in model.bodies[0]["messages"] if m["role"] == "tool"][-1]
    assert told in last["content"]


@pytest.mark.parametrize("torn", [b'{"turn": 3, "mess', b'{"turn": 3}', b"\xff\xfe"])
def test_a_record_that_was_being_written_is_left_out_silently(tmp_path, torn):
    id, _ = first_session(tmp_path)
    path = store(tmp_path).path(id)
    before = read_transcript(path)[1].messages
    path.write_bytes(path.read_bytes() + torn)
    transcript, problem = store(tmp_path).load(id)
    transcript.say({"role": "user", "content": "next"})
    transcript.close()
    assert problem == "" and read_transcript(path)[1].messages == [*before, {"role": "user", "content": "next"}]


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[]",
        b'{"turn": "x"}',
        b'{"turn": 9, "message": {"role": "root", "content": ""}}',
        b'{"turn": 9, "message": {"role": "user", "content": [1]}}',
        b'{"turn": 9, "message": {"role": "assistant", "content": "", "tool_calls": [7]}}',
        b'{"turn": 9, "usage": {"read": "many"}}',
        b'{"turn": 9, "begin": 5}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_used_up_to_the_damage_and_the_rest_is_kept(tmp_path, line):
    id, _ = first_session(tmp_path)
    path = store(tmp_path).path(id)
    whole = path.read_bytes()
    path.write_bytes(whole + line + b"\n" + b'{"turn": 9}\n')
    transcript, problem = store(tmp_path).load(id)
    transcript.close()
    assert "line " in problem and str(path.with_suffix(".damaged")) in problem
    assert path.read_bytes() == whole and path.with_suffix(".damaged").read_bytes().startswith(line)


def test_a_link_or_a_file_of_another_kind_is_no_transcript(tmp_path):
    id, _ = first_session(tmp_path)
    path = store(tmp_path).path(id)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="symbolic link"):
        store(tmp_path).load(id)
    path.unlink()
    path.write_text("hello\n")
    with pytest.raises(UsageError, match="no transcript"):
        store(tmp_path).load(id)


def test_a_full_disk_ends_the_task_and_leaves_whole_records(tmp_path, monkeypatch):
    async def use(session, tool):
        monkeypatch.setattr(os, "fdatasync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left")))
        return await events_of(session), session._transcript.path

    events, path = session_of(tmp_path, ScriptedModel([DONE]), use)
    assert end_of(events).status == "failed" and "No space left" in end_of(events).text
    assert not path.exists() or path.read_bytes().endswith(b"\n")


# -- other processes

HOLD = """
import sys
from pathlib import Path
from a3b.agent.sessions import ProjectSessions
with ProjectSessions(Path(sys.argv[1]), Path(sys.argv[2])).held(sys.argv[3]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    id, _ = first_session(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "home"), str(tmp_path / "project"), id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield id, process
        process.kill()


def test_a_session_that_another_process_has_open_is_not_opened_twice(tmp_path, holder):
    id, process = holder
    with pytest.raises(UsageError, match=f"open in process {process.pid}"):
        session_of(tmp_path, ScriptedModel([DONE]), lambda session, _: events_of(session), resume=id)


def test_a_second_session_in_a_directory_is_told(tmp_path, holder):
    id, process = holder

    async def use(session, tool):
        return session.notices

    notices = session_of(tmp_path, ScriptedModel([DONE]), use)
    assert any(id in notice.text and str(process.pid) in notice.text for notice in notices)


def test_a_session_is_free_once_its_process_was_killed(tmp_path, holder):
    id, process = holder
    process.kill()
    process.wait()
    events = session_of(tmp_path, ScriptedModel([DONE]), lambda session, _: events_of(session), resume=id)
    assert end_of(events).status == "done" and store(tmp_path).open_elsewhere() == []


# -- forks


def test_a_fork_goes_on_from_the_end_of_a_turn(tmp_path):
    id, sent = first_session(tmp_path)
    fork = store(tmp_path).fork(id, 1)
    model = ScriptedModel([DONE])
    session_of(tmp_path, model, lambda session, _: events_of(session, "Rather z."), resume=fork)
    messages = model.bodies[0]["messages"]
    assert messages[:-1] == sent[: len(messages) - 1] and messages[-2]["content"] == "noted a"
    assert "a fork of an earlier one, up to its turn 1" in messages[-1]["content"]
    assert [(node.kind, node.parent) for node in store(tmp_path).family(id)] == [("session", None), ("fork", id)]


def test_a_fork_of_a_turn_that_does_not_exist_is_refused(tmp_path):
    id, _ = first_session(tmp_path)
    with pytest.raises(UsageError, match="has turns 1 to 3"):
        store(tmp_path).fork(id, 4)


def test_a_fork_reads_nothing_again(tmp_path):
    model = ScriptedModel([note("a"), note("b"), DONE])

    async def use(session, tool):
        await events_of(session)
        options = replace(session.options, resume=session.fork(2))
        async with open_session(options, None, [NotesTool()]) as fork:
            return [event.recomputed for event in await events_of(fork) if hasattr(event, "recomputed")]

    assert session_of(tmp_path, model, use) == [0]


def test_calls_of_a_whole_conversation_need_no_closing(tmp_path):
    id, _ = first_session(tmp_path)
    transcript, _ = store(tmp_path).load(id)
    assert close_calls(transcript) == 0
    transcript.close()


def test_a_server_that_is_not_there_is_named(tmp_path):
    async def work():
        options = AgentOptions(tmp_path, tmp_path / "home", "http://127.0.0.1:9", tools=())
        async with open_session(options, None):
            pass

    with pytest.raises(Exception, match="nobody answers there"):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("begun", "now", "told"),
    [
        ("native positions", "YaRN factor 2", True),
        ("YaRN factor 2", "native positions", True),
        ("native positions", "native positions", False),
        ("", "YaRN factor 2", False),  # of an earlier version, or another server
        ("YaRN factor 2", "", False),
    ],
)
def test_a_session_that_goes_on_with_other_positions_is_told(tmp_path, begun, now, told):
    async def notices(session, _):
        return [notice.text for notice in session.notices if "this session began with" in notice.text]

    id, _ = first_session(tmp_path, positions=begun)
    said = session_of(tmp_path, ScriptedModel([DONE], positions=now), notices, resume=id)
    assert said == [f"this session began with {begun}, and the server now has {now}: all of it is read again"] * told
