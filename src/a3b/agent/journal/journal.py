"""What the agent's calls changed in the workspace, and the way back: `begin` before a call, `finish` after it, `undo`.

The workspace is looked at from outside, whatever changed it: a tool, a shell command or what that left running.
Contents are kept in a private directory, and records say which steps changed what; after a kill at any moment the next
journal finishes what was begun. A journal belongs to a workspace; sessions that share it see each other's steps. Git's
own files are never looked at. Enter at `Journal`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from a3b.agent.journal.beneath import Beneath
from a3b.agent.journal.changes import FileChange, changes_of, joined, real
from a3b.agent.journal.diffs import WorkspaceDiff, diff_of
from a3b.agent.journal.git_head import git_head
from a3b.agent.journal.ledger import Ledger
from a3b.agent.journal.scan import JournalBounds
from a3b.agent.journal.steps import BETWEEN, CALL, UNDO, JournalStep
from a3b.agent.journal.undo_plan import CHANGED_SINCE, Trouble, make_plan
from a3b.agent.journal.undoing import carry_out, end_undo, plan_records
from a3b.errors import JournalError
from a3b.files import read_bytes

BACKGROUND = "between calls, while background jobs ran"


@dataclass(frozen=True)
class StepChanges:
    """What `finish` found. step: None if nothing changed."""

    step: int | None
    changes: tuple[FileChange, ...]


@dataclass(frozen=True)
class UndoOutcome:
    """What an undo did, or would do. steps: newest first; restored: the changes that it made; conflicts: paths left as
    they are because somebody else changed them since, which `force` overwrites; troubles: paths that could not be put
    back."""

    steps: tuple[JournalStep, ...]
    restored: tuple[FileChange, ...] = ()
    conflicts: tuple[Trouble, ...] = ()
    troubles: tuple[Trouble, ...] = ()


class Journal:
    """The journal of a workspace, for one session. Calls block; the first reads the whole workspace.

    tell: gets what the user should hear. Raises JournalError if the directory cannot be used."""

    def __init__(
        self,
        directory: Path,
        workspace: Path,
        session: str = "",
        bounds: JournalBounds | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.session, self.tell = session, tell
        self._open: int | None = None
        self._ledger = Ledger(directory, workspace, bounds or JournalBounds(), tell)
        try:
            with self._used():
                pass
        except BaseException:
            self._ledger.mark.close()
            raise

    def close(self) -> None:
        """Lets go of the journal; a step that is open ends now."""
        try:
            self.finish()
        finally:
            self._ledger.mark.close()

    @contextmanager
    def _used(self) -> Iterator[Beneath]:
        with self._ledger.used() as tree:
            self._recover(tree)
            yield tree

    def _recover(self, tree: Beneath) -> None:
        """Ends the steps of sessions that were killed."""
        ledger = self._ledger
        for step in [step for step in ledger.state.steps.values() if step.is_open]:
            if step.number == self._open or ledger.mark.lives(step.writer) and step.writer != ledger.mark.token:
                continue
            if step.kind == UNDO:
                left = carry_out(ledger, tree, step)
                end_undo(ledger, step.number, not any(trouble.why == CHANGED_SINCE for trouble in left))
                self.tell(f"An undo that was cut short is complete now: {step.label}.")
                for trouble in left:
                    self.tell(f"Left as it is: {trouble}.")
                continue
            ledger.see(tree, step.number)
            ledger.add([{"type": "end", "step": step.number, "cut": True, "undone": []}], is_final=True)
            if step.items:
                self.tell(
                    f"The call {step.label!r} was cut short; what has changed until now ({len(step.items)} paths) "
                    "counts to it, and can be undone."
                )

    # steps

    def begin(self, label: str, turn: int = 0, is_background: bool = False) -> int:
        """Records that a call begins; returns the number of its step.

        Changes since the last look belong to no step, or, if background jobs of this session run (`is_background`), to
        a step of their own."""
        self.finish()
        with self._used() as tree:
            ledger = self._ledger
            if is_background:
                between = ledger.new_step(BACKGROUND, self.session, turn, BETWEEN)
                ledger.begin(between)
                ledger.see(tree, between.number)
                ledger.add([{"type": "end", "step": between.number, "cut": False, "undone": []}])
            else:
                ledger.see(tree)
            step = ledger.new_step(label, self.session, turn, CALL)
            step.head = git_head(ledger.workspace)
            ledger.begin(step)
            self._open = step.number
        return step.number

    def finish(self) -> StepChanges:
        """Notes what the call changed; nothing if none has begun."""
        number = self._open
        if number is None:
            return StepChanges(None, ())
        with self._used() as tree:
            ledger = self._ledger
            self._open = None
            ledger.see(tree, number)
            step = ledger.state.steps[number]
            ledger.add([{"type": "end", "step": number, "cut": False, "undone": []}], is_final=True)
            ledger.trim()
        return StepChanges(number if step.items else None, tuple(step.changes))

    def steps(self) -> list[JournalStep]:
        """The steps that are known, oldest first; what changed nothing is not among them."""
        with self._used():
            return [step for step in self._ledger.state.steps.values() if not step.is_open]

    def changed_since(self, number: int) -> list[FileChange]:
        """How the paths that changed in a step or after it differ now from what they were before it."""
        with self._used() as tree:
            self._ledger.see(tree)
            state = self._ledger.state
            items = joined(item for step in state.steps.values() if step.number >= number for item in step.items)
            return changes_of(real(item._replace(after=state.files.get(item.path)) for item in items))

    def diff(self, session: str, path: str = "") -> WorkspaceDiff:
        """How files differ now from what they were before the first step of a session that changed them. path: only
        this file, or what lies in this directory."""
        with self._used() as tree:
            self._ledger.see(tree)
            state = self._ledger.state
            items = joined(item for step in state.steps.values() if step.session == session for item in step.items)
            items = [item._replace(after=state.files.get(item.path)) for item in items]
            wanted = [item for item in items if not path or f"{item.path}/".startswith(f"{path}/")]
            return diff_of(sorted(real(wanted)), self._ledger.contents)

    # undo

    def undo(self, steps: int | None = None, force: bool = False, earlier: bool = False) -> UndoOutcome:
        """Takes back the newest steps of this session that stand, None: those of its newest turn; earlier: also of
        sessions that have ended. An undo is a step too, so that `redo` takes it back.

        A path that somebody else changed since stays as it is, and is told; `force` overwrites it, also in steps that
        were taken back but for such paths. Raises JournalError if there is nothing to take back, or a call runs."""
        with self._used() as tree:
            self._ledger.see(tree)
            return self._undo(tree, self._chosen(steps, force, earlier), force)

    def redo(self, force: bool = False) -> UndoOutcome:
        """Takes back the last undo. Raises JournalError if a call has changed files since, or there was none."""
        with self._used() as tree:
            self._ledger.see(tree)
            steps = self._ledger.state.steps
            redone = {n for step in steps.values() for n in step.undoes}
            if force:
                redone -= {step.number for step in steps.values() if step.undone == "partly"}
            redos = {s.number for s in steps.values() if any(n in steps and steps[n].kind == UNDO for n in s.undoes)}
            standing = [s for s in steps.values() if not s.is_open and s.number not in redone | redos]
            if not standing or standing[-1].kind != UNDO:
                raise JournalError("nothing to redo: no undo came last")
            return self._undo(tree, [standing[-1]], force)

    def _chosen(self, steps: int | None, force: bool, earlier: bool) -> list[JournalStep]:
        if self._open is not None:
            raise JournalError("a call is running; stop it, or wait until it is done, then undo")
        states = ("", "partly") if force else ("",)
        standing = [
            step
            for step in self._ledger.state.steps.values()
            if step.kind != UNDO and not step.is_open and step.undone in states
        ]
        mark = self._ledger.mark
        own = [step for step in standing if step.session == self.session]
        others = [step for step in standing if step.session != self.session and not mark.lives(step.writer)]
        standing = [step for step in standing if step in own or step in others] if earlier else own
        if not standing or (steps is not None and steps < 1):
            more = f"; {n:,} paths are not covered, the workspace has too many" if (n := self._ledger.left_out) else ""
            raise JournalError(_nothing(earlier, others) + more)
        last = standing[-1]
        if steps is None:
            turn = [s for s in standing if s.turn and (s.session, s.turn) == (last.session, last.turn)]
            return turn[::-1] or [last]
        return standing[-steps:][::-1]

    def _undo(self, tree: Beneath, chosen: Sequence[JournalStep], force: bool) -> UndoOutcome:
        ledger = self._ledger
        plan = make_plan([step.items for step in chosen], ledger.state.files, force)
        step = ledger.new_step(f"undo of {', '.join(s.label for s in chosen)}", self.session, 0, UNDO)
        step.undoes = tuple(s.number for s in chosen)
        ledger.add(plan_records(step, plan), is_final=True)
        step = ledger.state.steps[step.number]
        troubles = carry_out(ledger, tree, step)
        conflicts = (*plan.conflicts, *(t for t in troubles if t.why == CHANGED_SINCE))
        end_undo(ledger, step.number, not conflicts)
        ledger.trim()
        others = [t for t in troubles if t.why != CHANGED_SINCE]
        before, now = chosen[-1].head, git_head(ledger.workspace)
        if before and before != now:
            others.append(Trouble(".git", f"was on {before} and is on {now or 'none'}; git can take that back"))
        return UndoOutcome(tuple(chosen), tuple(step.changes), conflicts, tuple(others))


def _nothing(earlier: bool, others: Sequence[JournalStep]) -> str:
    if earlier or not others:
        return "nothing to undo: no call has changed files, or all of it is taken back"
    last = others[-1]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last.started))
    return (
        "nothing to undo: this session has changed no files, or all of it is taken back. The last change of an earlier "
        f"session is {last.label[:80]!r} of {when}; '/undo earlier' takes it back"
    )


def forget_journal(directory: Path, workspace: Path, sessions: Container[str] | None = None) -> int:
    """Removes what a journal has of sessions, None: all of it; the workspace stays as it is. Returns how many
    steps are gone. Raises JournalError."""
    if directory.is_symlink() or not directory.is_dir():
        return 0
    if sessions is None:
        num = _num_steps(directory / "records")
        shutil.rmtree(directory)
        return num
    ledger = Ledger(directory, workspace, JournalBounds(), lambda text: None)
    try:
        with ledger.used():
            return ledger.forget(sessions)
    finally:
        ledger.mark.close()


def _num_steps(records: Path) -> int:
    try:
        return read_bytes(records).count(b'{"type":"begin",')
    except OSError:
        return 0
