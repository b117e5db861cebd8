"""The journal on disk and the workspace it is about, with one look at a time. Enter at `Ledger.used`.

Everything here runs under the journal's lock. A damaged journal is set aside, told, and begun anew: it must not keep
anybody from working."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from a3b.agent.journal.beneath import Beneath
from a3b.agent.journal.changes import difference, real
from a3b.agent.journal.contents import ContentStore
from a3b.agent.journal.entries import FILE, NOT_KEPT, UNWATCHED
from a3b.agent.journal.lock import JournalLock, WriterMark
from a3b.agent.journal.record_log import RecordLog
from a3b.agent.journal.scan import JournalBounds, look
from a3b.agent.journal.steps import JournalState, JournalStep, begin_record, file_records, item_records
from a3b.errors import JournalError
from a3b.files import private_directory

MANY_FILES, MANY_BYTES = 2_000, 32 << 20  # reading more than that is announced
LONG_RECORDS, MAX_RECORDS = 4 << 20, 32 << 20  # bytes from which on they are written anew, and old steps leave
EXAMPLES = 3
RECORDS, CONTENTS, LOCK, DAMAGED = "records", "contents", "lock", "damaged"


class Ledger:
    """state: what the records say; contents: what they refer to; mark: names this process as a writer.

    tell: gets what the user should hear. Raises JournalError if the directory cannot be used."""

    def __init__(self, directory: Path, workspace: Path, bounds: JournalBounds, tell: Callable[[str], None]):
        self.directory, self.workspace, self.bounds, self.tell = directory, workspace, bounds, tell
        self._told: set[str] = set()
        self.left_out = 0  # paths for which the last look had no room
        self._shortest = 0  # bytes of the records when they were last written anew
        self._lock = JournalLock(directory / LOCK)
        self._log, self.state = RecordLog(directory / RECORDS), JournalState(str(workspace))
        self._contents: ContentStore | None = None
        self._own = _own_places(directory, workspace)
        with self._trouble():
            private_directory(directory)
            with self._lock.held():
                self.mark = WriterMark(directory)

    @property
    def contents(self) -> ContentStore:
        if self._contents is None:
            self._contents = ContentStore(self.directory / CONTENTS)
        return self._contents

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.directory
            if not os.path.isdir(self.workspace):
                raise JournalError(f"{self.workspace} is gone: it is no directory any more") from None
            raise JournalError(
                f"{where}: {error.strerror or error}; the journal that undo needs cannot be kept there"
            ) from None

    @contextmanager
    def used(self) -> Iterator[Beneath]:
        """The workspace, while nobody else uses the journal, with all records of others taken in."""
        with self._trouble(), self._lock.held():
            self._read()
            with Beneath(self.workspace) as tree:
                yield tree

    def _read(self) -> None:
        if self._log.was_replaced():
            self._log, self.state = RecordLog(self._log.path), JournalState(str(self.workspace))
            self._contents = None
        try:
            for record in self._log.fresh():
                try:
                    self.state.take(record)
                except (ValueError, TypeError, KeyError, OverflowError) as error:
                    raise JournalError(f"{self._log.where()}: {error}") from None
        except JournalError as error:
            self._set_aside(str(error))
        except OSError as error:  # a link or a pipe in its place
            self._set_aside(f"{self._log.path}: {error.strerror}")
        if not self.state.has_begun:
            self._write_anew(0)

    def _write_anew(self, first: int) -> None:
        """Begins the file of records anew, without the steps before `first`."""
        self._log.replace(self.state.records(first))
        self._log, self.state = RecordLog(self._log.path), JournalState(str(self.workspace))
        for record in self._log.fresh():
            self.state.take(record)

    def _set_aside(self, why: str) -> None:
        place = self.directory / DAMAGED
        if place.is_symlink() or place.is_file():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        for name in (RECORDS, CONTENTS):
            if os.path.lexists(self.directory / name):
                os.rename(self.directory / name, place / name)
        self._log, self.state = RecordLog(self._log.path), JournalState(str(self.workspace))
        self._contents = None
        self.tell(f"{why}. Earlier steps cannot be undone; the journal was moved to {place}, and begins anew.")

    def add(self, records: Iterator[dict[str, object]] | list[dict[str, object]], is_final: bool = False) -> None:
        """Writes records, and follows them."""
        records = list(records)
        self._log.add(records, is_final)
        for record in records:
            self.state.take(record)

    def see(self, tree: Beneath, step: int = 0) -> None:
        """Looks at the workspace; what changed counts to `step`, 0: to nobody.

        Where a look left paths out, what was removed since makes room for them at the next, and they look like new
        ones: an undo would remove them. So nothing new counts to a step then."""
        was_left_out = self.left_out
        found = look(tree, self.state.files, self.contents, self.bounds, self._own, self._announce)
        items = difference(self.state.files, found.files)
        self.left_out = found.left_out
        self._tell_what_is_not_kept(found.left_out, found.example)
        if step:
            is_certain = not (was_left_out or found.left_out)
            counted = [item for item in real(items) if is_certain or item.before is not None]
            self.add(item_records("items", step, counted))
            paths = {item.path for item in counted}
            items = [item for item in items if item.path not in paths]
        self.add(file_records((item.path, item.after) for item in items))

    def _announce(self, files: int, num_bytes: int) -> None:
        if files > MANY_FILES or num_bytes > MANY_BYTES:
            self._tell_once(
                "reading", f"Reading {files:,} files ({num_bytes / 1e6:,.0f} MB), so that changes can be undone."
            )

    def _tell_what_is_not_kept(self, left_out: int, example: str) -> None:
        if left_out:
            self._tell_once(
                "left out",
                f"Undo does not cover {left_out:,} paths, such as {example}: the workspace has more than "
                f"{self.bounds.entries:,}.",
            )
        by_why: dict[str, list[str]] = {}
        for path, entry in self.state.files.items():
            if entry.content.startswith("!") and entry.kind in (FILE, UNWATCHED):
                by_why.setdefault(entry.content, []).append(path)
        for why, paths in by_why.items():
            if why not in ("!git", "!own", "!generated"):  # nobody expects these to come back
                more = f" and {len(paths) - EXAMPLES:,} more" if len(paths) > EXAMPLES else ""
                self._tell_once(why, f"Undo does not cover {', '.join(paths[:EXAMPLES])}{more}: {NOT_KEPT[why]}.")

    def _tell_once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.tell(text)

    def new_step(self, label: str, session: str, turn: int, kind: str) -> JournalStep:
        """A step that is yet to be recorded."""
        return JournalStep(self.state.last + 1, label[:400], session, turn, kind, time.time(), self.mark.token)

    def begin(self, step: JournalStep) -> None:
        self.add([begin_record(step)], is_final=True)

    def trim(self) -> None:
        """Lets the oldest steps go once there are too many, or too much is kept for them; told."""
        steps = [step for step in self.state.steps.values() if not step.is_open]
        first = steps[len(steps) - self.bounds.steps * 9 // 10].number if len(steps) > self.bounds.steps else 0
        is_full = self.contents.num_bytes > self.bounds.store_bytes
        if is_full:
            first = max(first, self._first_that_fits())
        if first or is_full or self._log.num_bytes > max(LONG_RECORDS, 2 * self._shortest):
            self._rewrite(first)
        if self._log.num_bytes > MAX_RECORDS and len(steps) > 1:
            self._rewrite(steps[len(steps) // 2].number)

    def _first_that_fits(self) -> int:
        """The oldest step that can stay for the kept contents to take three quarters of their room."""
        sizes = {e.content: e.size for e in self.state.files.values() if e.kind == FILE and e.is_kept}
        for step in reversed(self.state.steps.values()):
            for item in step.items:
                for entry in (item.before, item.after):
                    if entry is not None and entry.kind == FILE and entry.is_kept:
                        sizes[entry.content] = entry.size
            if sum(sizes.values()) > self.bounds.store_bytes * 3 // 4:
                return step.number + 1
        return 0

    def _rewrite(self, first: int) -> None:
        gone = [s for s in self.state.steps.values() if s.number < first and not s.is_open]
        self._write_anew(first)
        self._shortest = self._log.num_bytes
        self.contents.sweep(self._of_steps() | {entry.content for entry in self.state.files.values()})
        if gone:
            self.tell(f"The oldest {len(gone):,} steps can no longer be undone: the journal has reached its bounds.")

    def _of_steps(self) -> set[str]:
        """Contents that the steps need."""
        steps = self.state.steps.values()
        items = [item for step in steps for item in (*step.items, *step.plan)]
        return {entry.content for item in items for entry in item[1:] if entry}

    def forget(self, sessions: Container[str]) -> int:
        """Removes the steps of sessions, their undos and what was kept for them alone, also of what is in the workspace
        now: the next look reads it again. Returns the number of steps."""
        steps = self.state.steps
        gone = {step.number for step in steps.values() if step.session in sessions}
        for step in steps.values():  # in their order: an undo comes after what it undoes
            if gone.intersection(step.undoes):
                gone.add(step.number)
        for number in gone:
            del steps[number]
        needed = self._of_steps()
        for path, entry in self.state.files.items():
            if entry.kind == FILE and entry.is_kept and entry.content not in needed:
                self.state.files[path] = entry._replace(content="!forgotten", ctime=0)
        self._write_anew(0)
        self.contents.sweep(needed)
        shutil.rmtree(self.directory / DAMAGED, ignore_errors=True)
        return len(gone)


def _own_places(directory: Path, workspace: Path) -> frozenset[tuple[int, int]]:
    """The directories of the agent's own files that lie in the workspace, such as in a home directory."""
    found = [directory, *directory.parents[:3]]
    inside = [path for path in found if path != workspace and path.is_relative_to(workspace)]
    out = set()
    for path in inside:
        if path.exists():
            state = os.stat(path)
            out.add((state.st_dev, state.st_ino))
    return frozenset(out)
