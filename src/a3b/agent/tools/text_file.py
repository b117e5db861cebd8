"""Text files as the file tools take them: opened without blocking, decoded without loss, saved whole or not at all.

Runs inside the sandbox too, as all that `file_tool` uses: standard library only. Enter at `load` and `save`."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from dataclasses import dataclass
from typing import BinaryIO

MAX_BYTES = 16 << 20  # of a file that is edited, or compared with what was read of it
PIECE = 1 << 20  # bytes of a line that are looked at at once
SNIFFED = 8192  # a NUL byte in so many bytes makes a file binary, as git has it
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
MAX_WALKED = 20_000  # names that are looked through for one that resembles a missing one
FOREIGN = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as lone surrogates
NULL = os.makedev(1, 3)  # /dev/null
BOM = b"\xef\xbb\xbf"


class FileToolError(Exception):
    """A call on a file that did nothing; the message is for the model."""


@dataclass(frozen=True)
class TextFile:
    """A text file in memory. text: without byte order mark, line ends as they are, bytes that are not UTF-8 as lone
    surrogates; real: its path with links followed; seal: what tells this state of the file from another."""

    real: str
    text: str
    has_bom: bool
    mode: int
    seal: str

    @property
    def is_utf8(self) -> bool:
        return not FOREIGN.search(self.text)

    @property
    def newline(self) -> str:
        """What most of its lines end with."""
        return "\r\n" if 2 * self.text.count("\r\n") > self.text.count("\n") else "\n"


def reason(error: OSError) -> str:
    """What went wrong, without the path."""
    if error.errno == errno.EROFS:
        return "may not be written here; the workspace may, but for protected files such as .git/hooks"
    return os.strerror(error.errno or 0)


def located(path: str, root: str) -> str:
    """The path below `root`. Raises FileToolError for one that names no file."""
    if not path or "\0" in path:
        raise FileToolError("path is empty." if not path else "path has a NUL in it.")
    if path.startswith("~"):
        raise FileToolError(f"{path} is not expanded: write paths in full, or from the workspace on.")
    try:
        os.fsencode(path)
    except UnicodeError:
        raise FileToolError("path is not valid Unicode.") from None
    return os.path.join(root, path)


def opened(path: str, root: str) -> tuple[BinaryIO, os.stat_result]:
    """A regular file, open for reading bytes. Never blocks. Raises FileToolError."""
    full = located(path, root)
    try:
        found = os.stat(full)
        if stat.S_ISREG(found.st_mode):  # opening a device may already have an effect
            handle = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode):
                return os.fdopen(handle, "rb"), found
            os.close(handle)
    except FileNotFoundError:
        raise FileToolError(missing(path, root)) from None
    except OSError as error:
        raise FileToolError(f"{path}: {reason(error)}.") from None
    if stat.S_ISDIR(found.st_mode):
        raise FileToolError(f"{path} is a directory.")
    if found.st_rdev == NULL and not full.startswith("/dev/"):  # what the sandbox puts over a file
        raise FileToolError(f"{path} is hidden by the sandbox.")
    raise FileToolError(f"{path} is {KINDS.get(stat.S_IFMT(found.st_mode), 'a special file')}, not a text file.")


def refuse_binary(path: str, head: bytes, size: int) -> None:
    """Raises FileToolError if the first bytes are not those of a text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileToolError(f"{path} is UTF-16. Convert it in bash first: iconv -f UTF-16 -t UTF-8")
    if b"\0" in head[:SNIFFED]:
        raise FileToolError(f"{path} is a binary file of {size:,} bytes.")


def load(path: str, root: str) -> TextFile:
    """The whole of a text file. Raises FileToolError."""
    file, found = opened(path, root)
    with file:
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise FileToolError(f"{path}: {reason(error)}.") from None
    if len(data) > MAX_BYTES:
        raise FileToolError(f"{path} has more than {MAX_BYTES >> 20} MiB. Change it in bash, with sed or a script.")
    refuse_binary(path, data, len(data))
    has_bom = data.startswith(BOM)
    text = data[len(BOM) if has_bom else 0 :].decode("utf-8", "surrogateescape")
    real = os.path.realpath(os.path.join(root, path))
    return TextFile(real, text, has_bom, stat.S_IMODE(found.st_mode), seal(data))


def seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encoded(text: str, has_bom: bool) -> bytes:
    return (BOM if has_bom else b"") + text.encode("utf-8", "surrogateescape")


def save(real: str, data: bytes, mode: int | None) -> None:
    """Puts a file in its place at once: it has the old bytes or the new ones at every moment.

    mode: permissions; None for a new file. Raises OSError. A file whose directory cannot take a second one, such as a
    mounted file, is written in place."""
    if real.endswith(".py"):
        _outlast_compiled(real, len(data))
    directory, name = os.path.split(real)
    part = os.path.join(directory, f".{os.fsdecode(os.fsencode(name)[:100])}.a3b-part")
    try:
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileExistsError:  # left by a call that was killed
            os.unlink(part)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(handle, "wb") as file:
            if mode is not None:
                os.fchmod(handle, mode)
            file.write(data)
        os.replace(part, real)
    except OSError as error:
        if os.path.lexists(part):
            os.unlink(part)
        if mode is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS):
            raise
        with open(real, "r+b") as file:  # cut at the end, so that a full disk leaves as much as it can
            file.write(data)
            file.truncate()


def _outlast_compiled(real: str, size: int) -> None:
    """Waits where Python would take the old file for the new one: its compiled files know a source by its size and the
    second in which it was written."""
    try:
        old = os.stat(real)
    except OSError:
        return
    now = time.time()
    if old.st_size == size and int(old.st_mtime) == int(now):
        time.sleep(int(now) + 1.01 - now)  # the clock of files is a little behind


def missing(path: str, root: str) -> str:
    """What to say of a path that does not exist: names like it, those in its directory first."""
    name = os.path.basename(path.rstrip("/"))
    near = [found for found in _resembling(path, name, root) if found != path]
    hint = f" Did you mean {' or '.join(near[:3])}?" if near else ""
    return f"{path} does not exist; paths start at the workspace.{hint}"


def _resembling(path: str, name: str, root: str) -> list[str]:
    import difflib

    beside: list[str] = []
    parent = os.path.dirname(path.rstrip("/"))
    try:
        with os.scandir(os.path.join(root, parent)) as entries:
            beside = [entry.name for _, entry in zip(range(MAX_WALKED // 10), entries, strict=False)]
    except OSError:
        pass
    found = [os.path.join(parent, other) for other in difflib.get_close_matches(name, beside, 3, 0.6)]
    if os.path.isabs(path):
        return found
    return list(dict.fromkeys([*_same_name(name, root), *found]))


def _same_name(name: str, root: str) -> list[str]:
    """Files of this name anywhere in the workspace, within bounds."""
    found, seen, deadline = [], 0, time.monotonic() + 0.5
    for directory, directories, files in os.walk(root):
        directories[:] = sorted(d for d in directories if not d.startswith(".") and d != "node_modules")
        if name in files or name in directories:
            found.append(os.path.normpath(os.path.relpath(os.path.join(directory, name), root)))
        seen += len(files) + len(directories)
        if seen > MAX_WALKED or len(found) >= 3 or time.monotonic() > deadline:
            break
    return found


def number_prefixes() -> re.Pattern[str]:
    """Line numbers as editors, search and this package's messages put them before a line."""
    return re.compile(r"^[ \t]*\d{1,7}(?:: |:|\||\t| \| ?|→)", re.MULTILINE)
