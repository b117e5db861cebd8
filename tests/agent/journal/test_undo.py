"""What `/undo` brings back, what it leaves alone, and what it says."""

from __future__ import annotations

import os

import pytest

from a3b.agent.journal.git_head import git_head
from a3b.agent.journal.journal import Journal, forget_journal
from a3b.agent.journal.scan import entry_of, is_unchanged
from a3b.errors import JournalError
from tests.support.file_trees import shell, tree_of


@pytest.fixture
def work(tmp_path):
    directory = tmp_path / "work"
    (directory / "src").mkdir(parents=True)
    (directory / "src/calc.py").write_text("def add(a, b):\n    return a - b\n")
    (directory / "notes").write_text("mine\n")
    return directory


@pytest.fixture
def journal(tmp_path, work):
    journal = Journal(tmp_path / "journal", work)
    yield journal
    journal.close()


def step(journal, work, script, **named):
    journal.begin(f"bash: {script}", **named)
    shell(work, script)
    return [str(change) for change in journal.finish().changes]


def test_finish_says_what_changed(journal, work):
    shell(work, "mkdir moved empty; echo 1 > moved/one; echo 2 > two; ln -s two link")
    assert step(journal, work, "mv moved here; echo 3 > two; ln -sf notes link; chmod 700 notes; rm src/calc.py") == [
        "moved -> here",
        "changed link",
        "mode notes",
        "removed src/calc.py",
        "changed two",
    ]


def test_a_call_that_changes_nothing_is_no_step(journal, work):
    assert step(journal, work, "cat notes; touch notes") == []
    assert journal.steps() == []


def test_a_new_directory_where_one_was_removed_is_not_called_a_move(journal, work):
    shell(work, "mkdir one")
    assert step(journal, work, "rmdir one; mkdir two") == ["removed one", "created two"]


def test_undo_takes_back_the_calls_of_the_last_turn(journal, work):
    step(journal, work, "echo 1 > one", turn=1)
    before = tree_of(work)
    step(journal, work, "echo 2 > one", turn=2)
    step(journal, work, "echo 3 > two", turn=2)
    outcome = journal.undo()
    assert [s.label for s in outcome.steps] == ["bash: echo 3 > two", "bash: echo 2 > one"]
    assert tree_of(work) == before


def test_a_file_that_the_user_changed_since_stays_and_is_told(journal, work):
    step(journal, work, "echo agent > notes; echo agent > src/new")
    (work / "notes").write_text("agent, and more of mine\n")
    outcome = journal.undo()
    assert [str(trouble) for trouble in outcome.conflicts] == ["notes: changed since by somebody else"]
    assert (work / "notes").read_text() == "agent, and more of mine\n"
    assert not (work / "src/new").exists()


def test_force_overwrites_and_can_itself_be_taken_back(journal, work):
    step(journal, work, "echo agent > notes")
    (work / "notes").write_text("more of mine\n")
    assert journal.undo().conflicts
    assert not journal.undo(force=True).conflicts
    assert (work / "notes").read_text() == "mine\n"
    journal.redo()
    assert (work / "notes").read_text() == "more of mine\n"


def test_what_the_user_wrote_between_two_steps_survives_their_undo(journal, work):
    step(journal, work, "echo one > notes")
    (work / "notes").write_text("typed\n")
    step(journal, work, "echo two > notes")
    outcome = journal.undo(2)
    assert [trouble.path for trouble in outcome.conflicts] == ["notes"]
    assert (work / "notes").read_text() == "typed\n"


def test_undo_leaves_the_files_of_a_user_in_a_directory_of_the_agent(journal, work):
    step(journal, work, "mkdir made; echo 1 > made/one")
    (work / "made/mine").write_text("typed")
    outcome = journal.undo()
    assert [trouble.path for trouble in outcome.troubles] == ["made"]
    assert os.listdir(work / "made") == ["mine"]


def test_git_s_own_files_move_back_with_their_directory(journal, work):
    shell(work, "mkdir -p lib/.git; echo ref > lib/.git/HEAD; echo 1 > lib/one")
    before = tree_of(work)
    step(journal, work, "mv lib other; echo 2 > other/one; echo 3 > other/three")
    assert not journal.undo().troubles
    assert tree_of(work) == before


def test_git_s_own_files_are_never_taken_back(journal, work):
    shell(work, "mkdir .git; echo old > .git/HEAD")
    step(journal, work, "echo new > .git/HEAD; echo 1 > one")
    journal.undo()
    assert (work / ".git/HEAD").read_text() == "new\n"
    assert not (work / "one").exists()


def test_each_session_undoes_its_own_steps(tmp_path, journal, work):
    step(journal, work, "echo 1 > one")
    other = Journal(tmp_path / "journal", work, session="other")
    step(other, work, "echo 2 > two")
    assert [s.session for s in journal.steps()] == ["", "other"]
    journal.undo()
    assert not (work / "one").exists()
    assert (work / "two").exists()
    with pytest.raises(JournalError, match="nothing to undo"):
        journal.undo(earlier=True)  # the other session is open
    other.close()


def test_earlier_begins_with_what_this_session_has_left(tmp_path, work):
    old = Journal(tmp_path / "journal", work, session="old")
    step(old, work, "echo 1 > one")
    old.close()
    journal = Journal(tmp_path / "journal", work, session="now")
    step(journal, work, "echo 2 > two")
    assert [journal.undo(earlier=True).steps[0].label for _ in range(2)] == ["bash: echo 2 > two", "bash: echo 1 > one"]
    journal.close()


def test_steps_of_an_earlier_session_are_named_and_undone_on_demand(tmp_path, work):
    earlier = Journal(tmp_path / "journal", work, session="earlier")
    step(earlier, work, "echo 1 > one")
    earlier.close()
    journal = Journal(tmp_path / "journal", work, session="now")
    with pytest.raises(JournalError, match="'bash: echo 1 > one' of .*; '/undo earlier' takes it back"):
        journal.undo()
    journal.undo(earlier=True)
    assert not (work / "one").exists()
    journal.close()


def test_a_call_of_another_session_that_runs_is_left_open(tmp_path, journal, work):
    journal.begin("slow")
    other = Journal(tmp_path / "journal", work, session="other")
    step(other, work, "echo 2 > two")
    other.close()
    shell(work, "echo 1 > one")
    assert [str(change) for change in journal.finish().changes] == ["created one"]


def test_background_jobs_get_a_step_of_their_own(journal, work):
    step(journal, work, "echo 1 > one")
    shell(work, "echo 2 > two")
    journal.begin("read", is_background=True)
    journal.finish()
    assert [s.label for s in journal.steps()] == ["bash: echo 1 > one", "between calls, while background jobs ran"]
    journal.undo()
    assert not (work / "two").exists()


def test_undo_is_refused_while_a_call_runs(journal, work):
    step(journal, work, "echo 1 > one")
    journal.begin("slow")
    with pytest.raises(JournalError, match="a call is running"):
        journal.undo()


def test_changed_since_compares_with_what_is_there_now(journal, work):
    step(journal, work, "echo 1 > one; echo x > notes")
    number = journal.steps()[0].number
    (work / "notes").write_text("mine\n")
    assert [str(change) for change in journal.changed_since(number)] == ["created one"]


def test_a_link_out_of_the_workspace_is_not_followed(tmp_path, journal, work):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    step(journal, work, f"echo 1 > src/one; ln -s {outside} out")
    shell(work, f"rm -r src; ln -s {outside} src; echo 1 > {outside}/one")
    journal.undo(force=True)
    assert sorted(os.listdir(outside)) == ["file", "one"]


def test_a_directory_without_write_permission_is_put_back_as_it_was(journal, work):
    shell(work, "mkdir closed; echo 1 > closed/one; chmod 555 closed")
    before = tree_of(work)
    step(journal, work, "chmod 755 closed; rm closed/one; chmod 555 closed")
    journal.undo()
    assert tree_of(work) == before


def test_a_file_that_changed_right_before_a_look_is_read_again(work):
    state = os.stat(work / "notes")  # a further change may leave it the same times
    assert not is_unchanged(entry_of("f", state, "!large"), state)


def test_forgetting_removes_everything_that_was_kept(tmp_path, work):
    journal = Journal(tmp_path / "journal", work)
    step(journal, work, "echo 1 > one")
    journal.close()
    assert forget_journal(tmp_path / "journal", work) == 1
    assert not (tmp_path / "journal").exists()


def test_forgetting_a_session_leaves_the_steps_of_others(tmp_path, work):
    for name in ("one", "two"):
        journal = Journal(tmp_path / "journal", work, session=name)
        step(journal, work, f"echo words-of-{name} > {name}; echo {name}-changed > notes")
        journal.close()
    shell(work, "rm one")
    assert forget_journal(tmp_path / "journal", work, {"one"}) == 1
    kept = b"".join(path.read_bytes() for path in (tmp_path / "journal").rglob("*") if path.is_file())
    assert b"words-of-one" not in kept
    journal = Journal(tmp_path / "journal", work, session="three")
    assert [s.session for s in journal.steps()] == ["two"]
    assert step(journal, work, "echo 3 > three") == ["created three"]
    journal.undo()
    journal.undo(earlier=True)
    assert (work / "notes").read_text() == "one-changed\n"
    assert not (work / "two").exists()
    journal.close()


def test_what_is_kept_is_private(tmp_path, journal, work):
    step(journal, work, "echo 1 > one")
    for directory, _, files in os.walk(tmp_path / "journal"):
        assert os.stat(directory).st_mode & 0o777 == 0o700
        assert {os.stat(os.path.join(directory, name)).st_mode & 0o777 for name in files} <= {0o600}


GIT = "git -c user.name=a -c user.email=a@b "


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("git checkout -q other", "was on main at {main} and is on other at {other}"),
        (GIT + "commit -qam second", "was on main at {main} and is on main at "),
        ("git pack-refs --all; git checkout -q --detach other", "is on no branch at {other}"),
        ("git switch -q other; git switch -q main; rm -r src", ""),
    ],
)
def test_undo_says_where_git_is_now_since_it_moves_no_branch_back(tmp_path, work, script, named):
    shell(work, f"git init -q -b main; git add .; {GIT}commit -qm first; git checkout -qb other; echo x > notes")
    shell(work, f"git add .; {GIT}commit -qm other; git checkout -q main; echo more >> notes; git stash -q 2>&1; true")
    commits = {name: (work / ".git/refs/heads" / name).read_text()[:8] for name in ("main", "other")}
    journal = Journal(tmp_path / "journal", work)
    journal.begin("bash", turn=1)
    shell(work, f"echo again >> src/calc.py; {script}")
    journal.finish()
    told = [trouble.why for trouble in journal.undo().troubles if trouble.path == ".git"]
    journal.close()
    assert len(told) == bool(named) and named.format(**commits) in "".join(told)


def test_where_git_is_is_never_read_out_of_a_secret(tmp_path, work):
    (tmp_path / "secret").write_text("hunter2hunter2")
    (work / ".git/refs/heads").mkdir(parents=True)
    (work / ".git/refs/heads/main").symlink_to(tmp_path / "secret")
    for head in ("ref: refs/heads/main", "ref: refs/../../../secret"):
        (work / ".git/HEAD").write_text(head)
        assert git_head(work) == ""
