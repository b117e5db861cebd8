"""What changed between two looks, for records and for people. Enter at `PathChange`, `changes_of`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from a3b.agent.journal.entries import DIRECTORY, FILE, NOUNS, UNWATCHED, PathState, is_same


class PathChange(NamedTuple):
    """A path with its states before and after; None: nothing was there."""

    path: str
    before: PathState | None
    after: PathState | None


@dataclass(frozen=True)
class FileChange:
    """One change. kind: "created", "changed", "removed", "mode" (permissions only) or "renamed", `was` then being the
    path before; is_kept: whether the state before can be restored; noun: "a file", "a directory", ..."""

    path: str
    kind: str
    was: str = ""
    is_kept: bool = True
    noun: str = "a file"

    def __str__(self) -> str:
        if self.kind == "renamed":
            return f"{self.was} -> {self.path}"
        return f"{self.kind} {self.path}"


def difference(before: Mapping[str, PathState], after: Mapping[str, PathState]) -> list[PathChange]:
    """Every path whose entry differs at all, times and inodes included, in order of the paths."""
    items = [
        PathChange(path, old, after.get(path))
        for path, old in before.items()
        if (new := after.get(path)) is not old and new != old
    ]
    items += [PathChange(path, None, new) for path, new in after.items() if path not in before]
    return sorted(items, key=lambda item: item.path)


def real(items: Iterable[PathChange]) -> list[PathChange]:
    """The items that a user would call a change."""
    return [item for item in items if not is_same(item.before, item.after)]


def joined(items: Iterable[PathChange]) -> list[PathChange]:
    """Items of several looks in their order as one per path, without those that came back to what they were."""
    out: dict[str, PathChange] = {}
    for item in items:
        first = out.get(item.path, item)
        out[item.path] = PathChange(item.path, first.before, item.after)
    return real(out.values())


def changes_of(items: Iterable[PathChange]) -> list[FileChange]:
    """The changes as people see them: what was moved is one change, with all that lies in it and stayed as it was."""
    by_path = {item.path: item for item in items}
    tree = children_of(by_path)
    moved = _moved(by_path, tree)
    for new, old in list(moved.items()):
        if old not in by_path:  # came along with its directory
            del moved[new]
            continue
        item, gone = by_path[new], by_path.pop(old)
        by_path[new] = PathChange(new, gone.before, item.after)
        for path in below(tree, old):
            here, there = by_path.get(new + path[len(old) :]), by_path.get(path)
            if here is not None and there is not None and here.before is None and there.after is None:
                by_path[here.path] = PathChange(
                    here.path, by_path.pop(path).before, here.after
                )  # came along, perhaps changed
    out = []
    for path, item in sorted(by_path.items()):
        if path in moved:
            out.append(FileChange(path, "renamed", moved[path], noun=_noun(item)))
        elif not is_same(item.before, item.after):
            out.append(_change(item))
    return out


def children_of(paths: Iterable[str]) -> dict[str, list[str]]:
    """The paths that lie directly in each directory."""
    out: dict[str, list[str]] = {}
    for path in paths:
        out.setdefault(path.rpartition("/")[0], []).append(path)
    return out


def below(tree: Mapping[str, list[str]], path: str) -> Iterator[str]:
    """All paths below a directory, parents first."""
    for child in tree.get(path, ()):
        yield child
        yield from below(tree, child)


def _noun(item: PathChange) -> str:
    entry = item.after or item.before
    return NOUNS.get(entry.kind, "a directory") if entry else ""


def _change(item: PathChange) -> FileChange:
    before, after = item.before, item.after
    noun = _noun(item)
    if before is None:
        return FileChange(item.path, "created", noun=noun)
    if after is None:
        return FileChange(item.path, "removed", is_kept=before.is_kept, noun=noun)
    is_mode = (
        before.kind == after.kind and before.mode != after.mode and is_same(before._replace(mode=after.mode), after)
    )
    return FileChange(item.path, "mode" if is_mode else "changed", is_kept=before.is_kept or is_mode, noun=noun)


def _moved(by_path: Mapping[str, PathChange], tree: Mapping[str, list[str]]) -> dict[str, str]:
    """The path before of each path that came by renaming, parents first."""
    gone = {
        (item.before.kind, item.before.inode): path
        for path, item in by_path.items()
        if item.before is not None and item.after is None
    }
    before = {name: item.before for name, item in by_path.items()}
    after = {name: item.after for name, item in by_path.items()}
    out: dict[str, str] = {}
    for path, item in sorted(by_path.items()):
        new = item.after
        if new is None or item.before is not None or new.kind not in (FILE, DIRECTORY, UNWATCHED):
            continue
        old = gone.get((new.kind, new.inode))
        if old is not None and is_moved(old, path, before, after, tree):
            out[path] = old
            del gone[new.kind, new.inode]
    return out


def is_moved(
    old: str,
    new: str,
    before: Mapping[str, PathState | None],
    after: Mapping[str, PathState | None],
    tree: Mapping[str, list[str]],
) -> bool:
    """Whether what was at `old` is what stands at `new`; tree: the children of `old`. File systems give the inode of
    what was removed to what is made next, so the same inode is not enough: a file must have the same content, a
    directory something that came along."""
    one, other = before.get(old), after.get(new)
    if one is None or other is None or (one.kind, one.inode) != (other.kind, other.inode):
        return False
    if one.kind != DIRECTORY:
        return one.content == other.content and (one.size, one.mtime) == (other.size, other.mtime)
    for path in tree.get(old, ()):
        was, there = before.get(path), after.get(new + path[len(old) :])
        if was is not None and there is not None and (there.kind, there.inode) == (was.kind, was.inode):
            return True
    return False
