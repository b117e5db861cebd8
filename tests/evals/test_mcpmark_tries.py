"""Tries of tasks in MCPMark's form, from the state to the verdict: through MCP servers, in jails, thrown away after."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from a3b.agent.options import AgentOptions
from a3b.errors import UsageError
from a3b.evals.agent_run import run_agent
from a3b.evals.benchmarks.mcpmark.kit import PostgresPrograms
from a3b.evals.benchmarks.mcpmark.scripted import ServersFailed, solve_by_program
from a3b.evals.benchmarks.mcpmark.states import StateFailed, open_workplace, temporary_directory
from a3b.evals.benchmarks.mcpmark.tasks import chosen_tasks, read_tasks
from a3b.evals.benchmarks.mcpmark.verdicts import VerifierBroken, verdict_of
from tests.support.mcpmark_clone import SERVERS, make_clone, own_kit
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # starts servers in sandboxes, and a PostgreSQL

LACKING = [name for name in ("pgserver", "psycopg2", "mcp") if importlib.util.find_spec(name) is None]
VERIFIER = "tasks/filesystem/standard/notes/count/verify.py"
needs_postgres = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    short = tempfile.mkdtemp(prefix="mcpm-", dir="/tmp")  # a socket has no room for pytest's paths
    monkeypatch.setenv("TMPDIR", short)
    yield make_clone(tmp_path / "clone")
    assert os.listdir(short) == []  # tries leave nothing
    os.rmdir(short)
    monkeypatch.setattr(tempfile, "tempdir", None)


def programs():
    package = Path(importlib.util.find_spec("pgserver").origin).parent
    return PostgresPrograms(package / "pginstall" / "bin", package.parent, "pgserver")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A3B_HOME of all tests here, so that a cluster to copy is made once."""
    global HOME
    HOME = tmp_path_factory.mktemp("home")


HOME = Path()


async def in_try(clone, name, use, servers=SERVERS, postgres=None):
    service = "filesystem" if postgres is None else "postgres"
    (task,) = chosen_tasks(read_tasks(clone, service, "standard"), name)
    told = []
    kit, making = own_kit(postgres), asyncio.Lock()
    async with open_workplace(name, clone, HOME, kit, making, told.append, servers) as place:
        async with place.state(task) as state:
            return await use(place, task, state)


def solver(tmp_path, *calls):
    path = tmp_path / "solver.py"
    path.write_text(f"import sys\nsys.stdin.read()\nprint({json.dumps(list(calls))!r})\n")
    return path


def verdict_after(clone, name, *calls, **options):
    """(what the calls gave, the verdict)"""
    program = solver(clone.parent, *calls)

    async def use(place, task, state):
        log = await solve_by_program(program, task, state, place.agent_home)
        return log, await verdict_of(place, task, state)

    return asyncio.run(in_try(clone, name, use, **options))


def judged(clone, name="count", **options):
    return asyncio.run(in_try(clone, name, verdict_of, **options))


def write(content):
    return {"tool": "write_file", "arguments": {"path": "answer.txt", "content": content}}


def sql(text):
    return {"tool": "execute_sql", "arguments": {"sql": text}}


@pytest.mark.parametrize(("calls", "passes"), [([write("2")], True), ([write("3")], False), ([], False)])
def test_a_right_answer_passes_and_a_wrong_one_or_none_fails(clone, calls, passes):
    log, verdict = verdict_after(clone, "count", *calls)
    assert (verdict.passed, verdict.why) == (passes, "")
    assert "wrote answer.txt" in log or not calls
    assert not (clone / "test_environments/notes/answer.txt").exists()


def test_a_call_that_fails_is_recorded_and_the_next_is_made(clone):
    log, verdict = verdict_after(clone, "count", {"tool": "write", "arguments": {}}, write("2"))
    assert "has no tool 'write'; did you mean 'write_file'?" in log and verdict.passed


def test_servers_do_not_see_what_is_hidden_from_them(clone):
    place_to_hide = Path("/usr/share")  # a clone of these tests lies where servers see nothing anyhow
    look = {"tool": "is_there", "arguments": {"path": str(next(place_to_hide.iterdir()))}}
    program = solver(clone.parent, look)

    async def use(place, task, state):
        hidings = ((), (place_to_hide,))
        return [await solve_by_program(program, task, state, place.agent_home, hidden) for hidden in hidings]

    assert [log.splitlines()[-1] for log in asyncio.run(in_try(clone, "count", use))] == ["True", "False"]


def test_a_server_that_does_not_start_is_an_error_and_no_wrong_answer(clone):
    with pytest.raises(ServersFailed, match="files does not run: .*there is no program"):
        verdict_after(clone, "count", servers={"files": {"command": "/nowhere/server"}})


@pytest.mark.parametrize("printed", ["no list", "[1]", '[{"tool": 1, "arguments": {}}]', '[{"tool": "a"}]'])
def test_a_program_that_prints_no_calls_is_refused(clone, printed):
    path = clone.parent / "solver.py"
    path.write_text(f"print({printed!r})\n")

    async def use(place, task, state):
        return await solve_by_program(path, task, state, place.agent_home)

    with pytest.raises(UsageError, match=r"notes/count it did not print a list of calls.*expected objects"):
        asyncio.run(in_try(clone, "count", use))


LOOKING = """\
import os, socket, sys

def told(act):
    try:
        return act() or "done"
    except OSError as error:
        return error.strerror

print("hidden" if not os.path.exists("PRIVATE") else "seen", os.getuid(), "MY_TOKEN" in os.environ)
print(told(lambda: socket.create_connection(("127.0.0.1", 9), 1)))
print(told(lambda: open(__file__, "a")))
print(told(lambda: open(os.environ["FILESYSTEM_TEST_DIR"] + "/x", "w")))
"""


def test_a_verifier_sees_no_secret_no_network_and_no_other_file_and_changes_nothing(clone, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    (tmp_path / "private").write_text("private")
    (clone / VERIFIER).write_text(LOOKING.replace("PRIVATE", str(tmp_path / "private")))
    verdict = judged(clone)
    assert verdict.passed
    denied = ["Connection refused", "Read-only file system", "Read-only file system"]
    assert verdict.output.splitlines() == ["hidden 1000 False", *denied]


def test_a_verifier_that_does_not_end_fails_the_try_with_a_reason(clone, monkeypatch):
    monkeypatch.setattr("a3b.evals.benchmarks.mcpmark.states.SCRIPT_SECONDS", 0.5)
    (clone / VERIFIER).write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    verdict = judged(clone)
    assert not verdict.passed and "longer than 0.5 s" in verdict.why


def test_a_verifier_that_floods_its_output_is_stopped(clone):
    (clone / VERIFIER).write_text("while True:\n    print('x' * 10_000)\n")
    verdict = judged(clone)
    assert not verdict.passed and "printed more than" in verdict.why and len(verdict.output) < 30_000


def test_a_verifier_that_lacks_a_module_is_an_error_and_no_wrong_answer(clone):
    (clone / VERIFIER).write_text("import no_such_module\n")
    with pytest.raises(VerifierBroken, match="verify.py: ModuleNotFoundError: No module named 'no_such_module'"):
        judged(clone)


def test_what_a_killed_process_left_is_removed_and_what_runs_is_not(clone):
    left = Path(os.environ["TMPDIR"]) / "a3b-mcpmark-left"
    left.mkdir()
    (left / "lock").touch()
    with temporary_directory("one") as one, temporary_directory("one") as two:
        assert one != two and one.is_dir() and two.is_dir() and not left.exists()
    with temporary_directory("one") as again:
        assert again == one


@needs_postgres
@pytest.mark.parametrize(
    ("calls", "passes"),
    [
        ([sql("UPDATE item SET price = price + 1")], True),
        ([sql("UPDATE item SET price = price + 1 WHERE name = 'cup'")], False),
        ([], False),
    ],
)
def test_a_database_is_prepared_changed_through_the_server_and_judged(clone, calls, passes):
    _, verdict = verdict_after(clone, "prices", *calls, servers=None, postgres=programs())
    assert verdict.passed is passes and "in mcpmark_shop_prices" in verdict.output


@needs_postgres
def test_the_tools_of_the_server_describe_a_database_and_tell_errors(clone):
    calls = [
        {"tool": "list_schemas", "arguments": {}},
        {"tool": "list_objects", "arguments": {"schema_name": "public"}},
        {"tool": "get_object_details", "arguments": {"schema_name": "public", "object_name": "item"}},
        {"tool": "explain_query", "arguments": {"sql": "SELECT * FROM item"}},
        sql("SELECT name, price FROM item ORDER BY price; "),
        sql("SELECT * FROM nothing"),
        sql("SELECT generate_series(1, 2000)"),
        {"tool": "list_objects", "arguments": {"schema_name": "public", "object_type": "rule"}},
    ]
    log, _ = verdict_after(clone, "prices", *calls, servers=None, postgres=programs())
    for words in (
        '{"schema": "public"',
        '[{"name": "item"}]',
        '"column_name": "price"',
        "Seq Scan on item",
        '[{"name": "cup", "price": 3}, {"name": "pot", "price": 11}]',
        'relation "nothing" does not exist',
        "more than is shown",
        "expected one of table, view",
    ):
        assert words in log, words


@needs_postgres
def test_what_the_superuser_of_a_database_starts_sees_nothing_of_the_machine(clone, tmp_path):
    (tmp_path / "private").write_text("private")
    read = sql(f"SELECT pg_read_file('{tmp_path / 'private'}')")
    start = sql("CREATE TABLE t (x text); COPY t FROM PROGRAM 'id -u; ls /home /etc/shadow 2>&1 || true'; TABLE t")
    log, _ = verdict_after(clone, "prices", read, start, servers=None, postgres=programs())
    assert "No such file or directory" in log and "private'" in log
    assert '"1000"' in log and "cannot access '/etc/shadow'" in log


@needs_postgres
def test_roles_and_tables_of_one_try_are_not_there_in_the_next(clone):
    begin = sql("CREATE ROLE mine; CREATE TABLE mine (x int)")
    look = sql("SELECT rolname AS name FROM pg_roles WHERE rolname = 'mine' UNION ALL SELECT to_regclass('mine')::text")
    first, _ = verdict_after(clone, "prices", begin, look, servers=None, postgres=programs())
    second, _ = verdict_after(clone, "prices", look, servers=None, postgres=programs())
    assert '[{"name": "mine"}, {"name": "mine"}]' in first and '[{"name": null}]' in second


@needs_postgres
def test_a_dump_is_the_state_of_its_category_instead_of_the_script(clone):
    (clone / "postgres_state").mkdir()
    (clone / "postgres_state/shop.sql").write_text(
        "CREATE TABLE item (price int);\nCOPY item FROM stdin;\n4\n12\n\\.\n"
    )
    _, verdict = verdict_after(clone, "prices", servers=None, postgres=programs())
    assert verdict.passed


@needs_postgres
def test_a_script_that_fails_to_prepare_is_an_error_with_its_words(clone):
    script = clone / "tasks/postgres/standard/shop/prices/prepare_environment.py"
    script.write_text("import sys\nsys.exit('no shop today')\n")
    with pytest.raises(StateFailed, match="prepare_environment.py: no shop today"):
        judged(clone, "prices", postgres=programs())


def test_a_task_that_does_not_fit_into_the_context_is_not_solved_and_no_error(clone):
    (clone / "tasks/filesystem/standard/notes/count/description.md").write_text("word " * 20_000)
    model = ScriptedModel([Says("Done.")], context=8_000)

    async def use(place, task, state):
        options = AgentOptions(state.workspace, place.agent_home, url, tools=("mcp",), mcp_servers=state.servers)
        return await run_agent(replace(options, mcp_allowed=("files",)), task.description)

    with model.serving() as url:
        run = asyncio.run(in_try(clone, "count", use))
    assert (run.status, run.turns) == ("context", 0) and "and the server's context 8,000" in run.text


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")  # inspect's
def test_the_agent_works_with_the_tools_of_the_server_alone_and_its_cost_is_recorded(
    streams, clone, tmp_path, monkeypatch
):
    pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
    from a3b.evals.benchmarks.mcpmark import entry, solving
    from a3b.evals.harness import planned_tries, run_tries
    from a3b.evals.options import EvalOptions
    from a3b.evals.records import RecordFile

    monkeypatch.setattr(solving, "install", lambda *_: own_kit())
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": SERVERS}))
    extra = {"service": "filesystem", "tasks": "count,rename", "mcp": str(tmp_path / "servers.json")}
    calls = Says("There are two.", calls=[("mcp__files__write_file", {"path": "answer.txt", "content": "2"})])
    answers = [lambda body, _: Says("Done.") if body["messages"][-1]["role"] == "tool" else calls]
    model = ScriptedModel(answers, streams=streams)
    with model.serving() as url:
        options = EvalOptions(url, "scripted", HOME, data=clone, extra=extra, epochs=2, policy="none", streams=streams)
        entry.check(options)
        task = entry.make_task(options)
        file, told = RecordFile(tmp_path / "cases.jsonl"), []
        with closing(file):
            run_tries(
                entry.BENCHMARK, task, planned_tries(task, options), options, tmp_path / "logs", file, told.append
            )
    scores = {(record.case.rpartition("/")[2], record.epoch): record.score for record in told}
    assert scores == {("count", 1): 1.0, ("count", 2): 1.0, ("rename", 1): 0.0, ("rename", 2): 0.0}
    assert all(record.cost.requests == 2 and record.cost.computed > 0 and record.error == "" for record in told)
    assert all(record.facts["turns"] == 2 and record.facts["official"] is False for record in told)
    sent = model.bodies[0]
    names = [tool["function"]["name"] for tool in sent["tools"]]
    assert names == ["mcp__files__write_file", "mcp__files__is_there"]
    assert sent["thinking_policy"] == "none" and "how many notes" in sent["messages"][1]["content"]
    gc.collect()  # what inspect-ai has not closed is told while this test still ignores it
    seeds = {record.seed for record in told}
    assert len(seeds) == 4 and {body["seed"] for body in model.bodies} == seeds
