"""Files that editors, shells and agents obey wherever they are opened, where a command has made new ones.

Runs in the process above a command, standard library only; everything is reached from open directories, through no
link. Enter at `KnownPlaces`, `take_planted`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from a3b.agent.sandbox.watchlist import DIRECTORY, move_away

Identity = tuple[int, int]


@dataclass(frozen=True)
class KnownPlaces:
    """What was protected below a directory when a command began, by paths relative to it.

    above: of each protected path the directory in which it stands, since another one may come to stand there; inside:
    protected directories themselves; repositories: directories of git; anywhere: names that are protected in every
    directory; at_root: those that are in `trees`, the work trees of git; lifted: paths that may change."""

    above: dict[str, Identity] = field(default_factory=dict)
    inside: dict[str, Identity] = field(default_factory=dict)
    repositories: dict[str, Identity] = field(default_factory=dict)
    anywhere: Collection[str] = ()
    at_root: Collection[str] = ()
    trees: Collection[str] = ()
    lifted: Collection[str] = ()

    @classmethod
    def of(cls, entry: dict[str, Any]) -> KnownPlaces:
        """entry: of `Protection.watched`. Raises OSError if its root is gone."""
        top = os.open(entry["root"], DIRECTORY)
        try:
            above = _identities(top, [(path, path.rpartition("/")[0]) for path in entry["places"]])
            inside = _identities(top, [(path, path) for path in entry["places"]])
            repositories = _identities(top, [(path, path) for path in entry["repositories"]])
        finally:
            os.close(top)
        anywhere, at_root = frozenset(entry["anywhere"]), frozenset(entry["at_root"])
        return cls(above, inside, repositories, anywhere, at_root, frozenset(entry["trees"]), entry["lifted"])

    def without(self, paths: Collection[str]) -> KnownPlaces:
        """With further paths that may have changed."""
        return replace(self, lifted=[*self.lifted, *paths])

    def lifts(self, path: str) -> bool:
        """Whether a path may change."""
        return any(f"{path}/".startswith(f"{place}/") for place in self.lifted)

    def has(self, top: int, handle: int, path: str) -> bool:
        """Whether a path was protected from the beginning, so that whoever changed it was no command. handle: of the
        directory in which it stands now."""
        if path in self.above:
            return self.above[path] == identity(handle)
        while path := path.rpartition("/")[0]:
            if path in self.inside:
                return _identities(top, [(path, path)]).get(path) == self.inside[path]
        return False


def _identities(top: int, places: Iterable[tuple[str, str]]) -> dict[str, Identity]:
    found = {}
    for path, directory in places:
        with suppress(OSError):
            handle = open_below(top, directory)
            try:
                found[path] = identity(handle)
            finally:
                os.close(handle)
    return found


def open_below(top: int, path: str) -> int:
    """A handle of a directory below another, through no link. path: "a/b", with or without a slash at its end. Raises
    OSError."""
    handle = os.dup(top)
    for part in path.rstrip("/").split("/") if path else ():
        try:
            inner = os.open(part, DIRECTORY, dir_fd=handle)
        finally:
            os.close(handle)
        handle = inner
    return handle


def identity(handle: int) -> Identity:
    """What tells an open directory from all others."""
    found = os.fstat(handle)
    return found.st_dev, found.st_ino


def take_planted(
    top: int, handle: int, path: str, names: Collection[str], since: float, displaced: str, known: KnownPlaces
) -> list[str]:
    """Moves what is new in an open directory, and protected, into `displaced`; returns the paths.

    path: of the directory below `top`, "a/b/"; since: seconds since 1970. The watchlist looks at `top` itself."""
    parts = path.split("/")[:-1]
    if not parts:
        return []
    if any(part in known.anywhere for part in parts):
        wanted = set(names)  # in a directory such as .vscode everything counts
    else:
        wanted = {name for name in names if name in known.anywhere}
        if path.removesuffix("/") in known.trees:
            wanted |= {name for name in names if name in known.at_root}
    taken = []
    for name in sorted(wanted):
        full = path + name
        if known.lifts(full) or not is_new(handle, name, since) or known.has(top, handle, full):
            continue
        with suppress(OSError):
            move_away(handle, name, displaced, full)
            taken.append(full)
    return taken


def is_new(handle: int, name: str, since: float) -> bool:
    """Whether a name in an open directory was made or changed after a time."""
    with suppress(OSError):
        return os.stat(name, dir_fd=handle, follow_symlinks=False).st_ctime > since
    return False
