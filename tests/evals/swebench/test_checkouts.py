"""Checkouts have the past of a commit and nothing of its future; interpreters are found by their versions."""

from __future__ import annotations

import os
import sys

import pytest

from a3b.evals.benchmarks.swebench import checkout
from a3b.evals.benchmarks.swebench.checkout import Clone, find_clone
from a3b.evals.benchmarks.swebench.interpreters import find_interpreter
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, SwePlaces
from tests.support.swe_instances import BROKEN, FIXED, REPO, commit_files, make_repository, run_git

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(places, commit with the bug, commit with the fix, a checkout of the first)."""
    base = tmp_path_factory.mktemp("checkouts")
    commit, fix = make_repository(base / "clones" / "acme__words")
    places = SwePlaces(base / "work", base / "clones")
    Clone.of(REPO, places).check_out(commit, base / "testbed")
    return places, commit, fix, base / "testbed"


def test_a_checkout_is_the_project_as_it_was(made):
    _, commit, _, testbed = made
    assert (testbed / "words.py").read_text() == BROKEN
    assert run_git(testbed, "rev-parse", "HEAD") == commit
    assert run_git(testbed, "status", "--porcelain") == ""


def test_nothing_that_came_later_is_in_it(made):
    _, commit, fix, testbed = made
    everything = run_git(testbed, "cat-file", "--batch-all-objects", "--batch-check").split()
    assert commit in everything and fix not in everything
    for line in run_git(testbed, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)").split(
        "\n"
    ):
        name, kind = line.split()
        assert kind != "blob" or run_git(testbed, "cat-file", "blob", name) != FIXED.strip()
    assert run_git(testbed, "remote") == "" and not (testbed / ".git" / "FETCH_HEAD").exists()
    assert str(made[0].clones) not in (testbed / ".git" / "config").read_text()


def test_its_history_and_the_tags_of_it_are_there(made):
    assert run_git(made[3], "log", "--format=%s").split("\n") == ["Count words", "Begin"]
    assert run_git(made[3], "tag") == "v1.0"
    assert run_git(made[3], "describe", "--tags").startswith("v1.0-1-g")


def test_a_release_far_back_is_still_there_for_installers(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "HISTORY", 3)
    repository = tmp_path / "clones" / "words"
    make_repository(repository)
    for number in range(8):
        last = commit_files(repository, f"Step {number}", {"step": str(number)})
    Clone.of(REPO, SwePlaces(tmp_path, tmp_path / "clones")).check_out(last, tmp_path / "testbed")
    assert run_git(tmp_path / "testbed", "describe", "--tags").startswith("v1.1-8-g")


def test_a_commit_that_a_clone_lacks_is_named_with_the_clone(made, tmp_path):
    with pytest.raises(SweEnvironmentError, match=r"acme__words/\.git has no " + "0" * 40):
        Clone.of(REPO, made[0]).check_out("0" * 40, tmp_path / "testbed")


@pytest.mark.parametrize("form", ["acme__words", "acme/words", "words", "acme__words.git"])
def test_clones_are_found_in_the_forms_that_people_have(tmp_path, form):
    make_repository(tmp_path / form)
    assert find_clone(REPO, SwePlaces(tmp_path / "work", tmp_path)).git == tmp_path / form / ".git"
    assert find_clone("acme/other", SwePlaces(tmp_path / "work", tmp_path)) is None


def test_a_file_is_read_as_it_was(made):
    clone = Clone.of(REPO, made[0])
    assert clone.file_at(made[2], "words.py") == FIXED
    assert clone.file_at(made[1], "none.txt") is None


def test_an_interpreter_is_found_by_its_version():
    assert find_interpreter(HERE, os.environ).exists()


def test_one_that_is_not_here_is_refused_with_how_to_install_it(tmp_path):
    broken = tmp_path / "python3.99"
    broken.write_text("#!/bin/sh\necho 'pyenv: python3.99: command not found' >&2; exit 127\n")
    broken.chmod(0o755)
    with pytest.raises(SweEnvironmentError, match=r"no Python 3\.99 .*uv python install 3\.99, or pyenv install 3\.99"):
        find_interpreter("3.99", {"PATH": str(tmp_path), "HOME": str(tmp_path)})


def test_an_interpreter_of_pyenv_is_found_where_the_shim_on_path_does_not_work(tmp_path):
    shim = tmp_path / f"python{HERE}"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    real = tmp_path / ".pyenv" / "versions" / f"{HERE}.99" / "bin" / "python"
    real.parent.mkdir(parents=True)
    real.symlink_to(sys.executable)
    assert find_interpreter(HERE, {"PATH": str(tmp_path), "HOME": str(tmp_path)}).exists()
