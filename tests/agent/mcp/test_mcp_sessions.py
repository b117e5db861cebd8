"""Sessions of the agent with MCP servers in the real sandbox: what the model is sent, what ends with the session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from a3b.agent.events import Notice, ToolFinished, ToolStarted
from tests.support.agent_sessions import end_of, events_of, of, session_of
from tests.support.mcp_servers import HOSTILE
from tests.support.paths import ROOT
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # starts servers in sandboxes

DONE = Says("All done.")
OPTIONS = {"tools": ("mcp",), "mcp_allowed": ("one", "two", "own"), "more": ()}


def entry(mode="", *more):
    command = {"command": sys.executable, "args": ["-I", "-S", str(HOSTILE), mode, *more]}
    return {**command, "startTimeout": 300_000}  # a busy machine is no fault


def configure(tmp_path, **servers):
    project = tmp_path / "project"
    project.mkdir(exist_ok=True)
    for server in servers.values():  # a checkout below /tmp or a home is hidden
        if server.get("sandbox", True):
            server.setdefault("readable", [str(ROOT)])
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")


async def work(session, note):
    """(what was said at the start, events of a task, tools for people, the session's id)"""
    notices = [notice.text for notice in session.notices]
    return notices, await events_of(session), session.tools(), session.id


def sent_tools(model):
    return [[tool["function"]["name"] for tool in body.get("tools", [])] for body in model.bodies]


def call(server, tool, **arguments):
    return Says(calls=[(f"mcp__{server}__{tool}", arguments)])


def test_a_tool_of_a_server_is_called_in_the_sandbox_with_the_listed_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    env = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "LISTED": "yes"}
    configure(tmp_path, own={"command": sys.executable, "args": ["-m", "tests.support.own_mcp"], "env": env})
    outside = tmp_path / "outside.txt"
    write, escape = call("own", "write", path="in.txt", text="hi"), call("own", "write", path=str(outside), text="hi")
    model = ScriptedModel([write, escape, call("own", "variables"), DONE])
    _, events, tools, _ = session_of(tmp_path, model, work, **OPTIONS)
    inside, _, variables = of(events, ToolFinished)
    assert inside.text == "wrote in.txt" and (tmp_path / "project" / "in.txt").read_text() == "hi"
    assert not outside.exists()
    assert '"LISTED": "yes"' in variables.text and "s3cret" not in variables.text
    assert of(events, ToolStarted)[0].summary == 'mcp own write {"path": "in.txt", "text": "hi"}'
    assert {line.origin for line in tools if line.name == "write"} == {"MCP server own"}
    assert end_of(events).status == "done"


def test_without_approval_the_server_is_left_out_and_the_user_is_told(tmp_path):
    configure(tmp_path, three=entry())
    model = ScriptedModel([DONE])
    notices, _, _, _ = session_of(tmp_path, model, work, **OPTIONS)
    assert sent_tools(model) == [[]]
    assert any("'three' was not approved" in text for text in notices)


def test_a_session_that_goes_on_sends_the_same_tools_although_the_servers_changed(tmp_path):
    configure(tmp_path, one=entry())
    first = ScriptedModel([DONE])
    *_, session = session_of(tmp_path, first, work, **OPTIONS)
    configure(tmp_path, one=entry("injecting"), two=entry())
    second = ScriptedModel([DONE])
    notices, *_ = session_of(tmp_path, second, work, resume=session, **OPTIONS)
    assert second.bodies[0]["tools"] == first.bodies[0]["tools"] and sent_tools(first) == [["mcp__one__echo"]]
    assert any("MCP servers two are new here" in text for text in notices)


def test_a_fork_sends_the_same_tools(tmp_path):
    async def fork(session, note):
        await events_of(session)
        return session.fork()

    configure(tmp_path, one=entry())
    first, second = ScriptedModel([DONE]), ScriptedModel([DONE])
    forked = session_of(tmp_path, first, fork, **OPTIONS)
    configure(tmp_path, two=entry())
    session_of(tmp_path, second, work, resume=forked, **OPTIONS)
    assert second.bodies[0]["tools"] == first.bodies[0]["tools"]


def test_a_session_that_began_without_servers_goes_on_without(tmp_path):
    first, second = ScriptedModel([DONE]), ScriptedModel([DONE])
    *_, session = session_of(tmp_path, first, work, **OPTIONS)
    configure(tmp_path, one=entry())
    session_of(tmp_path, second, work, resume=session, **OPTIONS)
    assert sent_tools(second) == [[]]


def test_changed_tools_are_told_at_the_end_and_each_request_extends_the_last(tmp_path):
    configure(tmp_path, one=entry("change-tools"))
    model = ScriptedModel([call("one", "echo", text="hi"), call("one", "echo", text="hi"), DONE])
    _, events, _, _ = session_of(tmp_path, model, work, **OPTIONS)
    assert len({json.dumps(body["tools"]) for body in model.bodies}) == 1
    sent = [body["messages"] for body in model.bodies]
    assert all(later[: len(before)] == before for before, later in zip(sent, sent[1:], strict=False))
    assert "tools (new: shout)" in json.dumps(sent[-1])
    assert any("tools (new: shout)" in notice.text for notice in of(events, Notice))


def test_a_server_that_dies_in_a_call_leaves_the_session_working(tmp_path):
    configure(tmp_path, one=entry("die-call"), two=entry())
    model = ScriptedModel([call("one", "echo", text="hi"), call("two", "echo", text="hi"), DONE])
    _, events, _, _ = session_of(tmp_path, model, work, **OPTIONS)
    died, answered = of(events, ToolFinished)
    assert died.is_error and "ended (exit status 7)" in died.text and answered.text == "hi"
    assert any("ended (exit status 7)" in notice.text for notice in of(events, Notice))


def test_named_tools_leave_servers_out(tmp_path):
    configure(tmp_path, one=entry())
    model = ScriptedModel([DONE])
    session_of(tmp_path, model, work, **{**OPTIONS, "tools": ("read",)})
    assert sent_tools(model) == [["read"]]


def processes_with(word):
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            pass
    return found


KILLED = """
import asyncio, sys
from pathlib import Path
from a3b.agent.mcp.opening import session_servers
from a3b.agent.approvals import DenyingApprover
from a3b.agent.options import AgentOptions
async def main():
    options = AgentOptions(Path(sys.argv[1]), Path(sys.argv[2]), "", mcp_allowed=("one", "two"))
    async with session_servers(options, DenyingApprover(), print, None) as servers:
        print("ready", len(servers.tools), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("is_sandboxed", [True, False])
def test_servers_end_when_the_agent_is_killed(tmp_path, is_sandboxed):
    word = f"unique-{os.getpid()}-{time.monotonic_ns()}"
    # the sandbox shows what is in the workspace; what runs outside of it must not lie there
    script = tmp_path / ("project" if is_sandboxed else "outside") / "server.py"
    script.parent.mkdir()
    script.write_text(HOSTILE.read_text(encoding="utf-8"), encoding="utf-8")
    server = {**entry("", word), "sandbox": is_sandboxed}
    server["args"] = [str(script) if part == str(HOSTILE) else part for part in server["args"]]
    configure(tmp_path, one=server, two=server)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "project"), str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as agent:
        try:
            assert agent.stdout.readline() == "ready 2\n"
            assert processes_with(word)
        finally:
            agent.kill()
        deadline = time.monotonic() + 30
        while processes_with(word) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert processes_with(word) == []


def test_the_sdk_is_not_loaded_without_servers():
    code = "import sys, a3b.agent.session; print([n for n in ('mcp', 'pydantic', 'anyio') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mcp" not in done.stdout and "pydantic" not in done.stdout
