"""Solvers on a hand-made instance: `a3b code` with a scripted model, mini-swe-agent, predictions, and what is no fault
of theirs."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks.swebench import solvers
from a3b.evals.benchmarks.swebench.benchmark import SweTrial, asks_model, check, detail_of
from a3b.evals.benchmarks.swebench.mini import MiniFailed, find_mini
from a3b.evals.benchmarks.swebench.places import SweEnvironmentError
from a3b.evals.benchmarks.swebench.verdicts import EMPTY, NOT_APPLIED, RESOLVED, TOO_LARGE, UNRESOLVED
from a3b.evals.options import EvalOptions
from tests.support.fake_mini import fake_mini
from tests.support.sandboxes import user_directory
from tests.support.scripted_model import Says, ScriptedModel
from tests.support.swe_instances import SPEC, MadeInstances

pytestmark = pytest.mark.slow  # starts sandboxes and servers

EDIT = {"path": "words.py", "old": "split()[1]", "new": "split()[0]"}


@pytest.fixture(scope="module")
def made():
    with user_directory() as path:  # not below /tmp, of which commands have their own
        yield MadeInstances(path)


def options_of(made, url="", **extra):
    places = {"clones": str(made.places.clones), "work": str(made.places.work)}
    return EvalOptions(url, "scripted", made.home, data=made.write(), extra={"keep": "yes", **places, **extra})


def tried(made, options, **changes):
    """(solution, verdict) of the instance."""
    return asyncio.run(SweTrial(options).run(made.instance(**changes), 7))


def by_agent(made, answers, **extra):
    """What a scripted model gets to with `a3b code`, and its server."""
    model = ScriptedModel([*answers, Says("Done.")])
    with model.serving() as url:
        return *tried(made, options_of(made, url, **extra)), model


def bash(command):
    return Says(calls=[("bash", {"command": command})])


def test_the_agent_s_changes_are_its_patch_and_resolve_the_instance(made):
    solution, found, model = by_agent(
        made, [Says(calls=[("read", {"path": "words.py"})]), Says(calls=[("edit", EDIT)])]
    )
    assert found.outcome == RESOLVED, detail_of(found)
    assert "-    return text.split()[1]\n+    return text.split()[0]" in solution.patch
    assert (solution.facts["status"], solution.facts["turns"], solution.cost.requests) == ("done", 3, 3)
    assert solution.messages[-1]["content"] == "Done."


def test_the_agent_solves_with_whole_answers_of_a_server_that_does_not_stream(made):
    model = ScriptedModel([Says(calls=[("edit", EDIT)]), Says("Done.")], streams=False)
    with model.serving() as url:
        solution, found = tried(made, replace(options_of(made, url), streams=False))
    assert found.outcome == RESOLVED and solution.cost.requests == 2


def test_the_agent_is_asked_as_the_card_says_and_told_the_issue_and_nothing_more(made):
    _, _, model = by_agent(made, [])
    body = model.bodies[0]
    assert (body["temperature"], body["top_p"], body["seed"]) == (1.0, 0.95, 7)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["read", "write", "edit", "bash"]
    said = json.dumps(body)
    assert "`first` gives the second word." in said
    assert "test_first" not in said and "split()[0]" not in said


def test_the_agent_s_python_is_that_of_the_environment_and_the_fix_is_not_to_be_found(made):
    _, _, model = by_agent(
        made,
        [bash("command -v python; git log --all --format=%s; touch $VIRTUAL_ENV/x $(dirname $(command -v python))/x")],
    )
    result = model.bodies[1]["messages"][-1]["content"]
    assert "instances/acme__words-7/venv/bin/python" in result
    assert "Count words" in result and "Give the first word" not in result
    assert "Read-only file system" in result or "Permission denied" in result


@pytest.mark.parametrize("scaffold", ["a3b", "mini-swe-agent"])
def test_neither_clones_nor_rows_nor_other_instances_can_be_read_by_a_solver(made, tmp_path, scaffold):
    other = made.places.instances / "acme__words-70" / "patches"
    other.mkdir(parents=True, exist_ok=True)
    (other / "tests.diff").write_text("SECRET")
    look = f"cat {made.data} {other}/tests.diff {made.places.work}/instances/acme__words-7/patches/tests.diff; "
    look += f"git --git-dir={made.repository}/.git log --all; ls {made.places.work}/instances {made.base}/clones"
    if scaffold == "a3b":
        result = by_agent(made, [bash(look)])[2].bodies[1]["messages"][-1]["content"]
    else:
        solution, _ = by_mini(made, tmp_path, [look])
        (result,) = [m["content"] for m in solution.messages if m["role"] == "tool"]
    for secret in ("SECRET", "test_first", "Give the first word", "acme__words-70\n", "acme__words\n"):
        assert secret not in result.replace(look, "")


def test_no_change_is_an_empty_patch(made):
    solution, found, _ = by_agent(made, [])
    assert (solution.patch, found.outcome) == ("", EMPTY)


def test_commits_new_files_and_ignored_files_of_the_agent(made):
    steps = "sed -i 's/split()\\[1\\]/split()[0]/' words.py && git commit -qam x; echo 1 > new.py; echo 2 > no.pyc"
    solution, found, _ = by_agent(made, [bash(steps)])
    assert found.outcome == RESOLVED
    assert "b/new.py" in solution.patch and "no.pyc" not in solution.patch


def test_a_patch_with_bytes_that_are_no_text_applies(made):
    steps = (
        "sed -i 's/split()\\[1\\]/split()[0]/' words.py; printf '\\xe9\\n' > latin.txt; git init -q in; echo x > in/y"
    )
    solution, found, _ = by_agent(made, [bash(steps)])
    assert found.outcome == RESOLVED
    assert solution.patch.isascii()


def test_changes_that_are_too_many_are_no_patch(made):
    solution, found, _ = by_agent(made, [bash("head -c 12000000 /dev/urandom | base64 -w 100 > large.txt")])
    assert (solution.patch, found.outcome) == (None, TOO_LARGE)


def test_what_the_agent_does_to_git_does_not_matter(made):
    steps = "sed -i 's/split()\\[1\\]/split()[0]/' words.py; rm -rf .git; git init -q; git add -A"
    solution, found, _ = by_agent(made, [bash(steps)])
    assert found.outcome == RESOLVED
    assert solution.patch.count("diff --git") == 1


def test_the_limit_of_turns_ends_a_solver_and_what_it_has_done_counts(made):
    steps = [Says(calls=[("read", {"path": "words.py"})]), Says(calls=[("edit", EDIT)]), *[bash("true")] * 9]
    solution, found, _ = by_agent(made, steps, turns="3")
    assert (solution.facts["status"], found.outcome) == ("limit", RESOLVED)


def test_predictions_are_judged_and_a_missing_one_is_empty(made, tmp_path):
    patch = {"instance_id": "acme__words-7", "model_name_or_path": "them", "model_patch": made.row()["patch"]}
    file = tmp_path / "p.jsonl"
    for rows, outcome in (
        ([patch], RESOLVED),
        ([patch | {"instance_id": "b"}], EMPTY),
        ([patch | {"model_patch": "x"}], NOT_APPLIED),
    ):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        _, found = tried(made, options_of(made, predictions=str(file)))
        assert found.outcome == outcome


def test_gold_and_empty_need_no_model(made):
    assert [tried(made, options_of(made, scaffold=name))[1].outcome for name in ("gold", "empty")] == [
        RESOLVED,
        UNRESOLVED,
    ]
    assert [asks_model({"scaffold": name}) for name in ("gold", "empty", "a3b", "mini-swe-agent")] == [0, 0, 1, 1]
    assert asks_model({}) and not asks_model({"predictions": "x"})


def test_where_the_project_s_own_fix_does_not_pass_no_solver_is_judged(made):
    changes = {"instance_id": "acme__words-8", "FAIL_TO_PASS": ["tests/test_words.py::test_gone"]}
    with pytest.raises(SweEnvironmentError, match=r"own fix does not pass here .*test_gone.*gold-first=no"):
        tried(made, options_of(made, scaffold="empty"), **changes)
    assert tried(made, options_of(made, scaffold="empty", **{"gold-first": "no"}), **changes)[1].outcome == UNRESOLVED


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"install": "echo begins; echo 'no compiler' >&2; exit 3"},
            r"exit 3: exit status 3\n(.|\n)*no compiler\n(.|\n)*The whole log: ",
        ),
        ({"python": "3.99"}, r"no Python 3\.99"),
        ({"requirements": ["none.txt"]}, r"acme/words has none of none\.txt at "),
    ],
    ids=str,
)
def test_an_environment_that_cannot_be_made_is_an_error_with_the_end_of_its_log(made, spec, message):
    with pytest.raises(SweEnvironmentError, match=message):
        tried(made, options_of(made, scaffold="gold"), instance_id="acme__words-9", spec=SPEC | spec)


def test_a_killed_installation_begins_anew(made):
    directory = made.places.instances / "acme__words-11"
    (directory / "venv").mkdir(parents=True)
    (directory / "testbed").mkdir()
    assert tried(made, options_of(made, scaffold="gold"), instance_id="acme__words-11")[1].resolved


def test_without_keep_nothing_stays_of_an_instance(made):
    assert tried(made, options_of(made, scaffold="gold", keep="no"), instance_id="acme__words-12")[1].resolved
    assert not (made.places.instances / "acme__words-12").exists()


def test_what_an_installation_changes_is_no_change_of_the_solver(made):
    spec = SPEC | {"pre_install": ["echo '# installed' >> runner.py"]}
    options = options_of(made, scaffold="gold")
    assert tried(made, options, instance_id="acme__words-13", spec=spec)[1].resolved
    model = ScriptedModel([Says("Done.")])
    with model.serving() as url:
        solution, _ = tried(made, options_of(made, url), instance_id="acme__words-13", spec=spec)
    assert solution.patch == ""


# -- mini-swe-agent

SUBMIT = [
    "sed -i 's/split()\\[1\\]/split()[0]/' words.py",
    "git diff -- words.py > patch.txt",
    "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt",
]


def by_mini(made, tmp_path, commands):
    return tried(made, options_of(made, "http://x", scaffold="mini-swe-agent", mini=str(fake_mini(tmp_path, commands))))


def test_what_mini_swe_agent_hands_in_is_the_patch(made, tmp_path):
    solution, found = by_mini(made, tmp_path, SUBMIT)
    assert found.outcome == RESOLVED
    assert (solution.facts["status"], solution.facts["turns"], solution.facts["mini"]) == ("Submitted", 3, "2.9")
    assert (solution.cost.computed, solution.cost.cached, solution.cost.written, solution.cost.requests) == (
        18,
        12,
        6,
        3,
    )


def test_its_commands_run_in_the_sandbox_in_the_checkout(made, tmp_path):
    solution, _ = by_mini(made, tmp_path, ["pwd; command -v python; cat /etc/shadow; env; echo x > /usr/x"])
    (shown,) = [json.loads(m["content"]) for m in solution.messages if m["role"] == "tool"]
    lines = shown["output"].split("\n")
    assert lines[0].endswith("acme__words-7/testbed") and lines[1].endswith("acme__words-7/venv/bin/python")
    assert "PAGER=cat" in lines and "API_KEY" not in shown["output"] and "root:" not in shown["output"]
    assert "Read-only file system" in shown["output"]
    assert solution.messages[0]["content"].startswith(f"Work in {lines[0]}.")


def test_a_command_of_it_that_does_not_end_is_stopped(made, tmp_path, monkeypatch):
    monkeypatch.setattr("a3b.evals.benchmarks.swebench.mini.COMMAND_S", 1)
    solution, _ = by_mini(made, tmp_path, ["echo begun; sleep 600", "yes"])
    slow, loud = (json.loads(m["content"]) for m in solution.messages if m["role"] == "tool")
    assert (slow["output"], slow["returncode"]) == ("begun\n", -1) and "after 1 seconds" in slow["exception_info"]
    assert loud["returncode"] == -1 and len(loud["output"]) <= 4 << 20


def test_a_full_context_is_an_end_without_a_patch(made, tmp_path):
    solution, found = by_mini(made, tmp_path, ["true", "full"])
    assert (solution.facts["status"], found.outcome) == ("ContextWindowExceededError", EMPTY)


def test_a_failure_of_mini_swe_agent_is_an_error_and_no_verdict(made, tmp_path):
    with pytest.raises(MiniFailed, match="the model is gone"):
        by_mini(made, tmp_path, ["true", "breaks"])


def test_without_mini_swe_agent_it_is_said_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="uv tool install mini-swe-agent"):
        find_mini(None)
    with pytest.raises(UsageError, match="has no mini-swe-agent"):
        find_mini(sys.executable)


def test_mini_swe_agent_is_found_behind_its_program_on_path(monkeypatch, tmp_path):
    python = fake_mini(tmp_path, [])
    (tmp_path / "mini").write_text(f"#!{python}\nimport minisweagent\n")
    (tmp_path / "mini").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_mini(None).python == python


# -- options


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"scaffold": "aider"}, "scaffold='aider': expected a3b, mini-swe-agent, gold, empty"),
        ({"keep": "maybe"}, "keep='maybe': expected yes or no"),
        ({"turns": "0"}, "turns='0': expected a whole number"),
        ({"verdict": "mine"}, "verdict='mine': expected local or official"),
        ({"predictions": "x", "scaffold": "gold"}, "leave one out"),
        ({"predictions": "/none.jsonl"}, r"/none\.jsonl: No such file"),
        ({"clones": "/none"}, "clones=/none: is no directory"),
        ({"instances": "a,b"}, "has 1 instances, but not a, b"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_before_anything_begins(made, extra, message):
    with pytest.raises(UsageError, match=message):
        check(options_of(made, **extra))


def test_without_data_it_is_said_where_it_comes_from(made):
    with pytest.raises(UsageError, match=r"needs its dataset: https://huggingface.*--data"):
        check(EvalOptions("", "m", made.home))


def test_the_card_s_sampling_is_a_default(made):
    assert solvers.CARD == {"temperature": 1.0, "top_p": 0.95}
