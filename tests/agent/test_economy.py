"""What turns, steering, forks and new beginnings cost on a real server, by its own report; and what kills do."""

from __future__ import annotations

import asyncio

import pytest

from a3b.agent.options import AgentOptions
from a3b.agent.session import open_session
from bench.agent_crashes import crashes
from bench.agent_turns import dictating, forks, reading, turns
from bench.beside import project
from bench.clients.roster import STRETCHED
from bench.clients.server import KEY, stretched_model
from tests.support.agent_sessions import end_of, events_of

pytestmark = pytest.mark.slow  # starts servers or commands
SUMMARY = "Task: read the parts. Done: parts 0 to 3 are read. Open: say what is in them."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(stretched_model(tmp_path_factory.mktemp("model"), STRETCHED))


def test_a_turn_computes_what_is_new_and_nothing_again(tmp_path, model):
    rows, again = turns(tmp_path / "run", model, 6, 5)
    assert again == 0 and [row.recomputed for row in rows] == [0] * 6
    for before, row in zip(rows, rows[1:], strict=False):
        assert row.cached >= before.prompt + before.written - 1


def test_steering_and_a_sub_agent_cost_their_own_tokens_only(tmp_path, model):
    rows, _ = forks(tmp_path / "run", model, 5)
    assert [row.recomputed for row in rows] == [0] * len(rows)
    child = next(i for i, row in enumerate(rows) if row.what == "- sub-agent")
    assert rows[child].cached >= rows[child - 1].prompt + rows[child - 1].written - 1
    assert any("steered" in row.what for row in rows)


def test_a_summary_costs_its_own_tokens_and_the_new_beginning_is_read_ahead(tmp_path, model):
    project(tmp_path / "project", 4, 5)
    script = {"thinking": "Next.", "commands": reading(4), "answer": "I have read them.", "summary": SUMMARY}

    async def work(url):
        async with open_session(AgentOptions(tmp_path / "project", tmp_path / "a3b", url, KEY), None) as session:
            await events_of(session, "Read the parts.")
            async for _ in session.compact():
                pass
            await session._idle._task
            return session.history(), await events_of(session, "And?")

    with dictating(tmp_path / "server", model, script) as server:
        history, events = asyncio.run(work(server.url))
        *_, last, summary, ahead, first = server.answers()[:8]
    assert end_of(events).status == "done" and any(SUMMARY in message["content"] for message in history)
    assert summary.cached >= len(last.prompt) + len(last.sampled) - 1
    assert len(ahead.sampled) == 1 and ahead.cached > 1000
    assert first.cached >= len(ahead.prompt) - 8 and len(first.prompt) - first.cached < 150


def test_a_killed_session_goes_on_without_running_a_command_twice(tmp_path, model):
    found = crashes(tmp_path / "run", model, 3, seed=5)
    assert found.problems == [] and found.again == 0 and found.turns > 3
