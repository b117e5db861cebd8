"""The model sums up a conversation of the Responses API, and continues with the summary in its place."""

from __future__ import annotations

import pytest
from openai.types.responses import ResponseCompactionItem, ResponseUsage

from a3b.interface.events import Finished, TextDelta
from tests.support.responses_server import DONE, PATH, Server
from tests.support.scripted_service import STARTED, USAGE

COMPACT = PATH + "/compact"
SAID = [
    {"role": "user", "content": "We launch on Tuesday."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "Tell support."},
]
SUMMARY = [STARTED, TextDelta("Launch: "), TextDelta("Tuesday."), Finished("stop", USAGE)]


def compacted(server: Server, status: int = 200, key: str = "alice", **body):
    found, reply = server.send({"model": "m", **body}, COMPACT, key=key)
    assert found == status, reply
    return reply


def test_a_conversation_becomes_what_the_user_said_and_a_sealed_summary():
    server = Server(SUMMARY)
    reply = compacted(server, input=SAID, instructions="Be kind.", prompt_cache_key="k")
    assert {"id", "object", "created_at", "output", "usage"} <= reply.keys() and reply[
        "object"
    ] == "response.compaction"
    ResponseCompactionItem.model_validate(reply["output"][2])
    ResponseUsage.model_validate(reply["usage"])
    assert [item["type"] for item in reply["output"]] == ["message", "message", "compaction"]
    assert [item["content"][0]["text"] for item in reply["output"][:2]] == ["We launch on Tuesday.", "Tell support."]
    assert "Tuesday" not in str(reply["output"][2]) and reply["usage"]["input_tokens"] == USAGE.prompt_tokens
    request = server.request
    told = [message["content"] for message in request.messages]
    assert told[:-1] == ["Be kind.", "We launch on Tuesday.", "Noted.", "Tell support."] and told[-1].startswith(
        "Sum up"
    )
    assert (request.think, request.sampling["max_tokens"], reply["a3b"]["warnings"]) == (False, 4096, [])


def test_the_model_goes_on_with_the_summary_and_no_other_key_can_read_it():
    server = Server(SUMMARY)
    output = compacted(server, input=SAID)["output"]
    reply = server.create({"input": [*output, {"role": "user", "content": "When?"}]})
    content = [message["content"] for message in server.request.messages]
    assert content == [
        "We launch on Tuesday.",
        "Tell support.",
        "Summary of the conversation before:\nLaunch: Tuesday.\n",
        "When?",
    ]
    assert reply["a3b"]["warnings"] == []
    reply = server.create({"input": [*output, {"role": "user", "content": "When?"}]}, key="bob")
    assert "Launch" not in str(server.request.messages) and "only its maker can read it" in reply["a3b"]["warnings"][0]


def test_a_stored_conversation_is_summed_up_with_its_tools_results():
    server = Server(DONE)
    first = server.create({"input": SAID})["id"]
    server.choose(SUMMARY)
    calls = [
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "7"},
    ]
    reply = compacted(server, input=calls, previous_response_id=first)
    assert [message["role"] for message in server.request.messages] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "user",
    ]
    assert len(reply["output"]) == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"input": SAID, "model": None}, "model"),
        ({"input": []}, "input"),
        ({"input": SAID, "stream": []}, None),
        ({"input": 5}, "input"),
        ({"previous_response_id": "resp_0"}, "Previous response"),
        ({"input": [{"type": "made_up"}]}, "input[0]"),
    ],
)
def test_what_cannot_be_summed_up_is_refused_by_name(body, named):
    if named is None:  # an unknown field is told
        assert "stream: this server has no such field" in compacted(Server(SUMMARY), **body)["a3b"]["warnings"][0]
    else:
        assert compacted(Server(SUMMARY), 400, **body)["error"]["message"].startswith(named)


def test_no_summary_is_an_error_and_not_a_lost_conversation():
    assert (
        compacted(Server([STARTED, TextDelta(" "), Finished("stop", USAGE)]), 503, input=SAID)["error"]["code"]
        == "no_summary"
    )
