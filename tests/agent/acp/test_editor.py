"""`a3b code --acp` as a process, with an editor on its stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from acp import RequestError, embedded_text_resource, resource_block, resource_link_block, text_block

from tests.support.acp_client import Editor, command_line, editing, environment
from tests.support.scripted_model import Says, ScriptedModel

pytestmark = pytest.mark.slow  # starts commands

EDIT = Says(
    thinking="The sign is wrong.",
    calls=[("read", {"path": "calc.py"}), ("edit", {"path": "calc.py", "old": "a - b", "new": "a + b"})],
)
RUN = Says(calls=[("bash", {"command": "echo one; echo two"})])
DONE = Says("All done.")
SLOW = Says("word " * 2000, pause=0.2)


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    return tmp_path / "project"


@pytest.fixture
def run(tmp_path, project) -> Callable[..., Any]:
    """Runs a coroutine function with an editor and its connection, against a model with these answers."""

    def run(
        answers: Sequence[Any], use: Callable[[Editor, Any], Any], *options: str, editor: Editor | None = None
    ) -> Any:
        async def work(url: str) -> Any:
            user = editor or Editor()
            async with editing(user, url, tmp_path / "home", *options, cwd=project) as connection:
                return await asyncio.wait_for(use(user, connection), 120)

        with ScriptedModel(answers).serving() as url:
            return asyncio.run(work(url))

    return run


def prompt(connection: Any, session: str, *texts: str) -> Any:
    return connection.prompt(session_id=session, prompt=[text_block(text) for text in texts])


def test_the_agent_says_what_it_can(run):
    async def use(editor, connection):
        greeting = connection.greeting
        assert greeting.protocol_version == 1 and greeting.agent_info.name == "a3b"
        able = greeting.agent_capabilities
        assert able.load_session and able.prompt_capabilities.embedded_context and not able.prompt_capabilities.image
        sessions = able.session_capabilities
        assert None not in (sessions.list, sessions.fork, sessions.resume, sessions.close)

    run([DONE], use)


def test_a_task_is_told_as_thoughts_calls_with_diffs_and_places_and_text(run, project):
    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        answer = await prompt(connection, session, "Fix the bug.")
        assert answer.stop_reason == "end_turn" and answer.usage.output_tokens > 0
        assert editor.text() == "All done." and editor.text("agent_thought_chunk") == "The sign is wrong."
        read, edit, bash = editor.of("tool_call")
        assert [call.kind for call in (read, edit, bash)] == ["read", "edit", "execute"]
        assert edit.locations[0].path == str(project / "calc.py") and edit.raw_input["new"] == "a + b"
        done = {u.tool_call_id: u for u in editor.of("tool_call_update") if u.status}
        assert [u.status for u in done.values()] == ["completed"] * 3
        diff = done[edit.tool_call_id].content[0]
        assert (diff.type, diff.path) == ("diff", str(project / "calc.py"))
        assert "    return a - b" in diff.old_text and "    return a + b" in diff.new_text
        assert "one\ntwo" in done[bash.tool_call_id].content[0].content.text
        usage = editor.of("usage_update")
        assert len(usage) == 3 and usage[-1].size == 100_000 and usage[0].used < usage[-1].used
        assert {update_session for update_session, _ in editor.updates} == {session}

    run([EDIT, RUN, DONE], use)
    assert (project / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"


def test_the_plan_is_told_as_entries(run, project):
    plan = Says(calls=[("plan", {"text": "- [x] read\n- [ ] fix\n- [~] test"})])

    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        await prompt(connection, session, "Plan.")
        entries = editor.of("plan")[0].entries
        assert [(e.content, e.status) for e in entries] == [
            ("read", "completed"),
            ("fix", "pending"),
            ("test", "in_progress"),
        ]

    run([plan, DONE], use)


def test_links_and_embedded_files_become_text(run, project, tmp_path):
    seen = []

    def remember(body, number):
        seen.append(body["messages"][-1]["content"])
        return DONE

    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        link = resource_link_block("calc", f"file://{project}/calc.py")
        other = resource_block(embedded_text_resource("file:///etc/a%20b", "text of it"))
        await connection.prompt(session_id=session, prompt=[text_block("See "), link, other])

    run([remember], use)
    assert seen[0].endswith('See calc.py\n<file path="/etc/a b">\ntext of it\n</file>')


def test_a_prompt_that_is_cancelled_ends_as_cancelled_and_the_next_one_works(run, project):
    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        running = asyncio.ensure_future(prompt(connection, session, "Go on and on."))
        await editor.until("agent_message_chunk")
        await connection.cancel(session_id=session)
        assert (await running).stop_reason == "cancelled"
        assert (await prompt(connection, session, "Again.")).stop_reason == "end_turn"

    run([SLOW, DONE], use)


def test_a_second_prompt_is_refused_while_one_runs(run, project):
    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        running = asyncio.ensure_future(prompt(connection, session, "Go on and on."))
        await editor.until("agent_message_chunk")
        with pytest.raises(RequestError, match="a prompt runs in this session"):
            await prompt(connection, session, "Me too.")
        await connection.cancel(session_id=session)
        assert (await running).stop_reason == "cancelled"

    run([SLOW, DONE], use)


def test_sessions_are_listed_loaded_resumed_and_forked(run, project):
    async def use(editor, connection):
        first = (await connection.new_session(cwd=str(project))).session_id
        await prompt(connection, first, "Remember this.")
        listed = (await connection.list_sessions(cwd=str(project))).sessions
        assert [(one.session_id, one.title, one.cwd) for one in listed] == [(first, "Remember this.", str(project))]
        with pytest.raises(RequestError, match="is open here already"):
            await connection.load_session(cwd=str(project), session_id=first)
        await connection.close_session(session_id=first)
        with pytest.raises(RequestError, match="is not open; load or resume it first"):
            await prompt(connection, first, "Are you there?")
        editor.updates.clear()
        await connection.load_session(cwd=str(project), session_id=first)
        assert "Remember this." in editor.text("user_message_chunk") and editor.text() == "All done."
        fork = (await connection.fork_session(cwd=str(project), session_id=first)).session_id
        assert fork != first
        await prompt(connection, fork, "In the fork.")
        await connection.close_session(session_id=first)
        editor.updates.clear()
        await connection.resume_session(cwd=str(project), session_id=first)
        assert editor.text("user_message_chunk") == ""

    run([DONE], use)


def test_unknown_sessions_and_directories_are_refused_by_name(run, project):
    async def use(editor, connection):
        for wrong in ("relative", str(project / "calc.py"), "/none", "/\0"):
            with pytest.raises(RequestError, match="is not the absolute path of a directory"):
                await connection.new_session(cwd=wrong)
        for call in (connection.load_session, connection.resume_session, connection.fork_session):
            with pytest.raises(RequestError, match="nope"):
                await call(cwd=str(project), session_id="nope")
        with pytest.raises(RequestError, match="session 'nope' is not open"):
            await prompt(connection, "nope", "Hello?")
        await connection.cancel(session_id="nope")
        session = (await connection.new_session(cwd=str(project))).session_id
        with pytest.raises(RequestError) as refused:
            await prompt(connection, session, "  ")
        assert refused.value.data == {"prompt": "is empty"}

    run([DONE], use)


def test_a_server_that_fails_fails_the_prompt_with_its_words(run, project):
    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        with pytest.raises(RequestError, match="refused with 400"):
            await prompt(connection, session, "Hello.")
        assert (await prompt(connection, session, "Hello again.")).stop_reason == "end_turn"

    run([400, DONE], use)


def test_a_limit_is_told_as_the_reason_of_the_end(run, project):
    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        answer = await prompt(connection, session, "Go on.")
        assert answer.stop_reason == "max_turn_requests" and "--max-turns" in editor.text()

    run([RUN], use, "--max-turns", "2")


def test_commands_of_the_agent_work_as_prompts(run, project):
    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        commands = await editor.until("available_commands_update")
        assert [one.name for one in commands.available_commands] == [
            *["undo", "redo", "compact", "diff", "model", "mcp", "cost", "think", "tools", "tree", "help"]
        ]
        await prompt(connection, session, "Fix the bug.")
        await prompt(connection, session, "/diff calc.py")
        assert "```diff\n--- calc.py\n+++ calc.py\n" in editor.text() and "\n+    return a + b\n```" in editor.text()
        await prompt(connection, session, "/model")
        assert "model      scripted\nserver     http://127.0.0.1:" in editor.text()
        await prompt(connection, session, "/mcp")
        assert "no MCP server: .mcp.json here" in editor.text()
        assert (await prompt(connection, session, "/undo")).stop_reason == "end_turn"
        assert "calc.py" in editor.text()
        await prompt(connection, session, "/cost")
        assert "turns      2" in editor.text()
        await prompt(connection, session, "/tree")
        assert "> Fix the bug.\n    1  read calc.py, edit calc.py\n    2  All done." in editor.text()
        await prompt(connection, session, "/fork 2")
        assert "/fork is for the terminal; here the editor forks sessions" in editor.text()
        with pytest.raises(RequestError, match="/redo takes force; found 'all'"):
            await prompt(connection, session, "/redo all")

    run([EDIT, DONE], use)
    assert (project / "calc.py").read_text() == "def add(a, b):\n    return a - b\n"


def frames(url: str, home: Path, cwd: Path, data: bytes) -> list[dict[str, Any]]:
    """What the agent answers to lines of any form; its stdout has nothing but messages."""
    done = subprocess.run(
        command_line(url), input=data, capture_output=True, env=environment(home), cwd=cwd, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_lines_that_are_no_messages_are_answered_and_the_rest_goes_on(tmp_path, project):
    hello = {"jsonrpc": "2.0", "id": "h", "method": "initialize", "params": {"protocolVersion": 7}}
    lines = [
        b"no json",
        b"[]",
        b"5",
        b'{"jsonrpc":"2.0"}',
        b"[" * 100_000,
        b'{"id": {}, "method": "initialize"}',
        b'{"id": 1, "method": ["initialize"]}',
        b'{"id": [1], "result": 1}',
        b'{"id": 99, "error": "text"}',
        b'{"id": 99, "result": {}}',
        b"\xff\xfe",
        b"",
        b'{"jsonrpc":"2.0","id":2,"method":"nope/nope"}',
        b'{"jsonrpc":"2.0","id":3,"method":"session/new","params":{"cwd":5}}',
        b'{"jsonrpc":"2.0","id":4,"method":"session/new","params":[1]}',
        b'{"jsonrpc":"2.0","id":5,"method":"session/prompt"}',
        b'{"jsonrpc":"2.0","method":"session/cancel","params":{}}',
        json.dumps(hello).encode(),
    ]
    with ScriptedModel([DONE]).serving() as url:
        answers = frames(url, tmp_path / "home", project, b"\n".join(lines) + b"\n")
    by_id = {answer["id"]: answer for answer in answers if answer["id"] is not None}
    assert by_id["h"]["result"]["protocolVersion"] == 1
    assert [by_id[i]["error"]["code"] for i in (2, 3, 4, 5)] == [-32601, -32602, -32602, -32602]
    codes = sorted(answer["error"]["code"] for answer in answers if answer["id"] is None)
    assert codes == [-32700] * 3 + [-32600] * 7


def test_a_line_that_is_too_long_is_refused_and_the_next_one_works(tmp_path, project):
    hello = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}\n'
    with ScriptedModel([DONE]).serving() as url:
        answers = frames(url, tmp_path / "home", project, b"x" * (33 << 20) + b"\n" + hello)
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32600, None]


def test_a_client_that_vanishes_ends_the_agent_with_all_that_runs(run, project):
    code = "import time; print('started', flush=True); time.sleep(1000)"
    waits = Says(calls=[("bash", {"command": f'python3 -c "{code}" {project.parent.name}'})])

    async def use(editor, connection):
        session = (await connection.new_session(cwd=str(project))).session_id
        running = asyncio.ensure_future(prompt(connection, session, "Wait."))
        await editor.until("tool_call_update")  # it has printed something
        assert len(running_with(project.parent.name)) > 0
        connection.process.stdin.close()
        async with asyncio.timeout(60):
            assert await connection.process.wait() == 0
        with pytest.raises((ConnectionError, RequestError)):
            await running
        return connection.process.pid

    agent = run([waits], use)
    assert running_with(project.parent.name) == [] and not os.path.exists(f"/proc/{agent}")


def running_with(word: str) -> list[str]:
    """Processes that sleep, with a word as their last argument."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            found += [name] if words[-2:] == [word.encode(), b""] and b"sleep(1000)" in b" ".join(words) else []
    return found
