"""Checkouts of a repository as it was: the state of a commit and some history before it, and nothing that came later.

A checkout is a repository of its own, into which only a commit and its ancestors are copied, so that the fix cannot be
found in it. Enter at `Clone.of` and `Clone.check_out`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces, held, last_lines, remove_tree
from a3b.evals.benchmarks.swebench.programs import run_program
from a3b.settings import process_environment

HISTORY, MAX_HISTORY = 50, 10_000  # commits before the one in question that stay visible
GIT_S, CLONE_S = 600, 3600
MAX_FILE = 4 << 20
SERVE = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"  # commits that no branch ends with are asked for
PLAIN = {  # of the user's settings nothing counts
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "LC_ALL": "C",
}
IDENTITY = ("-c", "user.name=SWE-bench", "-c", "user.email=setup@swebench.config", "-c", "commit.gpgsign=false")


@dataclass(frozen=True)
class Clone:
    """A clone with the whole history, of the user or of ours. git: its git directory."""

    repo: str
    git: Path

    @classmethod
    def of(cls, repo: str, places: SwePlaces) -> Clone:
        """The clone of "owner/name": one of the user's, else ours, which is made if it is missing.

        Raises SweEnvironmentError if it cannot be made."""
        if (found := find_clone(repo, places)) is not None:
            return found
        owner_name = repo.replace("/", "__")
        made = places.work / "clones" / f"{owner_name}.git"
        with held(made.with_suffix(".lock")):
            if not made.is_dir():
                _make_clone(repo, made)
        return cls(repo, made)

    def check_out(self, commit: str, directory: Path) -> None:
        """A new repository in `directory`, which must not exist, at a commit. Raises SweEnvironmentError."""
        directory.mkdir(parents=True)
        git(["init", "--quiet", "--template="], directory)
        fetch = ["fetch", "--quiet", "--no-tags", f"--depth={self._depth(commit)}", "--no-write-fetch-head"]
        git([*fetch, "--upload-pack", SERVE, f"file://{self.git}", commit], directory, f"{self.git} has no {commit}")
        git(["checkout", "--quiet", "-B", "main", commit], directory)
        self._copy_tags(commit, directory)

    def _depth(self, commit: str) -> int:
        """So many commits that the release before is among them: installers count from its tag."""
        described = self._ask("describe", "--tags", "--abbrev=0", commit)
        count = self._ask("rev-list", "--count", f"{described}..{commit}") if described else ""
        return max(HISTORY, int(count) + 2) if count.isdigit() and int(count) < MAX_HISTORY else HISTORY

    def _copy_tags(self, commit: str, directory: Path) -> None:
        """Tags of what the checkout has; none of them is later than the commit."""
        form = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end) %(refname)"
        wanted = self._ask("for-each-ref", f"--merged={commit}", f"--format={form}", "refs/tags").split("\n")
        known = set(git(["rev-list", "--all"], directory).split())
        lines = [line.split(" ", 1) for line in wanted if " " in line]
        for target, name in lines:
            if target in known:
                git(["update-ref", name, target], directory)

    def _ask(self, *arguments: str) -> str:
        """What git says of the clone; "" if it refuses."""
        done = _run(["git", f"--git-dir={self.git}", *arguments], self.git)
        return done.stdout.strip() if done.returncode == 0 else ""

    def file_at(self, commit: str, path: str) -> str | None:
        """The text of a file at a commit, None if it is not there."""
        done = _run(["git", f"--git-dir={self.git}", "cat-file", "blob", f"{commit}:{path}"], self.git)
        return done.stdout[:MAX_FILE] if done.returncode == 0 else None


def find_clone(repo: str, places: SwePlaces) -> Clone | None:
    """A clone that is here."""
    owner, name = repo.split("/")
    forms = (f"{owner}__{name}", f"{owner}/{name}", name, f"{owner}+{name}/repo", f"{owner}+{name}")
    candidates = [places.clones / form for form in forms] if places.clones else []
    candidates += [path.with_name(path.name + ".git") for path in candidates]
    candidates.append(places.work / "clones" / f"{owner}__{name}.git")
    for candidate in candidates:
        for directory in candidate / ".git", candidate:
            if (directory / "objects").is_dir() and (directory / "HEAD").is_file():
                return Clone(repo, directory.resolve())
    return None


def _make_clone(repo: str, made: Path) -> None:
    partial = made.with_suffix(".partial")
    remove_tree(partial)
    url = f"https://github.com/{repo}"
    command = ["git", "clone", "--quiet", "--bare", url, str(partial)]
    done = _run(command, made.parent, CLONE_S, {**process_environment(), "GIT_TERMINAL_PROMPT": "0"})
    if done.returncode:
        raise SweEnvironmentError(
            f"{url} cannot be cloned: {last_lines(done.stderr)}\n"
            f"Clone it by hand and name the directory above it: --set clones=DIR, with DIR/{repo.replace('/', '__')}"
        )
    os.rename(partial, made)


def git(arguments: Sequence[str], directory: Path, problem: str = "") -> str:
    """What git prints, in a repository that no command has had its hands on. Raises SweEnvironmentError."""
    done = _run(["git", *IDENTITY, *arguments], directory)
    if done.returncode:
        said = f"git {arguments[0]} in {directory}: {last_lines(done.stderr)}"
        raise SweEnvironmentError(f"{problem}: {said}" if problem else said)
    return done.stdout


def _run(
    command: Sequence[str], directory: Path, seconds: float = GIT_S, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None:
        raise UsageError("git is not here, which makes checkouts; install it: apt install git")
    try:
        return run_program(command, seconds, cwd=directory, environment=environment or PLAIN)
    except subprocess.TimeoutExpired:
        raise SweEnvironmentError(f"{' '.join(command)[:300]} took more than {seconds:g} s") from None
