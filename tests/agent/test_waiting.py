"""How long the agent waits for a server that asks it to, and that no task pays for waiting for its user."""

from __future__ import annotations

import asyncio

import pytest

from a3b.agent.approvals import ApprovalRequest, TellingApprover
from a3b.agent.client import MAX_WAIT_S, _retry_after
from a3b.agent.control import TaskControl, TaskHalted, TaskLimits


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, 1.0), ("0", 0.0), ("7", 7.0), ("1e999", MAX_WAIT_S), ("nan", 1.0), ("-5", 1.0), ("Mon, 30 Nov 2026", 5.0)],
)
def test_a_wait_is_a_bounded_number_of_seconds_whatever_the_header_says(given, seconds):
    assert _retry_after(given) == seconds


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Person:
    """Answers after so many seconds of a clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    async def ask(self, request):
        for _ in range(10):
            self.clock.now += self.seconds / 10
            await asyncio.sleep(0)
        return "once"


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("a3b.agent.approvals.time", clock)
    monkeypatch.setattr("a3b.agent.control.time", clock)
    return clock


QUESTION = ApprovalRequest("network", "pypi.org:443", "Commands connect to pypi.org:443")


def test_time_in_which_the_user_is_asked_does_not_count_against_the_time_of_a_task(clock):
    approver = TellingApprover(Person(clock, 3600))
    control = TaskControl(TaskLimits(seconds=60), lambda: approver.waited)

    async def work():
        clock.now += 30
        return await approver.ask(QUESTION)

    assert asyncio.run(control.until_stopped(work())) == "once"
    control.check()
    clock.now += 31
    with pytest.raises(TaskHalted, match=r"stopped after 60 s \(--max-time\)"):
        control.check()


def test_while_a_question_is_open_a_task_does_not_run_out_of_time(clock):
    approver = TellingApprover(Person(clock, 3600))
    control = TaskControl(TaskLimits(seconds=60), lambda: approver.waited)

    async def both():
        asked = asyncio.ensure_future(approver.ask(QUESTION))
        for _ in range(5):
            await asyncio.sleep(0)
            control.check()
        await asked

    asyncio.run(both())


def test_two_questions_at_once_are_waited_for_once(clock):
    approver = TellingApprover(Person(clock, 100))

    async def both():
        await asyncio.gather(approver.ask(QUESTION), approver.ask(QUESTION))

    asyncio.run(both())
    assert approver.waited == pytest.approx(200)  # which the two took together


def test_a_child_stops_with_the_time_of_the_whole_task(clock):
    control = TaskControl(TaskLimits(seconds=60))
    child = control.child(turns=5)
    clock.now += 61
    with pytest.raises(TaskHalted, match="--max-time"):
        child.check()
