"""The tool that runs commands. Each is a process of its own in the sandbox; only the directory is carried on.

Enter at `BashTool`."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from a3b.agent.sandbox.sandbox import Sandbox, SandboxProcess
from a3b.agent.tools import schemas
from a3b.agent.tools.command_output import EndMark, bash_text, collect
from a3b.agent.tools.jobs import Jobs
from a3b.agent.tools.kept_output import KeptOutput, OutputRecord
from a3b.agent.tools.known_tests import KnownTests
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult, one_line

SECONDS = 120
MAX_SECONDS = 600
MAX_COMMAND = 100_000  # bytes; the kernel takes 128 KiB in one argument
# what a program would ask of a person at a terminal is answered or left out; Python's output comes in order
ENVIRONMENT = {
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_TERMINAL_PROMPT": "0",
    "PYTHONUNBUFFERED": "1",
}
# $1: the command, $2: the directory, $3: a mark. At the end the shell prints its directory between two marks, on a copy
# of stdout, since the command may have sent stdout elsewhere; before it the number of processes that it leaves behind
SCRIPT = (  # one line, so that bash counts the lines of the command from 1
    r"""cd -- "$2" 2>/dev/null || printf '[%s is gone; now in %s]\n' "$2" "$PWD"; """
    r"""a3b_command=$1 a3b_mark=$3; set --; exec {a3b_out}>&1; """
    r"""trap 'a3b_status=$? a3b_left=($(jobs -pr)); """
    r"""printf "\0%s%s %s\0" "$a3b_mark" "${#a3b_left[@]}" "$PWD" >&$a3b_out; exit $a3b_status' EXIT; """
    r"""eval "$a3b_command" """
)


class BashTool:
    """bash, with a directory that lasts, and jobs in the background."""

    name, description, parameters = schemas.BASH.name, schemas.BASH.description, schemas.BASH.parameters
    changes_files = True

    def __init__(self, sandbox: Sandbox, kept: KeptOutput, tests: KnownTests):
        self._sandbox, self._kept, self._tests = sandbox, kept, tests
        self._directory = str(sandbox.policy.workspace)
        self.jobs = Jobs(kept)

    def summary(self, arguments: dict[str, Any]) -> str:
        return one_line("$", arguments.get("command", ""))

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        command: str = arguments["command"]
        seconds: int = arguments.get("timeout", SECONDS)
        _check(command)
        if seconds < 1:
            raise ToolError(f"timeout is {seconds}; expected 1 to {MAX_SECONDS} seconds.")
        if (answer := await self.jobs.control(command, min(seconds, MAX_SECONDS))) is not None:
            return ToolResult(answer, is_cut=True)
        self._tests.note(command)
        if arguments.get("background"):
            return ToolResult(await self._start_job(command))
        return await self._run(command, min(seconds, MAX_SECONDS), context)

    def drain_reports(self) -> list[str]:
        """What the model is to hear of jobs that have ended since the last call."""
        return self.jobs.drain_reports()

    async def close(self) -> None:
        """Ends all jobs."""
        await self.jobs.close()

    async def _run(self, command: str, seconds: int, context: ToolCallContext) -> ToolResult:
        mark = secrets.token_hex(16)
        process = await self._start(command, mark, seconds)
        record, ending = OutputRecord(self._kept), EndMark(mark)
        outcome = await collect(process, ending, record, context.emit)
        self._directory = ending.directory or self._directory
        text = bash_text(record.text(), outcome, seconds < MAX_SECONDS)
        if ending.left_behind:
            text += "\n[what it left in the background has ended with it; background true keeps a command running]"
        return ToolResult(text, is_cut=True)

    async def _start(self, command: str, mark: str, seconds: float | None) -> SandboxProcess:
        limits = self._sandbox.policy.limits
        limits = replace(limits, seconds=seconds, output=limits.output if seconds else None)
        script = ["bash", "--noprofile", "--norc", "-c", SCRIPT, "bash", command, self._directory, mark]
        return await self._sandbox.start(script, cwd=self._sandbox.policy.workspace, env=ENVIRONMENT, limits=limits)

    async def _start_job(self, command: str) -> str:
        self.jobs.check_room()
        mark = secrets.token_hex(16)
        return self.jobs.add(command, await self._start(command, mark, None), EndMark(mark))


def _check(command: str) -> None:
    """Raises ToolError for what no program can be started with."""
    if not command.strip():
        raise ToolError("command is empty.")
    try:
        size = len(command.encode())
    except UnicodeError:
        raise ToolError("command has half a surrogate pair in it.") from None
    if "\0" in command:
        raise ToolError("command has a NUL in it.")
    if size > MAX_COMMAND:
        raise ToolError(f"command has {size:,} bytes; expected at most {MAX_COMMAND:,}. Write a script in parts.")
