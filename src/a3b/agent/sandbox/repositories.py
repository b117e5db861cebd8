"""Repositories that a command made: their hooks and the settings that run programs are taken out again.

Whoever stands in such a directory and asks git for its status would run what the settings name. Runs in the process
above a command, standard library only; links are never followed. Enter at `tame`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 4
MAX_DIRECTORIES = 3000
SECONDS = 0.5
MAX_CONFIG = 1 << 20
SKIPPED = {"node_modules", ".venv", "venv", "__pycache__", "target", ".tox"}
REDIRECTIONS = ("commondir", "config.worktree")
SECTION = re.compile(r'\s*\[\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:"([^"\\]*)")?\s*\]\s*')
SETTING = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*[^\\\\])?)?")
HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks|precomposeunicode|autocrlf|eol)"
    r"|user\.(name|email)|init\.defaultbranch|remote\.(url|fetch|pushurl)|branch\.(remote|merge|rebase)"
    r"|extensions\.(objectformat|refstorage)|submodule\.(url|active)|pull\.(rebase|ff)|push\.default|color\.[a-z]+"
)


def tame(root: str, since: float, displaced: str, skipped: list[str]) -> list[str]:
    """Takes out what could run from repositories below `root` that were made or changed after `since`, in seconds
    since 1970. What is taken out moves into `displaced`. Returns what it was, as paths relative to `root`.

    skipped: directories of git, relative to root, that are protected otherwise, and may change from outside."""
    found: list[str] = []
    deadline = time.monotonic() + SECONDS
    waiting = [("", os.open(root, DIRECTORY), 0)]
    count = 0
    while waiting:
        path, handle, depth = waiting.pop(0)
        try:
            with suppress(OSError):
                if path.removesuffix("/") not in skipped:
                    found += _tame_one(handle, path, since, displaced)
            if depth < MAX_DEPTH and count < MAX_DIRECTORIES and time.monotonic() < deadline:
                for name, inner in _directories(handle):
                    waiting.append((f"{path}{name}/", inner, depth + 1))
                    count += 1
        finally:
            os.close(handle)
    return found


def _directories(handle: int) -> Iterator[tuple[str, int]]:
    with os.scandir(handle) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        if name not in SKIPPED:
            with suppress(OSError):
                yield name, os.open(name, DIRECTORY, dir_fd=handle)


def _tame_one(handle: int, path: str, since: float, displaced: str) -> list[str]:
    """If a directory is one of git's, under whatever name."""
    names = set(os.listdir(handle))
    if not {"HEAD", "objects", "refs"} <= names and "commondir" not in names:
        return []
    taken = [name for name in REDIRECTIONS if name in names and _is_new(handle, name, since)]
    if "commondir" in taken and "/worktrees/" in path and _read(handle, "commondir").strip() == "../..":
        taken.remove("commondir")  # of a work tree that was added to the repository two levels above
    for name in taken:
        _move(handle, name, path, displaced)
    if "hooks" in names:
        with suppress(OSError):
            hooks = os.open("hooks", DIRECTORY, dir_fd=handle)
            try:
                for name in os.listdir(hooks):
                    if not name.endswith(".sample") and _is_new(hooks, name, since):
                        _move(hooks, name, f"{path}hooks/", displaced)
                        taken.append(f"hooks/{name}")
            finally:
                os.close(hooks)
    if "config" in names and _is_new(handle, "config", since) and _clean_config(handle, path, displaced):
        taken.append("config")
    return [path + name for name in taken]


def _is_new(handle: int, name: str, since: float) -> bool:
    with suppress(OSError):
        return os.stat(name, dir_fd=handle, follow_symlinks=False).st_ctime > since
    return False


def _clean_config(handle: int, path: str, displaced: str) -> bool:
    """Keeps the settings of a file that run nothing; whether there were others."""
    text = _read(handle, "config")
    kept = harmless_settings(text)
    if text == kept:
        return False
    _move(handle, "config", path, displaced)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open("config", flags, 0o644, dir_fd=handle), "wb") as file:
        file.write(kept.encode("utf-8", "surrogateescape"))
    return True


def _read(handle: int, name: str) -> str:
    """A file's text; of what is no file, a text that no file has."""
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle), "rb") as file:
            return file.read(MAX_CONFIG).decode("utf-8", "surrogateescape")
    except OSError:
        return "\0"


def harmless_settings(text: str) -> str:
    """The lines of a git configuration that name nothing to be run or read."""
    section, kept = "", []
    for line in text.split("\n"):
        if found := SECTION.fullmatch(line):
            section = found[1].lower()
            kept.append(line)
        elif not line.strip():
            kept.append(line)
        elif (found := SETTING.fullmatch(line)) and HARMLESS.fullmatch(f"{section}.{found[1].lower()}"):
            kept.append(line)
        elif line.lstrip().startswith("["):  # of a form that is not known here; what follows may belong to it
            section = ""
    return "\n".join(kept)


def _move(handle: int, name: str, path: str, displaced: str) -> None:
    os.makedirs(displaced, 0o700, exist_ok=True)
    target = os.path.join(displaced, (path + name).replace("/", "%"))
    try:
        os.rename(name, target, src_dir_fd=handle)
    except OSError:  # on another file system, or in the way of something
        with (
            suppress(OSError),
            open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle), "rb") as old,
        ):
            with open(target, "wb") as new:
                new.write(old.read(MAX_CONFIG))
        with suppress(OSError):
            os.unlink(name, dir_fd=handle)
