"""Which commit a workspace is on, read without running git. Enter at `git_head`."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from a3b.files import read_text

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
REF = re.compile(r"ref: (refs/[^\s\x00-\x1f\x7f]{1,200})")
MOST = 4096  # characters of the files that say it
MOST_PACKED = 4 << 20


def git_head(workspace: Path) -> str:
    """Such as "main at 1a2b3c4d"; "" where there is no repository, or nothing was committed yet."""
    with suppress(OSError, ValueError):
        git = workspace / ".git"
        if git.is_file():
            git = workspace / read_text(git, MOST).strip().removeprefix("gitdir: ")
        said = read_text(git / "HEAD", MOST).strip()
        if COMMIT.fullmatch(said):
            return f"no branch at {said[:8]}"
        if (found := REF.fullmatch(said)) and ".." not in found[1]:
            commit = _commit(git, found[1])
            return f"{found[1].removeprefix('refs/heads/')} at {commit[:8]}" if COMMIT.fullmatch(commit) else ""
    return ""


def _commit(git: Path, ref: str) -> str:
    with suppress(OSError, ValueError):
        if (git / "commondir").is_file():  # of a linked work tree
            git = git / read_text(git / "commondir", MOST).strip()
        if os.path.isfile(git / ref):
            return read_text(git / ref, MOST).strip()
        for line in read_text(git / "packed-refs", MOST_PACKED).splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return commit
    return ""
