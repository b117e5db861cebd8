"""Opens files that may not be what their names promise, and files that only their owner may read.

A pipe in place of a file would block its reader, a device never ends, and a symbolic link would lead private bytes
elsewhere. All of these are refused with an OSError whose `strerror` says what was found, so that callers report it like
any other trouble with a file. Knows no formats. Enter at `open_regular`, `read_bytes`, `open_private`."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 256 << 20  # for a file that is read whole; the largest tokenizer.json is a tenth of that
OPEN_HANDLE = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/(?:self|\d+)/fd/\d+")
KINDS = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symbolic link",
}


def regular(path: str | Path, flags: int) -> int:
    """An `opener` for `open` that takes only regular files, new or existing, and links to them, and never blocks.

    Raises OSError."""
    check_regular(path)  # before it is opened: opening a device may already have an effect
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _check_kind(os.fstat(handle), path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def not_linked(path: str | Path, flags: int) -> int:
    """As `regular`, but a link is refused as well: for files that only a3b makes, in places where others may put one.

    Raises OSError."""
    with suppress(FileNotFoundError):
        _check_kind(os.lstat(path), path)
    return regular(path, flags | os.O_NOFOLLOW)


def check_regular(path: str | Path) -> None:
    """Raises OSError if the path exists and is neither a regular file nor a link to one."""
    with suppress(FileNotFoundError):
        _check_kind(os.stat(path), path)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, to read bytes. Never blocks. Raises OSError."""
    return open(path, "rb", opener=regular)


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises OSError, also for more than `max_bytes`."""
    with open_regular(path) as file:
        return _read(file, path, max_bytes)


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The UTF-8 text of a regular file, with line ends as `\\n`. Raises OSError and UnicodeDecodeError."""
    return _text(read_bytes(path, max_bytes))


def read_given(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of what the user named on the command line: a regular file, or an open handle such as /dev/stdin or a
    shell's `<(...)`. Raises OSError and UnicodeDecodeError."""
    with open(path, "rb") if OPEN_HANDLE.fullmatch(str(path)) else open_regular(path) as file:
        return _text(_read(file, path, max_bytes))


def open_private(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """An `opener` for `open` that takes only regular files of this user, and makes them private: mode 0600 before the
    first byte is written, whatever it was before.

    Raises OSError for a link, for another kind of file and for a file of another user."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe without a reader, or a socket
            _check_kind(os.lstat(path), path)
        raise
    try:
        found = os.fstat(handle)
        _check_kind(found, path)
        _check_owner(found, path)
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(handle, 0o600)
    except BaseException:
        os.close(handle)
        raise
    return handle


def make_private(path: str | Path, create: bool = True) -> None:
    """Make a file private that a library will open by its name; if it is missing, make it empty if `create`.

    An existing file is checked without opening it, since closing it would release the locks that this process holds on
    it. Raises OSError as `open_private` does."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if create:
            os.close(open_private(path, os.O_RDWR | os.O_CREAT))
        return
    _check_kind(found, path)
    _check_owner(found, path)
    if stat.S_IMODE(found.st_mode) != 0o600:
        os.chmod(path, 0o600)


def private_directory(path: Path, own: Iterable[str] = ()) -> None:
    """Make a directory private, and make it and its parents if they are missing. Raises OSError.

    own: names that identify the directory as one of ours. A directory without any of them that is not empty and is open
    to others is refused, and so is one that all users share, such as /tmp: making it private would harm them."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.stat(path)
    _check_owner(found, path)
    mode = stat.S_IMODE(found.st_mode)
    if mode == 0o700:
        return
    is_foreign = (
        bool(own) and mode & 0o077 and any(path.iterdir()) and not any(os.path.lexists(path / name) for name in own)
    )
    if mode & stat.S_ISVTX or is_foreign:
        raise PermissionError(errno.EPERM, f"has mode {mode:04o} and other files in it, so others use it", str(path))
    os.chmod(path, 0o700)


def _check_kind(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "special file")
        raise OSError(errno.EINVAL, f"is a {kind}; expected a regular file", str(path))


def _check_owner(found: os.stat_result, path: str | Path) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"belongs to another user (uid {found.st_uid})", str(path))


def _read(file: BinaryIO, path: str | Path, max_bytes: int) -> bytes:
    data = bytearray()
    while piece := file.read(1 << 20):
        data += piece
        if len(data) > max_bytes:
            raise OSError(errno.EFBIG, f"has more than {max_bytes:,} bytes; expected a smaller file", str(path))
    return bytes(data)


def _text(data: bytes) -> str:
    return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
