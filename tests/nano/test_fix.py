"""The packages of *fix* and their conversations: every bug is found by the tests, every repair mends it, and what the
tools answer in training is what the agent's own tools answer."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import a3b
from a3b.agent.prompt import system_prompt
from a3b.agent.tools.edit import changed_text
from a3b.agent.tools.file_tool import edit_file, read_file
from a3b.agent.tools.known_tests import runs_tests
from a3b.agent.tools.syntax import syntax_of
from a3b.agent.tools.text_file import FileToolError
from a3b.evals.families import fix
from a3b.evals.families.common import assistant, calls_of, rng_for
from a3b.evals.families.fix_functions import FUNCTIONS
from a3b.evals.families.fix_package import COMMAND, change_of, make_package, run_tests
from a3b.evals.families.fix_patterns import UNSEEN_KINDS
from nano.data import MAX_TOKENS
from nano.render import Renderer
from nano.tasks import FAMILIES

pytestmark = pytest.mark.slow  # makes hundreds of packages
MODEL = Path(a3b.__file__).with_name("nano_model")
MOST_PROMPT = 700  # tokens of nano for the system prompt and the three tools


@pytest.fixture(scope="module")
def renderer():
    return Renderer(MODEL)


def packages(split, count, kinds=None):
    return [make_package(rng_for(split, "fix", index), split, kinds) for index in range(count)]


def write(package, directory):
    for path, text in package.files.items():
        (directory / path).write_text(text, encoding="utf-8")


def repaired(package):
    """The files after the one change that mends the bug."""
    old, new = change_of(package.bug)
    path = package.module + ".py"
    assert package.files[path].count(old) == 1
    return package.files | {path: package.files[path].replace(old, new)}


@pytest.mark.slow
def test_every_bug_makes_its_function_fail_and_no_other():
    for package in packages("train", 150) + packages("test", 150):
        lines = run_tests(package.files, package.tests).split("\n")
        assert len(lines) == 2 and f"{package.module}.py: FAIL {package.bug.name}(" in lines[0]
        assert lines[1] == "[exit status 1]"


@pytest.mark.slow
def test_one_exact_edit_mends_every_package():
    for package in packages("train", 150) + packages("test", 150, list(UNSEEN_KINDS)):
        assert repaired(package) == package.right
        assert run_tests(package.right, package.tests) == "ok"


def test_all_kinds_occur_and_those_kept_back_only_when_asked_for():
    kinds = Counter(package.bug.kind for package in packages("train", 300))
    assert len(kinds) >= 8 and not set(kinds) & set(UNSEEN_KINDS)
    assert {p.bug.kind for p in packages("test", 60, list(UNSEEN_KINDS))} == set(UNSEEN_KINDS)


@pytest.mark.slow
def test_every_pattern_and_every_bug_of_it_can_be_drawn():
    wanted = {(p.docs[0], bug) for p in FUNCTIONS for bug in p.bugs}
    for pattern, bug in wanted:
        text = "def f():\n" + next(p.code for p in FUNCTIONS if p.docs[0] == pattern)
        signature = "={k}" if bug[0] == "default" else ""
        assert (text + signature).count(bug[1]) >= 1, (pattern, bug)


def names_of(package):
    """Function names, module names and texts of documentation of a package."""
    functions = [f for functions in package.modules.values() for f in functions]
    return {f.name for f in functions}, set(package.modules), {f.doc for f in functions}


@pytest.mark.slow
def test_names_and_texts_of_tests_never_occur_in_training():
    train = [set().union(*sets) for sets in zip(*map(names_of, packages("train", 600)), strict=True)]
    test = [set().union(*sets) for sets in zip(*map(names_of, packages("test", 300)), strict=True)]
    for trained, tested in zip(train, test, strict=True):
        assert trained and tested and not trained & tested


def test_tasks_and_places_of_tests_never_occur_in_training():
    for table in (fix.ASK, fix.LOOK_FIRST, fix.NEXT, fix.PLACES, fix.DIRECTORIES):
        assert not set(table["train"]) & set(table["test"])


def test_a_seed_always_gives_the_same_conversation():
    for index in range(20):
        assert fix.example(rng_for("train", "fix", index)) == fix.example(rng_for("train", "fix", index))


def test_the_test_script_prints_what_training_shows(tmp_path):
    for index, package in enumerate(packages("test", 4)):
        directory = tmp_path / str(index)
        directory.mkdir()
        write(package, directory)
        for files in (package.files, package.right):
            (directory / f"{package.module}.py").write_text(files[f"{package.module}.py"], encoding="utf-8")
            done = subprocess.run([sys.executable, "test.py"], cwd=directory, capture_output=True, text=True)
            status = f"\n[exit status {done.returncode}]" if done.returncode else ""
            assert done.stdout.rstrip("\n") + status == run_tests(files, package.tests)
        assert sorted(os.listdir(directory)) == sorted(package.files)


@pytest.mark.slow
def test_training_and_the_file_tools_answer_alike(tmp_path):
    for index in range(40):
        rng = random.Random(index)
        package = make_package(rng)
        space = fix.Workspace(package)
        space.has_run = index % 2 == 0
        write(package, tmp_path)
        path = package.module + ".py"
        assert space.answer("read", {"path": path}) == read_file(path, root=str(tmp_path)).text
        old, new = change_of(package.bug)
        for tried in (fix.slip_of(rng, old, new), "    " + old, "def ", old):
            found = space.answer("edit", {"path": path, "old": tried, "new": new})
            try:
                text = edit_file(path, tried, new, root=str(tmp_path)).text
                now = (tmp_path / path).read_text(encoding="utf-8")
                text = changed_text(text, syntax_of(path, now), COMMAND if space.has_run else "")
            except FileToolError as error:
                text = f"Error: {error}"
            assert found == text
            assert (tmp_path / path).read_text(encoding="utf-8") == space.files[path]


def test_the_test_command_is_one_that_the_agent_knows_as_such():
    assert runs_tests(COMMAND)


def test_examples_are_those_of_the_agent_and_end_with_passing_tests(renderer):
    for index in range(60):
        example = fix.example(rng_for("train", "fix", index))
        assert example.messages[0]["content"] == system_prompt(["read", "edit", "bash"])
        assert example.messages[1]["content"].startswith("<environment>\ndirectory: /")
        assert example.messages[-2]["content"] == "ok"
        assert len(renderer.supervised(example)[0]) <= MAX_TOKENS


def test_slips_and_wrong_first_thoughts_occur_and_are_not_taught(renderer):
    kinds = Counter()
    for index in range(120):
        example = fix.example(rng_for("train", "fix", index), 1)
        untaught = [m for m in example.messages if m.get("untaught")]
        results = [m["content"] for m in example.messages if m["role"] == "tool"]
        kinds["missed"] += any(r.startswith("Error: ") for r in results)
        kinds["failed again"] += sum("FAIL" in r for r in results) > 1
        _, weights = renderer.supervised(example)
        _, all_weights = renderer.supervised(
            fix.Conversation([{k: v for k, v in m.items() if k != "untaught"} for m in example.messages], example.tools)
        )
        assert (sum(w == 1 for w in weights) < sum(w == 1 for w in all_weights)) == bool(untaught)
    assert kinds["missed"] >= 5 and kinds["failed again"] >= 5


def test_prompt_and_tools_fit_into_700_tokens(renderer):
    messages = [
        {"role": "system", "content": system_prompt(["read", "edit", "bash"])},
        {"role": "user", "content": "x"},
    ]
    text = renderer.template.render(messages=messages, tools=fix.TOOLS)
    assert len(renderer.encode(text.split("<|im_start|>user")[0])) <= MOST_PROMPT


def test_a_repair_that_changes_anything_else_is_no_repair():
    for package in packages("test", 20):
        files = repaired(package)
        assert fix.judge(package, files)[0]
        assert not fix.judge(package, package.files)[0]
        for path, text in files.items():
            assert not fix.judge(package, files | {path: text + "\n\nmore = 1\n"})[0]
        assert not fix.judge(package, files | {"test.py": "print('ok')\n"})[0]
        assert not fix.judge(package, files | {"new.py": ""})[0]


def perfect(case):
    """Runs the tests, reads, edits, runs them again and says so."""

    def generate(messages, tools, sample=False):
        package, done = case.package, [m for m in messages if m["role"] == "tool"]
        path, (old, new) = package.module + ".py", change_of(package.bug)
        calls = [
            ("bash", {"command": COMMAND}),
            ("read", {"path": path}),
            ("edit", {"path": path, "old": old, "new": new}),
            ("bash", {"command": COMMAND}),
        ]
        return assistant("", call=calls[len(done)]) if len(done) < len(calls) else assistant("Done.")

    return generate


def test_a_player_who_finds_the_bug_passes_every_case():
    for index in range(20):
        case = FAMILIES["fix"].case(rng_for("test", "fix", index))
        outcome = case.play(perfect(case))
        assert outcome.ok and outcome.valid, outcome.detail
        assert len([m for m in outcome.messages if calls_of(m)]) == 4


def test_a_player_who_gives_up_fails():
    case = FAMILIES["fix"].case(rng_for("test", "fix", 0))
    assert not case.play(lambda messages, tools, sample=False: assistant("Done.")).ok
