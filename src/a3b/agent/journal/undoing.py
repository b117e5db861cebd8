"""Carries an undo out, as its records have it; also what a kill left of one. Enter at `carry_out`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from a3b.agent.journal.beneath import Beneath, split
from a3b.agent.journal.changes import PathChange
from a3b.agent.journal.entries import DIRECTORY, PathState, is_same
from a3b.agent.journal.ledger import Ledger
from a3b.agent.journal.restore import Restorer
from a3b.agent.journal.scan import MODES
from a3b.agent.journal.steps import JournalStep, begin_record, item_records, renames_record
from a3b.agent.journal.undo_plan import CHANGED_SINCE, Rename, Trouble, UndoPlan


def plan_records(step: JournalStep, plan: UndoPlan) -> list[dict[str, Any]]:
    """What is recorded before the first file is touched."""
    records = [begin_record(step), *item_records("plan", step.number, plan.items)]
    return [*records, renames_record(step.number, plan.renames)] if plan.renames else records


def carry_out(ledger: Ledger, tree: Beneath, step: JournalStep) -> list[Trouble]:
    """Does what is left to do of a recorded undo. Returns the paths that are not as they should be."""
    work = Restorer(tree, ledger.contents, f".a3b-undo-{step.writer}")
    work.clean(item.path for item in step.plan)
    expected = _moved(ledger.state.files, step.renames)
    work.rename(step.renames)
    tree.forget()
    _close(tree, expected, [item.path for item in step.plan])
    ledger.see(tree, step.number)
    left = []
    for path, after in _wanted(step, ledger.state.files):
        now = ledger.state.files.get(path)
        if is_same(now, after):
            continue
        if now is None or is_same(now, expected.get(path)) or _is_opened(now, after):
            left.append(PathChange(path, now, after))
        else:
            work.troubles.append(Trouble(path, CHANGED_SINCE))
    work.restore(left)
    tree.forget()
    ledger.see(tree, step.number)
    return work.troubles


def _is_opened(now: PathState, after: PathState | None) -> bool:
    """Whether this is a directory whose permissions a kill left as they were while files in it went back. All else of a
    directory is what is in it, and that is looked at by itself."""
    return now.kind == DIRECTORY and (after is None or after.kind == DIRECTORY)


def _close(tree: Beneath, expected: Mapping[str, PathState], paths: Iterable[str]) -> None:
    """Takes from directories above the paths the permissions that an undo had given itself before a kill."""
    for parent in {split(path)[0] for path in paths}:
        known = expected.get(parent)
        if known is None or known.kind != DIRECTORY:
            continue
        with suppress(OSError):
            found = os.fstat(handle := tree.directory(parent))
            if found.st_ino == known.inode and found.st_mode & MODES == known.mode | 0o700:
                os.fchmod(handle, known.mode)


def _wanted(step: JournalStep, files: Mapping[str, PathState]) -> list[tuple[str, PathState | None]]:
    """The paths of the plan with what shall be there; what was made in a directory that moved back came along."""
    out = {item.path: item.after for item in step.plan}
    for move in step.renames:
        if (there := files.get(move.target)) is not None and there.inode == move.inode:
            for path, after in list(out.items()):
                if after is None and path.startswith(f"{move.source}/"):
                    out.setdefault(move.target + path[len(move.source) :], None)
    return sorted(out.items())


def _moved(files: Mapping[str, PathState], renames: Sequence[Rename]) -> dict[str, PathState]:
    """The files as they are once the renames are done."""
    out = dict(files)
    for move in renames:
        found = out.get(move.source)
        if found is None or found.inode != move.inode or move.target in out:
            continue
        for path in [path for path in out if f"{path}/".startswith(f"{move.source}/")]:
            out[move.target + path[len(move.source) :]] = out.pop(path)
    return out


def end_undo(ledger: Ledger, number: int, is_complete: bool) -> None:
    """Records the end: the steps it took back are undone, those that an undo had taken back stand again."""
    steps = ledger.state.steps
    undone = []
    for other in (steps[n] for n in steps[number].undoes if n in steps):
        undone.append([other.number, "undone" if is_complete else "partly"])
        undone += [[n, ""] for n in other.undoes]
    ledger.add([{"type": "end", "step": number, "cut": False, "undone": undone}], is_final=True)
