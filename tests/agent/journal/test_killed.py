"""A session that is killed leaves a journal with which everything can still be undone."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from a3b.agent.journal.journal import Journal
from a3b.errors import JournalError
from tests.support.file_trees import random_script, shell, tree_of

pytestmark = pytest.mark.slow  # each case is a process


def run(tmp_path, at):
    work = tmp_path / "work"
    work.mkdir()
    shell(work, random_script(random.Random(3), work, 20))
    before = tree_of(work)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_journal", tmp_path / "journal", work, "5", str(at)],
        capture_output=True,
        text=True,
        check=False,
    )
    return work, before, done


@pytest.fixture(scope="module")
def num_changes(tmp_path_factory):
    _, _, done = run(tmp_path_factory.mktemp("whole"), 0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("place", range(24, 40, 2))
def test_an_undo_that_is_killed_while_it_works_in_directories_is_completed(tmp_path, num_changes, place):
    """With the permissions that it gave itself there."""
    work, before, done = run(tmp_path, num_changes - place)
    assert done.returncode == -9, done.stderr
    journal = Journal(tmp_path / "journal", work)
    with pytest.raises(JournalError):
        for _ in range(9):
            assert not journal.undo().conflicts
    assert tree_of(work) == before
    journal.close()


@pytest.mark.parametrize("place", range(20))
def test_after_a_kill_all_steps_can_be_undone(tmp_path, num_changes, place):
    at = random.Random(place).randint(1, num_changes * 9 // 10)  # another run may have some fewer
    work, before, done = run(tmp_path, at)
    assert done.returncode == -9, done.stderr
    told = []
    journal = Journal(tmp_path / "journal", work, tell=told.append)
    with pytest.raises(JournalError):
        for _ in range(9):
            outcome = journal.undo()
            assert (outcome.conflicts, outcome.troubles) == ((), ())
    assert tree_of(work) == before
    assert not [text for text in told if "damaged" in text or "aside" in text]
    journal.close()
