"""The verdict on a patch: applied to a fresh testbed, the project's tests run in the sandbox, without network.

The steps and the rule are those of the official harness: resolved is what passes every test of FAIL_TO_PASS and of
PASS_TO_PASS. Enter at `judge`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from a3b.evals.benchmarks.swebench.box import Ran, open_box
from a3b.evals.benchmarks.swebench.images import SweImage
from a3b.evals.benchmarks.swebench.official import FAILED, PASSED, OfficialTable, directives
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError, last_lines, legible

TEST_S = 1800  # as in the official harness
APPLY_S = 300
MAX_PATCH = 10 << 20
LISTED = 20
LOG_TAIL = 20_000
RUNNER = ("conftest.py", "sitecustomize.py", "usercustomize.py", "pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml",
          "runtests.py", "test")  # fmt: skip
RESOLVED, UNRESOLVED, EMPTY = "resolved", "unresolved", "empty patch"
TOO_LARGE, NOT_APPLIED, NO_TIME = "patch too large", "patch does not apply", "tests ran out of bounds"
APPLY = (  # as the official harness tries it
    'git apply --verbose "$1" || git apply --verbose --reject "$1" || patch --batch --fuzz=5 -p1 -i "$1"'
)
# files of the tests become what the project's own tests are, whatever a solver has made of them. $1: the commit,
# $2: the patch; then the files that it changes
RESET = """
commit=$1 patch=$2; shift 2; set -e
for file in "$@"; do
  rm -rf -- "$file"
  if git cat-file -e "$commit:$file" 2>/dev/null; then git checkout --quiet "$commit" -- "$file"; fi
done
git apply --verbose "$patch"
"""


@dataclass(frozen=True)
class SweVerdict:
    """outcome: one of the words above; fail_to_pass, pass_to_pass: (passed, of); failed: tests that should pass and do
    not, the first of them; seconds: of the tests; log: how their output ends."""

    outcome: str
    fail_to_pass: tuple[int, int] = (0, 0)
    pass_to_pass: tuple[int, int] = (0, 0)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    log: str = ""

    @property
    def resolved(self) -> bool:
        return self.outcome == RESOLVED


async def judge(
    image: SweImage,
    patch: str,
    table: OfficialTable,
    home: Path,
    hidden: Sequence[Path] = (),
    *,
    runs_empty: bool = False,
    test_s: float = TEST_S,
) -> SweVerdict:
    """Tests a patch. home: A3B_HOME; hidden: places that tests do not see; runs_empty: test also without any change,
    which is no solution without a run.

    Raises SweEnvironmentError if the tests themselves cannot be put in place."""
    instance = image.instance
    if not patch.strip() and not runs_empty:
        return SweVerdict(EMPTY)
    data = patch.encode("utf-8", "surrogatepass")
    if len(data) > MAX_PATCH:
        return SweVerdict(TOO_LARGE, log=f"the patch has {len(data):,} bytes; at most {MAX_PATCH:,} are applied")
    await image.begin_anew()
    own, tests = image.patches / "solver.diff", image.patches / "tests.diff"
    own.write_bytes(data)
    tests.write_bytes(instance.test_patch.encode())
    async with open_box(
        image.testbed, home, image.venv, readable=[image.patches, image.environment.prefix], hidden=hidden
    ) as box:
        if patch.strip():
            applied = await box.run(APPLY, [str(own)], seconds=APPLY_S)
            if not applied.went_well:
                return SweVerdict(NOT_APPLIED, log=last_lines(applied.detail + "\n" + applied.output))
        arguments = [instance.commit, str(tests), *files_of(instance.test_patch)]
        placed = await box.run(RESET, arguments, seconds=APPLY_S)
        if not placed.went_well:
            return _misplaced(image, patch, placed)
        ran = await box.run(_test_script(image), [], seconds=test_s)
    return await _verdict(image, ran, table)


def _misplaced(image: SweImage, patch: str, placed: Ran) -> SweVerdict:
    """Tests that do not apply to the project as it was are an error of ours; after a patch it is the patch's."""
    if not patch.strip():
        raise SweEnvironmentError(f"{image.instance.id}: its tests do not apply: {last_lines(placed.output)}")
    return SweVerdict(NOT_APPLIED, log="the tests do not apply to it: " + last_lines(placed.output))


def _test_script(image: SweImage) -> str:
    files = " ".join(map(quote, directives(image.instance)))
    lines = [f"export VIRTUAL_ENV={quote(str(image.venv))}", *image.spec.eval_commands, f"{image.spec.test} {files}"]
    return "\n".join(lines)


async def _verdict(image: SweImage, ran: Ran, table: OfficialTable) -> SweVerdict:
    if ran.ended_by != "exit":
        return SweVerdict(NO_TIME, seconds=ran.seconds, log=legible(f"{ran.output[-LOG_TAIL:]}\n[{ran.detail}]"))
    found = await asyncio.to_thread(table.statuses, image.instance, ran.output)
    mended = _counted(image.instance.fail_to_pass, found)
    kept = _counted(image.instance.pass_to_pass, found)
    failed = [*mended[2], *kept[2]]
    return SweVerdict(
        UNRESOLVED if failed else RESOLVED,
        mended[:2],
        kept[:2],
        failed[:LISTED],
        ran.seconds,
        legible(ran.output[-LOG_TAIL:]),
    )


def _counted(tests: tuple[str, ...], found: dict[str, str]) -> tuple[int, int, list[str]]:
    """(passed, of, those that failed). A test that was skipped is neither, as in the official harness."""
    failed = [test for test in tests if found.get(test, FAILED[0]) in FAILED]
    return sum(found.get(test) in PASSED for test in tests), len(tests), failed


def runner_files(patch: str) -> list[str]:
    """Files of a patch that decide how tests run, or what they say: a verdict on it is worth a look."""
    return [name for name in files_of(patch) if name.rsplit("/", 1)[-1] in RUNNER]


def files_of(patch: str) -> list[str]:
    """The files that a patch changes or makes."""
    names = re.findall(r"^diff --git a/.* b/(.*)$", patch, re.MULTILINE)
    return list(dict.fromkeys(name for name in names if not name.startswith("/") and ".." not in name.split("/")))
