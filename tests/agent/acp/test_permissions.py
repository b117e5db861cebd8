"""Questions of the sandbox reach the editor, and nothing but a clear yes is one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from acp.schema import AllowedOutcome, DeniedOutcome

from a3b.agent.acp.permissions import AcpApprover
from a3b.agent.acp.updates import SessionUpdates
from a3b.agent.approvals import ApprovalRequest
from a3b.agent.events import ToolStarted

REQUEST = ApprovalRequest(
    "network", "pypi.org:443", "connect to pypi.org\x1b[31m\ud800", "the sandbox", "/w", "--allow"
)


class Client:
    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def request_permission(self, **asked):
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(outcome=self.answer)


def chosen(option: str) -> AllowedOutcome:
    return AllowedOutcome(outcome="selected", option_id=option)


def test_a_question_about_a_file_has_the_change_as_a_diff():
    client = Client(chosen("once"))
    approver = AcpApprover(client, None)
    approver.session, approver.updates = "s1", SessionUpdates(Path("/w"), 1000)
    diff = "--- AGENTS.md\n+++ AGENTS.md\n@@ -1 +1 @@\n-old\n+new \ud800"
    asyncio.run(approver.ask(ApprovalRequest("protected_path", "AGENTS.md", "change", diff=diff, always="all of it")))
    changed, words = client.asked[0]["tool_call"].content
    assert (changed.path, changed.old_text, changed.new_text) == ("/w/AGENTS.md", "old", "new ?")
    assert words.content.text == 'change\n"Always" allows all of it.'


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        (chosen("once"), "once"),
        (chosen("always"), "always"),
        (chosen("no"), "no"),
        (chosen("Once"), "no"),
        (DeniedOutcome(outcome="cancelled"), "no"),
        (ConnectionError("Connection closed"), "no"),
    ],
    ids=["once", "always", "no", "unknown", "cancelled", "gone"],
)
def test_an_answer_of_the_editor_is_the_decision(answer, decision):
    client = Client(answer)
    approver = AcpApprover(client, None)
    approver.session = "s1"
    approver.updates = SessionUpdates(Path("/w"), 1000)
    list(approver.updates.of(ToolStarted("call_7", "bash", {"command": "pip"}, "bash pip")))
    assert asyncio.run(approver.ask(REQUEST)) == decision
    asked = client.asked[0]
    assert asked["session_id"] == "s1" and asked["tool_call"].tool_call_id == "call_7"
    assert [option.kind for option in asked["options"]] == ["allow_once", "allow_always", "reject_once"]
    asked["tool_call"].model_dump_json()  # what is foreign in it can be sent


def test_before_the_editor_knows_the_session_the_answer_is_no_and_is_told_later():
    approver = AcpApprover(Client(chosen("once")), None)
    assert asyncio.run(approver.ask(REQUEST)) == "no"
    assert approver.refused == [REQUEST]


def test_servers_that_the_editor_itself_has_given_start_without_a_question():
    approver = AcpApprover(Client(chosen("no")), Path("/home/given.json"))
    ours = ApprovalRequest("mcp_server", "x", "start x", where="/home/given.json")
    theirs = ApprovalRequest("mcp_server", "x", "start x", where="/w/.mcp.json")
    assert asyncio.run(approver.ask(ours)) == "once" and asyncio.run(approver.ask(theirs)) == "no"
