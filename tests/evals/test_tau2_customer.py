"""tau2's customer is a model of its own, also where the one that is tested plays it. Needs inspect-ai alone."""

from __future__ import annotations

import gc

import pytest

from a3b.errors import UsageError
from a3b.evals.benchmarks import tau2
from a3b.evals.benchmarks.asking import THINKING, generate_config
from a3b.evals.benchmarks.lookup import BENCHMARK as LOOKUP
from a3b.evals.harness import REQUEST_S, endpoint, planned_tries, run_tries
from a3b.evals.options import EvalOptions
from a3b.evals.records import RecordFile, read_records
from tests.support.eval_tasks import options
from tests.support.scripted_model import Says, ScriptedModel

pytest.importorskip("inspect_ai", reason="the extra eval is not installed")
pytestmark = [
    pytest.mark.slow,  # inspect-ai takes seconds to load
    # inspect-ai leaves streams of anyio to the garbage collector, and uses what its libraries call deprecated
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
    ),
]


@pytest.fixture(autouse=True)
def no_streams_left():
    yield
    gc.collect()


def both_sides():
    """A solver that asks the model that is tested once, and the customer twice."""
    from inspect_ai.model import get_model
    from inspect_ai.solver import solver

    async def solve(state, generate):
        state = await generate(state)
        for _ in range(2):
            await get_model(role=tau2.USER).generate("Be the customer.")
        return state

    def ask_both():
        return solve

    return solver(ask_both)()


def asked(tmp_path, policy):
    """(requests to the tested model, requests to the customer, records) of three cases."""
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import includes

    server = ScriptedModel([Says("Yes.", "I think.")])
    with server.serving() as url:
        given = EvalOptions(url, "scripted", tmp_path, policy=policy, parallel=1, sampling={"max_tokens": 9})
        task = Task(
            dataset=MemoryDataset([Sample(input=f"Help {n}.", target="Yes") for n in range(3)]),
            solver=both_sides(),
            scorer=includes(),
            config=generate_config(given, THINKING, 50),
            model_roles=tau2.user_role(given),
        )
        records = RecordFile(tmp_path / f"{policy}.jsonl")
        run_tries(LOOKUP, task, planned_tries(task, given), given, tmp_path / "logs", records, lambda _: None)
        records.close()
    customer = [body for body in server.bodies if "customer" in body["messages"][-1]["content"]]
    tested = [body for body in server.bodies if body not in customer]
    return tested, customer, list(read_records(tmp_path / f"{policy}.jsonl").values())


def test_the_customer_hears_of_no_policy_and_is_the_same_under_all(tmp_path):
    seeds = {}
    for policy in ("all", "none"):
        tested, customer, records = asked(tmp_path, policy)
        assert {body["thinking_policy"] for body in tested} == {policy}
        assert len(customer) == 6 and all("thinking_policy" not in body for body in customer)
        assert all(body["stream"] and body["temperature"] == 1.0 and body["top_k"] == 20 for body in customer)
        assert {body["max_tokens"] for body in tested + customer} == {9}
        seeds[policy] = sorted(body["seed"] for body in customer)
        assert len(set(seeds[policy])) == 3
        assert not set(seeds[policy]) & {record.seed for record in records}
    assert seeds["all"] == seeds["none"]


def test_the_tokens_of_the_customer_are_counted_apart(tmp_path):
    _, _, records = asked(tmp_path, "none")
    assert [record.score for record in records] == [1.0] * 3
    for record in records:
        apart = record.facts["user_cost"]
        assert (record.cost.requests, apart["requests"]) == (1, 2)
        assert record.cost.written > 0 and apart["written"] == 2 * record.cost.written
        assert apart["computed"] + apart["cached"] > 0


def test_the_customer_can_be_another_model_which_is_greedy_and_waits_as_long(tmp_path):
    given = options(tmp_path, extra={"user-model": "other", "user-base-url": "http://127.0.0.1:8/v1"}, policy="none")
    role, tested = tau2.user_role(given)["user"], endpoint(given)
    assert (role.name, role.api.base_url) == ("a3b/other", "http://127.0.0.1:8/v1")
    assert (role.config.temperature, role.config.extra_body) == (0.0, None)
    for model in (role, tested):
        assert model.api.client_timeout == model.config.attempt_timeout == REQUEST_S and model.api.stream
    assert role.config.max_retries == tested.config.max_retries


def test_a_comparison_of_policies_has_to_heed_who_plays_the_customer():
    assert "the model that is tested also plays the customer" in tau2.BENCHMARK.caution({"domain": "retail"})
    assert tau2.BENCHMARK.caution({"user-model": "other"}) == tau2.BENCHMARK.caution({"user-base-url": "x"}) == ""
    assert LOOKUP.caution({}) == ""


def test_a_key_is_named_by_its_variable_and_an_empty_one_is_told(tmp_path):
    with pytest.raises(UsageError, match="no such variable"):
        tau2.user_key(options(tmp_path, extra={"user-key-variable": "A3B_TEST_NO_SUCH_VARIABLE"}))
