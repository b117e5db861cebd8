"""Files of a workspace that act outside of the sandbox: git hooks and settings, CI, editors, agents, shells.

Commands may read, but not change or create them: whoever opens the directory later would run what they say. Enter at
`Protection.of`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from a3b.files import read_text

NAMES = """
    .github .gitlab .gitlab-ci.yml .circleci .travis.yml .forgejo .gitea .buildkite .drone.yml .woodpecker
    .woodpecker.yml .woodpecker.yaml .drone.yaml .semaphore .build.yml .builds .tekton buildspec.yml codemagic.yaml
    .cirrus.yml .teamcity .azure-pipelines azure-pipelines.yml Jenkinsfile bitbucket-pipelines.yml
    appveyor.yml .appveyor.yml cloudbuild.yaml
    .vscode .idea .cursor .zed .fleet .devcontainer .devcontainer.json .exrc .vimrc .nvimrc .nvim.lua .lvimrc
    .dir-locals.el .sublime-project .vim .lazy.lua .helix .gdbinit .lldbinit
    AGENTS.md AGENTS.override.md CLAUDE.md CLAUDE.local.md GEMINI.md QWEN.md .a3b .agents .claude .codex .gemini
    .qwen .pi .opencode opencode.json .mcp.json .cursorrules .windsurf .windsurfrules .clinerules .roo
    .aider.conf.yml .kiro .junie .continue .amazonq .kilocode .augment
    .bashrc .bash_profile .bash_login .bash_logout .profile .zshrc .zshenv .zprofile .zlogin .inputrc .envrc
    .mise.toml mise.toml .mise.local.toml mise.local.toml .mise
    .gitconfig .husky .pre-commit-config.yaml .overcommit.yml lefthook.yml .lefthook.yml lefthook.yaml lefthook.toml
    lefthook.json lefthook-local.yml .lefthook-local.yml
""".split()
IN_GIT = ("config", "hooks")
NEVER_IN_GIT = ("config.worktree", "commondir")  # each sends git to other settings
MAX_MODULES = 200


@dataclass(frozen=True)
class Protection:
    """fixed: directories that may be written, but not moved away, so that their protected contents stay at their
    paths; frozen: files and directories that stay as they are; absent: paths that must not come to be, or, if they are
    links, must not become something else; writable: directories of git outside of the workspace that commits need."""

    fixed: tuple[Path, ...]
    frozen: tuple[Path, ...]
    absent: tuple[Path, ...]
    writable: tuple[Path, ...] = ()

    @classmethod
    def of(cls, roots: Iterable[Path], permitted: Iterable[str] = (), own: Iterable[Path] = ()) -> Protection:
        """roots: resolved directories that commands may write, the workspace first; permitted: paths relative to it
        that are not protected; own: code of the running agent, which must not change under it."""
        roots = list(roots)
        lifted = {roots[0] / name for name in permitted}
        wanted: list[Path] = []
        writable: list[Path] = []
        for root in roots:
            wanted += [root / name for name in NAMES]
            git, outside = _git_directories(root)
            writable += outside
            wanted += [root / ".git"] if (root / ".git").is_symlink() or (root / ".git").is_file() else []
            for directory in git:
                wanted += _of_git(directory, root)
        wanted += [path for path in own if any(path.is_relative_to(root) for root in roots)]
        wanted = [path for path in dict.fromkeys(wanted) if not any(path.is_relative_to(lift) for lift in lifted)]
        return cls._sorted(wanted, [*roots, *writable], writable)

    @classmethod
    def _sorted(cls, wanted: list[Path], roots: list[Path], writable: list[Path]) -> Protection:
        fixed: list[Path] = []
        frozen: list[Path] = []
        absent: list[Path] = []
        for path in wanted:
            root = max((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
            parents = [parent for parent in reversed(path.parents) if parent.is_relative_to(root) and parent != root]
            if any(parent.is_symlink() for parent in parents):
                continue  # its target is wanted instead, where it lies in the workspace
            fixed += [parent for parent in parents if parent.is_dir()]
            if path.is_symlink() or not os.path.lexists(path):
                absent.append(path)
            else:
                frozen.append(path)
        writable = list(dict.fromkeys(writable))
        return cls(tuple(dict.fromkeys(fixed)), tuple(frozen), tuple(absent), tuple(writable))

    def covering(self, path: Path) -> Path | None:
        """The protected path that a path is or lies in."""
        return next((found for found in (*self.frozen, *self.absent) if path.is_relative_to(found)), None)

    def watched(self, roots: Iterable[Path], has_mounts: bool) -> list[dict[str, Any]]:
        """What `Watchlist` has to look at. has_mounts: whether mounts protect all that exists."""
        paths = list(self.absent) + ([] if has_mounts else list(self.frozen))
        fixed = [] if has_mounts else list(self.fixed)
        roots = [*roots, *self.writable]
        found: dict[str, dict[str, Any]] = {
            str(root): {"root": str(root), "paths": [], "fixed": [], "repositories": []} for root in roots
        }
        config = [path.parent for path in (*self.frozen, *self.absent) if path.name == "config"]
        for kind, places in ("paths", paths), ("fixed", fixed), ("repositories", config):
            for path in places:
                root = max((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
                found[str(root)][kind].append("" if path == root else str(path.relative_to(root)))
        return list(found.values())


def _git_directories(root: Path) -> tuple[list[Path], list[Path]]:
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


def _of_git(directory: Path, root: Path) -> Iterator[Path]:
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
            base = root if value == hooks else directory
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
