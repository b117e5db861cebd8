"""Carries an undo out, as its records have it; also what a kill left of one. Enter at `carry_out`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from a3b.agent.journal.beneath import Beneath
from a3b.agent.journal.changes import PathChange
from a3b.agent.journal.entries import PathState, is_same
from a3b.agent.journal.ledger import Ledger
from a3b.agent.journal.restore import Restorer
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
    ledger.see(tree, step.number)
    left = []
    for path, after in _wanted(step, ledger.state.files):
        now = ledger.state.files.get(path)
        if is_same(now, after):
            continue
        if now is None or is_same(now, expected.get(path)):
            left.append(PathChange(path, now, after))
        else:
            work.troubles.append(Trouble(path, CHANGED_SINCE))
    work.restore(left)
    tree.forget()
    ledger.see(tree, step.number)
    return work.troubles


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
