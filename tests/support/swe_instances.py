"""Hand-made instances of SWE-bench: a small repository with a bug, its fix later in the history, and its own tests.

The tests print what `pytest -rA` ends with, so that no package has to be installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a3b.evals.benchmarks.swebench.environments import Environments
from a3b.evals.benchmarks.swebench.images import Images
from a3b.evals.benchmarks.swebench.instances import SweInstance, load_instances
from a3b.evals.benchmarks.swebench.official import OfficialTable
from a3b.evals.benchmarks.swebench.places import SwePlaces
from a3b.evals.benchmarks.swebench.verdicts import SweVerdict, judge

REPO, ID = "acme/words", "acme__words-7"
BROKEN = (
    '"""Words."""\n\n\ndef first(text):\n    return text.split()[1]\n\n\n'
    "def count(text):\n    return len(text.split())\n"
)
FIXED = BROKEN.replace("[1]", "[0]")
OLD_TESTS = "import words\n\n\ndef test_count():\n    assert words.count('a b') == 2\n"
NEW_TESTS = OLD_TESTS + "\n\ndef test_first():\n    assert words.first('a b') == 'a'\n"
RUNNER = """import importlib.util, sys, traceback
sys.path.insert(0, ".")
for name in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("tests", name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for test, function in sorted(vars(module).items()):
        if test.startswith("test_"):
            try:
                function()
                print(f"PASSED {name}::{test}")
            except Exception as error:
                traceback.print_exc()
                print(f"FAILED {name}::{test} - {error!r}")
"""
SPEC = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "test": "python runner.py"}
FILES = {"words.py": BROKEN, "tests/test_words.py": OLD_TESTS, "runner.py": RUNNER, ".gitignore": "*.pyc\n"}


def run_git(directory: Path, *arguments: str) -> str:
    """What git prints, without the settings of the user."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    }  # fmt: skip
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def commit_files(directory: Path, message: str, files: dict[str, str]) -> str:
    """The commit with files changed."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    run_git(directory, "add", "--all")
    run_git(directory, "commit", "--quiet", "--message", message)
    return run_git(directory, "rev-parse", "HEAD")


def make_repository(directory: Path) -> tuple[str, str]:
    """(the commit with the bug, the commit that fixes it) of a new repository; tags before and after."""
    directory.mkdir(parents=True)
    run_git(directory, "init", "--quiet")
    commit_files(directory, "Begin", {"README": "words\n"})
    run_git(directory, "tag", "v1.0")
    base = commit_files(directory, "Count words", FILES)
    fix = commit_files(directory, "Give the first word", {"words.py": FIXED, "tests/test_words.py": NEW_TESTS})
    run_git(directory, "tag", "v1.1")
    return base, fix


def make_row(repository: Path, base: str, fix: str, **changes: Any) -> dict[str, Any]:
    """The row of an instance in the form of the dataset."""
    diff = ["diff", "--no-color", base, fix, "--"]
    return {
        "instance_id": ID,
        "repo": REPO,
        "version": "1.1",
        "base_commit": base,
        "problem_statement": "`first` gives the second word.",
        "patch": run_git(repository, *diff, "words.py") + "\n",
        "test_patch": run_git(repository, *diff, "tests") + "\n",
        "FAIL_TO_PASS": json.dumps(["tests/test_words.py::test_first"]),
        "PASS_TO_PASS": json.dumps(["tests/test_words.py::test_count"]),
        "spec": SPEC,
        **changes,
    }


class MadeInstances:
    """A clone, rows and a work directory below `base`."""

    def __init__(self, base: Path):
        self.base, self.home, self.data = base, base / "home", base / "rows.jsonl"
        self.repository = base / "clones" / "acme__words"
        self.commit, self.fix = make_repository(self.repository)
        self.places = SwePlaces(base / "work", base / "clones", (self.data,))
        self.write()

    def write(self, *rows: dict[str, Any]) -> Path:
        """Rows for --data; without any, the one instance."""
        given: Sequence[dict[str, Any]] = rows or [self.row()]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
        return self.data

    def row(self, **changes: Any) -> dict[str, Any]:
        return make_row(self.repository, self.commit, self.fix, **changes)

    def instance(self, **changes: Any) -> SweInstance:
        (found,) = load_instances(self.write(self.row(**changes)))
        return found

    def images(self, keep: bool = True) -> Images:
        environments = Environments(self.places, self.home)
        return Images(self.places, self.home, OfficialTable(self.places), environments, keep)

    async def judged(self, patch: str, runs_empty: bool = False, test_s: float = 60, **changes: Any) -> SweVerdict:
        """The verdict on a patch for the instance."""
        async with self.images().opened(self.instance(**changes)) as image:
            table = OfficialTable(self.places)
            hidden = self.places.hidden
            return await judge(image, patch, table, self.home, hidden, runs_empty=runs_empty, test_s=test_s)


def diff_of(path: str, old: str, new: str) -> str:
    """A patch that changes the text of one file."""
    import difflib

    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}")
    return f"diff --git a/{path} b/{path}\n" + "".join(lines)


def new_file(path: str, text: str, mode: str = "100644") -> str:
    """A patch that makes a file."""
    lines = text.splitlines()
    body = "".join(f"+{line}\n" for line in lines)
    if not text.endswith("\n"):
        body += "\\ No newline at end of file\n"
    head = f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n--- /dev/null\n+++ b/{path}\n"
    return f"{head}@@ -0,0 +1,{len(lines)} @@\n{body}"
