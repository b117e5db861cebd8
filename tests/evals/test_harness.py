"""Runs against a scripted server: what is recorded, what a failing server leaves, and what --resume repeats."""

from __future__ import annotations

import gc
import sys
from importlib.metadata import requires

import pytest
from starlette.responses import JSONResponse

from a3b.agent import client as agent_client
from a3b.errors import A3BError, UsageError
from a3b.evals import harness
from a3b.evals.benchmarks.fix import BENCHMARK as FIX
from a3b.evals.benchmarks.lookup import BENCHMARK as LOOKUP
from a3b.evals.harness import RunStopped, planned_tries, run_tries
from a3b.evals.options import EvalOptions, case_seed
from a3b.evals.records import RecordFile, read_records
from tests.support.lookup_player import asked, solved
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = [
    pytest.mark.slow,  # starts servers or commands, or computes for seconds
    # inspect-ai leaves streams of anyio to the garbage collector, and uses what its libraries call deprecated
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
    ),
]


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch):
    monkeypatch.setattr(agent_client, "TRIES", 1)
    yield
    gc.collect()


def options_of(url, tmp_path, **given):
    return EvalOptions(url, "scripted", tmp_path, **{"limit": 4, **given})


def run(script, tmp_path, server=None, benchmark=LOOKUP, **given):
    """The records after a run, and the server that was asked."""
    server = ScriptedModel([lambda body, number: script(body)], **(server or {}))
    with server.serving() as url:
        options = options_of(url, tmp_path, **given)
        task = benchmark.make_task(options)
        tries = planned_tries(task, options)
        done = read_records(tmp_path / "cases")
        left = {k: v for k, v in tries.items() if (v[0].case, v[0].epoch) not in done}
        left |= {k: v for k, v in tries.items() if (r := done.get((v[0].case, v[0].epoch))) and r.score is None}
        records = RecordFile(tmp_path / "cases")
        try:
            run_tries(benchmark, task, left, options, tmp_path / "logs", records, lambda _: None)
        finally:
            records.close()
    return read_records(tmp_path / "cases"), server


def test_each_try_is_recorded_with_its_cost_and_its_seed(tmp_path, capfd):
    found, server = run(solved, tmp_path, epochs=2, policy="none", seed=5)
    assert len(found) == 8 and {record.score for record in found.values()} == {1.0}
    assert {key: record.seed for key, record in found.items()} == {
        (f"lookup-{i}", epoch): case_seed(5, f"lookup-{i}", epoch) for i in range(4) for epoch in (1, 2)
    }
    cost = found["lookup-0", 1].cost
    assert cost.requests == 3 and cost.written > 0 and cost.cached > 0 and cost.seconds > 0
    assert {body["seed"] for body in server.bodies} == {record.seed for record in found.values()}
    assert {body["thinking_policy"] for body in server.bodies} == {"none"}
    assert len(list((tmp_path / "logs").glob("*.eval"))) == 1
    assert capfd.readouterr().out == ""


def test_a_server_without_usage_leaves_the_tokens_unknown(tmp_path):
    found, _ = run(solved, tmp_path, {"tells_usage": False}, limit=1)
    cost = found["lookup-0", 1].cost
    assert (cost.requests, cost.untold, cost.is_told) == (3, 3, False)


def test_a_server_that_does_not_stream_is_asked_for_whole_answers_and_tells_their_cost(tmp_path):
    refused, _ = run(solved, tmp_path, {"streams": False}, limit=2)
    assert {record.score for record in refused.values()} == {None}
    assert "streaming tool choice is not supported" in refused["lookup-0", 1].error
    whole, server = run(solved, tmp_path, {"streams": False}, limit=2, parallel=1, streams=False)
    assert {record.score for record in whole.values()} == {1.0}
    assert not any(name.startswith("stream") for body in server.bodies for name in body)
    (tmp_path / "streamed").mkdir()
    streamed, _ = run(solved, tmp_path / "streamed", limit=2, parallel=1)
    for key, record in whole.items():
        cost, other = record.cost, streamed[key].cost
        assert (cost.computed, cost.cached, cost.written) == (other.computed, other.cached, other.written)
        assert cost.cached > 0 and 0 < cost.thinking < cost.written and cost.is_told


def test_the_agent_of_a_benchmark_asks_for_whole_answers_too(tmp_path):
    found, _ = run(lambda body: Says("Done."), tmp_path, {"streams": False}, FIX, limit=1, streams=False)
    record = found["fix-0", 1]
    assert (record.score, record.error) == (0.0, "") and record.cost.is_told


def test_a_wrong_answer_is_wrong_and_a_failing_server_is_an_error(tmp_path):
    keys = []

    def script(body):
        key = asked(body)[0]
        keys.append(key) if key not in keys else None
        if keys.index(key) == 1:
            return 500
        if keys.index(key) == 2:
            return b"data: {not json\n\n"
        return Says("No idea.") if keys.index(key) == 3 else solved(body)

    found, _ = run(script, tmp_path)
    assert [record.score for record in found.values()] == [1.0, None, None, 0.0]
    errors = [record.error for record in found.values()]
    assert "500: refused with 500" in errors[1] and "not JSON" in errors[2]
    again, server = run(solved, tmp_path)
    assert [record.score for record in again.values()] == [1.0, 1.0, 1.0, 0.0]
    assert len({body["seed"] for body in server.bodies}) == 2


def test_a_server_that_fails_again_and_again_stops_the_run(tmp_path):
    with pytest.raises(RunStopped, match=r"stopped after 5 errors in a row \(.*refused with 503"):
        run(lambda body: 503, tmp_path, limit=20)
    left = read_records(tmp_path / "cases")
    assert len(left) == harness.MOST_FAILED and all(record.score is None for record in left.values())


def through_inspect(script, tmp_path, server=None, **given):
    """As `run`, of a task whose requests inspect-ai makes."""
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate, system_message

    server = ScriptedModel([script], **(server or {}))
    with server.serving() as url:
        options = options_of(url, tmp_path, **given)
        samples = [Sample(input=f"What is {n} + 1?", target=str(n + 1)) for n in range(3)]
        solver = [system_message("Be brief."), generate()]
        config = GenerateConfig(temperature=0.7, max_tokens=50)
        task = Task(dataset=MemoryDataset(samples), solver=solver, scorer=match(numeric=True), config=config)
        records = RecordFile(tmp_path / "cases")
        run_tries(LOOKUP, task, planned_tries(task, options), options, tmp_path / "logs", records, lambda _: None)
        records.close()
    return read_records(tmp_path / "cases"), server


def test_a_task_of_inspect_sends_what_the_run_says_and_its_cost_is_counted(tmp_path):
    def script(body, number):
        asked = int(body["messages"][-1]["content"].split()[2])
        return Says(str(asked + 1 if asked else 5), "I think about it.")

    found, server = through_inspect(script, tmp_path, policy="budget:9", epochs=2, sampling={"max_tokens": 7}, seed=3)
    assert {key: record.score for key, record in found.items()} == {
        (str(case), epoch): float(case > 1) for epoch in (1, 2) for case in (1, 2, 3)
    }
    for body in server.bodies:
        assert (body["thinking_policy"], body["temperature"], body["max_tokens"]) == ("budget:9", 0.7, 7)
    assert {body["seed"] for body in server.bodies} == {record.seed for record in found.values()}
    cost = found["2", 2].cost
    assert cost.requests == 1 and cost.written > 0 and cost.cached > 50
    assert cost.computed + cost.cached == found["2", 1].cost.computed + found["2", 1].cost.cached


def test_requests_of_inspect_without_usage_are_counted_and_their_tokens_are_unknown(tmp_path):
    found, _ = through_inspect(lambda body, number: Says("5"), tmp_path, {"tells_usage": False})
    assert [(record.cost.requests, record.cost.untold) for record in found.values()] == [(1, 1)] * 3


def test_requests_of_inspect_come_whole_from_a_server_that_does_not_stream(tmp_path):
    def script(body, number):
        return Says(str(int(body["messages"][-1]["content"].split()[2]) + 1), "I think about it.")

    refused, _ = through_inspect(script, tmp_path, {"streams": False})
    assert all("streaming tool choice is not supported" in record.error for record in refused.values())
    (tmp_path / "whole").mkdir()
    found, server = through_inspect(script, tmp_path / "whole", {"streams": False}, parallel=1, streams=False)
    assert [record.score for record in found.values()] == [1.0] * 3
    assert not any(body.get("stream") or "stream_options" in body for body in server.bodies)
    for record in found.values():
        assert record.cost.is_told and record.cost.computed > 0 and record.cost.thinking == len("I think about it.")
    assert sorted(record.cost.cached > 0 for record in found.values()) == [False, True, True]


def test_a_request_that_is_too_long_costs_nothing(tmp_path):
    refused = {"error": {"message": "maximum context length exceeded", "type": "invalid_request_error"}}
    refused["error"]["code"] = "context_length_exceeded"
    found, _ = through_inspect(lambda body, number: JSONResponse(refused, 400), tmp_path, parallel=1)
    assert [(record.score, record.cost.requests, record.cost.untold) for record in found.values()] == [(0.0, 1, 0)] * 3


def test_requests_of_inspect_that_fail_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RETRIES", 0)
    answers = {1: b"data: rubbish\n\n", 2: 400, 3: 401}
    found, _ = through_inspect(lambda body, number: answers[number], tmp_path, parallel=1)
    assert [record.score for record in found.values()] == [None] * 3
    for number, status in (("2", 400), ("3", 401)):
        assert found[number, 1].error.startswith(f"Error code: {status}")  # and not with the request
        assert f"refused with {status}" in found[number, 1].error


def test_two_cases_of_one_id_are_refused(tmp_path):
    task = LOOKUP.make_task(options_of("http://localhost:1", tmp_path))
    task.dataset[1].id = task.dataset[0].id
    with pytest.raises(UsageError, match="two cases have the id 'lookup-0'"):
        planned_tries(task, options_of("http://localhost:1", tmp_path))


def test_a_package_that_inspect_asks_servers_with_is_in_the_extra_and_its_lack_is_one_line(tmp_path, monkeypatch):
    assert any("eval" in one for one in requires("a3b") or () if one.startswith("openai>=3"))
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(A3BError, match=r"^inspect-ai: .*pip install openai; pip install --upgrade 'a3b\[eval\]'"):
        harness.endpoint(EvalOptions("http://127.0.0.1:1", "any", tmp_path))
