"""Repositories that a command made: their hooks and the settings that run programs are taken out again.

Whoever stands in such a directory and asks git for its status would run what the settings name. Runs in the process
above a command, standard library only; links are never followed. Enter at `tame`."""

from __future__ import annotations

import os
import re
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from a3b.agent.sandbox.planted import KnownPlaces, identity, is_new, open_below, take_planted
from a3b.agent.sandbox.watchlist import DIRECTORY, move_away

MAX_DEPTH = 32
MAX_DIRECTORIES = 3_000  # of those that did not change
SECONDS, FRESH_SECONDS = 0.5, 5.0  # for all, and for those that changed
MAX_CONFIG = 1 << 20
SKIPPED = {"node_modules", ".venv", "venv", "__pycache__", "target", ".tox"}
SKIPPED_IN_GIT = {"objects", "refs", "logs", "hooks"}
REDIRECTIONS = ("commondir", "config.worktree")
SECTION = re.compile(r'\s*\[\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:"([^"\\]*)")?\s*\]\s*')
SETTING = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*(.*[^\\\\])?)?")
HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks|precomposeunicode|autocrlf|eol)"
    r"|user\.(name|email)|init\.defaultbranch|remote\.(url|fetch|pushurl)|branch\.(remote|merge|rebase)"
    r"|extensions\.(objectformat|refstorage)|submodule\.(url|active)|pull\.(rebase|ff)|push\.default|color\.[a-z]+"
)


def tame(root: str, since: float, displaced: str, known: KnownPlaces) -> list[str]:
    """Takes out what could run from repositories below `root` that were made or changed after `since`, in seconds
    since 1970, and what others obey wherever they find it. What is taken out moves into `displaced`. Returns what it
    was, as paths relative to `root`.

    known: what is protected otherwise, and may change from outside."""
    found: list[str] = []
    top = os.open(root, DIRECTORY)
    try:
        for path, handle, names in walk(top, since):
            found += take_planted(top, handle, path, names, since, displaced, known)
            places = [path, *(_elsewhere(top, path, handle) if ".git" in names else ())]
            for place in places if len(places) > 1 or is_git(names) else ():
                with suppress(OSError):
                    found += _tame_place(top, place, since, displaced, known)
    finally:
        os.close(top)
    return list(dict.fromkeys(found))


def is_git(names: set[str]) -> bool:
    """Whether a directory with these names in it is one of git's, under whatever name of its own."""
    return names >= {"HEAD", "objects", "refs"} or "commondir" in names


def walk(top: int, since: float) -> Iterator[tuple[str, int, set[str]]]:
    """Directories below an open one, each as a path with a slash at its end, a handle, and the names in it: first those
    that changed after `since` with all that is new in them, then others, as many as a short time allows."""
    fresh, others, count, began = deque([""]), deque[str](), 0, time.monotonic()
    while fresh or (others and count < MAX_DIRECTORIES and time.monotonic() < began + SECONDS):
        if time.monotonic() > began + FRESH_SECONDS:
            return
        count += not fresh
        path = (fresh or others).popleft()
        with suppress(OSError):
            handle = open_below(top, path)
            try:
                with os.scandir(handle) as entries:
                    inner = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
                yield path, handle, set(inner)
                left_out = SKIPPED | SKIPPED_IN_GIT if is_git(set(inner)) else SKIPPED
                for name in sorted(n for n, is_directory in inner.items() if is_directory and n not in left_out):
                    if path.count("/") < MAX_DEPTH:
                        (fresh if is_new(handle, name, since) else others).append(f"{path}{name}/")
            finally:
                os.close(handle)


def _elsewhere(top: int, path: str, handle: int) -> Iterator[str]:
    """Where below the top a link or a file named .git leads, which may be a directory that is not walked through."""
    with suppress(OSError, ValueError):
        kind = stat.S_IFMT(os.stat(".git", dir_fd=handle, follow_symlinks=False).st_mode)
        if kind not in (stat.S_IFLNK, stat.S_IFREG):
            return
        said = _read(handle, ".git").removeprefix("gitdir:").strip() if kind == stat.S_IFREG else ".git"
        root = os.path.realpath(f"/proc/self/fd/{top}")
        target = os.path.relpath(os.path.realpath(os.path.join(root, path, said)), root)
        if target.split("/")[0] not in ("..", "."):
            yield target + "/"


def _tame_place(top: int, path: str, since: float, displaced: str, known: KnownPlaces) -> list[str]:
    handle = open_below(top, path)
    try:
        if known.repositories.get(path.removesuffix("/")) == identity(handle):
            return []
        return _tame_one(handle, path, since, displaced, known)
    finally:
        os.close(handle)


def _tame_one(handle: int, path: str, since: float, displaced: str, known: KnownPlaces) -> list[str]:
    """If a directory is one of git's."""
    names = set(os.listdir(handle))
    if not is_git(names):
        return []
    names = {name for name in names if not known.lifts(path + name)}
    taken = [name for name in REDIRECTIONS if name in names and is_new(handle, name, since)]
    if "commondir" in taken and "/worktrees/" in path and _read(handle, "commondir").strip() == "../..":
        taken.remove("commondir")  # of a work tree that was added to the repository two levels above
    for name in taken:
        move_away(handle, name, displaced, path + name)
    if "hooks" in names:
        with suppress(OSError):
            hooks = os.open("hooks", DIRECTORY, dir_fd=handle)
            try:
                for name in os.listdir(hooks):
                    is_ours = name.endswith(".sample") or known.lifts(f"{path}hooks/{name}")
                    if not is_ours and is_new(hooks, name, since):
                        move_away(hooks, name, displaced, f"{path}hooks/{name}")
                        taken.append(f"hooks/{name}")
            finally:
                os.close(hooks)
    if "config" in names and is_new(handle, "config", since) and _clean_config(handle, path, displaced):
        taken.append("config")
    return [path + name for name in taken]


def _clean_config(handle: int, path: str, displaced: str) -> bool:
    """Keeps the settings of a file that run nothing; whether there were others."""
    text = _read(handle, "config")
    kept = harmless_settings(text)
    if text == kept:
        return False
    move_away(handle, "config", displaced, f"{path}config")
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
