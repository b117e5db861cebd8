"""The line at the beginning of a session: which instructions and skills were read, and which were not."""

from __future__ import annotations

from pathlib import Path

import pytest

from a3b.agent.project_files import read_project

RULES = "Be brief.\n"


@pytest.fixture
def line(tmp_path):
    """Writes files below tmp_path, the workspace being tmp_path/work/package; gives what the user is told."""

    def told(*names: str) -> str:
        workspace = tmp_path / "work" / "package"
        workspace.mkdir(parents=True, exist_ok=True)
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(RULES, encoding="utf-8")
        return read_project(workspace, Path(tmp_path / "home")).line()

    return told


def test_nothing_is_said_where_there_is_nothing(line):
    assert line() == ""


def test_instructions_up_to_the_root_of_the_repository_and_the_number_of_skills_are_said(line):
    skills = (f"work/package/.claude/skills/{name}/SKILL.md" for name in ("lint", "release"))
    said = line(
        "work/.git/HEAD", "AGENTS.md", "work/AGENTS.md", "work/package/CLAUDE.md", *skills, "home/skills/x/SKILL.md"
    )
    assert said == "read ../AGENTS.md, CLAUDE.md, 3 skills"


def test_a_file_that_another_one_displaces_is_said_not_to_be_read(line):
    assert line("work/package/AGENTS.md", "work/package/CLAUDE.md") == (
        "read AGENTS.md; CLAUDE.md is not read, since AGENTS.md lies beside it"
    )


def test_an_empty_file_is_not_said_to_be_read(line, tmp_path):
    line("work/package/AGENTS.md")
    (tmp_path / "work/package/AGENTS.md").write_text(" \n")
    assert line() == ""
