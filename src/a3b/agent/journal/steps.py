"""The steps of a journal, as its records tell them. Enter at `JournalState`, which every record passes through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from a3b.agent.journal.changes import FileChange, PathChange, changes_of, real
from a3b.agent.journal.entries import KINDS, PathState, checked_entry, checked_path
from a3b.agent.journal.undo_plan import Rename
from a3b.units import moment

CALL, BETWEEN, UNDO = "call", "between", "undo"
STEP_KINDS = (CALL, BETWEEN, UNDO)
BATCH = 500  # items in a line
TOKEN = re.compile("([0-9a-f]{16})?")
VERSION = 1


@dataclass
class JournalStep:
    """What one call changed. kind: "call", "between" (seen between calls, while background jobs ran) or "undo";
    session, turn: who called; started: seconds since 1970; is_open: no end was recorded; was_cut: it ended by a kill,
    and what changed until the next start counts to it; undone: "" (it stands), "partly" or "undone"; undoes: steps that
    an undo took back; head: the commit of git before it, as `git_head` has it."""

    number: int
    label: str
    session: str = ""
    turn: int = 0
    kind: str = CALL
    started: float = 0.0
    writer: str = ""
    is_open: bool = True
    was_cut: bool = False
    undone: str = ""
    undoes: tuple[int, ...] = ()
    head: str = ""
    by_path: dict[str, PathChange] = field(default_factory=dict)
    plan: list[PathChange] = field(default_factory=list)
    renames: list[Rename] = field(default_factory=list)

    @property
    def items(self) -> list[PathChange]:
        """Each path that changed, once; not those that came back to what they were."""
        return real(self.by_path.values())

    @property
    def changes(self) -> list[FileChange]:
        """What changed, for people."""
        return changes_of(self.items)


@dataclass
class JournalState:
    """All that the records say. files: the workspace at the last look; steps: by number, in order."""

    workspace: str
    files: dict[str, PathState] = field(default_factory=dict)
    steps: dict[int, JournalStep] = field(default_factory=dict)
    last: int = 0
    has_begun: bool = False

    def take(self, record: Mapping[str, Any]) -> None:
        """Follows one record. Raises ValueError for one that says what cannot be."""
        known = {
            "journal": self._head,
            "files": self._files,
            "begin": self._begin,
            "items": self._items,
            "plan": self._plan,
            "renames": self._renames,
            "end": self._end,
        }
        kind = record.get("type")
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"{kind!r:.40} is no type of a record")
        if (kind == "journal") == self.has_begun:
            raise ValueError("a head, and only one, comes first")
        known[kind](record)

    def _head(self, record: Mapping[str, Any]) -> None:
        if record.get("version") != VERSION:
            raise ValueError(f"version {record.get('version')!r:.20}; expected {VERSION}")
        if record.get("workspace") != self.workspace:
            raise ValueError(f"is of the directory {record.get('workspace')!r:.200}")
        self.last = _number(record.get("last", 0))
        self.has_begun = True

    def _files(self, record: Mapping[str, Any]) -> None:
        for value in _list(record.get("files"), 2):
            self._set(checked_path(value[0]), checked_entry(value[1]))

    def _set(self, path: str, entry: PathState | None) -> None:
        if entry is None:
            self.files.pop(path, None)
        else:
            self.files[path] = entry

    def _begin(self, record: Mapping[str, Any]) -> None:
        number = _number(record.get("step"))
        if number in self.steps or record.get("kind") not in STEP_KINDS:
            raise ValueError(f"step {number} begins twice, or is of no kind")
        step = JournalStep(
            number, _text(record.get("label"), 400), _text(record.get("session"), 100), _number(record.get("turn"))
        )
        step.kind, step.writer = record["kind"], _text(record.get("writer"), 16)
        if not TOKEN.fullmatch(step.writer):
            raise ValueError(f"{step.writer!r:.40} names no writer")
        started = record.get("started")
        if not isinstance(started, int | float):
            raise ValueError(f"{started!r:.40} is no time")
        step.started = moment(started)
        step.undone, step.head = _undone(record.get("undone")), _text(record.get("head", ""), 300)
        step.undoes = tuple(_number(value) for value in _list(record.get("undoes"), 0))
        self.steps[number] = step
        self.last = max(self.last, number)

    def _step(self, record: Mapping[str, Any]) -> JournalStep:
        number = _number(record.get("step"))
        if number not in self.steps:
            raise ValueError(f"step {number} has not begun")
        return self.steps[number]

    def _items(self, record: Mapping[str, Any]) -> None:
        step = self._step(record)
        for item in [_item(value) for value in _list(record.get("items"), 3)]:
            self._set(item.path, item.after)
            first = step.by_path.get(item.path, item)
            step.by_path[item.path] = PathChange(item.path, first.before, item.after)

    def _plan(self, record: Mapping[str, Any]) -> None:
        self._step(record).plan += [_item(value) for value in _list(record.get("items"), 3)]

    def _renames(self, record: Mapping[str, Any]) -> None:
        for source, target, kind, inode in _list(record.get("renames"), 4):
            if kind not in KINDS:
                raise ValueError(f"{kind!r:.20} is no kind of a file")
            self._step(record).renames.append(Rename(checked_path(source), checked_path(target), kind, _number(inode)))

    def _end(self, record: Mapping[str, Any]) -> None:
        step = self._step(record)
        step.is_open, step.was_cut = False, record.get("cut") is True
        step.plan, step.renames = [], []
        for number, how in _list(record.get("undone"), 2):
            if (other := self.steps.get(_number(number))) is not None:  # it may have left, being old
                other.undone = _undone(how)
        if not step.items and not step.undoes:
            del self.steps[step.number]  # a call that changed nothing

    def records(self, first: int) -> Iterator[dict[str, Any]]:
        """Records that say the same again, but for the steps before `first`, which leave."""
        yield {"type": "journal", "version": VERSION, "workspace": self.workspace, "last": self.last}
        again = JournalState(self.workspace, has_begun=True)  # where the steps leave the files
        for step in self.steps.values():
            if step.number < first and not step.is_open:
                continue
            for item in step.items:
                again._set(item.path, item.after)
            yield begin_record(step)
            yield from item_records("items", step.number, step.items)
            yield from item_records("plan", step.number, step.plan)
            if step.renames:
                yield renames_record(step.number, step.renames)
            if not step.is_open:
                yield {"type": "end", "step": step.number, "cut": step.was_cut, "undone": []}
        gone = [(path, None) for path in again.files if path not in self.files]
        yield from file_records([*gone, *self.files.items()])


def begin_record(step: JournalStep) -> dict[str, Any]:
    return {
        "type": "begin",
        "step": step.number,
        "label": step.label[:400],
        "session": step.session[:100],
        "turn": step.turn,
        "kind": step.kind,
        "started": step.started,
        "writer": step.writer,
        "undoes": list(step.undoes),
        "undone": step.undone,
        "head": step.head,
    }


def item_records(kind: str, number: int, items: Iterable[PathChange]) -> Iterator[dict[str, Any]]:
    """kind: "items" or "plan"."""
    for batch in _batches([list(item) for item in items]):
        yield {"type": kind, "step": number, "items": batch}


def renames_record(number: int, renames: Iterable[Rename]) -> dict[str, Any]:
    return {"type": "renames", "step": number, "renames": [[r.source, r.target, r.kind, r.inode] for r in renames]}


def file_records(files: Iterable[tuple[str, PathState | None]]) -> Iterator[dict[str, Any]]:
    """What a look found beside any step."""
    for batch in _batches([list(pair) for pair in files]):
        yield {"type": "files", "files": batch}


def _batches(values: list[list[Any]]) -> Iterator[list[list[Any]]]:
    yield from (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def _item(value: list[Any]) -> PathChange:
    return PathChange(checked_path(value[0]), checked_entry(value[1]), checked_entry(value[2]))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r:.40} is no number of a step")
    return value


def _undone(value: Any) -> str:
    if value not in ("", "partly", "undone"):
        raise ValueError(f"{value!r:.20} is no state of a step")
    return str(value)


def _text(value: Any, max_len: int) -> str:
    if not isinstance(value, str) or len(value) > max_len:
        raise ValueError(f"{value!r:.60} is no text of at most {max_len} characters")
    return value


def _list(value: Any, length: int) -> list[Any]:
    """A list whose elements are lists of a length, 0: any elements."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.60} is no list")
    if length and any(not isinstance(part, list) or len(part) != length for part in value):
        raise ValueError(f"{value!r:.60} is no list of lists of {length}")
    return value
