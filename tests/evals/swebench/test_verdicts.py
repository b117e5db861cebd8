"""Verdicts on patches for a hand-made instance: the fix, no change, and patches that mean ill."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from a3b.evals.benchmarks.swebench.places import SweEnvironmentError
from a3b.evals.benchmarks.swebench.verdicts import (
    EMPTY,
    MAX_PATCH,
    NO_TIME,
    NOT_APPLIED,
    RESOLVED,
    TOO_LARGE,
    UNRESOLVED,
)
from tests.support.sandboxes import user_directory
from tests.support.swe_instances import BROKEN, FIXED, NEW_TESTS, OLD_TESTS, MadeInstances, diff_of, new_file

pytestmark = pytest.mark.slow  # starts sandboxes in numbers

FIX = diff_of("words.py", BROKEN, FIXED)
OTHER = BROKEN.replace("len(text.split())", "0")


@pytest.fixture(scope="module")
def made():
    with user_directory() as path:  # not below /tmp, of which commands have their own
        yield MadeInstances(path)


def verdict(made, patch, **options):
    return asyncio.run(made.judged(patch, **options))


def test_the_fix_of_the_project_resolves_an_instance(made):
    found = verdict(made, made.row()["patch"])
    assert (found.outcome, found.fail_to_pass, found.pass_to_pass, found.failed) == (RESOLVED, (1, 1), (1, 1), [])


def test_no_change_does_not_resolve_it_and_names_the_test_that_fails(made):
    found = verdict(made, "", runs_empty=True)
    assert (found.outcome, found.fail_to_pass, found.pass_to_pass) == (UNRESOLVED, (0, 1), (1, 1))
    assert found.failed == ["tests/test_words.py::test_first"]


def test_an_empty_answer_is_unresolved_without_a_run(made):
    assert verdict(made, " \n").outcome == EMPTY


def test_a_fix_that_breaks_another_test_does_not_resolve(made):
    found = verdict(made, diff_of("words.py", BROKEN, OTHER.replace("[1]", "[0]")))
    assert (found.outcome, found.fail_to_pass, found.pass_to_pass) == (UNRESOLVED, (1, 1), (0, 1))


def test_one_try_leaves_nothing_to_the_next(made):
    verdict(made, FIX + new_file("left.py", "x = 1\n"))
    assert verdict(made, "", runs_empty=True).outcome == UNRESOLVED


def test_changes_of_the_tests_themselves_do_not_count(made):
    easy = OLD_TESTS + "\n\ndef test_first():\n    pass\n"
    found = verdict(made, diff_of("tests/test_words.py", OLD_TESTS, easy))
    assert (found.outcome, found.failed) == (UNRESOLVED, ["tests/test_words.py::test_first"])


@pytest.mark.parametrize(
    "patch",
    [
        diff_of("tests/test_words.py", OLD_TESTS, NEW_TESTS),
        f"diff --git a/tests/test_words.py b/tests/test_words.py\ndeleted file mode 100644\n--- a/tests/test_words.py\n"
        f"+++ /dev/null\n@@ -1,5 +0,0 @@\n{''.join('-' + line for line in OLD_TESTS.splitlines(True))}",
    ],
    ids=["the tests of the fix", "none"],
)
def test_a_fix_may_leave_any_tests_behind(made, patch):
    assert verdict(made, FIX + patch).outcome == RESOLVED


@pytest.mark.parametrize(
    "path", ["../escaped.py", "words/../../escaped.py", "/tmp/escaped.py", ".git/hooks/post-checkout", ".git/config"]
)
def test_a_patch_writes_nowhere_but_in_the_checkout(made, path):
    found = verdict(made, FIX + new_file(path, "#!/bin/sh\ntouch /tmp/escaped.py\n", "100755"))
    instance = made.places.instances / "acme__words-7"
    assert found.outcome in (NOT_APPLIED, UNRESOLVED, RESOLVED)
    assert not list(made.base.rglob("escaped.py")) and not os.path.exists("/tmp/escaped.py")
    assert "escaped" not in (instance / "image" / ".git" / "config").read_text()
    assert not (instance / "image" / ".git" / "hooks").exists()


def test_a_link_that_leads_outside_is_not_followed(made):
    outside = made.base / "outside"
    outside.mkdir(exist_ok=True)
    verdict(made, FIX + new_file("out", str(outside), "120000") + new_file("out/file.py", "x = 1\n"))
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_the_tests_becomes_their_directory_again(made):
    patch = "".join(
        [
            "diff --git a/tests/test_words.py b/tests/test_words.py\ndeleted file mode 100644\n",
            "--- a/tests/test_words.py\n+++ /dev/null\n@@ -1,5 +0,0 @@\n",
            *("-" + line for line in OLD_TESTS.splitlines(True)),
            new_file("tests", "/etc", "120000"),
        ]
    )
    assert verdict(made, FIX + patch).outcome in (RESOLVED, NOT_APPLIED)
    assert not os.path.exists("/etc/test_words.py")


def test_tests_that_hang_are_ended_and_unresolved(made):
    patch = diff_of(
        "words.py", BROKEN, "import time\n" + FIXED.replace("return text", "time.sleep(600)\n    return text")
    )
    found = verdict(made, patch, test_s=3)
    assert (found.outcome, found.resolved) == (NO_TIME, False)
    assert "3 s" in found.log


def test_endless_output_of_tests_is_ended(made):
    patch = diff_of(
        "words.py", BROKEN, FIXED.replace("    return text", "    while True: print('x' * 100000)\n    return text")
    )
    assert verdict(made, patch).outcome == NO_TIME


def test_output_that_is_no_text_is_escaped(made):
    patch = diff_of("words.py", BROKEN, "import os\nos.write(1, b'\\xff\\n')\n" + FIXED)
    found = verdict(made, patch)
    assert found.outcome == RESOLVED
    assert "udcff" in found.log.encode().decode()


def test_what_tests_start_ends_with_them(made):
    mark = f"a3b-left-{os.getpid()}"
    start = f"import subprocess\nsubprocess.Popen(['sleep', '600'], env={{'NAME': '{mark}'}})\n"
    assert verdict(made, diff_of("words.py", BROKEN, start + FIXED)).outcome == RESOLVED
    shown = subprocess.run(["ps", "eww", "-A"], capture_output=True, text=True, check=True).stdout
    assert mark not in shown


def test_tests_have_no_network(made):
    reach = (
        "import socket\ntry:\n    socket.create_connection(('1.1.1.1', 53), 2)\n    x = 1 / 0\nexcept OSError: pass\n"
    )
    assert verdict(made, diff_of("words.py", BROKEN, reach + FIXED)).outcome == RESOLVED


def test_a_huge_patch_is_refused_before_it_is_tried(made):
    found = verdict(made, FIX + new_file("huge.txt", "x" * MAX_PATCH))
    assert found.outcome == TOO_LARGE
    assert "at most 10,485,760" in found.log


def test_a_binary_patch_applies(made):
    clean = made.base / "binary"
    subprocess.run(["git", "clone", "--quiet", str(made.repository), str(clean)], check=True)
    subprocess.run(["git", "checkout", "--quiet", made.commit], cwd=clean, check=True)
    (clean / "data.bin").write_bytes(bytes(range(256)) * 8)
    (clean / "words.py").write_text(FIXED + "\n\nDATA = open('data.bin', 'rb').read()\nassert len(DATA) == 2048\n")
    subprocess.run(["git", "add", "--all"], cwd=clean, check=True)
    done = subprocess.run(
        ["git", "diff", "--cached", "--binary"], cwd=clean, check=True, capture_output=True, text=True
    )
    assert verdict(made, done.stdout).outcome == RESOLVED


@pytest.mark.parametrize(
    "patch", ["no patch at all", "\ud800", "diff --git a/x b/x\n@@ -1 +1 @@\n-a\n+b\n", "\0" * 100]
)
def test_what_is_no_patch_does_not_apply_and_its_log_says_so(made, patch):
    found = verdict(made, patch)
    assert found.outcome == NOT_APPLIED
    assert found.log


def test_a_patch_whose_context_has_moved_applies_as_in_the_official_harness(made):
    moved = diff_of(
        "words.py", "# one\n" + BROKEN.replace("Words", "Wörter"), "# one\n" + FIXED.replace("Words", "Wörter")
    )
    assert verdict(made, moved).outcome == RESOLVED


def test_the_project_s_tests_that_do_not_apply_are_an_error_and_no_verdict(made):
    broken = diff_of("tests/test_words.py", "other\n", "thing\n")
    with pytest.raises(SweEnvironmentError, match="its tests do not apply"):
        verdict(made, "", runs_empty=True, test_patch=broken)
