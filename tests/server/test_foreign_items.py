"""What other servers left in a history is read as text, and a warning says so."""

from __future__ import annotations

import pytest

from a3b.interface.events import Finished, TextDelta
from a3b.server.anthropic import messages
from a3b.server.foreign_items import plain
from tests.support.responses_server import Server as ResponsesServer
from tests.support.scripted_service import STARTED, USAGE, ScriptedService
from tests.support.served import app_of, content_of, exchange

DONE = [STARTED, TextDelta("ok"), Finished("stop", USAGE)]
TEXTS = [
    {"type": "text", "text": "first"},
    {"type": "text", "text": "second", "citations": [{"type": "x", "cited_text": "hidden"}]},
]
SEARCH = {
    "type": "search_result",
    "source": "https://a.example/é",
    "title": "A title",
    "content": TEXTS,
    "citations": {"enabled": True},
}
DATA = {"type": "text", "media_type": "text/plain", "data": "the data"}
PLAIN = {"type": "document", "title": "Notes", "context": "of May", "source": DATA}
PARTS = {
    "type": "document",
    "source": {"type": "content", "content": [*TEXTS, {"type": "image", "source": {"data": "aGlkZGVu"}}]},
}
PAGE = {
    "type": "web_search_result",
    "url": "https://w.example",
    "title": "Wide",
    "encrypted_content": "hidden",
    "page_age": None,
}
OUTPUT = {"type": "bash_code_execution_result", "stdout": "42", "stderr": "", "return_code": 0, "content": []}
FETCHED = {
    "type": "web_fetch_tool_result",
    "tool_use_id": "s",
    "content": {"type": "web_fetch_result", "url": "https://f.example", "content": PLAIN},
}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [PAGE]}
RAN = {"type": "bash_code_execution_tool_result", "tool_use_id": "s", "content": OUTPUT}
SEARCHED = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "wide things"}}
MCP = {"type": "mcp_tool_use", "id": "s", "name": "look", "server_name": "eyes", "input": {"at": "sea"}}
MCP_SAID = {
    "type": "mcp_tool_result",
    "tool_use_id": "s",
    "is_error": False,
    "content": [{"type": "text", "text": "blue"}],
}
SUMMARY = {"type": "compaction", "content": "They met.", "encrypted_content": "hidden", "signature": "hidden"}


def understood(history: list, status: int = 200):
    """(messages of the Request, warnings), or the error's message."""
    service = ScriptedService(DONE)
    body = {"model": "m", "max_tokens": 9, "messages": history}
    reply = exchange(app_of(messages, service), "POST", "/v1/messages", body)
    assert reply.status_code == status, reply.text
    told = content_of(reply)
    return (service.requests[0].messages, told["a3b"]["warnings"]) if status == 200 else told["error"]["message"]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (SEARCH, ["A title\nhttps://a.example/é\nfirst\nsecond"]),
        (PLAIN, ["Notes\nof May\nthe data"]),
        (PARTS, ["first\nsecond\n[left out]"]),
    ],
    ids=["search_result", "document", "document of parts"],
)
def test_a_search_result_and_a_document_of_the_user_are_their_text(block, told):
    found, warnings = understood([{"role": "user", "content": [{"type": "text", "text": "look:"}, block]}])
    assert [part["text"] for part in found[0]["content"]] == ["look:", *told]
    assert warnings == [f"messages[0].content[1]: {block['type']} read as text"]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (SEARCH, "A title\nhttps://a.example/é\nfirst\nsecond"),
        (PLAIN, "Notes\nof May\nthe data"),
        ({"type": "tool_reference", "tool_name": "get_weather"}, "[tool get_weather was found and may be called]"),
    ],
    ids=["search_result", "document", "tool_reference"],
)
def test_the_same_in_the_result_of_a_tool(block, told):
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "search", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [block]}]}
    found, warnings = understood([{"role": "user", "content": "q"}, call, result])
    assert found[-1] == {"role": "tool", "tool_call_id": "t", "content": told}
    assert warnings == [f"messages[2].content[0].content[0]: {block['type']} read as text"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (SEARCHED, ["web_search", "wide things"]),
        (FOUND, ["https://w.example", "Wide"]),
        (FETCHED, ["https://f.example", "the data"]),
        (RAN, ["42", '"return_code": 0']),
        (MCP, ["look", "eyes", "sea"]),
        (MCP_SAID, ["blue"]),
        (SUMMARY, ["Summary", "They met."]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_what_a_server_did_within_a_turn_of_the_assistant_is_readable(block, words):
    turn = {
        "role": "assistant",
        "content": [{"type": "text", "text": "before"}, block, {"type": "text", "text": "after"}],
    }
    found, warnings = understood([{"role": "user", "content": "q"}, turn, {"role": "user", "content": "p"}])
    content = found[1]["content"]
    assert content.startswith("before\n") and content.endswith("after") and all(word in content for word in words)
    assert "hidden" not in content and "tool_use_id" not in content and "tool_calls" not in found[1]
    assert warnings == [f"messages[1].content[1]: {block['type']} read as text"]


def test_a_mark_of_another_model_says_nothing():
    turn = {
        "role": "assistant",
        "content": [{"type": "fallback", "from": {}, "to": {}}, {"type": "text", "text": "after"}],
    }
    assert (
        understood([{"role": "user", "content": "q"}, turn, {"role": "user", "content": "p"}])[0][1]["content"]
        == "after"
    )


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}},
            "messages[0].content[0]",
        ),
        ({"type": "document", "source": {"type": "url", "url": "https://a.example"}}, "messages[0].content[0]"),
        ({"type": "document", "source": {"type": "text"}}, "messages[0].content[0].source.data"),
        ({"type": "search_result", "content": TEXTS}, "messages[0].content[0].source"),
        ({"type": "image"}, "messages[0].content[0]"),
        ({"type": "container_upload"}, "messages[0].content[0]"),
    ],
)
def test_what_has_no_text_is_still_refused_where_the_user_sends_it(block, named):
    assert understood([{"role": "user", "content": [block]}], 400).startswith(f"{named}:")


# -- items of the Responses API


def asked(items: list):
    server = ResponsesServer()
    reply = server.create({"input": [{"role": "user", "content": "q"}, *items, {"role": "user", "content": "p"}]})
    return server.request.messages, reply["a3b"]["warnings"], server, reply


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            {"type": "web_search_call", "status": "failed", "action": {"type": "search", "query": "wide"}},
            ["web_search_call", "wide", "failed"],
        ),
        (
            {"type": "file_search_call", "queries": ["a b"], "results": [{"filename": "f.txt", "text": "found"}]},
            ["a b", "f.txt", "found"],
        ),
        (
            {"type": "code_interpreter_call", "code": "print(1)", "outputs": [{"type": "logs", "logs": "1"}]},
            ["print(1)"],
        ),
        (
            {"type": "mcp_call", "server_label": "eyes", "name": "look", "arguments": "{}", "output": "blue"},
            ["eyes", "look", "blue"],
        ),
        ({"type": "image_generation_call", "result": "hidden", "revised_prompt": "a cat"}, ["a cat"]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_what_openais_servers_did_is_text_of_the_assistant(item, words):
    found, warnings, _, _ = asked([{"role": "assistant", "content": "before"}, {"id": "x_1", **item}])
    assert found[1]["content"].startswith("before\n") and all(word in found[1]["content"] for word in words)
    assert "hidden" not in found[1]["content"] and "x_1" not in found[1]["content"]
    assert warnings == [f"input[2]: {item['type']} read as text"]


@pytest.mark.parametrize(
    ("call", "output", "name", "told"),
    [
        (
            {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}},
            {"type": "local_shell_call_output", "id": "c", "output": "a.txt"},
            "local_shell",
            "a.txt",
        ),
        (
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
            {
                "type": "shell_call_output",
                "call_id": "c",
                "output": [{"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit"}}],
            },
            "shell",
            "a.txt",
        ),
        (
            {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "ls"}},
            {"type": "apply_patch_call_output", "call_id": "c", "status": "failed"},
            "apply_patch",
            "failed",
        ),
        (
            {"type": "computer_call", "call_id": "c", "action": {"type": "type", "text": "ls"}},
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,x"},
            },
            "computer",
            "[left out]",
        ),
    ],
    ids=["local_shell", "shell", "apply_patch", "computer"],
)
def test_what_a_client_ran_for_openais_tools_is_a_call_and_its_output(call, output, name, told):
    found, warnings, _, _ = asked([call, output])
    function = found[1]["tool_calls"][0]["function"]
    assert function["name"] == name and "ls" in str(function["arguments"])
    assert (found[2]["role"], found[2]["tool_call_id"]) == ("tool", "c") and told in found[2]["content"]
    assert "base64" not in found[2]["content"] and (name != "computer" or function["arguments"]["type"] == "type")
    assert warnings == [f"input[1]: {call['type']} read as text", f"input[2]: {output['type']} read as text"]


def test_media_and_what_only_its_maker_reads_are_left_out_however_deep():
    media = [{"url": "data:image/png;base64,x", "type": "image_url"}, {"type": "base64", "data": "x"}]
    found = plain({"a": media, "signature": "x", "b": None})
    assert found == {"a": [{"url": "[left out]", "type": "image_url"}, "[left out]"]}


def test_a_summary_is_read_where_it_is_readable():
    found, warnings, _, _ = asked([{"type": "compaction", "encrypted_content": "hidden"}])
    assert "hidden" not in str(found) and warnings == ["input[1]: compaction left out: only its maker can read it"]
    found, warnings, _, _ = asked(
        [{"type": "compaction_summary", "summary": [{"type": "summary_text", "text": "They met."}]}]
    )
    assert "They met." in found[1]["content"] and warnings == ["input[1]: compaction_summary read as text"]


def test_such_items_are_stored_and_continued():
    _, _, server, reply = asked([{"type": "web_search_call", "action": {"query": "wide things"}}])
    server.create({"input": "more", "previous_response_id": reply["id"]})
    assert "wide things" in server.request.messages[1]["content"]


@pytest.mark.parametrize("kind", ["additional_tools", "compaction_trigger", "configuration_update", "made_up"])
def test_an_item_that_would_change_the_answer_is_refused_by_its_type(kind):
    status, reply = ResponsesServer().send(
        {"model": "m", "input": [{"type": kind, "id": "x"}, {"role": "user", "content": "p"}]}
    )
    assert status == 400 and reply["error"]["message"].startswith(f"input[0]: items of type {kind} are not supported")
