"""Decides what an undo does to each path, before anything is touched. Enter at `make_plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from a3b.agent.journal.changes import PathChange, children_of, is_moved
from a3b.agent.journal.entries import DIRECTORY, FILE, UNWATCHED, PathState, is_same

CHANGED_SINCE = "changed since by somebody else"


@dataclass(frozen=True)
class Trouble:
    """A path that an undo leaves as it is, and why."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(frozen=True)
class Rename:
    """A path that goes back whole to where it was; kind and inode say what it must be."""

    source: str
    target: str
    kind: str
    inode: int


@dataclass(frozen=True)
class UndoPlan:
    """items: for each path what is there and what shall be; conflicts: paths that somebody else changed since."""

    items: tuple[PathChange, ...]
    renames: tuple[Rename, ...] = ()
    conflicts: tuple[Trouble, ...] = ()


def make_plan(steps: Iterable[Sequence[PathChange]], files: Mapping[str, PathState], force: bool = False) -> UndoPlan:
    """What takes the workspace from `files` to where it was before the steps; steps: their items, newest first.

    A path goes back as long as what is there is what the agent left. With force it goes back whatever is there."""
    reached: dict[str, PathState | None] = {}
    conflicts: dict[str, Trouble] = {}
    for items in steps:
        for path, before, after in items:
            if path in conflicts:
                continue
            current = reached[path] if path in reached else files.get(path)
            if is_same(current, before) or is_same(current, after) or force:
                reached[path] = before
            else:
                conflicts[path] = Trouble(path, CHANGED_SINCE)
    wanted = [PathChange(path, files.get(path), target) for path, target in sorted(reached.items())]
    wanted = [item for item in wanted if not is_same(item.before, item.after)]
    return UndoPlan(tuple(wanted), tuple(_renames(wanted, conflicts, files)), tuple(conflicts.values()))


def _renames(items: Iterable[PathChange], conflicts: Iterable[str], files: Mapping[str, PathState]) -> list[Rename]:
    """What was moved and can be moved back as a whole, with all in it that is not kept: directories, and files whose
    content is not kept. Nothing is moved in which somebody else changed something."""
    by_path = {item.path: item for item in items}
    here = {
        (item.before.kind, item.before.inode): item.path
        for item in by_path.values()
        if item.before is not None and item.before.kind in (DIRECTORY, FILE, UNWATCHED)
    }
    tree = children_of(by_path)
    touched, wanted = list(conflicts), {item.path: item.after for item in by_path.values()}
    out: list[Rename] = []
    for path, item in sorted(by_path.items()):
        if item.before is not None or item.after is None or path in files:
            continue
        source = here.get((item.after.kind, item.after.inode))
        if source is None or (item.after.kind == FILE and item.after.is_kept):
            continue
        if not is_moved(path, source, wanted, files, tree):
            continue
        if any(f"{name}/".startswith(f"{source}/") for name in touched):
            continue
        for done in out:
            if f"{source}/".startswith(f"{done.source}/"):
                source = done.target + source[len(done.source) :]
        if source != path:  # else it comes along with its directory
            out.append(Rename(source, path, item.after.kind, item.after.inode))
    return out
