"""What is not watched or kept is said, and never restored wrongly."""

from __future__ import annotations

import os

import pytest

from a3b.agent.journal.journal import Journal
from a3b.agent.journal.scan import JournalBounds
from a3b.errors import JournalError
from tests.support.file_trees import shell, tree_of


@pytest.fixture
def work(tmp_path):
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def journal_of(tmp_path, work, **bounds):
    told = []
    return Journal(tmp_path / "journal", work, bounds=JournalBounds(**bounds), tell=told.append), told


def step(journal, work, script):
    journal.begin(script)
    shell(work, script)
    return journal.finish()


def test_a_large_file_is_named_and_its_loss_told(tmp_path, work):
    (work / "data.bin").write_bytes(b"x" * 2000)
    journal, told = journal_of(tmp_path, work, file_bytes=1000)
    changes = step(journal, work, "rm data.bin; echo 1 > one").changes
    assert [(change.path, change.is_kept) for change in changes if change.kind == "removed"] == [("data.bin", False)]
    assert told == ["Undo does not cover data.bin: it is larger than what is kept."]
    outcome = journal.undo()
    assert [str(trouble) for trouble in outcome.troubles] == [
        "data.bin: was removed and cannot be restored: it is larger than what is kept"
    ]
    assert os.listdir(work) == []
    journal.close()


def test_a_large_file_that_was_moved_is_moved_back(tmp_path, work):
    (work / "data.bin").write_bytes(b"x" * 2000)
    before = tree_of(work)
    journal, _ = journal_of(tmp_path, work, file_bytes=1000)
    step(journal, work, "mkdir there; mv data.bin there/other.bin")
    assert not journal.undo().troubles
    assert tree_of(work) == before
    journal.close()


@pytest.mark.parametrize(
    "script", ["mkdir node_modules", "mkdir env; touch env/pyvenv.cfg", "mkdir t; touch t/CACHEDIR.TAG"]
)
def test_installed_and_generated_directories_are_left_alone(tmp_path, work, script):
    journal, _ = journal_of(tmp_path, work)
    step(journal, work, f"{script}; cd */; echo 1 > thing; echo 1 > ../one")
    outcome = journal.undo()
    assert ["left as it is" in trouble.why for trouble in outcome.troubles] == [True]
    assert not (work / "one").exists()
    assert (next(work.iterdir()) / "thing").exists()
    journal.close()


def test_what_was_kept_once_stays_kept_whatever_marks_its_directory(tmp_path, work):
    shell(work, "mkdir src; echo 1 > src/one")
    before = tree_of(work)
    journal, _ = journal_of(tmp_path, work)
    step(journal, work, "touch src/CACHEDIR.TAG; rm src/one")
    journal.undo()
    assert tree_of(work) == before
    journal.close()


def test_paths_beyond_the_bound_are_counted_and_named(tmp_path, work):
    shell(work, "mkdir deep; touch a b c deep/one deep/two deep/three")
    journal, told = journal_of(tmp_path, work, entries=5)
    step(journal, work, "rm a")
    assert told == ["Undo does not cover 2 paths, such as deep/three: the workspace has more than 5."]
    journal.undo()
    assert (work / "a").exists()
    journal.close()


def test_small_files_are_kept_before_large_ones(tmp_path, work):
    (work / "large").write_bytes(b"l" * 800)
    (work / "small").write_bytes(b"s" * 300)
    journal, told = journal_of(tmp_path, work, kept_bytes=1000)
    step(journal, work, "rm large small")
    assert told == ["Undo does not cover large: no more room is given to kept files."]
    journal.undo()
    assert os.listdir(work) == ["small"]
    journal.close()


def test_the_oldest_steps_leave_when_there_is_no_more_room(tmp_path, work):
    journal, told = journal_of(tmp_path, work, store_bytes=10_000, kept_bytes=5_000)
    for n in range(12):
        step(journal, work, f"head -c 1500 /dev/zero | tr '\\0' {chr(97 + n)} > one")
    kept = sum(path.stat().st_size for path in (tmp_path / "journal/contents").rglob("*") if path.is_file())
    assert kept <= 10_000
    assert any("can no longer be undone" in text for text in told)
    num = len(journal.steps())
    assert 3 < num < 12
    journal.undo(num)
    assert (work / "one").read_text()[0] == chr(97 + 11 - num)
    journal.close()


def test_the_oldest_steps_leave_when_there_are_too_many(tmp_path, work):
    journal, _ = journal_of(tmp_path, work, steps=10)
    for n in range(14):
        step(journal, work, f"echo {n} > one")
    journal.close()
    journal, _ = journal_of(tmp_path, work, steps=10)
    assert 8 < len(journal.steps()) < 12
    journal.undo()
    assert (work / "one").read_text() == "12\n"
    journal.close()


def test_the_agent_s_own_files_in_a_home_directory_are_not_watched(tmp_path):
    home = tmp_path / "home"
    place = home / ".cache/a3b/agent/projects/abc/journal"
    place.mkdir(parents=True, mode=0o700)
    (home / "one").write_text("1")
    journal = Journal(place, home)
    assert [change.path for change in step(journal, home, "rm one; echo 1 > .cache/a3b/agent/x").changes] == ["one"]
    journal.close()


def test_a_pipe_does_not_block_and_its_loss_is_told(tmp_path, work):
    os.mkfifo(work / "pipe")
    journal, _ = journal_of(tmp_path, work)
    step(journal, work, "rm pipe")
    assert [trouble.path for trouble in journal.undo().troubles] == ["pipe"]
    journal.close()


def test_a_disk_without_room_is_told_and_nothing_is_restored_wrongly(tmp_path, work, monkeypatch):
    (work / "one").write_text("1")
    journal, told = journal_of(tmp_path, work)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("a3b.agent.journal.contents.ContentStore._write", full)
        journal.begin("step")
    shell(work, "rm one")
    journal.finish()
    assert "there was no room on the disk to keep it" in told[0]
    assert [trouble.path for trouble in journal.undo().troubles] == ["one"]
    journal.close()


def test_files_for_which_there_was_no_room_are_never_taken_for_new_ones(tmp_path, work):
    shell(work, "mkdir a z; echo 1 > a/one; echo 2 > a/two; echo mine > z/mine; echo mine > z/other")
    before = tree_of(work / "z")
    journal, _ = journal_of(tmp_path, work, entries=4)  # z is looked into, and has no room
    step(journal, work, "rm a/one a/two")
    journal.begin("next", is_background=True)
    journal.finish()
    journal.undo()
    with pytest.raises(JournalError, match="nothing to undo"):
        journal.undo()
    assert tree_of(work / "z") == before
    assert (work / "a/one").exists()
    journal.close()


def test_that_nothing_can_be_undone_is_said_with_what_is_not_covered(tmp_path, work):
    shell(work, "touch a b c")
    journal, _ = journal_of(tmp_path, work, entries=2)
    step(journal, work, "echo 1 > new")
    with pytest.raises(JournalError, match="nothing to undo: .*; 2 paths are not covered, the workspace has too many"):
        journal.undo()
    journal.close()
