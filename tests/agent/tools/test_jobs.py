"""Commands in the background."""

from __future__ import annotations

import asyncio

import pytest

from a3b.agent.tools.jobs import MAX_RUNNING
from tests.support.tool_calls import text_of, with_tools

pytestmark = pytest.mark.slow
FOREVER = "until [ -e never ]; do sleep 0.1; done"


async def ended(tools, *numbers):
    for job in tools.bash.jobs:
        if job.number in numbers:
            await asyncio.wait([job.task])


def test_a_job_is_started_at_once_and_reports_when_it_has_ended(tmp_path):
    async def use(tools, sandbox):
        said = await text_of(tools, "bash", command="echo a; exit 3", background=True)
        await ended(tools, 1)
        return said, tools.drain_reports(), tools.drain_reports()

    said, reports, again = with_tools(tmp_path, use)
    assert said.startswith("Job 1 runs; you hear when it ends. Its output: /")
    (report,) = reports
    assert report.split("\n")[:2] == ["[job 1, exit status 3: echo a; exit 3]", "a"]
    assert again == []


def test_the_output_of_a_job_can_be_read_while_it_runs(tmp_path):
    async def use(tools, sandbox):
        await text_of(tools, "bash", command=f"echo begun; {FOREVER}", background=True)
        (job,) = tools.bash.jobs
        while not (text := job.record.path.read_text()):
            await asyncio.sleep(0.01)
        return text, await text_of(tools, "bash", command="jobs")

    assert with_tools(tmp_path, use) == ("begun\n", f"[job 1, running: echo begun; {FOREVER}]")


def test_jobs_are_listed_waited_for_and_stopped_as_in_a_shell(tmp_path):
    async def use(tools, sandbox):
        texts = [await text_of(tools, "bash", command="jobs")]
        await text_of(tools, "bash", command=FOREVER, background=True)
        await text_of(tools, "bash", command="echo a", background=True)
        for command in "wait %2", "wait %1", "kill -9 %1", "kill %1 %7", "jobs -l", "kill 1234567":
            texts.append(await text_of(tools, "bash", command=command, timeout=1))
        return texts, tools.drain_reports()

    texts, reports = with_tools(tmp_path, use)
    assert texts[0] == "[no jobs]"
    assert texts[1].startswith("[job 2, exit status 0: echo a]\na\n[its output: ")
    assert texts[2] == f"[job 1, running: {FOREVER}]"
    assert texts[3].startswith(f"[job 1, stopped: {FOREVER}]")
    assert texts[4] == "Error: there is no job %7; the jobs are: %1, %2"
    assert texts[5].split("\n") == [f"[job 1, stopped: {FOREVER}]", "[job 2, exit status 0: echo a]"]
    assert "No such process" in texts[6]  # a command like any other
    assert reports == []


def test_there_is_a_limit_on_jobs_at_a_time(tmp_path):
    async def use(tools, sandbox):
        texts = [await text_of(tools, "bash", command=FOREVER, background=True) for _ in range(MAX_RUNNING + 1)]
        await text_of(tools, "bash", command="kill %3")
        return texts[-1], await text_of(tools, "bash", command=FOREVER, background=True)

    refused, later = with_tools(tmp_path, use)
    assert refused == f"Error: {MAX_RUNNING} jobs run already. Stop one first, such as: kill %1"
    assert later.startswith(f"Job {MAX_RUNNING + 1} runs")


def test_all_jobs_end_with_the_session(tmp_path):
    async def use(tools, sandbox):
        for _ in range(3):
            await text_of(tools, "bash", command=FOREVER, background=True)
        await tools.close()
        return [started.process.returncode for started in sandbox.started]

    assert with_tools(tmp_path, use) == [-9, -9, -9]


def test_a_report_shows_the_last_lines_of_a_long_output(tmp_path):
    async def use(tools, sandbox):
        await text_of(tools, "bash", command="seq 100000", background=True)
        await ended(tools, 1)
        (report,) = tools.drain_reports()
        (job,) = tools.bash.jobs
        return report.split("\n"), job.record.path.read_text()

    report, all_of_it = with_tools(tmp_path, use)
    assert report[1:-1] == [str(i) for i in range(99981, 100001)]
    assert all_of_it.endswith("\n100000\n")


def test_a_job_does_not_move_the_directory(tmp_path):
    async def use(tools, sandbox):
        await text_of(tools, "bash", command="cd /; pwd", background=True)
        await ended(tools, 1)
        return await text_of(tools, "bash", command="pwd")

    assert with_tools(tmp_path, use) == str(tmp_path)
