"""What is forgotten is nowhere any more; what is not stays."""

from __future__ import annotations

import os
import subprocess

import pytest

from a3b.agent.journal.journal import Journal
from a3b.agent.recall.forgetting import all_of, answers_of, forget_sessions
from a3b.agent.recall.search_index import SearchIndex
from a3b.errors import UsageError
from tests.support.past_sessions import past_session, sessions_in

WORD = "trampoline"
TURN = {
    "task": f"the {WORD}",
    "thinking": f"{WORD}s",
    "answer": f"a {WORD}",
    "call": ("bash", '{"command": "echo trampoline"}'),
    "result": f"{WORD}!",
}


def everything(sessions):
    """All bytes that are kept of all projects."""
    place = sessions.place.parent.parent
    return b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def changed(sessions, session, script):
    journal = Journal(sessions.place / "journal", sessions.workspace, session)
    journal.begin(f"bash: {script}")
    subprocess.run(["bash", "-c", script], cwd=sessions.workspace, check=True)
    journal.finish()
    journal.close()


def test_the_words_of_a_forgotten_session_are_nowhere(tmp_path):
    sessions = sessions_in(tmp_path)
    id, other = past_session(sessions, TURN), past_session(sessions, {"task": "another session"})
    changed(sessions, id, f"echo {WORD} > notes")
    changed(sessions, other, "echo other > other")
    sessions.path(id).with_suffix(".damaged").write_text(WORD)
    (sessions.place / "lines").write_text(f"\n# 2026\n+the {WORD}\n\n# 2027\n+another\n+session\n")
    SearchIndex(sessions).search(WORD)
    assert WORD.encode() in everything(sessions)
    gone = forget_sessions(sessions, [id])
    assert (gone.ids, gone.steps) == ((id,), 1)
    assert WORD.encode() not in everything(sessions)
    assert SearchIndex(sessions).search(WORD).matches == ()
    assert WORD.encode() not in everything(sessions)
    assert [match.session for match in SearchIndex(sessions).search("another").matches] == [other]
    assert (sessions.workspace / "notes").read_text() == f"{WORD}\n"
    assert (sessions.place / "lines").read_text() == "\n# 2027\n+another\n+session\n"


def test_all_sessions_of_a_directory_are_forgotten_and_no_others(tmp_path):
    sessions, elsewhere = sessions_in(tmp_path), sessions_in(tmp_path, "other")
    past_session(sessions, TURN)
    past_session(sessions_in(tmp_path, api_key="another"), TURN)
    kept = past_session(elsewhere, {"task": "kept"})
    id = past_session(sessions, TURN)
    changed(sessions, id, f"echo {WORD} > notes")
    (sessions.place / "lines").write_text(WORD)
    (sessions.place / "approvals.json").write_text("{}")
    assert len(forget_sessions(sessions, None).ids) == 3
    assert WORD.encode() not in everything(sessions)
    assert sessions.ids() == []
    assert elsewhere.ids() == [kept]
    assert (sessions.place / "approvals.json").exists()


def test_a_session_that_is_open_is_not_forgotten(tmp_path):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, TURN)
    with sessions.held(id), pytest.raises(UsageError, match="is open"):
        forget_sessions(sessions, [id])
    assert sessions.ids() == [id]


def test_forks_are_named_before_they_are_forgotten_and_sub_agents_go_along(tmp_path):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, TURN)
    child = sessions.create("sub-agent", id, 1)
    child.close()
    assert all_of(sessions, [id], with_forks=False) == [id, child.head.id]
    fork = sessions.fork(id)
    with pytest.raises(UsageError, match=fork):
        all_of(sessions, [id], with_forks=False)
    chosen = all_of(sessions, [id], with_forks=True)
    assert sorted(chosen) == sorted([id, child.head.id, fork])
    forget_sessions(sessions, chosen)
    assert WORD.encode() not in everything(sessions)


@pytest.mark.parametrize("step", range(6))
def test_what_a_kill_left_is_forgotten_by_the_same_command(tmp_path, step, monkeypatch):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, TURN)
    changed(sessions, id, f"echo {WORD} > notes")
    SearchIndex(sessions).search(WORD)
    calls, unlink = [], os.unlink

    def killed(path, *args, **named):
        calls.append(path)
        if len(calls) == step + 1:
            raise KeyboardInterrupt
        return unlink(path, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        try:
            forget_sessions(sessions, [id])
        except KeyboardInterrupt:
            assert sessions.ids() in ([id], [])
    if sessions.ids():
        forget_sessions(sessions, [id])
    assert WORD.encode() not in everything(sessions)


def test_answers_are_told_apart_from_copies_of_a_parent(tmp_path):
    sessions = sessions_in(tmp_path)
    id = past_session(sessions, {"task": "one", "answer": "first"}, {"task": "two", "answer": "second"})
    fork = sessions.fork(id)
    transcript, _ = sessions.load(fork)
    transcript.say({"role": "assistant", "content": "third"})
    transcript.close()
    ((whole, own),) = answers_of(sessions.path(id))
    assert [whole[place]["content"] for place in own] == ["first", "second"]
    _, (whole, own) = answers_of(sessions.path(fork))
    assert [whole[place]["content"] for place in own] == ["third"]
