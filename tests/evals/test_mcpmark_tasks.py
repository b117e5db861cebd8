"""Which tasks a clone of MCPMark has, which can be run, and what MCPMark's scores are."""

from __future__ import annotations

import json
import subprocess

import pytest

from a3b.errors import SandboxUnavailable, UsageError
from a3b.evals.benchmarks.mcpmark import jail
from a3b.evals.benchmarks.mcpmark.entry import BENCHMARK
from a3b.evals.benchmarks.mcpmark.plan import plan_of
from a3b.evals.benchmarks.mcpmark.scores import score_lines, scores_of
from a3b.evals.benchmarks.mcpmark.states import filled, missing_state
from a3b.evals.benchmarks.mcpmark.tasks import check_official, chosen_tasks, read_tasks, tree_id
from a3b.evals.benchmarks.mcpmark.verdicts import McpMarkVerdict
from a3b.evals.options import EvalOptions
from tests.support.mcpmark_clone import make_clone


@pytest.fixture
def clone(tmp_path):
    return make_clone(tmp_path / "clone")


def options(clone, **extra):
    return EvalOptions("http://127.0.0.1:9", "model", clone.parent / "home", data=clone, extra=extra)


def test_tasks_have_the_category_of_their_meta_data_and_the_origin_of_their_state(clone):
    count, *_ = (task for task in read_tasks(clone, "filesystem", "standard") if task.name == "count")
    assert (count.id, count.category) == ("filesystem/standard/notes/count", "notes")
    assert count.origin == "https://example.com/notes.zip" and "how many" in count.description


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, ["find", "count", "rename"]),
        ("count", ["count"]),
        ("notes", ["count", "rename"]),
        ("notes/rename, count", ["rename", "count"]),
        ("filesystem/standard/notes/count,count", ["count"]),
    ],
)
def test_tasks_are_chosen_by_name_and_by_category(clone, wanted, names):
    assert [task.name for task in chosen_tasks(read_tasks(clone, "filesystem", "standard"), wanted)] == names


def test_a_name_that_no_task_has_is_refused_with_the_nearest(clone):
    with pytest.raises(UsageError, match="no task or category 'cuont'; did you mean 'count'"):
        chosen_tasks(read_tasks(clone, "filesystem", "standard"), "cuont")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("meta.json", '{"category_id": "../../etc"}', r"category_id: '\.\./\.\./etc'; expected a name"),
        ("meta.json", "[1]", "meta.json: expected a JSON object"),
        ("meta.json", "[" * 100_000, "meta.json: .*expected a JSON object"),
        ("description.md", "\udcff", "description.md: .*invalid"),
        ("verify.py", None, "has no verify.py"),
        ("description.md", None, "description.md: No such file"),
    ],
)
def test_a_file_that_is_wrong_is_named(clone, name, text, words):
    path = clone / "tasks/filesystem/standard/notes/count" / name
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=words):
        read_tasks(clone, "filesystem", "standard")


def test_the_id_of_a_directory_is_that_of_git(clone):
    (clone / "tasks/filesystem/run").write_text("#!/bin/sh\n")
    (clone / "tasks/filesystem/run").chmod(0o755)
    (clone / "tasks/filesystem/standard.md").write_text("sorts before the directory\n")
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", "-C", clone, *words], check=True)
    cache = clone / "tasks/filesystem/standard/__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_bytes(b"left by Python")
    written = ["git", "-C", clone, "write-tree", "--prefix=tasks/filesystem/"]
    wanted = subprocess.run(written, capture_output=True, text=True, check=True).stdout.strip()
    assert tree_id(clone / "tasks/filesystem") == wanted


def test_other_tasks_than_the_official_ones_are_told(clone):
    assert "differs from MCPMark's commit 89d7967" in check_official(clone, "filesystem")


def test_a_link_among_the_tasks_is_refused(clone):
    (clone / "tasks/filesystem/link").symlink_to("/etc")
    with pytest.raises(UsageError, match="link: is neither file nor directory"):
        tree_id(clone / "tasks/filesystem")


def test_what_a_task_begins_from_is_named_if_it_is_missing(clone):
    find, count, _ = read_tasks(clone, "filesystem", "standard")
    (prices,) = read_tasks(clone, "postgres", "standard")
    assert missing_state(clone, count) == missing_state(clone, prices) == ""
    assert missing_state(clone, find) == f"the directory {clone}/test_environments/absent is missing"
    (prices.directory / "prepare_environment.py").unlink()
    assert f"{clone}/postgres_state/shop.backup or .sql is missing" in missing_state(clone, prices)


def test_tasks_without_their_state_are_left_out_and_told_unless_they_are_named(clone, capsys):
    plan = plan_of(options(clone, service="filesystem"), tell=True)
    assert [task.name for task in plan.tasks] == ["count", "rename"]
    assert "1 of 3 tasks are left out" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"absent/find: the directory .*/absent is missing"):
        plan_of(options(clone, service="filesystem", tasks="find,count"))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"service": "github"}, "service=github: not run by a3b eval; MCPMark's own runner needs GitHub"),
        ({"service": "postgre"}, "did you mean 'postgres'"),
        ({"suite": "hard"}, "suite='hard': expected standard or easy"),
        ({"solver": "/nowhere.py"}, "solver=/nowhere.py: there is no such file"),
        ({"turns": "0"}, "turns='0': expected a whole number from 1"),
    ],
)
def test_an_option_that_cannot_be_followed_is_refused(clone, extra, words):
    with pytest.raises(UsageError, match=words):
        plan_of(options(clone, **extra))


@pytest.mark.parametrize("text", ["{", "{}", '{"mcpServers": []}', '{"mcpServers": {"a": 1}}', "[" * 100_000])
def test_a_file_of_servers_that_names_none_is_refused(clone, tmp_path, text):
    (tmp_path / "servers.json").write_text(text)
    with pytest.raises(UsageError, match="servers.json.*expected"):
        plan_of(options(clone, mcp=str(tmp_path / "servers.json")))


def test_a_directory_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no directory tasks; expected a clone of MCPMark: git clone"):
        plan_of(options(tmp_path))
    with pytest.raises(UsageError, match="needs a clone of MCPMark: git clone"):
        plan_of(EvalOptions("http://127.0.0.1:9", "model", tmp_path))


def test_entries_of_servers_get_what_differs_between_tries():
    entry = {"command": "x", "args": ["${DIRECTORY}/a", "$HOME"], "env": {"URI": "${DATABASE_URI}"}}
    found = filled({"s": entry}, {"DIRECTORY": "/d", "DATABASE_URI": "postgresql:///x"})
    wanted = {"command": "x", "args": ["/d/a", "$HOME"], "env": {"URI": "postgresql:///x"}, "timeout": 60_000}
    assert found == {"s": wanted}


def test_the_scores_are_those_of_mcpmark():
    scores = scores_of({"a": [True, True, True, True], "b": [True, False, False, True], "c": [False] * 4})
    assert (scores.tasks, scores.k) == (3, 4)
    assert scores.pass_1 == pytest.approx((2 + 1 + 1 + 2) / 12)
    assert scores.pass_1_spread == pytest.approx(1 / 6)
    assert (scores.pass_k, scores.pass_hat_k) == pytest.approx((2 / 3, 1 / 3))


def test_tasks_with_fewer_tries_are_left_out_of_scores_over_several_and_told():
    lines = score_lines({"a": [1.0, 0.0], "b": [1.0]})
    assert lines == [
        "MCPMark    1 tasks, 2 tries: pass@1 = avg@2 50.0% ± 50.0%, pass@2 100.0%, pass^2 0.0%",
        "           1 tasks have fewer than 2 tries, and are not in this line",
    ]
    assert score_lines({}) == []


def test_the_reason_of_a_verdict_is_what_its_verifier_marks_as_failed():
    assert McpMarkVerdict(False, "✓ one\n✗ two is wrong\nSummary: 1\n").reason == "✗ two is wrong"
    assert McpMarkVerdict(False, "Traceback\nKeyError: 'x'\n").reason == "KeyError: 'x'"


def test_every_service_of_mcpmark_is_listed_with_what_it_needs():
    told = json.dumps([(need.what, need.provided_by) for need in BENCHMARK.needs])
    for service in ("postgres", "filesystem", "github", "notion", "playwright", "playwright_webarena"):
        assert service in told


def test_a_run_of_known_answers_needs_no_server_and_is_no_score_of_a_model():
    assert BENCHMARK.asks_model({}) and BENCHMARK.asks_model({"solver": "agent"})
    assert not BENCHMARK.asks_model({"solver": "bench/mcpmark/known.py"})


def test_a_bubblewrap_that_does_not_work_is_told_with_its_own_reason(tmp_path, monkeypatch):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: Unknown option --uid' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(jail, "find_programs", lambda _: [str(program)])
    with pytest.raises(SandboxUnavailable, match=r"confines them: /\S+/bwrap: Unknown option --uid\. What .*-bin$"):
        jail.working_bubblewrap()
