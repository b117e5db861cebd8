"""Answers of the user: asked once, remembered for a project, refused where nobody can be asked."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from a3b.agent.approvals import ApprovalRequest, DenyingApprover, RememberedApprovals, TellingApprover
from a3b.errors import StoreError, UsageError

REQUEST = ApprovalRequest("network", "pypi.org:443", "Commands connect to pypi.org:443", option="--allow-host pypi.org")


class Answering:
    def __init__(self, *decisions):
        self.decisions, self.asked = list(decisions), []

    async def ask(self, request):
        self.asked.append(request)
        return self.decisions.pop(0)


def asked(approver, request=REQUEST):
    return asyncio.run(approver.ask(request))


def test_always_is_remembered_in_the_project_and_once_is_not(tmp_path):
    file = tmp_path / "project" / "approvals.json"
    first = Answering("once", "always")
    approvals = RememberedApprovals(file, first)
    assert [asked(approvals) for _ in range(3)] == ["once", "always", "always"]
    assert len(first.asked) == 2
    later = RememberedApprovals(file, Answering())
    assert asked(later) == "always"
    assert later.known() == [("network", "pypi.org:443")]


def test_what_is_remembered_is_private_and_holds_for_that_subject_only(tmp_path):
    file = tmp_path / "project" / "approvals.json"
    approvals = RememberedApprovals(file, Answering("always", "no", "no"))
    asked(approvals)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert asked(approvals, ApprovalRequest("network", "pypi.org:80", "")) == "no"
    assert asked(approvals, ApprovalRequest("mcp_server", "pypi.org:443", "")) == "no"


def test_two_sessions_keep_the_answers_of_both(tmp_path):
    file = tmp_path / "approvals.json"
    one, two = RememberedApprovals(file, Answering("always")), RememberedApprovals(file, Answering("always"))
    asked(one)
    asked(two, ApprovalRequest("network", "example.org:443", ""))
    assert len(RememberedApprovals(file, Answering()).known()) == 2


def test_forgetting_asks_again(tmp_path):
    approvals = RememberedApprovals(tmp_path / "approvals.json", Answering("always", "no"))
    asked(approvals)
    approvals.forget()
    assert asked(approvals) == "no"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"approvals": 3}',
        '{"approvals": [{"kind": "network"}]}',
        '{"approvals": [{"kind": 1, "subject": []}]}',
        '{"approvals": [{"kind": 1, "subject": "x"}]}',
        "[" * 100_000,
        "x" * (2 << 20),
    ],
)
def test_a_file_that_holds_anything_else_is_refused(tmp_path, content):
    file = tmp_path / "approvals.json"
    file.write_text(content)
    with pytest.raises(StoreError, match="remove it to be asked again"):
        RememberedApprovals(file, Answering())


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo, lambda path: path.mkdir()])
def test_what_is_no_file_of_ours_is_refused(tmp_path, make):
    make(tmp_path / "approvals.json")
    with pytest.raises(StoreError):
        RememberedApprovals(tmp_path / "approvals.json", Answering())


def test_an_endless_request_is_refused_without_a_question(tmp_path):
    inner = Answering()
    assert asked(RememberedApprovals(tmp_path / "a.json", inner), ApprovalRequest("network", "x" * 100_000, "")) == "no"
    assert inner.asked == []


def test_where_nobody_can_be_asked_the_option_is_named():
    approver = DenyingApprover()
    assert [asked(approver), asked(approver)] == ["no", "no"]
    assert approver.report() == ["Not allowed: Commands connect to pypi.org:443; --allow-host pypi.org would allow it"]


def test_one_answer_is_taken_back_and_an_unknown_one_names_those_that_are(tmp_path):
    approvals = RememberedApprovals(tmp_path / "approvals.json", Answering("always", "always", "no"))
    asked(approvals)
    asyncio.run(approvals.ask(ApprovalRequest("protected_path", "AGENTS.md", "")))
    with pytest.raises(UsageError, match="'CLAUDE': expected one that is allowed always: "):
        approvals.forget("CLAUDE")
    assert approvals.forget("AGENTS") == ["AGENTS.md"]
    assert len(approvals.known()) == 1 and "AGENTS.md" not in approvals.file.read_text()


def test_refused_hosts_are_told_to_the_model_once():
    async def run():
        telling = TellingApprover(DenyingApprover())
        host = ApprovalRequest("network", "a.org:443", "Commands connect to a.org:443", option="--allow-host a.org")
        for request in (host, host, ApprovalRequest("mcp_server", "x", "start x")):
            assert await telling.ask(request) == "no"
        first = telling.take_news()
        await telling.ask(host)
        return first, telling.take_news()

    assert asyncio.run(run()) == (
        ["[a.org:443 was not allowed; --allow-host a.org would allow it]"],
        [],
    )
