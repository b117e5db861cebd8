"""The toolbar's figures follow the events of a session."""

from __future__ import annotations

from dataclasses import replace

import pytest

from a3b.agent.events import (
    CallProgress,
    PromptProgress,
    SessionOpened,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    TokenUsage,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from a3b.agent.options import SessionCost
from a3b.agent.terminal.figures import SessionFigures, short

OPENED = SessionOpened("id", "/w", "nano", "http://localhost:1", 10_000, "bubblewrap", True)
NOTHING = TokenUsage(0, 0, 0)
COST = SessionCost(0, NOTHING, 900, 10_000, 50_000, 0, 0.0)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def figures(clock):
    return SessionFigures(OPENED, COST, clock)


def test_the_time_left_of_a_prompt_follows_from_what_has_been_read(figures, clock):
    figures.take(TurnStarted(1))
    assert figures.doing() == "waiting for the server, 1 s"
    figures.take(PromptProgress(1000, 5000, 1000))
    assert figures.doing() == "reading 1,000 of 5,000 tokens (1,000 cached)"
    clock.now += 10
    figures.take(PromptProgress(2000, 5000, 1000))
    assert figures.doing() == "reading 2,000 of 5,000 tokens (1,000 cached), 30 s left"


def test_speeds_are_those_of_the_server_where_it_tells_them(figures):
    figures.take(TurnFinished(1, "stop", TokenUsage(1000, 100, 50, 0, 10.0, 5.0)))
    assert figures.numbers()[3] == "read 100/s write 10/s"


def test_the_speed_of_writing_is_counted_where_the_server_tells_none(figures, clock):
    figures.take(TurnStarted(1))
    for _ in range(21):
        figures.take(TextChunk("x"))
        clock.now += 0.5
    figures.take(TextChunk("x"))
    assert figures.numbers()[3] == "write 2/s"


def test_context_turn_and_session_are_told_apart(figures):
    figures.take(TurnFinished(2, "stop", TokenUsage(300, 1000, 200)))
    figures.account(replace(COST, usage=TokenUsage(1500, 2_500_000, 300)))
    assert figures.numbers()[:3] == [
        "context 1.5k/10.0k 15%",
        "turn 300 read 1.0k cached",
        "session 1.5k read 2.5M cached",
    ]


def test_a_resumed_session_shows_what_it_begins_with(figures):
    assert figures.numbers()[0] == "context 900/10.0k 9%"


def test_a_server_that_tells_no_context_gets_no_share(clock):
    figures = SessionFigures(replace(OPENED, context=0), replace(COST, context=0), clock)
    assert figures.numbers()[0] == "context 900"


def test_budget_and_jobs_are_shown_when_there_are_some(figures):
    assert figures.numbers()[-1] == "bubblewrap"
    figures.budget, figures.jobs = 2048, 2
    assert figures.numbers()[-3:] == ["thinks up to 2.0k", "bubblewrap", "2 jobs"]


def test_what_happens_now_is_said_and_nothing_once_the_task_is_over(figures, clock):
    figures.take(ThinkingChunk("a"))
    figures.take(ThinkingChunk("b"))
    clock.now += 12
    assert figures.doing() == "thinking for 12 s, about 2 tokens"
    figures.take(CallProgress("edit", 1200))
    assert figures.doing() == "writing a call of edit, 1,200 characters"
    figures.take(ThinkingChunk("c"))
    figures.take(ToolStarted("1", "bash", {}, "bash \x1b[31mmake"))
    clock.now += 3
    assert figures.doing() == "bash \\u001b[31mmake, 3 s"
    figures.take(ToolFinished("1", "bash", "", False))
    assert figures.doing().startswith("thinking")
    figures.take(TaskFinished("done", "", 1, NOTHING))
    assert figures.doing() == ""


@pytest.mark.parametrize(
    ("number", "told"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (99_949, "99.9k"), (262_144, "262k"), (1 << 20, "1.0M")],
)
def test_numbers_are_short(number, told):
    assert short(number) == told
