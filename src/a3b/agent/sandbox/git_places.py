"""Where git keeps what it runs and obeys: hooks and settings of a work tree, of its submodules and linked work trees.

Enter at `git_directories`, `guarded_in_git`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from a3b.files import read_text

IN_GIT = ("config", "hooks")
NEVER_IN_GIT = ("config.worktree", "commondir")  # each sends git to other settings
MAX_MODULES = 200


def git_directories(root: Path) -> tuple[list[Path], list[Path]]:
    """Directories of git that belong to a work tree, and which of them lie outside of it.

    A file named `.git` names a directory elsewhere; it counts if that directory names the work tree too, since anybody
    could have written the file."""
    git = root / ".git"
    if git.is_symlink():
        real = git.resolve()
        return ([real, *_modules(real)] if real.is_dir() and real.is_relative_to(root) else []), []
    if git.is_dir():
        return [git, *_modules(git)], []
    with suppress(OSError, UnicodeDecodeError):
        word, _, target = read_text(git, 4096).strip().partition(": ")
        if word == "gitdir" and (directory := (root / target).resolve()).is_dir():
            if (directory / "commondir").is_file():  # a linked work tree
                if Path(read_text(directory / "gitdir", 4096).strip()).resolve() == git.resolve():
                    common = (directory / read_text(directory / "commondir", 4096).strip()).resolve()
                    return [common, directory, *_modules(common)], [common, directory]
            elif (tree := git_setting(directory / "config", "core.worktree")) and (directory / tree).resolve() == root:
                return [directory, *_modules(directory)], [directory]  # a submodule
    return [], []


def _modules(git: Path) -> list[Path]:
    """Directories of submodules, and of linked work trees."""
    found: list[Path] = []
    waiting = [git / "modules", git / "worktrees"]
    for _ in range(MAX_MODULES):
        if not waiting:
            break
        with suppress(OSError):
            for entry in sorted(waiting.pop(0).iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    is_git = (entry / "HEAD").is_file()
                    found += [entry] if is_git else []
                    waiting += [entry / "modules"] if is_git else [entry]
    return found


def guarded_in_git(directory: Path, tree: Path, root: Path) -> Iterator[Path]:
    """Hooks and settings of a directory of git, and files that these name. tree: whose it is; root: of the workspace,
    beyond which nothing is named."""
    is_linked = (directory / "commondir").is_file()
    for name in IN_GIT:
        if not is_linked or (directory / name).exists():
            yield directory / name
    for name in NEVER_IN_GIT:
        yield directory / name
    if is_linked:
        yield directory / "gitdir"
    config = directory / "config"
    hooks = git_setting(config, "core.hooksPath")
    for value in (hooks, *git_settings(config, r"^include(if\..*)?\.path$")):
        if value and not value.startswith("~"):
            base = tree if value == hooks else directory
            target = Path(os.path.normpath(base / value))
            for path in {target, target.resolve()}:
                if path.is_relative_to(root) and path != root:
                    yield path


def git_setting(config: Path, name: str) -> str:
    """One setting of a file, "" if it is not there."""
    return next(iter(git_settings(config, "^" + name.lower().replace(".", r"\.") + "$")), "")


def git_settings(config: Path, pattern: str) -> list[str]:
    """Values of a git configuration file; the file is only parsed, nothing in it is obeyed."""
    try:
        found = os.stat(config)
    except OSError:
        return []
    return list(_git_settings(config, pattern, (found.st_dev, found.st_ino, found.st_ctime_ns)))


@lru_cache(maxsize=256)
def _git_settings(config: Path, pattern: str, seal: tuple[int, ...]) -> tuple[str, ...]:
    """seal: of the file, so that an answer is kept for as long as the file is the same."""
    command = ["git", "config", "--file", str(config), "--no-includes", "-z", "--get-regexp", pattern]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
            env=_git_environment(),
        )
        entries = done.stdout.decode("utf-8", "surrogateescape").split("\0")
        return tuple(entry.partition("\n")[2] for entry in entries if entry)
    return ()


def _git_environment() -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "LC_ALL": "C"}
