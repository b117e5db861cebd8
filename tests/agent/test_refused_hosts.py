"""What the model hears of hosts that the user has not allowed."""

from __future__ import annotations

import json

import pytest

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
    result, told = model.bodies[-1]["messages"][-2:]
    assert result["role"] == "tool" and "403" in result["content"]
    assert "a3b.invalid:443; --allow-host a3b.invalid would allow it]" in json.dumps(told)
