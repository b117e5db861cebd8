"""Protected paths that no mount can protect: they are looked at while a command runs, and put back once it is gone.

Runs in the process above a command, standard library only. Everything is reached step by step from the directory that
was opened at the start, and links are never followed, since other commands may still move things about. Enter at
`Watchlist`."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field

MAX_FILE = 4 << 20
MAX_TOTAL = 64 << 20
MAX_ENTRIES = 2000
MAX_LABEL = 200  # bytes of a name for what was moved away
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass
class Saved:
    """What stands at a path. kind: "absent", "link", "file", "directory" or "other"; seal: what tells at a look that
    it is unchanged."""

    kind: str
    seal: tuple[int, ...] = ()
    mode: int = 0
    content: bytes = b""
    entries: dict[str, Saved] = field(default_factory=dict)


class Watchlist:
    """root: a directory that commands may write; paths: relative to it; fixed: directories that stay where they are."""

    def __init__(self, root: str, paths: list[str], fixed: list[str]):
        self.root = os.open(root, DIRECTORY)
        self._saver = _Saver()
        self.fixed = {path: self._identity(path) for path in fixed}
        self.saved: dict[str, Saved] = {}
        for path in paths:
            self._saver.entries = MAX_ENTRIES
            self.saved[path] = self._take(path)

    def changed(self) -> list[str]:
        """Paths that are not what they were."""
        found = [path for path, identity in self.fixed.items() if self._identity(path) != identity]
        return found + [path for path, saved in self.saved.items() if not self._is_same(path, saved)]

    def restore(self, displaced: str) -> list[str]:
        """Puts back what changed; what stands there instead is moved into `displaced`. Returns what was put back."""
        done = []
        for path in self.changed():
            with suppress(OSError):
                if path in self.fixed:
                    self._move_back(path, displaced)
                if path in self.saved and not self._is_same(path, self.saved[path]):
                    self._displace(path, displaced)
                    self._put(path, self.saved[path])
            done.append(path)
        return done

    def _parent(self, path: str) -> tuple[int, str]:
        """A handle of the directory of a path, to be closed, and the name in it. Raises OSError."""
        *parts, name = path.split("/")
        handle = os.dup(self.root)
        for part in parts:
            try:
                inner = os.open(part, DIRECTORY, dir_fd=handle)
            finally:
                os.close(handle)
            handle = inner
        return handle, name

    def _identity(self, path: str) -> tuple[int, int]:
        with suppress(OSError):
            parent, name = self._parent(path)
            try:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                return found.st_dev, found.st_ino
            finally:
                os.close(parent)
        return (0, 0)

    def _take(self, path: str) -> Saved:
        try:
            parent, name = self._parent(path)
        except OSError:
            return Saved("absent")
        try:
            return self._saver.save(parent, name)
        finally:
            os.close(parent)

    def _is_same(self, path: str, saved: Saved) -> bool:
        try:
            parent, name = self._parent(path)
        except OSError:
            return saved.kind == "absent"
        try:
            return _is_like(parent, name, saved)
        finally:
            os.close(parent)

    def _move_back(self, path: str, displaced: str) -> None:
        """A directory that was moved is found by its number among its siblings."""
        parent, name = self._parent(path)
        try:
            for other in os.listdir(parent):
                found = os.stat(other, dir_fd=parent, follow_symlinks=False)
                if (found.st_dev, found.st_ino) == self.fixed[path] and other != name:
                    if os.path.lexists(f"/proc/self/fd/{parent}/{name}"):
                        self._displace(path, displaced)
                    os.rename(other, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def _displace(self, path: str, displaced: str) -> None:
        parent, name = self._parent(path)
        try:
            if not os.path.lexists(f"/proc/self/fd/{parent}/{name}"):
                return
            move_away(parent, name, displaced, path)
        finally:
            os.close(parent)

    def _put(self, path: str, saved: Saved) -> None:
        parent, name = self._parent(path)
        try:
            _write(parent, name, saved)
        finally:
            os.close(parent)


class _Saver:
    """Keeps what stands at a path, as long as it has room."""

    def __init__(self) -> None:
        self.room, self.entries = MAX_TOTAL, MAX_ENTRIES

    def save(self, parent: int, name: str) -> Saved:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return Saved("absent")
        seal, mode = _seal(found), stat.S_IMODE(found.st_mode)
        self.entries -= 1
        if stat.S_ISLNK(found.st_mode):
            return Saved("link", seal, mode, os.fsencode(os.readlink(name, dir_fd=parent)))
        if stat.S_ISREG(found.st_mode):
            if found.st_size > min(MAX_FILE, self.room) or self.entries < 0:
                return Saved("other", seal)
            handle = os.open(name, FILE, dir_fd=parent)
            with open(handle, "rb") as file:
                content = file.read(MAX_FILE)
            self.room -= len(content)
            return Saved("file", seal, mode, content)
        if stat.S_ISDIR(found.st_mode) and self.entries >= 0:
            handle = os.open(name, DIRECTORY, dir_fd=parent)
            try:
                return Saved("directory", seal, mode, b"", {n: self.save(handle, n) for n in os.listdir(handle)})
            finally:
                os.close(handle)
        return Saved("other", seal)


def move_away(parent: int, name: str, displaced: str, path: str) -> None:
    """Moves what stands at a name of an open directory into the directory `displaced`, under a name that tells its
    path. What cannot be moved is removed all the same. Raises OSError if nothing helps."""
    os.makedirs(displaced, 0o700, exist_ok=True)
    label = _label(path)
    while os.path.lexists(os.path.join(displaced, label)):
        label += "~"
    try:
        os.rename(name, os.path.join(displaced, label), src_dir_fd=parent)
        return
    except PermissionError:  # a command may have taken away rights
        _give_back_rights(parent, name)
    except OSError:
        pass  # on another file system
    with suppress(OSError):
        os.rename(name, os.path.join(displaced, label), src_dir_fd=parent)
        return
    with suppress(OSError):
        target = os.open(displaced, DIRECTORY)
        try:
            _write(target, label, _Saver().save(parent, name))
        finally:
            os.close(target)
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def _give_back_rights(parent: int, name: str) -> None:
    with suppress(OSError):
        os.fchmod(parent, stat.S_IMODE(os.fstat(parent).st_mode) | 0o700)
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)


def _label(path: str) -> str:
    """A name of at most 200 bytes for a path."""
    label = path.replace("/", "%")
    if len(os.fsencode(label)) <= MAX_LABEL:
        return label
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return f"{digest}%{os.fsdecode(os.fsencode(label)[-MAX_LABEL + 40 :])}"


def _seal(found: os.stat_result) -> tuple[int, ...]:
    """The time of change cannot be set back, so what has the same is the same. Of a directory, the entries say it."""
    return () if stat.S_ISDIR(found.st_mode) else (found.st_dev, found.st_ino, found.st_ctime_ns)


def _is_like(parent: int, name: str, saved: Saved) -> bool:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return saved.kind == "absent"
    if saved.seal and _seal(found) == saved.seal:
        return True
    if saved.kind == "link":
        return stat.S_ISLNK(found.st_mode) and os.fsencode(os.readlink(name, dir_fd=parent)) == saved.content
    if saved.mode != stat.S_IMODE(found.st_mode):
        return False
    try:
        if saved.kind == "file":
            with open(os.open(name, FILE, dir_fd=parent), "rb") as file:
                return stat.S_ISREG(found.st_mode) and file.read(MAX_FILE + 1) == saved.content
        if saved.kind == "directory":
            return _has_entries(os.open(name, DIRECTORY, dir_fd=parent), saved.entries)
    except OSError:
        pass
    return False


def _has_entries(handle: int, entries: dict[str, Saved]) -> bool:
    try:
        names = os.listdir(handle)
        return set(names) == entries.keys() and all(_is_like(handle, name, entries[name]) for name in names)
    finally:
        os.close(handle)


def _write(parent: int, name: str, saved: Saved) -> None:
    """Makes what was saved, in a place where nothing stands. Raises OSError."""
    if saved.kind == "link":
        os.symlink(os.fsdecode(saved.content), name, dir_fd=parent)
    elif saved.kind == "file":
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
            file.write(saved.content)
            os.fchmod(file.fileno(), saved.mode & 0o777)
    elif saved.kind == "directory":
        os.mkdir(name, 0o700, dir_fd=parent)
        handle = os.open(name, DIRECTORY, dir_fd=parent)
        try:
            for inner, entry in saved.entries.items():
                _write(handle, inner, entry)
            os.fchmod(handle, saved.mode & 0o777)
        finally:
            os.close(handle)
