"""What the model reads of commands, and what lasts from one to the next. Without a sandbox; it has its own tests."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from a3b.agent.sandbox.sandbox import CommandOutcome
from a3b.agent.tools.bash import MAX_COMMAND
from a3b.agent.tools.command_output import EndMark, bash_text
from tests.support.tool_calls import text_of, texts_of, with_tools

pytestmark = pytest.mark.slow


def printed(workspace, *commands):
    return texts_of(workspace, *(("bash", {"command": command}) for command in commands))


@pytest.mark.parametrize(
    ("text", "outcome", "read"),
    [
        ("a\nb\n", CommandOutcome(0), "a\nb"),
        ("", CommandOutcome(0), "[no output]"),
        ("a\n", CommandOutcome(1), "a\n[exit status 1]"),
        ("", CommandOutcome(2), "[exit status 2]"),
        ("a\n\n", CommandOutcome(139), "a\n\n[exit status 139, SIGSEGV]"),
        ("a", CommandOutcome(255), "a\n[exit status 255]"),
        (
            "a",
            CommandOutcome(-9, "time", "it took longer than 5 s"),
            "a\n[stopped: it took longer than 5 s; a longer timeout or background lets it go on]",
        ),
        ("", CommandOutcome(-9, "memory", "it took more than 4 GiB"), "[killed: it took more than 4 GiB]"),
        ("", CommandOutcome(-9, "stop"), "[stopped]"),
        (
            "a",
            CommandOutcome(0, "protected", "put back: .github"),
            "a\n[put back: .github. The tools write and edit ask the user for it]",
        ),
    ],
)
def test_the_end_of_a_command_is_said_unless_all_is_well(text, outcome, read):
    assert bash_text(text, outcome) == read


def test_a_command_that_had_all_the_time_there_is_is_not_told_to_take_more():
    assert "longer timeout" not in bash_text("", CommandOutcome(-9, "time", "it took longer than 600 s"), False)


def test_both_streams_come_in_order(tmp_path):
    assert printed(tmp_path, "echo 1; echo 2 >&2; echo 3") == ["1\n2\n3"]


def test_the_directory_lasts_whatever_the_command_does_with_its_output(tmp_path):
    (tmp_path / "sub").mkdir()
    assert printed(tmp_path, "exec >/dev/null 2>&1; cd sub", "pwd", "cd ..; exit 3", "pwd") == [
        "[no output]",
        f"{tmp_path}/sub",
        "[exit status 3]",
        f"{tmp_path}",
    ]


def test_a_directory_that_is_gone_is_said(tmp_path):
    assert printed(tmp_path, "mkdir sub; cd sub; rmdir ../sub", "pwd") == [
        "[no output]",
        f"[{tmp_path}/sub is gone; now in {tmp_path}]\n{tmp_path}",
    ]


def test_a_directory_with_a_strange_name_lasts(tmp_path):
    name = "a \n'\"$x-ü"
    (tmp_path / name).mkdir()
    assert printed(tmp_path, "cd a*", 'basename "$PWD"; cd -- -x 2>/dev/null || echo none') == [
        "[no output]",
        f"{name}\nnone",
    ]


def test_nothing_else_lasts(tmp_path):
    assert printed(tmp_path, "x=1; export Y=2; f() { :; }", 'echo "$x$Y$1$#"; type f 2>/dev/null') == [
        "[no output]",
        "0\n[exit status 1]",
    ]


def test_bash_counts_the_lines_of_the_command(tmp_path):
    assert printed(tmp_path, "echo 1\nif") == [
        "1\nbash: eval: line 3: syntax error: unexpected end of file\n[exit status 2]"
    ]


def test_a_command_that_asks_gets_no_answer(tmp_path):
    assert printed(tmp_path, "cat; read x || echo none") == ["none"]


def test_what_is_left_in_the_background_is_said(tmp_path):
    assert printed(tmp_path, "sleep 1000 &") == [
        "[no output]\n[what it left in the background has ended with it; background true keeps a command running]"
    ]


def test_people_see_the_output_while_it_comes(tmp_path):
    async def use(tools, sandbox):
        seen = asyncio.Queue()
        call = asyncio.create_task(
            text_of(tools, "bash", seen.put_nowait, command="echo a; until [ -e go ]; do :; done")
        )
        first = await seen.get()
        assert not call.done()
        (tmp_path / "go").touch()
        return first, await call

    assert with_tools(tmp_path, use) == ("a\n", "a")


def test_a_call_that_is_cancelled_ends_its_command(tmp_path):
    async def use(tools, sandbox):
        seen = asyncio.Queue()
        call = asyncio.create_task(text_of(tools, "bash", seen.put_nowait, command="echo a; sleep 1000"))
        await seen.get()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        return sandbox.started[0].process.returncode

    assert with_tools(tmp_path, use) == -9


def test_a_time_limit_ends_a_command_and_keeps_what_it_printed(tmp_path):
    (text,) = texts_of(tmp_path, ("bash", {"command": "echo a; sleep 1000", "timeout": 1}))
    assert text == "a\n[stopped: it took longer than 1 s; a longer timeout or background lets it go on]"


def test_a_time_limit_has_a_limit(tmp_path):
    async def use(tools, sandbox):
        await text_of(tools, "bash", command="true", timeout=120_000)
        return sandbox.started[0].seconds

    assert with_tools(tmp_path, use) == 600


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"command": ""}, "command is empty"),
        ({"command": " \n"}, "command is empty"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "\ud800"}, "surrogate"),
        ({"command": "x" * (MAX_COMMAND + 1)}, "expected at most"),
        ({"command": "true", "timeout": 0}, "timeout is 0"),
        ({"command": "true", "timeout": -(10**30)}, "expected 1 to 600"),
    ],
)
def test_what_cannot_be_run_is_an_error(tmp_path, arguments, part):
    (text,) = texts_of(tmp_path, ("bash", arguments))
    assert text.startswith("Error: ") and part in text


def test_a_command_as_long_as_may_be_is_run(tmp_path):
    assert printed(tmp_path, "true " + "x" * (MAX_COMMAND - 5)) == ["[no output]"]


def test_the_output_of_a_command_is_exact_but_for_its_end_mark(tmp_path):
    (text,) = printed(tmp_path, "printf 'a\\0\\0b\\n'; tr '\\0' '@' < /proc/$$/cmdline | tail -c 33 > mark; printf x")
    assert text == "ab\nx"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_an_end_mark_is_taken_out_however_it_arrives(size):
    data = b"a\0b" + b"\0" + b"m" * 8 + b"2 /some where\0tail\0"
    mark = EndMark("m" * 8)
    out = b"".join(mark.feed(data[i : i + size]) for i in range(0, len(data), size)) + mark.finish()
    assert (out, mark.directory, mark.left_behind) == (b"a\0btail\0", "/some where", True)


def test_a_forged_end_mark_that_never_ends_holds_nothing_back():
    mark = EndMark("m" * 8)
    out = b"".join(mark.feed(piece) for piece in (b"\0mmmmmmmm0 /", *[b"x" * 1000] * 20, b"end"))
    assert (out + mark.finish()).endswith(b"xend") and len(out) > 10_000
