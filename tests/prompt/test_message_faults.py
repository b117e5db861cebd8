"""`a3b render` of messages that cannot be made into a prompt: the error names what is at fault, and where."""

from __future__ import annotations

import json

import pytest

from a3b.cli import main
from a3b.errors import UsageError
from a3b.prompt.message_faults import check_tools

HI = {"role": "user", "content": "Hi"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.fixture
def told(capsys, tmp_path):
    """What `a3b render` says of messages, or of the bytes of a file of them; it must be one line, and no prompt."""

    def render(value, *more: str) -> str:
        path = tmp_path / "messages.json"
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        try:
            status = main(["render", "--messages", str(path), *more])
        except SystemExit as exit:
            status = exit.code
        captured = capsys.readouterr()
        assert status in (1, 2) and captured.out == "" and captured.err.count("\n") == 1
        return captured.err

    return render


@pytest.mark.parametrize("role", ["foo", "developer", "USER", "", 5, None, ["user"]])
@pytest.mark.parametrize("before", [[], [HI]])
def test_an_unknown_role_is_named_with_its_place_and_the_known_ones(told, role, before):
    line = told([*before, {"role": role, "content": "x"}])
    assert f"messages[{len(before)}].role" in line and "system, user, assistant or tool" in line
    assert repr(role) in line or role is None


@pytest.mark.parametrize(
    ("message", "place", "expected"),
    [
        ({"content": "x"}, ".role: missing", "assistant or tool"),
        ({"role": "user"}, ".content: missing", "text"),
        ({"role": "tool", "tool_call_id": "1"}, ".content: missing", "text"),
        ({"role": "user", "contnet": "x"}, ".content: missing", "found 'contnet'"),
        ({"role": "user", "content": 5}, ".content: number", "text or a list"),
        ({"role": "user", "content": {"a": 1}}, ".content: object", "text or a list"),
        ({"role": "assistant", "content": True}, ".content: boolean", "text or a list"),
        ({"role": "user", "content": [5]}, ".content[0]: number", "object"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "sound"}]},
            ".content[1].type: 'sound'",
            "text",
        ),
        ({"role": "assistant", "content": "", "tool_calls": [CALL, 5]}, ".tool_calls[1]", "function.name"),
        ({"role": "assistant", "content": "", "tool_calls": "f()"}, ".tool_calls: text", "list"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            ".tool_calls[0].function.arguments: text",
            "object",
        ),
    ],
)
def test_a_fault_of_a_message_is_named_with_its_place(told, message, place, expected):
    line = told([HI, HI, message])
    assert f"messages[2]{place}" in line and expected in line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], "messages: the list is empty"),
        ({}, "messages: expected a list of objects, found dict"),
        ("x", "found str"),
        ([HI, 3], "messages[1]: expected an object"),
        (b"[{]", "is not JSON"),
        (b"", "is not JSON"),
        (b'["\xff"]', "is not UTF-8: byte 0xff at 2"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_list_of_messages_is_said_to_be_none(told, value, expected):
    assert expected in told(value)


def test_the_words_of_the_template_are_kept_where_no_message_is_at_fault(told):
    assert "System message must be at the beginning" in told([HI, {"role": "system", "content": "x"}])


def test_messages_with_a_byte_order_mark_and_calls_without_content_are_rendered(capsys, tmp_path):
    path = tmp_path / "messages.json"
    history = [HI, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(history).encode())
    assert main(["render", "--messages", str(path)]) == 0
    assert "<tool_response>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({}, "list of tools, found object"),
        ("f", "found text"),
        ([3], "--tools[0]: expected an object"),
        ([{"function": {}}], "--tools[0].function.name"),
        ([{"name": 3}], "--tools[0].function.name"),
    ],
)
def test_tools_that_are_none_are_refused_by_their_place(told, tmp_path, tools, expected):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(tools))
    assert expected in told([HI], "--tools", str(path))
    with pytest.raises(UsageError):
        check_tools(tools)
