"""Puts paths of a workspace back: removes, makes, writes, below the workspace and nowhere else. Enter at `Restorer`.

A file appears complete under its name, through a temporary one beside it. Each path is looked at once more right before
it is touched; whatever is not as it was planned stays, and is told."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from a3b.agent.journal.beneath import Beneath, split
from a3b.agent.journal.changes import PathChange
from a3b.agent.journal.contents import ContentDamaged, ContentStore
from a3b.agent.journal.entries import DIRECTORY, FILE, LINK, SPECIAL, UNWATCHED, PathState
from a3b.agent.journal.undo_plan import CHANGED_SINCE, Rename, Trouble

TYPES = {FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, UNWATCHED: stat.S_IFDIR, LINK: stat.S_IFLNK}


class Restorer:
    """tree: the workspace; temporary: the name under which files are written; troubles: what could not be done."""

    def __init__(self, tree: Beneath, contents: ContentStore, temporary: str):
        self.tree, self.contents, self.temporary = tree, contents, temporary
        self.troubles: list[Trouble] = []
        self._opened: dict[str, int] = {}  # directories that got permissions, with those they had

    def rename(self, renames: Iterable[Rename]) -> None:
        """Moves back what was moved, if it is still there and nothing stands in its way."""
        for move in renames:
            if ".git" in (split(move.source)[1], split(move.target)[1]):
                continue
            with self._trouble(move.target):
                found = self.tree.lstat(move.source)
                if found is None or found.st_ino != move.inode or stat.S_IFMT(found.st_mode) != TYPES[move.kind]:
                    continue  # done before a kill
                if self.tree.lstat(move.target) is not None:
                    continue
                self._parents(move.target)
                self._open_up(split(move.source)[0])
                source, (parent, name) = split(move.source), split(move.target)
                handle = os.dup(self.tree.directory(source[0]))
                try:
                    os.rename(source[1], name, src_dir_fd=handle, dst_dir_fd=self.tree.directory(parent))
                finally:
                    os.close(handle)
                    self.tree.forget()
        self._close_up()

    def restore(self, items: Iterable[PathChange]) -> None:
        """Makes each path what its item's `after` says."""
        items = list(items)
        for item in items:
            if item.after is not None and not item.after.is_kept:
                self._tell(item.path, _impossible(item))
            elif split(item.path)[1] == ".git":
                self._tell(item.path, "git's own files are left alone")
        items = [i for i in items if (i.after is None or i.after.is_kept) and split(i.path)[1] != ".git"]
        for item in sorted(items, key=lambda item: item.path, reverse=True):  # what is in a directory before it
            if item.before is not None and (item.after is None or item.after.kind != item.before.kind):
                with self._trouble(item.path):
                    self._remove(item.path, item.before)
        for item in sorted(items, key=lambda item: item.path):
            if item.after is not None:
                with self._trouble(item.path):
                    self._make(item.path, item.before, item.after)
        for item in sorted(items, key=lambda item: item.path, reverse=True):
            if item.after is not None and item.after.kind == DIRECTORY:
                with self._trouble(item.path):
                    self._opened.pop(item.path, None)
                    os.fchmod(self.tree.directory(item.path), item.after.mode)
        self._close_up()

    def clean(self, paths: Iterable[str]) -> None:
        """Removes temporary files that a kill left beside the paths."""
        for parent in {split(path)[0] for path in paths}:
            with suppress(OSError):
                os.unlink(self.temporary, dir_fd=self.tree.directory(parent))

    def _tell(self, path: str, why: str) -> None:
        self.troubles.append(Trouble(path, why))

    @contextmanager
    def _trouble(self, path: str) -> Iterator[None]:
        try:
            yield
        except ContentDamaged as error:
            self._tell(path, str(error))
        except _LeftError as error:
            self._tell(path, str(error))
        except OSError as error:
            self._tell(path, f"{error.strerror or error}".lower())

    def _check(self, path: str, expected: PathState | None) -> None:
        """Raises _LeftError unless the path is what it was when the undo was planned."""
        found = self.tree.lstat(path)
        if found is None or expected is None:
            if found is not None or expected is not None:
                raise _LeftError(CHANGED_SINCE)
            return
        is_same = found.st_ino == expected.inode
        if expected.kind != SPECIAL:
            is_same &= stat.S_IFMT(found.st_mode) == TYPES[expected.kind]
        if expected.kind in (FILE, LINK):
            is_same &= (found.st_size, found.st_mtime_ns) == (expected.size, expected.mtime)
        if not is_same:
            raise _LeftError(CHANGED_SINCE)

    def _remove(self, path: str, expected: PathState) -> None:
        if self.tree.lstat(path) is None:
            return
        self._check(path, expected)
        parent, name = split(path)
        self._open_up(parent)
        if expected.kind == UNWATCHED:
            raise _LeftError(f"left as it is: {expected.why_not_kept}")
        if expected.kind == DIRECTORY:
            self.tree.forget()
            try:
                os.rmdir(name, dir_fd=self.tree.directory(parent))
            except OSError as error:
                if not os.listdir(self.tree.directory(path)):
                    raise error from None
                raise _LeftError(
                    "stays, since there are files in it that are not the agent's or are not kept"
                ) from None
        else:
            os.unlink(name, dir_fd=self.tree.directory(parent))

    def _make(self, path: str, before: PathState | None, after: PathState) -> None:
        """Makes what shall be there, in place of what is there if that has the same kind."""
        is_replaced = before is not None and before.kind == after.kind
        if is_replaced:
            self._check(path, before)
        elif (found := self.tree.lstat(path)) is not None:
            if after.kind == DIRECTORY and stat.S_ISDIR(found.st_mode):
                return
            raise _LeftError(CHANGED_SINCE)
        self._parents(path)
        parent, name = split(path)
        if after.kind == DIRECTORY:
            if not is_replaced:
                os.mkdir(name, 0o700, dir_fd=self.tree.directory(parent))
            return
        if is_replaced and before is not None and after.kind == FILE and before.content == after.content:
            self._change_mode(path, after.mode)
            return
        handle = self.tree.directory(parent)
        if after.kind == LINK:
            os.symlink(after.content, self.temporary, dir_fd=handle)
        else:
            self._write(handle, after)
        try:
            os.rename(self.temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
        except OSError:
            os.unlink(self.temporary, dir_fd=handle)
            raise

    def _change_mode(self, path: str, mode: int) -> None:
        parent, name = split(path)
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.tree.directory(parent))
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise _LeftError(CHANGED_SINCE)
            os.chmod(f"/proc/self/fd/{handle}", mode)  # also for a file that may not be read; never through a link
        finally:
            os.close(handle)

    def _write(self, parent: int, entry: PathState) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self.temporary, flags, 0o600, dir_fd=parent)
        try:
            with open(handle, "wb", buffering=0) as file:
                for piece in self.contents.pieces(entry.content):
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
                os.fchmod(file.fileno(), entry.mode)
        except BaseException:
            os.unlink(self.temporary, dir_fd=parent)
            raise

    def _parents(self, path: str) -> None:
        """Makes the directories above a path if somebody removed them, and lets us write in the last."""
        parent = split(path)[0]
        if parent and self.tree.lstat(parent) is None:
            self._parents(parent)
            grand, name = split(parent)
            os.mkdir(name, 0o777, dir_fd=self.tree.directory(grand))
        self._open_up(parent)

    def _open_up(self, path: str) -> None:
        """Gives us the right to change a directory, until `_close_up`."""
        handle = self.tree.directory(path)
        mode = os.fstat(handle).st_mode & 0o7777
        if path not in self._opened and mode & 0o300 != 0o300:
            os.fchmod(handle, mode | 0o700)
            self._opened[path] = mode

    def _close_up(self) -> None:
        for path, mode in sorted(self._opened.items(), reverse=True):
            with suppress(OSError):
                os.fchmod(self.tree.directory(path), mode)
        self._opened.clear()


class _LeftError(Exception):
    """A path that is left as it is; the text says why."""


def _impossible(item: PathChange) -> str:
    assert item.after is not None
    what = "was changed" if item.before is not None else "was removed"
    return f"{what} and cannot be restored: {item.after.why_not_kept}"
