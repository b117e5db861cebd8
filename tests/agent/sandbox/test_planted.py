"""Files that editors, shells and agents obey, made below the root of a workspace: they are taken out."""

from __future__ import annotations

import os

import pytest

from a3b.agent.sandbox.planted import KnownPlaces
from a3b.agent.sandbox.protection import ANYWHERE, Protection
from a3b.agent.sandbox.repositories import tame
from tests.support.sandboxes import files_below

DEEP = "packages/a/src"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "work" / DEEP).mkdir(parents=True)
    return tmp_path / "work"


@pytest.fixture
def known(root):
    """What a command finds protected that begins now."""

    def work(*permitted: str) -> KnownPlaces:
        (entry,) = Protection.of([root], permitted).watched([root], has_mounts=True)
        return KnownPlaces.of(entry)

    return work


def tamed(root, known):
    return tame(str(root), 0.0, str(root.parent / "displaced"), known)  # 0: all is new


@pytest.mark.parametrize("name", ANYWHERE)
def test_a_file_or_directory_that_is_obeyed_anywhere_is_moved_away(root, known, name):
    before = known()
    (root / DEEP / name).write_text("evil")
    (root / "packages" / name).mkdir()
    (root / "packages" / name / "tasks.json").write_text("evil")
    (root / DEEP / "code.py").write_text("good")
    assert tamed(root, before) == [f"packages/{name}", f"{DEEP}/{name}"]
    assert [path for path in files_below(root) if path.endswith((name, ".py"))] == [f"{DEEP}/code.py"]
    assert len(list((root.parent / "displaced").iterdir())) == 2


def test_what_was_there_before_may_change_from_outside(root, known):
    (root / DEEP / ".vscode").mkdir()
    (root / DEEP / "AGENTS.md").write_text("old")
    before = known()
    (root / DEEP / "AGENTS.md").unlink()
    (root / DEEP / "AGENTS.md").write_text("saved by an editor")
    (root / DEEP / ".vscode" / "new.json").write_text("{}")
    assert tamed(root, before) == []


def test_another_directory_at_the_path_of_one_that_had_it_is_no_excuse(root, known):
    (root / DEEP / "AGENTS.md").write_text("old")
    (root / DEEP / ".vscode").mkdir()
    before = known()
    os.rename(root / DEEP, root / "packages/elsewhere")
    (root / DEEP / ".vscode").mkdir(parents=True)
    (root / DEEP / ".vscode" / "tasks.json").write_text("evil")
    (root / DEEP / "AGENTS.md").write_text("evil")
    found = tamed(root, before)
    assert {f"{DEEP}/.vscode", f"{DEEP}/AGENTS.md"} <= set(found)
    assert list((root / DEEP).iterdir()) == []


def test_what_the_user_has_allowed_stays(root, known):
    before = known("packages/a", "packages/AGENTS.md")
    for path in (f"{DEEP}/AGENTS.md", "packages/AGENTS.md", "packages/.envrc"):
        (root / path).write_text("new")
    assert tamed(root, before) == ["packages/.envrc"]


def test_ci_is_protected_in_repositories_below_the_root_and_means_nothing_elsewhere(root, known):
    (root / "packages/a/.git/objects").mkdir(parents=True)
    (root / "packages/a/.git/refs").mkdir()
    (root / "packages/a/.git/HEAD").write_text("ref: refs/heads/main\n")
    before = known()
    for place in ("packages/a", DEEP):
        (root / place / ".github").mkdir()
    assert tamed(root, before) == ["packages/a/.github"]


@pytest.mark.parametrize("rights", [0o000, 0o500])
def test_rights_that_a_command_took_away_keep_nothing_there(root, known, rights):
    before = known()
    (root / DEEP / ".vscode").mkdir()
    (root / DEEP / ".vscode" / "tasks.json").write_text("evil")
    (root / DEEP / ".vscode").chmod(rights)
    (root / DEEP).chmod(0o500)
    try:
        assert tamed(root, before) == [f"{DEEP}/.vscode"]
        assert not (root / DEEP / ".vscode").exists()
    finally:
        (root / DEEP).chmod(0o700)


def test_a_path_too_long_for_a_name_is_moved_all_the_same(root, known):
    before = known()
    place = root.joinpath(*["long" * 50] * 4)
    place.mkdir(parents=True)
    (place / ".envrc").write_text("evil")
    assert len(tamed(root, before)) == 1
    (kept,) = (root.parent / "displaced").iterdir()
    assert kept.read_text() == "evil" and kept.name.endswith("%.envrc")


def test_names_in_directories_of_packages_are_left_alone(root, known):
    before = known()
    (root / "node_modules/x").mkdir(parents=True)
    (root / "node_modules/x/AGENTS.md").write_text("theirs")
    assert tamed(root, before) == []


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("a/b/AGENTS.md", "a/b/AGENTS.md"),
        ("a/.vscode/settings.json", "a/.vscode"),
        ("a/b/.envrc", "a/b/.envrc"),
        ("AGENTS.md", "AGENTS.md"),
        ("a/.github/workflows/ci.yml", None),
        ("node_modules/x/AGENTS.md", None),
        ("a/agents.py", None),
    ],
)
def test_the_agent_s_own_tools_ask_before_they_make_one_at_any_depth(root, path, covered):
    found = Protection.of([root]).covering(root / path)
    assert found == (covered and root / covered)


def test_directories_above_a_protected_file_stay_ordinary_ones(root):
    """A mount in their place would keep programs from moving files between them."""
    (root / DEEP / "AGENTS.md").write_text("old")
    protection = Protection.of([root])
    assert root / DEEP / "AGENTS.md" in protection.frozen
    assert protection.fixed == ()
