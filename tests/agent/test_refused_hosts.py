"""What the model hears of hosts that the user has not allowed."""

from __future__ import annotations

import asyncio
import json

import pytest

from a3b.agent.approvals import DenyingApprover
from a3b.agent.headless import run_headless
from a3b.agent.options import AgentOptions
from a3b.agent.session import open_session
from tests.support.agent_sessions import task_of
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # starts a sandbox

FETCH = """python3 -c "
import urllib.request
urllib.request.urlopen('https://a3b.invalid/')
" 2>&1 | tail -1"""


def test_a_refused_host_is_told_to_the_model_with_its_option(tmp_path):
    model = ScriptedModel([Says(calls=[("bash", {"command": FETCH})]), Says("Not allowed.")])
    task_of(tmp_path, model, tools=("bash",))
    result = model.bodies[-1]["messages"][-1]
    assert result["role"] == "tool" and "403" in result["content"]
    assert result["content"].endswith("\n[a3b.invalid:443 was not allowed; --allow-host a3b.invalid would allow it]")


def test_without_a_terminal_the_user_hears_before_the_end_what_was_refused(tmp_path, capsys):
    model = ScriptedModel([Says(calls=[("bash", {"command": FETCH})]), Says("Not allowed.")])
    (tmp_path / "project").mkdir()

    async def work(url):
        approver = DenyingApprover()
        options = AgentOptions(tmp_path / "project", tmp_path / "home", url, tools=("bash",))
        async with open_session(options, approver) as session:
            return await run_headless(session, "Fetch it.", True, approver)

    with model.serving() as url:
        assert asyncio.run(work(url)) == 0
    *_, refused, finished = map(json.loads, capsys.readouterr().out.splitlines())
    assert finished["type"] == "task_finished"
    assert refused["type"] == "notice" and "--allow-host a3b.invalid would allow it" in refused["text"]
