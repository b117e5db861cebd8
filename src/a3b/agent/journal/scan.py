"""Looks at a workspace from outside: what is where, and what has changed since the last look. Enter at `look`.

A look costs one lstat a file; only files whose size, times, inode or mode differ are read. What was kept once stays
kept; the bounds only decide about what is new, level by level from the top, small files first."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from a3b.agent.journal.beneath import Beneath
from a3b.agent.journal.contents import ContentStore
from a3b.agent.journal.entries import DIRECTORY, FILE, LINK, MAX_PATH, SPECIAL, UNWATCHED, PathState

MiB = 1 << 20
ATTEMPTS = 3  # to read a file that changes meanwhile
FRESH_NS = 50_000_000  # a file that changed so shortly ago can change again without a later time
INSTALLED = {"node_modules": "", "bower_components": "", "site-packages": "", "__pycache__": ""}
MARKERS = {  # files that say what the directory around them is
    "CACHEDIR.TAG": "!generated",
    "pyvenv.cfg": "!installed",
    "CMakeCache.txt": "!generated",
    ".rustc_info.json": "!generated",
}
MODES = 0o7777


@dataclass(frozen=True)
class JournalBounds:
    """What is watched and kept of one workspace. entries: files and directories; file_bytes: of one file;
    kept_bytes: of all present files together; store_bytes: with those of earlier steps; depth: of directories."""

    entries: int = 50_000
    file_bytes: int = 32 * MiB
    kept_bytes: int = 512 * MiB
    store_bytes: int = 1024 * MiB
    steps: int = 500
    depth: int = 64


@dataclass
class Look:
    """What a look found. files: every watched path; left_out: number of paths for which there was no room, with an
    example; read, read_bytes: files whose content had to be read."""

    files: dict[str, PathState]
    left_out: int = 0
    example: str = ""
    read: int = 0
    read_bytes: int = 0


class _Found(NamedTuple):
    path: str
    stat: os.stat_result


@dataclass
class _Walk:
    tree: Beneath
    known: Mapping[str, PathState]
    bounds: JournalBounds
    own: frozenset[tuple[int, int]]
    out: Look
    unread: list[_Found] = field(default_factory=list)
    device: int = 0
    room: int = 0

    def run(self) -> None:
        self.device = os.fstat(self.tree.directory("")).st_dev
        self.room = max(self.bounds.entries - len(self.known), 0)
        level = [""]
        while level:
            level = [path for parent in level for path in self._directory(parent)]

    def _directory(self, parent: str) -> Iterator[str]:
        """Takes in what a directory has; yields the directories in it that are looked into."""
        try:
            with os.scandir(self.tree.directory(parent)) as entries:
                found = [(entry.name, entry) for entry in entries]
        except OSError:
            if parent in self.out.files:  # gone meanwhile, or not readable
                self.out.files[parent] = self.out.files[parent]._replace(kind=UNWATCHED, content="!unreadable")
            return
        prefix = f"{parent}/" if parent else ""
        found.sort()
        for name, entry in found:
            path = prefix + name
            if path not in self.known:
                if self.room <= 0 or len(path) > MAX_PATH:
                    self.out.left_out += 1
                    self.out.example = self.out.example or path
                    continue
                self.room -= 1
            try:
                state = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone meanwhile
            if self._take(path, name, state):
                yield path

    def _take(self, path: str, name: str, state: os.stat_result) -> bool:
        """Notes one path; whether it is a directory to look into."""
        known, kind = self.known.get(path), stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFREG and name != ".git":
            if known is not None and is_unchanged(known, state):
                self.out.files[path] = known
            else:
                self.out.files[path] = known or entry_of(FILE, state, "!unreadable")  # its place in the order
                self.unread.append(_Found(path, state))
        elif kind == stat.S_IFDIR or name == ".git":  # .git is a file in worktrees
            why = self._why_unwatched(path, name, state)
            self.out.files[path] = entry_of(UNWATCHED if why else DIRECTORY, state, why)
            return not why
        elif kind == stat.S_IFLNK:
            self._link(path, known, state)
        else:
            self.out.files[path] = entry_of(SPECIAL, state, "")
        return False

    def _link(self, path: str, known: PathState | None, state: os.stat_result) -> None:
        if known is not None and is_unchanged(known, state):
            self.out.files[path] = known
            return
        parent, _, name = path.rpartition("/")
        try:
            self.out.files[path] = entry_of(LINK, state, os.readlink(name, dir_fd=self.tree.directory(parent)))
        except OSError:
            pass  # gone, or something else meanwhile: the next look sees it

    def _why_unwatched(self, path: str, name: str, state: os.stat_result) -> str:
        if name == ".git":
            return "!git"
        if (state.st_dev, state.st_ino) in self.own:
            return "!own"
        if (known := self.known.get(path)) is not None and known.kind == DIRECTORY:
            return ""
        if state.st_dev != self.device:
            return "!mount"
        if path.count("/") >= self.bounds.depth:
            return "!deep"
        if name in INSTALLED:
            return "!generated" if name == "__pycache__" else "!installed"
        for marker, why in MARKERS.items():
            if self.tree.lstat(f"{path}/{marker}") is not None:
                return why
        return ""


def entry_of(kind: str, state: os.stat_result, content: str) -> PathState:
    """The entry of what lstat found."""
    if kind not in (FILE, LINK):  # times of directories say nothing that the list of what is in them does not
        return PathState(kind, state.st_mode & MODES, 0, 0, 0, state.st_ino, content)
    ctime = 0 if state.st_ctime_ns > time.time_ns() - FRESH_NS else state.st_ctime_ns
    return PathState(kind, state.st_mode & MODES, state.st_size, state.st_mtime_ns, ctime, state.st_ino, content)


def is_unchanged(known: PathState, state: os.stat_result) -> bool:
    """Whether what lstat found is what was read when the entry was made."""
    return (
        known.mtime == state.st_mtime_ns
        and known.ctime == state.st_ctime_ns
        and known.size == state.st_size
        and known.inode == state.st_ino
        and known.mode == state.st_mode & MODES
        and stat.S_IFMT(state.st_mode) == (stat.S_IFREG if known.kind == FILE else stat.S_IFLNK)
    )


def look(
    tree: Beneath,
    known: Mapping[str, PathState],
    contents: ContentStore,
    bounds: JournalBounds,
    own: frozenset[tuple[int, int]] = frozenset(),
    on_read: Callable[[int, int], None] = lambda files, num_bytes: None,
) -> Look:
    """Looks at the whole workspace, and keeps what is new in it.

    own: (device, inode) of directories not to look into; on_read: told how many files and bytes will be read."""
    out = Look({})
    walk = _Walk(tree, known, bounds, own, out)
    walk.run()
    skipped = _skipped(walk)
    num_bytes = sum(found.stat.st_size for found in walk.unread if found.path not in skipped)
    on_read(len(walk.unread) - len(skipped), num_bytes)
    for path, state in walk.unread:
        entry = entry_of(FILE, state, skipped[path]) if path in skipped else _read(tree, path, contents, bounds)
        if entry is None:
            out.files.pop(path)
            continue
        out.files[path] = entry
        out.read, out.read_bytes = out.read + 1, out.read_bytes + entry.size
    return out


def _skipped(walk: _Walk) -> dict[str, str]:
    """The files that are too large, or for which there is no room, each with its mark; small files come first."""
    unread = {found.path for found in walk.unread}
    present = {
        entry.content: entry.size
        for path, entry in walk.out.files.items()
        if entry.kind == FILE and entry.is_kept and path not in unread
    }
    room, bounds = walk.bounds.kept_bytes - sum(present.values()), walk.bounds
    skipped: dict[str, str] = {}
    for path, state in sorted(walk.unread, key=lambda found: found.stat.st_size):
        if state.st_size > bounds.file_bytes:
            skipped[path] = "!large"
        elif state.st_size > room:
            skipped[path] = "!full"
        else:
            room -= state.st_size
    return skipped


def _read(tree: Beneath, path: str, contents: ContentStore, bounds: JournalBounds) -> PathState | None:
    """Keeps the content of a file. None if it is no file any more."""
    for _ in range(ATTEMPTS):
        try:
            handle = tree.open_file(path)
        except OSError:
            found = _lstat(tree, path)
            return entry_of(FILE, found, "!unreadable") if found and stat.S_ISREG(found.st_mode) else None
        try:
            state = os.fstat(handle)
            if not stat.S_ISREG(state.st_mode):
                return None
            mark, size = _keep(contents, handle, bounds)
            after = os.fstat(handle)
        finally:
            os.close(handle)
        is_still = (state.st_size, state.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if mark.startswith("!") or (is_still and size == state.st_size):
            return entry_of(FILE, state, mark)
    return entry_of(FILE, state, "!changing")


def _keep(contents: ContentStore, handle: int, bounds: JournalBounds) -> tuple[str, int]:
    """The digest and size of what was kept, or a mark in place of the digest."""
    try:
        return contents.keep(handle, bounds.file_bytes)
    except ValueError:
        return "!large", 0
    except InterruptedError:
        return "", -1  # changed between two readings
    except OSError:
        return "!unwritable", 0


def _lstat(tree: Beneath, path: str) -> os.stat_result | None:
    try:
        return tree.lstat(path)
    except OSError:
        return None
