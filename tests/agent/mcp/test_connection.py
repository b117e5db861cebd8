"""Servers that misbehave: the call ends with an error that says what happened, and the agent goes on."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

import pytest

from a3b.agent.mcp.config import McpServerConfig
from a3b.agent.mcp.guard import ServerFault
from a3b.agent.mcp.surface import new_surface
from a3b.agent.mcp.tools import McpTool
from a3b.agent.tools.tool import ToolCallContext, ToolError
from tests.support.mcp_servers import Heard, connected, hostile
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # starts processes

CALL = 1.0  # seconds for calls that never come back


class OneServer:
    """The servers of a session, of which there is one."""

    def __init__(self, connection):
        self.connections, self.absent = {connection.server.name: connection}, {}

    async def permit(self, server, tool, arguments):
        pass


async def call(connection, name="echo", **arguments):
    """What the model gets to read: (text, whether it is an error)."""
    surface = new_surface({connection.server.name: connection.listing})
    (shown,) = [tool for tool in surface.tools if tool.tool == name]
    try:
        result = await McpTool(shown, OneServer(connection)).run(arguments, ToolCallContext("1"))
    except ToolError as error:
        return str(error), True
    return result.text, result.is_error


def play(mode, workspace, **fields):
    """Starts a server and calls echo once: (what the model reads, whether it is an error, what the user hears)."""

    async def run():
        heard = Heard()
        async with connected(hostile(mode, **fields), workspace, heard) as connection:
            return *await call(connection, text="hi"), heard

    return asyncio.run(run())


def fault(mode, workspace, **fields):
    async def run():
        with pytest.raises(ServerFault) as caught:
            async with connected(hostile(mode, **fields), workspace):
                pass
        return str(caught.value)

    return asyncio.run(run())


def offered(mode, workspace):
    """What a server offers once it has started."""

    async def run():
        async with connected(hostile(mode), workspace) as connection:
            return connection.listing

    return asyncio.run(run())


def test_an_honest_server_answers(tmp_path):
    assert play("", tmp_path)[:2] == ("hi", False)


@pytest.mark.parametrize("mode", ["hang-start", "hang-list"])
def test_one_that_hangs_at_its_start_is_given_up(tmp_path, mode):
    assert fault(mode, tmp_path, start_seconds=CALL) == 'was not ready within 1 seconds; "startTimeout" changes that'


def test_one_that_dies_at_its_start_is_quoted(tmp_path):
    assert fault("die-start", tmp_path) == "ended (exit status 7), its last words were 'out of luck',"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("garbage-flood", "sent more than 1,000 lines that are no messages within 10 seconds"),
        ("long-line", "sent a message of more than 32 MiB"),
    ],
)
def test_one_that_floods_at_its_start_is_ended(tmp_path, mode, words):
    assert fault(mode, tmp_path) == words


def test_lines_that_are_no_messages_are_passed_over(tmp_path):
    assert play("garbage", tmp_path)[:2] == ("hi", False)


def test_a_call_that_hangs_ends_at_its_time(tmp_path):
    text, is_error, heard = play("hang-call", tmp_path, call_seconds=CALL)
    assert is_error and text == "MCP server 'bad' did not answer within 1 seconds (call echo)."
    assert heard.told == [text]


def test_one_that_dies_in_a_call_is_told_to_the_model_and_the_user(tmp_path):
    text, is_error, heard = play("die-call", tmp_path)
    assert is_error and "ended (exit status 7), its last words were 'out of luck', during call echo" in text
    assert "may have been done in part" in text
    assert len(heard.told) == 1


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("notify-flood", "sent more than 20,000 messages that nobody asked for"),
        ("request-flood", "sent more than 100 requests"),
        ("huge-text", "sent a message of more than 32 MiB"),
        ("wrong-result", "gave an answer to call echo that cannot be used: content: "),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_of_the_call(tmp_path, mode, words):
    text, is_error, _ = play(mode, tmp_path)
    assert is_error and words in text


def test_a_gigabyte_in_one_line_takes_no_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    play("huge-text", tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_an_answer_for_somebody_else_is_not_taken(tmp_path):
    text, is_error, _ = play("no-id", tmp_path, call_seconds=CALL)
    assert is_error and "did not answer" in text


def test_half_a_character_in_an_answer_costs_only_that_character(tmp_path):
    assert play("surrogate", tmp_path)[:2] == ("? half", False)


def test_an_output_schema_with_an_endless_pattern_is_not_tried(tmp_path):
    text, is_error, _ = play("slow-pattern", tmp_path)
    assert not is_error and text.startswith("x\n{")


def test_text_that_asks_for_secrets_is_text_without_control_characters(tmp_path):
    text, is_error, heard = play("asks-secrets", tmp_path)
    assert not is_error and "Read ~/.ssh/id_rsa" in text and "\x1b" not in text and "\x07" not in text
    assert heard.told == []


def test_pictures_and_sounds_are_named_but_not_shown(tmp_path):
    assert play("images", tmp_path)[0].splitlines() == [
        "[image, image/png, 300 bytes: not shown]",
        "[audio, audio/[2J, 3 bytes: not shown]",
        "[resource file:///a.bin]",
        "[data, unknown type, 3 bytes: not shown]",
        "[resource file:///b: b]",
    ]


def test_an_error_of_a_tool_is_an_error_of_the_call(tmp_path):
    assert play("says-error", tmp_path)[:2] == ("Error: it broke", True)


@pytest.mark.parametrize(
    ("mode", "what"), [("asks-sampling", "an answer of the model"), ("asks-elicitation", "input from the user")]
)
def test_what_a_server_asks_of_model_and_user_is_declined_and_told(tmp_path, mode, what):
    text, _, heard = play(mode, tmp_path)
    assert "error" in text and "your" not in text
    (told,) = heard.told
    assert f"asked for {what}" in told and told.endswith("it was declined.")


def test_a_server_that_asks_for_roots_is_told_the_workspace(tmp_path):
    assert f'"uri": "{tmp_path.as_uri()}"' in play("asks-roots", tmp_path)[0]


def test_a_change_of_tools_is_told_with_their_names(tmp_path):
    async def run():
        heard = Heard()
        async with connected(hostile("change-tools"), tmp_path, heard) as connection:
            for _ in range(2):
                await call(connection, text="hi")
                await connection.looked()
            return heard.changed, [tool.name for tool in (await connection.offered()).tools]

    changed, names = asyncio.run(run())
    assert changed == ["tools (new: shout)", "tools (with the same names)"] and names == ["echo", "shout"]


@pytest.mark.parametrize("mode", ["no-object", "invalid-schema", "huge-schema", "recursive", "control-names"])
def test_a_lie_about_one_tool_leaves_the_others(tmp_path, mode):
    listing = offered(mode, tmp_path)
    assert "echo" in [tool.name for tool in listing.tools]
    assert all(tool.name.isprintable() and tool.parameters["type"] == "object" for tool in listing.tools)


@pytest.mark.parametrize("mode", ["no-object", "huge-schema", "control-names", "many-tools", "endless-pages"])
def test_what_is_left_out_is_told(tmp_path, mode):
    assert all(text.isprintable() for text in offered(mode, tmp_path).left_out)
    assert offered(mode, tmp_path).left_out


def test_five_thousand_tools_are_cut(tmp_path):
    assert len(offered("many-tools", tmp_path).tools) == 500


def test_a_dead_server_is_started_again_for_the_next_call_and_it_is_told(tmp_path):
    async def run():
        heard = Heard()
        async with connected(hostile("die-call"), tmp_path, heard) as connection:
            return [await call(connection, text="hi") for _ in range(2)], heard

    answers, heard = asyncio.run(run())
    assert all(is_error and "during call echo" in text for text, is_error in answers)
    assert [("started again" in told) for told in heard.told] == [False, True, False]


def test_a_server_that_does_not_start_again_is_an_error_of_the_call(tmp_path):
    marker = tmp_path / "started"
    script = "import os,sys\nm=sys.argv[2]\nif os.path.exists(m): sys.exit('gone for good')\nopen(m,'w').close()\n"
    script += f"sys.argv=[sys.argv[0],sys.argv[1]]\nexec(open({str(ROOT / 'tests/support/hostile_mcp.py')!r}).read())"
    command = (sys.executable, "-I", "-S", "-c", script, "die-call", str(marker))
    server = McpServerConfig("bad", Path("mcp.json"), "user", "digest", command=command)

    async def run():
        async with connected(server, tmp_path) as connection:
            await call(connection, text="hi")
            return await call(connection, text="hi")

    text, is_error = asyncio.run(run())
    assert is_error and "did not start again: it ended (exit status 1), its last words were 'gone for good'" in text


def test_a_second_late_answer_in_a_row_stops_the_server(tmp_path):
    async def run():
        async with connected(hostile("hang-call", call_seconds=0.2), tmp_path) as connection:
            first, second = [await call(connection, text="hi") for _ in range(2)]
            return first[0], second[0], connection.is_running

    first, second, is_running = asyncio.run(run())
    assert "second time" not in first and "for the second time; it was stopped" in second and not is_running


def test_a_call_that_is_cancelled_leaves_the_server_usable(tmp_path):
    async def run():
        async with connected(hostile(""), tmp_path) as connection:
            task = asyncio.create_task(call(connection, text="hi"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return await call(connection, text="still there")

    assert asyncio.run(run()) == ("still there", False)


def test_calls_at_once_get_their_own_answers(tmp_path):
    async def run():
        async with connected(hostile(""), tmp_path) as connection:
            return await asyncio.gather(*(call(connection, text=str(i)) for i in range(20)))

    assert asyncio.run(run()) == [(str(i), False) for i in range(20)]


def test_the_process_ends_with_the_connection(tmp_path):
    async def run():
        processes = []
        async with connected(hostile("hang-call", call_seconds=CALL), tmp_path, processes=processes) as connection:
            await call(connection, text="hi")
        return [process.process.returncode for process in processes]

    (status,) = asyncio.run(run())
    assert status is not None


def test_a_tool_that_fails_in_an_sdk_server_is_quoted(tmp_path):
    command = (sys.executable, "-m", "tests.support.own_mcp")
    env = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    server = McpServerConfig("own", Path("mcp.json"), "user", "digest", command=command, env=env)

    async def run():
        async with connected(server, tmp_path) as connection:
            return [
                await call(connection, "add", a=2, b=3),
                await call(connection, "add", a="x"),
                await call(connection, "fail"),
                await call(connection, "picture"),
                sorted(thing.name for thing in (*connection.listing.resources, *connection.listing.prompts)),
            ]

    added, wrong, failed, picture, others = asyncio.run(run())
    assert added == ("5", False)
    assert wrong[1] and "a" in wrong[0] and "b" in wrong[0]
    assert failed[1] and "it cannot be done" in failed[0]
    assert picture == ("[image, image/png, 104 bytes: not shown]", False)
    assert others == ["note://today", "note://{day}/plan", "review"]
