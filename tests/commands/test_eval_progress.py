"""A run of days shows that it lives: at a terminal by a line that goes on, in a log by lines that are not too many."""

from __future__ import annotations

import gc
import io
import os
import sys
import time
from contextlib import redirect_stderr
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from a3b.cli import main
from a3b.commands import eval_progress, progress
from a3b.commands.eval_progress import LOG_S, SILENT_S, RunProgress, expected
from a3b.evals.benchmark import Benchmark, CaseTokens
from a3b.evals.options import EvalOptions
from a3b.evals.records import CaseCost, CaseRecord
from tests.support.lookup_player import solved
from tests.support.scripted_model import ScriptedModel
from tests.support.served import served

COST = CaseCost(100, 20, 30, 5, 2, 1.5)
RIGHT = CaseRecord("case", 1, 0, 1.0, cost=COST)
WRONG, BROKEN = replace(RIGHT, score=0.0), replace(RIGHT, score=None, error="nobody answers", cost=CaseCost())


class Clock:
    """Seconds, which a test lets pass."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said(capsys):
    """The lines in a log since the last call."""
    return lambda: capsys.readouterr().err.splitlines()


def test_a_try_that_ended_is_a_line_of_a_log_with_score_tokens_and_time_left(clock, said):
    shown = RunProgress("lookup", 10, {}, clock)
    clock.now += 120
    shown.tell(RIGHT)
    assert said() == [
        "a3b eval lookup: 1 of 10 tries in 2 min, score 100% so far, 18 min left; tokens: 100 computed, 20 cached, 30 "
        "written"
    ]
    clock.now += 120
    shown.tell(WRONG)
    assert said() == [
        "a3b eval lookup: 2 of 10 tries in 4 min, score 50% so far, 16 min left; tokens: 200 computed, 40 cached, 60 "
        "written"
    ]


def test_tries_that_end_within_seconds_share_a_line(clock, said):
    shown = RunProgress("lookup", 10, {}, clock)
    shown.tell(RIGHT)
    assert len(said()) == 1
    shown.tell(RIGHT)
    shown.tell(WRONG)
    clock.now += LOG_S - 1
    shown.look()
    assert said() == []
    clock.now += 1
    shown.look()
    shown.look()
    (line,) = said()
    assert "3 of 10 tries" in line and "score 67% so far" in line


def test_a_log_gets_a_line_while_a_long_try_runs(clock, said):
    shown = RunProgress("swebench", 4, {}, clock)
    for seconds, lines in ((SILENT_S - LOG_S - 1, []), (1, ["a3b eval swebench: 0 of 4 tries in 10 min"])):
        clock.now += seconds
        shown.look()
        assert said() == lines
    clock.now += SILENT_S - 1
    shown.look()
    assert said() == []
    clock.now += 1
    shown.look()
    assert said() == ["a3b eval swebench: 0 of 4 tries in 20 min"]


def test_time_left_goes_down_while_a_try_runs_and_is_unknown_once_the_last_one_takes_too_long(clock):
    shown = RunProgress("lookup", 4, {}, clock)
    clock.now += 100
    shown.tell(RIGHT)
    assert shown._left(clock.now) == 300
    assert shown._left(clock.now + 60) == 240
    assert shown._left(clock.now + 300) == 400  # three left: this one, and two of 200 s each
    shown.tell(RIGHT)
    shown.tell(RIGHT)
    assert shown._left(clock.now + 1000) is None


def test_what_an_earlier_process_did_counts_to_score_tokens_and_time_but_not_to_the_speed(clock, said):
    done = {i: replace(RIGHT, case=f"case-{i}", session=50.0, finished=50.0 + 3600) for i in range(2)}
    done[2] = replace(BROKEN, session=50.0, finished=60.0)
    shown = RunProgress("lookup", 6, done, clock)
    clock.now += 60
    shown.tell(WRONG)
    (line,) = said()
    assert "3 of 6 tries in 61 min, score 67% so far, 3 min left; tokens: 300 computed" in line


def test_an_error_is_told_at_once_and_tokens_that_are_unknown_are_no_zeros(clock, said):
    shown = RunProgress("lookup", 4, {}, clock)
    shown.tell(replace(BROKEN, error="it said \x1b[31m\n"))
    assert said() == [
        "a3b eval lookup: case: it said \\u001b[31m\\n",
        "a3b eval lookup: 1 of 4 tries in 1 s, 1 error",
    ]
    clock.now += LOG_S
    shown.tell(replace(RIGHT, cost=CaseCost.of_request(0, 0, 0, 0)))
    lines = said()
    assert lines[0] == "a3b eval lookup: the server tells no usage, so how many tokens it computes stays unknown"
    assert "tokens" not in lines[1]


def test_at_a_terminal_the_time_goes_on_while_a_try_runs(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))
    shown, terminal = RunProgress("lookup", 4, {}, clock), sys.stderr
    for minutes in (2, 3):
        clock.now = 1000.0 + 60 * minutes
        shown.look()
    drawn = [line.partition("] ")[2].removesuffix("\x1b[K") for line in terminal.getvalue().split("\r") if line]
    assert drawn == ["lookup: 0 of 4 tries in 2 min", "lookup: 0 of 4 tries in 3 min"]


def test_it_looks_by_itself_and_writes_where_it_was_begun(clock, monkeypatch):
    monkeypatch.setattr(eval_progress, "LOOK_S", 0.001)
    log, others = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with RunProgress("lookup", 4, {}, clock), redirect_stderr(others):
        clock.now += SILENT_S
        deadline = time.monotonic() + 30
        while "\n" not in log.getvalue() and time.monotonic() < deadline:
            time.sleep(0.001)
    assert log.getvalue() == "a3b eval lookup: 0 of 4 tries in 10 min\n" and others.getvalue() == ""


# -- how long it may take

PLANNED = Benchmark("planned", "", "", "", lambda _: None, tokens_per_case=CaseTokens(1000, 300, 9000, "stated"))


def metrics(read, read_s, written, written_s):
    names = ("prefill_tokens", "prefill_seconds", "completion_tokens", "decode_seconds")
    values = zip(names, (read, read_s, written, written_s), strict=True)
    return "".join(f"# TYPE a3b_{name} counter\na3b_{name}_total {value}\n" for name, value in values)


def told_of(chosen, text, tmp_path, tries=36):
    async def answer(_):
        return PlainTextResponse(text)

    with served(Starlette(routes=[Route("/metrics", answer)])) as url:
        return expected(chosen, EvalOptions(url, "m", tmp_path), tries)


def test_the_time_follows_from_stated_tokens_and_what_the_server_has_done_so_far(tmp_path):
    text = metrics(5000.0, 50.0, 600.0, 200.0)  # 100 and 3 a second: 10 s and 100 s a try
    told = told_of(PLANNED, text, tmp_path)
    assert told.startswith("the 36 tries take about 66 min, one at a time: this server has read 100 and written 3.0")
    assert "a3b eval plan planned" in told
    assert told_of(PLANNED, text, tmp_path, 1).startswith("the try takes about 2 min")


@pytest.mark.parametrize("text", ["", metrics(5000.0, 0.0, 600.0, 2.0), metrics(5000.0, 5.0, 3.0, 2.0), "rubbish"])
def test_nothing_is_said_where_the_speed_is_not_known(text, tmp_path):
    assert told_of(PLANNED, text, tmp_path) == ""


def test_nothing_is_said_where_nobody_stated_the_tokens_or_nobody_answers(tmp_path):
    text = metrics(5000.0, 50.0, 600.0, 200.0)
    assert told_of(replace(PLANNED, tokens_per_case=None), text, tmp_path) == ""
    assert told_of(PLANNED, text, tmp_path, 0) == ""
    for url in ("", "http://127.0.0.1:9"):
        assert expected(PLANNED, EvalOptions(url, "m", tmp_path), 3) == ""


@pytest.mark.slow  # loads inspect-ai
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)
def test_a_run_without_a_terminal_tells_of_its_tries(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("A3B_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(eval_progress, "LOG_S", 0.0)
    with ScriptedModel([lambda body, _: solved(body)]).serving() as url:
        words = ["eval", "lookup", "--limit", "2", "--parallel", "1", "--base-url", url, "--out", str(tmp_path / "out")]
        assert main(words) == 0
    gc.collect()
    lines = [line for line in capsys.readouterr().err.splitlines() if "tries in" in line]
    assert len(lines) == 2 and "a3b eval lookup: 1 of 2 tries in" in lines[0] and "score 100% so far" in lines[1]
