"""What a project says of itself: AGENTS.md, skills, the branch. Files of others: bounded, and read only where they are.

They rank below the user, who reads them as part of his first message; nothing in them changes what the sandbox and the
approvals allow. Enter at `first_message`, `read_project`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from a3b.files import open_regular
from a3b.units import counted

INSTRUCTIONS = ("AGENTS.md", "CLAUDE.md")  # of a directory, the first that is there
SKILL_PLACES = (".a3b/skills", ".agents/skills", ".claude/skills")
SKILL = "SKILL.md"
MAX_INSTRUCTIONS = 24_000  # characters of one file
MAX_LEVELS = 16
MAX_SKILLS = 40
MAX_LOOKED = 200  # entries of a directory of skills
MAX_LINE = 240
MAX_FRONT = 8_000
BRANCH = re.compile(r"ref: refs/heads/([^\s\x00-\x1f\x7f~^:?*\[\\]{1,200})\n?")


@dataclass(frozen=True)
class ProjectFile:
    """A file with instructions. path: from the workspace, or from the root of its repository above it."""

    path: str
    text: str


@dataclass(frozen=True)
class Skill:
    """A folder with instructions for one kind of task. path: of its SKILL.md, as the read tool takes it."""

    name: str
    description: str
    path: str


@dataclass(frozen=True)
class Project:
    """What a directory says. left_out: files with instructions that another one beside them displaces."""

    instructions: tuple[ProjectFile, ...]
    skills: tuple[Skill, ...]
    branch: str
    left_out: tuple[str, ...] = ()

    def line(self) -> str:
        """What was read and what was not, for people; "" if nothing is there."""
        names = [file.path for file in self.instructions]
        read = [*names, *([counted(len(self.skills), "skill")] if self.skills else [])]
        parts = [f"read {', '.join(read)}"] if read else []
        return "; ".join(
            [*parts, *(f"{path} is not read, since {INSTRUCTIONS[0]} lies beside it" for path in self.left_out[:4])]
        )


def read_project(workspace: Path, home: Path) -> Project:
    """Reads what is there; whatever cannot be read is left out. home: A3B_HOME, with skills of the user."""
    root = git_root(workspace)
    instructions = tuple(_instructions(workspace, root))
    read = {file.path for file in instructions}
    beside = [Path(path).with_name(name) for path in read for name in INSTRUCTIONS]
    left_out = [str(p) for p in beside if str(p) not in read and os.path.lexists(workspace / p)]
    return Project(instructions, tuple(_skills(workspace, home)), _branch(root), tuple(sorted(left_out)))


def first_message(workspace: Path, project: Project, task: str, today: date | None = None) -> str:
    """What stands before the first task of a session, and the task."""
    lines = [f"directory: {one_line(str(workspace))}", f"date: {today or date.today()}"]
    if project.branch:
        lines.append(f"git: branch {project.branch}")
    parts = ["<environment>\n" + "\n".join(lines) + "\n</environment>"]
    for file in project.instructions:
        text = file.text.replace("</agents_md", "<\\/agents_md")
        parts.append(f'<agents_md path="{one_line(file.path)}">\n{text}\n</agents_md>')
    if project.skills:
        listed = "\n".join(one_line(f"{skill.path}: {skill.name}: {skill.description}") for skill in project.skills)
        parts.append(f"<skills>\nRead the file of a skill before a task that it is for.\n{listed}\n</skills>")
    return "\n\n".join([*parts, task])


def one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_LINE].replace("</", "<\\/")


def git_root(workspace: Path) -> Path | None:
    """The repository that a directory is in."""
    for level in (workspace, *workspace.parents)[:MAX_LEVELS]:
        if os.path.lexists(level / ".git"):
            return level
    return None


def _instructions(workspace: Path, root: Path | None) -> Iterator[ProjectFile]:
    """Those of the repository's root first."""
    levels = [workspace]
    while root is not None and levels[-1] != root:
        levels.append(levels[-1].parent)
    for level in reversed(levels):
        for name in INSTRUCTIONS:
            text = text_within(level / name, root or workspace, MAX_INSTRUCTIONS)
            if text is not None and text.strip():
                yield ProjectFile(os.path.relpath(level / name, workspace), text.strip())
                break


def _skills(workspace: Path, home: Path) -> Iterator[Skill]:
    places = [(workspace / place, workspace) for place in SKILL_PLACES] + [(home / "skills", home / "skills")]
    found: dict[str, Skill] = {}
    for place, root in places:
        for folder in _folders(place):
            path = place / folder / SKILL
            text = text_within(path, root, MAX_FRONT)
            if text is None or len(found) >= MAX_SKILLS:
                continue
            front = front_matter(text)
            name = one_line(front.get("name") or folder)[:64]
            shown = os.path.relpath(path, workspace) if root == workspace else str(path)
            found.setdefault(name, Skill(name, one_line(front.get("description", "")), shown))
    yield from found.values()


def _folders(place: Path) -> list[str]:
    try:
        with os.scandir(place) as entries:
            names = [entry.name for _, entry in zip(range(MAX_LOOKED), entries, strict=False)]
    except OSError:
        return []
    return sorted(name for name in names if "\n" not in name and not name.startswith("."))


def front_matter(text: str) -> dict[str, str]:
    """Single values between two lines "---" at the beginning; a folded or indented value is joined to one line."""
    lines = text.replace("\r\n", "\n").split("\n")
    found: dict[str, str] = {}
    key = ""
    for line in lines[1:100] if lines[0].strip() == "---" else ():
        if line.strip() == "---":
            break
        begins = re.match(r"([A-Za-z_-]{1,40}):[ \t]*(.*)", line)
        if begins:
            key, value = begins[1].lower(), begins[2].strip()
            found[key] = "" if value in (">", "|", ">-", "|-") else value.strip("\"'")
        elif key and line[:1] in (" ", "\t"):
            found[key] = f"{found[key]} {line.strip()}".strip()
    return found


def _branch(root: Path | None) -> str:
    """The branch that is checked out, read from .git without running git."""
    if root is None:
        return ""
    head = root / ".git" / "HEAD"
    if (root / ".git").is_file():  # of a worktree or a submodule: the file says where
        said = text_within(root / ".git", root, 4_000) or ""
        if not said.startswith("gitdir: "):
            return ""
        head = root / said[8:].strip() / "HEAD"
        found = BRANCH.fullmatch(text_within(head, None, 1_000) or "")
    else:
        found = BRANCH.fullmatch(text_within(head, root, 1_000) or "")
    return found[1] if found else ""


def text_within(path: Path, root: Path | None, most: int) -> str | None:
    """At most so many characters of a file; None if it cannot be read, or a link leads it out of `root`."""
    try:
        real = path.resolve(strict=True)
        if root is not None and not real.is_relative_to(root.resolve()):
            return None
        with open_regular(real) as file:
            data = file.read(4 * most + 1)
    except (OSError, RuntimeError, ValueError):
        return None
    text = data.decode(errors="replace").replace("\r\n", "\n")
    if "\0" in text:
        return None
    return text if len(text) <= most else text[:most] + f"\n[cut after {most:,} characters]"
