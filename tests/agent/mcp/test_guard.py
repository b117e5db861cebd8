"""What a server sends is counted, and what nobody needs goes no further."""

from __future__ import annotations

import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from a3b.agent.mcp.guard import MAX_GARBAGE, MAX_REQUESTS, MAX_UNASKED, WINDOW, MessageGuard, ServerFault


class Watched:
    def __init__(self):
        self.now, self.changed, self.asked = 0.0, [], []
        self.guard = MessageGuard(self.changed.append, self.asked.append, lambda: self.now)

    def notify(self, method):
        return self.guard.screen(SessionMessage(JSONRPCNotification(jsonrpc="2.0", method=method)))

    def ask(self, method):
        return self.guard.screen(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method=method)))

    def answer(self, result):
        message = SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result=result))
        assert self.guard.screen(message) is message
        return message.message.result


@pytest.fixture
def watched():
    return Watched()


def test_messages_that_nobody_asked_for_are_dropped(watched):
    assert watched.notify("notifications/message") is None


def test_a_change_is_told(watched):
    assert watched.notify("notifications/tools/list_changed") is None
    assert watched.changed == ["tools"]


def test_a_request_for_the_model_is_told_and_answered_by_the_sdk(watched):
    assert watched.ask("sampling/createMessage") is not None
    assert watched.asked == ["an answer of the model (sampling)"]


def test_a_flood_of_messages_ends_the_connection(watched):
    for _ in range(MAX_UNASKED):
        watched.notify("notifications/message")
    with pytest.raises(ServerFault, match="sent more than 20,000 messages that nobody asked for"):
        watched.notify("notifications/message")
    assert watched.guard.fault and watched.guard.ended.is_set()


def test_many_messages_over_a_long_time_are_fine(watched):
    for _ in range(MAX_UNASKED * 3):
        watched.now += WINDOW / MAX_UNASKED * 2
        watched.notify("notifications/message")


def test_a_flood_of_requests_ends_the_connection(watched):
    for _ in range(MAX_REQUESTS):
        watched.ask("roots/list")
    with pytest.raises(ServerFault, match="requests"):
        watched.ask("roots/list")


def test_a_flood_of_lines_that_are_no_messages_ends_the_connection(watched):
    for _ in range(MAX_GARBAGE):
        watched.guard.count_garbage("starting")
    with pytest.raises(ServerFault, match="lines that are no messages"):
        watched.guard.count_garbage("starting")
    assert watched.guard.garbage == "starting"


def test_output_schemas_do_not_reach_the_sdk(watched):
    tool = {"name": "a", "inputSchema": {"type": "object"}, "outputSchema": {"pattern": "^(a+)+$"}, "annotations": 5}
    assert watched.answer({"tools": [tool]})["tools"][0].keys() == {"name", "inputSchema"}


def test_a_tool_that_is_no_tool_does_not_hide_the_others(watched):
    found = watched.answer({"tools": [5, {}, {"name": 1}, {"name": "b", "inputSchema": "x"}, {"name": "c"}]})
    assert [tool["name"] for tool in found["tools"]] == ["b", "c"]
    assert len(watched.guard.left_out) == 5


def test_an_answer_without_tools_passes_as_it_is(watched):
    assert watched.answer({"content": []}) == {"content": []}
