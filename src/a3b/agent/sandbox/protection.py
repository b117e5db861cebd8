"""Files of a workspace that act outside of the sandbox: git hooks and settings, CI, editors, agents, shells.

Commands may read, but not change or create them: whoever opens the directory later would run what they say. Enter at
`Protection.of`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from a3b.agent.sandbox.git_places import git_directories, guarded_in_git
from a3b.agent.sandbox.repositories import SKIPPED, is_git, walk
from a3b.agent.sandbox.watchlist import DIRECTORY

AT_ROOT = """
    .github .gitlab .gitlab-ci.yml .circleci .travis.yml .forgejo .gitea .buildkite .drone.yml .woodpecker
    .woodpecker.yml .woodpecker.yaml .drone.yaml .semaphore .build.yml .builds .tekton buildspec.yml codemagic.yaml
    .cirrus.yml .teamcity .azure-pipelines azure-pipelines.yml Jenkinsfile bitbucket-pipelines.yml
    appveyor.yml .appveyor.yml cloudbuild.yaml
    .husky .pre-commit-config.yaml .overcommit.yml lefthook.yml .lefthook.yml lefthook.yaml lefthook.toml
    lefthook.json lefthook-local.yml .lefthook-local.yml
""".split()  # of the workspace and of repositories in it, where alone they act
ANYWHERE = """
    .vscode .idea .cursor .zed .fleet .devcontainer .devcontainer.json .exrc .vimrc .nvimrc .nvim.lua .lvimrc
    .dir-locals.el .sublime-project .vim .lazy.lua .helix .gdbinit .lldbinit
    AGENTS.md AGENTS.override.md CLAUDE.md CLAUDE.local.md GEMINI.md QWEN.md .a3b .agents .claude .codex .gemini
    .qwen .pi .opencode opencode.json .mcp.json .cursorrules .windsurf .windsurfrules .clinerules .roo
    .aider.conf.yml .kiro .junie .continue .amazonq .kilocode .augment
    .bashrc .bash_profile .bash_login .bash_logout .profile .zshrc .zshenv .zprofile .zlogin .inputrc .envrc
    .mise.toml mise.toml .mise.local.toml mise.local.toml .mise .gitconfig
""".split()  # in every directory, since people and programs enter any of them
NAMES = [*AT_ROOT, *ANYWHERE]
ANYWHERE_SET = frozenset(ANYWHERE)
MOST_NESTED, MOST_REPOSITORIES = 200, 50  # below the root, those nearest to it: each is a mount of every command


@dataclass(frozen=True)
class Protection:
    """fixed: directories that may be written, but not moved away, so that their protected contents stay at their
    paths; frozen: files and directories that stay as they are; absent: paths that must not come to be, or, if they are
    links, must not become something else; writable: directories of git outside of the workspace that commits need;
    roots: that commands may write; trees: work trees of git in them; lifted: paths that are not protected."""

    fixed: tuple[Path, ...]
    frozen: tuple[Path, ...]
    absent: tuple[Path, ...]
    writable: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    trees: tuple[Path, ...] = ()
    lifted: tuple[Path, ...] = ()

    @classmethod
    def of(cls, roots: Iterable[Path], permitted: Iterable[str] = (), own: Iterable[Path] = ()) -> Protection:
        """roots: resolved directories that commands may write, the workspace first; permitted: paths relative to it
        that are not protected; own: code of the running agent, which must not change under it."""
        roots = list(roots)
        wanted: dict[Path, Path] = {}  # and the directory below which those above it are fixed
        writable: list[Path] = []
        trees: list[Path] = []
        for root in roots:
            git, outside = git_directories(root)
            writable += outside
            here = [root / name for name in NAMES]
            here += [root / ".git"] if (root / ".git").is_symlink() or (root / ".git").is_file() else []
            here += [path for directory in git for path in guarded_in_git(directory, root, root)]
            wanted |= {path: root for path in here if path not in wanted}
        for path in own:
            if above := [root for root in roots if path.is_relative_to(root)]:
                wanted.setdefault(path, above[0])
        for root in roots:
            named, repositories = _nested(root)
            trees += repositories
            for path in named:
                wanted.setdefault(path, path.parent)
            for tree in repositories:
                for path in _of_tree(tree, root):
                    wanted.setdefault(path, tree if path.is_relative_to(tree) else path.parent)
        lifted = tuple(roots[0] / name for name in permitted)
        kept = {p: top for p, top in wanted.items() if not any(p.is_relative_to(lift) for lift in lifted)}
        fixed, frozen, absent = _sorted(kept, [*roots, *writable])
        return cls(fixed, frozen, absent, tuple(dict.fromkeys(writable)), tuple(roots), tuple(trees), lifted)

    def covering(self, path: Path) -> Path | None:
        """The protected path that a path is or lies in, whether it exists or not."""
        for found in (*self.frozen, *self.absent):
            if path.is_relative_to(found):
                return found
        for root in self.roots:
            parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
            for i, part in enumerate(parts):
                if part in SKIPPED or any(path.is_relative_to(lift) for lift in self.lifted):
                    break
                if part in ANYWHERE or part in AT_ROOT and root.joinpath(*parts[:i]) in self.trees:
                    return root.joinpath(*parts[: i + 1])
        return None

    def watched(self, roots: Iterable[Path], has_mounts: bool) -> list[dict[str, Any]]:
        """What `Watchlist` and `KnownPlaces` have to know, for each root. has_mounts: whether mounts protect all that
        exists."""
        paths = list(self.absent) + ([] if has_mounts else list(self.frozen))
        fixed = [] if has_mounts else list(self.fixed)
        roots = [*roots, *self.writable]
        found: dict[str, dict[str, Any]] = {
            str(root): {"root": str(root), "paths": [], "fixed": [], "repositories": [], "places": [], "lifted": []}
            | {"trees": [], "anywhere": ANYWHERE, "at_root": AT_ROOT}
            for root in roots
        }
        config = [path.parent for path in (*self.frozen, *self.absent) if path.name == "config"]
        kinds: dict[str, Sequence[Path]] = {
            "paths": paths,
            "fixed": fixed,
            "repositories": config,
            "places": [*self.frozen, *self.absent],
        }
        kinds |= {"lifted": [path for path in self.lifted if path.is_relative_to(self.roots[0])], "trees": self.trees}
        for kind, places in kinds.items():
            for path in places:
                root = max((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
                found[str(root)][kind].append("" if path == root else str(path.relative_to(root)))
        return list(found.values())


def _sorted(wanted: dict[Path, Path], roots: list[Path]) -> tuple[tuple[Path, ...], ...]:
    """Fixed, frozen and absent paths."""
    fixed: list[Path] = []
    frozen: list[Path] = []
    absent: list[Path] = []
    for path, top in wanted.items():
        root = max((root for root in roots if path.is_relative_to(root)), key=lambda root: len(root.parts))
        parents = [parent for parent in reversed(path.parents) if parent.is_relative_to(root) and parent != root]
        if any(parent.is_symlink() for parent in parents):
            continue  # its target is wanted instead, where it lies in the workspace
        fixed += [parent for parent in parents if parent.is_dir() and not top.is_relative_to(parent)]
        if path.is_symlink() or not os.path.lexists(path):
            absent.append(path)
        else:
            frozen.append(path)
    return tuple(dict.fromkeys(fixed)), tuple(frozen), tuple(absent)


def _nested(root: Path) -> tuple[list[Path], list[Path]]:
    """What acts below the root and is there: files and directories by their names, and work trees or bare repositories.

    The directories above them are not fixed: to move one takes nothing from its contents, and what then comes to stand
    at the old path is new."""
    named: list[Path] = []
    repositories: list[Path] = []
    with suppress(OSError):
        top = os.open(root, DIRECTORY)
        try:
            for path, _, names in walk(top, inf):
                parts = path.split("/")[:-1]
                if not parts or not ANYWHERE_SET.isdisjoint(parts):
                    continue
                named += [root / path / name for name in sorted(names & ANYWHERE_SET)]
                if ".git" not in parts and (".git" in names or is_git(names)):
                    repositories.append(root / path)
        finally:
            os.close(top)
    return named[:MOST_NESTED], repositories[:MOST_REPOSITORIES]


def _of_tree(tree: Path, root: Path) -> Iterator[Path]:
    """What is protected of a repository below the root."""
    yield from (tree / name for name in AT_ROOT if os.path.lexists(tree / name))
    if (tree / ".git").is_symlink() or (tree / ".git").is_file():
        yield tree / ".git"
    directories = git_directories(tree)[0] if os.path.lexists(tree / ".git") else [tree]
    for directory in directories:
        if directory.is_relative_to(root):
            yield from guarded_in_git(directory, tree, root)
