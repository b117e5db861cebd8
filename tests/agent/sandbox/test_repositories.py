"""Repositories that a command hides: deep, among many directories, behind a file or a link named .git."""

from __future__ import annotations

import subprocess

import pytest

from a3b.agent.sandbox.planted import KnownPlaces
from a3b.agent.sandbox.repositories import tame

HOOK = "hooks/post-checkout"


def made(directory, name=".git"):
    """A repository whose settings and hook run programs."""
    directory.mkdir(parents=True, exist_ok=True)
    git = directory / name
    subprocess.run(["git", "init", "-q", "--bare", str(git)], check=True, cwd="/")
    with open(git / "config", "a", encoding="utf-8") as file:
        file.write("[core]\n\tfsmonitor = /tmp/evil\n\tbare = false\n")
    (git / HOOK).write_text("#!/bin/sh\n", encoding="utf-8")
    return git


@pytest.fixture
def root(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def tamed(root, git):
    """What was taken out, once nothing is left to run."""
    found = tame(str(root), 0.0, str(root.parent / "displaced"), KnownPlaces())
    assert "fsmonitor" not in (git / "config").read_text()
    assert not (git / HOOK).exists()
    return found


def test_a_deep_one_is_found(root):
    assert (
        tamed(root, made(root / "src/main/java/com/acme/app/impl"))[0] == f"src/main/java/com/acme/app/impl/.git/{HOOK}"
    )


def test_one_among_very_many_new_directories_is_found(root):
    for i in range(4_000):
        (root / f"a{i}").mkdir()
    assert tamed(root, made(root / "z"))


@pytest.mark.parametrize("is_link", [True, False])
def test_one_in_a_directory_that_is_not_looked_into_is_found_where_git_would(root, is_link):
    git = made(root / "node_modules" / "x", "repository")
    (root / "sub").mkdir()
    if is_link:
        (root / "sub" / ".git").symlink_to("../node_modules/x/repository")
    else:
        (root / "sub" / ".git").write_text("gitdir: ../node_modules/x/repository\n", encoding="utf-8")
    assert tamed(root, git) == [f"node_modules/x/repository/{HOOK}", "node_modules/x/repository/config"]


def test_one_outside_stays_as_it_is(root):
    git = made(root.parent / "other")
    (root / ".git").symlink_to(git)
    assert tame(str(root), 0.0, str(root.parent / "displaced"), KnownPlaces()) == []
    assert (git / HOOK).exists()


def test_what_the_user_has_allowed_stays(root):
    git = made(root / "sub")
    known = KnownPlaces(lifted=("sub/.git/config", f"sub/.git/{HOOK}"))
    assert tame(str(root), 0.0, str(root.parent / "displaced"), known) == []
    assert "fsmonitor" in (git / "config").read_text() and (git / HOOK).exists()
