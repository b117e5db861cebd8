"""Whatever a shell does to a tree, undo brings it back: content, permissions, links, empty directories."""

from __future__ import annotations

import random

import pytest

from a3b.agent.journal.journal import Journal
from a3b.errors import JournalError
from tests.support.file_trees import random_script, shell, tree_of

pytestmark = pytest.mark.slow  # some hundred shells


@pytest.mark.parametrize("seed", range(8))
def test_undoing_every_step_gives_the_tree_before_each(tmp_path, seed):
    rng = random.Random(seed)
    work = tmp_path / "work"
    work.mkdir()
    shell(work, random_script(rng, work, 25))
    journal = Journal(tmp_path / "journal", work)
    trees = [tree_of(work)]
    for n in range(6):
        journal.begin(f"step {n}")
        shell(work, random_script(rng, work, rng.randint(1, 12)))
        if journal.finish().step is not None:
            trees.append(tree_of(work))
    after = trees.pop()
    for num, before in enumerate(reversed(trees)):
        outcome = journal.undo()
        assert (outcome.conflicts, outcome.troubles) == ((), ())
        assert tree_of(work) == before, num
    with pytest.raises(JournalError):
        journal.undo()
    for _ in trees:
        journal.redo()
    assert tree_of(work) == after
    journal.close()


@pytest.mark.parametrize("seed", range(8, 12))
def test_several_steps_are_undone_at_once(tmp_path, seed):
    rng = random.Random(seed)
    work = tmp_path / "work"
    work.mkdir()
    shell(work, random_script(rng, work, 25))
    before = tree_of(work)
    journal = Journal(tmp_path / "journal", work)
    for n in range(4):
        journal.begin(f"step {n}", turn=7)
        shell(work, random_script(rng, work, 8))
        journal.finish()
    outcome = journal.undo()
    assert (outcome.conflicts, outcome.troubles) == ((), ())
    assert tree_of(work) == before
    journal.redo()
    journal.undo()
    assert tree_of(work) == before
    journal.close()
