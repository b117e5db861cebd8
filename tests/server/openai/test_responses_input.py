"""Tools and reasoning items of the Responses API: what the model is shown, and how its calls go back."""

from __future__ import annotations

import json

import pytest

from a3b.interface.events import Finished, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.server.openai.responses_output import CustomInputDecoder
from a3b.server.thinking_signatures import ThinkingSigner
from tests.support.responses_server import CUSTOM, DONE, NAMESPACE, TOOL, Server, understood
from tests.support.scripted_service import STARTED, USAGE
from tests.support.served import SECRET

# -- reasoning


def reasoning_of(item, key="alice", **server):
    """(message of the second turn, warnings) when `item` precedes an assistant's message."""
    server = server.get("server") or Server()
    reply = server.create(
        {"input": [item, {"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]}, key
    )
    return server.request.messages[0], reply["a3b"]["warnings"]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (
            {"encrypted_content": ThinkingSigner(SECRET).encrypt("thought", "alice"), "summary": []},
            "thought",
        ),
        (
            {
                "encrypted_content": ThinkingSigner(SECRET).encrypt("thought", "alice"),
                "content": [{"type": "reasoning_text", "text": "other"}],
            },
            "thought",
        ),
        ({"content": [{"type": "reasoning_text", "text": "a "}, {"type": "reasoning_text", "text": "b"}]}, "a b"),
        (
            {"content": None, "encrypted_content": None, "summary": [{"type": "summary_text", "text": "short"}]},
            "short",
        ),
        ({"encrypted_content": "", "content": [{"type": "reasoning_text", "text": "c"}]}, "c"),
    ],
)
def test_reasoning_comes_back_in_every_form(item, text):
    message, warnings = reasoning_of({"type": "reasoning", "id": "rs_1", **item})
    assert (message["reasoning_content"], warnings) == (text, [])


@pytest.mark.parametrize(
    ("item", "key"),
    [
        ({"encrypted_content": ThinkingSigner(SECRET).encrypt("thought", "alice")}, "bob"),
        ({"encrypted_content": "gAAAAABk", "content": [{"type": "reasoning_text", "text": "injected"}]}, "alice"),
        ({"encrypted_content": ThinkingSigner(SECRET).sign("", "bob")}, "alice"),
        ({"id": "rs_unknown", "summary": []}, "alice"),
    ],
)
def test_forged_foreign_and_unknown_reasoning_is_left_out_and_reported(item, key):
    message, warnings = reasoning_of({"type": "reasoning", **item}, key)
    assert "reasoning_content" not in message and warnings[0].startswith("input[0]: reasoning left out")


def test_reasoning_by_its_stored_id_is_ours_unless_the_client_changed_it():
    server = Server(DONE)
    kept = server.create()["output"][0]
    bare = {"type": "reasoning", "id": kept["id"], "summary": []}
    assert reasoning_of(bare, server=server)[0]["reasoning_content"] == "hm"
    message, _ = reasoning_of({**bare, "content": [{"type": "reasoning_text", "text": "edited"}]}, server=server)
    assert message["reasoning_content"] == "edited"
    assert reasoning_of(bare, server=server)[0]["reasoning_content"] == "hm"  # the edited one did not take its place
    assert "reasoning_content" not in reasoning_of(bare, "bob", server=server)[0]


# -- tools


def test_tools_of_every_kind_become_functions():
    tools = [function["function"] for function in understood({"tools": [TOOL, NAMESPACE, CUSTOM]}).tools]
    text = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    assert tools == [
        {"name": "add", "description": "adds", "parameters": {"type": "object"}},
        {"name": "mcp__fs__read", "description": "Files.\n\nreads", "parameters": {}, "strict": True},
        {"name": "mcp__fs__patch", "description": "", "parameters": text},
        {
            "name": "apply_patch",
            "description": "edits\n\nThe input must follow this grammar (lark):\nstart: LINE",
            "parameters": text,
        },
    ]


def test_calls_are_given_back_as_what_they_were_declared_and_understood_again():
    events = [
        STARTED,
        ToolCallStart(0, "c1", "mcp__fs__read"),
        ToolCallDelta(0, "{}"),
        ToolCallEnd(0, "c1", "mcp__fs__read", {}),
    ]
    for i, piece in enumerate(['{"input": "*** Be', "gin\\n", '\\"x\\""}']):
        events += [ToolCallStart(1, "c2", "apply_patch")] if i == 0 else []
        events.append(ToolCallDelta(1, piece))
    events += [ToolCallEnd(1, "c2", "apply_patch", {"input": '*** Begin\n"x"'}), Finished("tool_calls", USAGE)]
    server, tools = Server(events), [NAMESPACE, CUSTOM]
    stream = server.create({"tools": tools, "stream": True})
    output = stream[-1][1]["response"]["output"]
    assert [(item["type"], item["name"], item.get("namespace")) for item in output] == [
        ("function_call", "read", "mcp__fs__"),
        ("custom_tool_call", "apply_patch", None),
    ]
    assert output[1]["input"] == '*** Begin\n"x"'
    deltas = [data["delta"] for kind, data in stream if kind == "response.custom_tool_call_input.delta"]
    assert deltas == ["*** Be", "gin\n", '"x"']
    result = {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"}
    server.create({"input": [{"role": "user", "content": "q"}, *output, result], "tools": tools})
    assert server.request.messages[1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "mcp__fs__read", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "apply_patch", "arguments": {"input": '*** Begin\n"x"'}}},
    ]
    assert server.request.messages[2] == {"role": "tool", "tool_call_id": "c2", "content": "done"}


def test_names_that_would_meet_are_kept_apart():
    tools = [
        {"type": "function", "name": "a__b"},
        {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "b"}]},
    ]
    events = [STARTED, ToolCallStart(0, "c", "a__b_"), ToolCallEnd(0, "c", "a__b_", {}), Finished("tool_calls", USAGE)]
    server = Server(events)
    call = server.create({"tools": tools})["output"][0]
    assert [tool["function"]["name"] for tool in server.request.tools] == ["a__b", "a__b_"]
    assert (call["name"], call["namespace"]) == ("b", "a")


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quoted" \\ back\\u0041slash', "tab\tline\nCR\r", "é 思 🧠 \x00 end", "\\ud83d"]
)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_text_of_a_custom_call_streams_however_its_json_is_cut(text, ascii_only):
    whole = json.dumps({"input": text}, ensure_ascii=ascii_only)
    for size in (1, 2, 3, 7, len(whole)):
        reader = CustomInputDecoder()
        pieces = [reader.push(whole[i : i + size]) for i in range(0, len(whole), size)]
        assert "".join(pieces) == text
        "".join(pieces[: len(pieces) // 2]).encode()  # no half of a character at any time
        assert size > 3 or len(text) < 5 or sum(map(bool, pieces)) > 1


@pytest.mark.parametrize(
    ("choice", "expected", "offered"),
    [
        (None, ("auto", None), 4),
        ("none", ("none", None), 4),
        ("required", ("required", None), 4),
        ({"type": "function", "name": "add"}, ("named", "add"), 4),
        ({"type": "function", "name": "read", "namespace": "mcp__fs__"}, ("named", "mcp__fs__read"), 4),
        ({"type": "custom", "name": "apply_patch"}, ("named", "apply_patch"), 4),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}, ("auto", None), 1),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]},
            ("named", "add"),
            4,
        ),
    ],
)
def test_the_choice_among_tools(choice, expected, offered):
    request = understood({"tools": [TOOL, NAMESPACE, CUSTOM], "tool_choice": choice})
    assert ((request.tool_choice, request.tool_name), len(request.tools)) == (expected, offered)


def test_a_web_search_that_may_not_search_is_ignored_and_reported():
    server = Server()
    reply = server.create({"tools": [TOOL, {"type": "web_search", "external_web_access": False}]})
    assert len(server.request.tools) == 1 and "web_search is not offered" in reply["a3b"]["warnings"][0]
