"""Commands that run in the background of a session, and end with it. Enter at `Jobs`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass

from a3b.agent.sandbox.sandbox import CommandOutcome, SandboxProcess
from a3b.agent.tools.command_output import EndMark, collect, ended_text
from a3b.agent.tools.kept_output import KeptOutput, OutputRecord
from a3b.agent.tools.tool import ToolError, one_line

MAX_RUNNING = 8
REPORTED_LINES = 20
LIST = re.compile(r"jobs(?: -\w+)*")
KILL = re.compile(r"kill(?: -\w+)*((?: +%\d{1,6})+)")
WAIT = re.compile(r"(?:wait|fg)((?: +%\d{1,6})*)")


@dataclass
class _Job:
    number: int
    command: str
    record: OutputRecord
    task: asyncio.Task[CommandOutcome]
    is_reported: bool = False

    def state(self) -> str:
        if not self.task.done():
            return "running"
        if self.task.cancelled():
            return "stopped"
        if error := self.task.exception():
            return f"failed: {error}"
        return ended_text(self.task.result()).strip("[]") or "exit status 0"

    def line(self) -> str:
        return f"[job {self.number}, {self.state()}: {one_line(self.command)}]"

    def report(self) -> str:
        self.is_reported = True
        said = self.record.last_lines(REPORTED_LINES)
        return "\n".join([self.line(), *([said] if said else []), f"[its output: {self.record.path}]"])


class Jobs:
    """The background jobs of a session, numbered from 1."""

    def __init__(self, kept: KeptOutput):
        self._kept = kept
        self._jobs: dict[int, _Job] = {}

    def __iter__(self) -> Iterator[_Job]:
        return iter(self._jobs.values())

    @property
    def has_running(self) -> bool:
        """Whether a job runs."""
        return any(not job.task.done() for job in self)

    @property
    def num_running(self) -> int:
        return sum(not job.task.done() for job in self)

    def check_room(self) -> None:
        """Raises ToolError if no further job may start."""
        running = [job for job in self if not job.task.done()]
        if len(running) >= MAX_RUNNING:
            raise ToolError(f"{MAX_RUNNING} jobs run already. Stop one first, such as: kill %{running[0].number}")

    def add(self, command: str, process: SandboxProcess, ending: EndMark) -> str:
        """Takes over a command that has started; says what the model reads."""
        record = OutputRecord(self._kept, at_once=True)
        task = asyncio.create_task(collect(process, ending, record, lambda text: None))
        job = _Job(max(self._jobs, default=0) + 1, command, record, task)
        self._jobs[job.number] = job
        return (
            f"Job {job.number} runs; you hear when it ends. Its output: {record.path}\n"
            f"In bash, jobs lists, wait %{job.number} waits and kill %{job.number} stops."
        )

    async def control(self, command: str, seconds: float) -> str | None:
        """The answer to jobs, kill %1, wait %1 and fg %1; None for all other commands."""
        command = command.strip()
        if LIST.fullmatch(command):
            return "\n".join(job.line() for job in self) or "[no jobs]"
        if found := KILL.fullmatch(command):
            return "\n".join([await self._stop(job) for job in self._named(found[1])])
        if (found := WAIT.fullmatch(command)) and self._jobs:
            named = self._named(found[1]) or [job for job in self if not job.is_reported]
            if running := [job.task for job in named if not job.task.done()]:
                await asyncio.wait(running, timeout=seconds)
            return "\n".join(job.report() if job.task.done() else job.line() for job in named) or "[no jobs run]"
        return None

    def drain_reports(self) -> list[str]:
        """Reports of jobs that have ended and were not reported yet."""
        return [job.report() for job in self if job.task.done() and not job.is_reported]

    async def close(self) -> None:
        """Ends all jobs."""
        await asyncio.gather(*(self._stop(job) for job in self))

    async def _stop(self, job: _Job) -> str:
        if not job.task.done():
            job.task.cancel()
            await asyncio.wait([job.task])
        return job.report()

    def _named(self, words: str) -> list[_Job]:
        """The jobs of "%1 %2". Raises ToolError for one that there is not."""
        numbers = [int(word[1:]) for word in words.split()]
        for number in numbers:
            if number not in self._jobs:
                known = ", ".join(f"%{n}" for n in self._jobs) or "none"
                raise ToolError(f"there is no job %{number}; the jobs are: {known}")
        return [self._jobs[number] for number in numbers]
