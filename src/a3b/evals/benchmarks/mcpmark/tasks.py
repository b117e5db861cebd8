"""The tasks of a clone of MCPMark: `tasks/SERVICE/SUITE/CATEGORY/TASK` with description.md, meta.json and verify.py.

Enter at `read_tasks` and `chosen_tasks`."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a3b.errors import UsageError, did_you_mean
from a3b.files import read_bytes, read_text

COMMIT = "89d7967ce5aa67dca6b6674c8adb0a7bf272a69a"  # of eval-sys/mcpmark, 30 December 2025
TREES = {  # git's ids of tasks/SERVICE in that commit
    "filesystem": "a25ab11244d52ffac95c63f4c09ff7d972c1bb5f",
    "postgres": "c83da2c9912099a861eed0c2ba623f4c492da378",
}
SUITES = ("standard", "easy")
SOURCE = "git clone https://github.com/eval-sys/mcpmark"
MAX_TEXT = 1 << 20  # bytes of a description or meta.json
MAX_FILES, MAX_FILE = 20_000, 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class McpMarkTask:
    """One task. category: of meta.json, which names the state it begins from; directory: has the official files;
    origin: where the state comes from, as meta.json says, "" if it does not."""

    service: str
    suite: str
    category: str
    name: str
    directory: Path
    description: str = field(repr=False)
    origin: str = ""

    @property
    def id(self) -> str:
        return f"{self.service}/{self.suite}/{self.category}/{self.name}"

    @property
    def verifier(self) -> Path:
        return self.directory / "verify.py"

    @property
    def preparation(self) -> Path | None:
        """The official script that makes the state, where there is one."""
        path = self.directory / "prepare_environment.py"
        return path if path.is_file() else None


def tasks_directory(clone: Path) -> Path:
    """The directory of tasks of a clone. Raises UsageError."""
    found = clone / "tasks"
    if not found.is_dir():
        raise UsageError(f"--data {clone}: has no directory tasks; expected a clone of MCPMark: {SOURCE}")
    return found


def read_tasks(clone: Path, service: str, suite: str) -> list[McpMarkTask]:
    """All tasks of a suite, by name. Raises UsageError, which names the file that is wrong."""
    root = tasks_directory(clone) / service / suite
    if not root.is_dir():
        raise UsageError(f"--data {clone}: has no tasks/{service}/{suite}; expected {SOURCE} at {COMMIT[:7]}")
    found = []
    for category in _directories(root):
        found += [_read_task(service, suite, path) for path in _directories(category)]
    if not found:
        raise UsageError(f"{root}: has no task; expected CATEGORY/TASK with description.md and verify.py")
    return found


def chosen_tasks(tasks: Sequence[McpMarkTask], wanted: str | None) -> list[McpMarkTask]:
    """The tasks that a list between commas names, by TASK, CATEGORY/TASK or CATEGORY; None: all. Raises UsageError."""
    if wanted is None:
        return list(tasks)
    chosen: dict[str, McpMarkTask] = {}
    for word in (part.strip() for part in wanted.split(",")):
        matching = [task for task in tasks if word in (task.id, f"{task.category}/{task.name}", task.name)]
        matching = matching or [task for task in tasks if word == task.category]
        if not matching:
            known = [*(task.name for task in tasks), *(task.category for task in tasks)]
            hint = did_you_mean(word, known) or f"; expected some of {', '.join(dict.fromkeys(known))}"
            raise UsageError(f"--set tasks={wanted[:80]}: no task or category {word[:80]!r}{hint}")
        chosen |= {task.id: task for task in matching}
    return list(chosen.values())


def check_official(clone: Path, service: str) -> str:
    """git's id of the service's tasks, and "" or a sentence if they are not those of COMMIT."""
    found = tree_id(tasks_directory(clone) / service)
    wanted = TREES.get(service)
    if wanted is None or found == wanted:
        return ""
    return (
        f"tasks/{service} of {clone} differs from MCPMark's commit {COMMIT[:7]} (tree {found[:12]}, expected "
        f"{wanted[:12]}): scores do not compare with published ones"
    )


def tree_id(directory: Path) -> str:
    """The id that git gives a directory, without what Python caches in it. Raises UsageError for what is no plain
    directory of files."""
    return _tree(directory, [0]).hex()


def _tree(directory: Path, count: list[int]) -> bytes:
    entries = []
    with os.scandir(directory) as found:
        every = list(itertools.islice(found, MAX_FILES + 1))
    for entry in every:
        count[0] += 1
        if count[0] > MAX_FILES:
            raise UsageError(f"{directory}: more than {MAX_FILES:,} files; expected the tasks of MCPMark")
        if entry.name == "__pycache__":
            continue
        name = os.fsencode(entry.name)
        if entry.is_dir(follow_symlinks=False):
            entries.append((name + b"/", b"40000 " + name + b"\0" + _tree(Path(entry.path), count)))
        elif entry.is_file(follow_symlinks=False):
            mode = b"100755 " if entry.stat().st_mode & stat.S_IXUSR else b"100644 "
            entries.append((name, mode + name + b"\0" + _object("blob", _bytes(Path(entry.path)))))
        else:
            raise UsageError(f"{entry.path}: is neither file nor directory; expected the tasks of MCPMark")
    return _object("tree", b"".join(data for _, data in sorted(entries)))


def _object(kind: str, data: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).digest()


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_FILE)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def _directories(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))


def _read_task(service: str, suite: str, directory: Path) -> McpMarkTask:
    meta = _read_meta(directory / "meta.json")
    category = meta.get("category_id", directory.parent.name)
    if not isinstance(category, str) or not _NAME.fullmatch(category):
        raise UsageError(f"{directory / 'meta.json'}: category_id: {repr(category)[:80]}; expected a name")
    if not (directory / "verify.py").is_file():
        raise UsageError(f"{directory}: has no verify.py; expected a task of MCPMark")
    path = directory / "description.md"
    try:
        description = read_text(path, MAX_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    state = meta.get("meta_data")
    origins = [state.get(key) for key in ("stateUrl", "stateOriginalUrl")] if isinstance(state, dict) else []
    origin = next((text for text in origins if isinstance(text, str)), "")
    return McpMarkTask(service, suite, category, directory.name, directory, description, origin[:500])


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(read_bytes(path, MAX_TEXT))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}; expected a JSON object") from None
    if not isinstance(meta, dict):
        raise UsageError(f"{path}: expected a JSON object")
    return meta
