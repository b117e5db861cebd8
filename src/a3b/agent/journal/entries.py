"""What the journal knows of one path, and how that stands in its records. Enter at `PathState`.

Paths are relative to the workspace, with "/" between names, undecodable bytes as lone surrogates. Whatever a record
says is checked here: a path that could lead out of the workspace, or into `.git`, is never used."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MAX_PATH = 4096
MAX_NUMBER = 1 << 63
DIGEST = re.compile("[0-9a-f]{64}")
NOT_KEPT = {  # a mark in place of a digest, and what it means
    "!large": "it is larger than what is kept",
    "!full": "no more room is given to kept files",
    "!unreadable": "it could not be read",
    "!changing": "it changed while it was read",
    "!unwritable": "there was no room on the disk to keep it",
    "!git": "git's own files are not kept",
    "!installed": "installed packages are not kept",
    "!generated": "generated files are not kept",
    "!mount": "other file systems are not looked into",
    "!deep": "it lies too deep",
    "!forgotten": "it was forgotten",
    "!own": "a3b's own files are not kept",
}
FILE, DIRECTORY, LINK, SPECIAL, UNWATCHED = "f", "d", "l", "o", "u"
KINDS = (FILE, DIRECTORY, LINK, SPECIAL, UNWATCHED)
NOUNS = {FILE: "a file", DIRECTORY: "a directory", LINK: "a symbolic link", SPECIAL: "a special file"}


class PathState(NamedTuple):
    """One path at one time. kind: of KINDS, "u" is a directory that is not looked into; mode: permission bits;
    mtime, ctime: ns, ctime 0 where it is too fresh to be believed; content: the SHA-256 of a file, the target of a
    link, or a mark of NOT_KEPT."""

    kind: str
    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    content: str

    @property
    def is_kept(self) -> bool:
        """Whether it can be made again from the journal alone."""
        return self.kind in (DIRECTORY, LINK) or (self.kind == FILE and not self.content.startswith("!"))

    @property
    def why_not_kept(self) -> str:
        if self.kind == SPECIAL:
            return "pipes, sockets and devices are not kept"
        return NOT_KEPT.get(self.content, "it is not kept")


def is_same(one: PathState | None, other: PathState | None) -> bool:
    """Whether two states of a path are equal for a user: kind, permissions, content. Times do not count, but where the
    content is not kept they stand for it."""
    if one is None or other is None:
        return one is other
    if one.kind != other.kind:
        return False
    if one.kind == UNWATCHED:
        return one.inode == other.inode
    if one.kind == LINK:  # has no permissions of its own
        return one.content == other.content
    if one.mode != other.mode:
        return False
    if one.kind == FILE and not (one.is_kept and other.is_kept):
        return (one.size, one.mtime) == (other.size, other.mtime)
    return one.kind != FILE or one.content == other.content


def checked_path(value: Any) -> str:
    """A path of a record. Raises ValueError for one that is not plainly below the workspace."""
    if not isinstance(value, str) or not value or len(value) > MAX_PATH or "\0" in value:
        raise ValueError(f"{value!r:.60} is no path")
    names = value.split("/")
    if any(name in ("", ".", "..") for name in names):
        raise ValueError(f"{value!r:.60} leads out of the workspace")
    if ".git" in names[:-1]:
        raise ValueError(f"{value!r:.60} is one of git's own files")
    return value


def checked_entry(value: Any) -> PathState | None:
    """An entry of a record, null for a path that is not there. Raises ValueError for any other form."""
    if value is None or isinstance(value, PathState):  # an entry: a record that this process has just made
        return value
    if not isinstance(value, list) or len(value) != len(PathState._fields):
        raise ValueError(f"{value!r:.60} is no state of a file")
    kind, *numbers, content = value
    if kind not in KINDS or not isinstance(content, str):
        raise ValueError(f"{value!r:.60} is no state of a file")
    if any(type(n) is not int or not -MAX_NUMBER <= n < 2 * MAX_NUMBER for n in numbers) or numbers[0] & ~0o7777:
        raise ValueError(f"{value!r:.60} has numbers that no file has")
    if kind == FILE and content not in NOT_KEPT and not DIGEST.fullmatch(content):
        raise ValueError(f"{content!r:.70} names no content")
    if kind == LINK and (not content or "\0" in content or len(content) > MAX_PATH):
        raise ValueError(f"{content!r:.60} is no target of a link")
    return PathState._make(value)
