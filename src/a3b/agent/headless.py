"""Works on one task without a terminal: events to stdout as JSON lines, or progress to stderr and the answer to stdout.

Enter at `run_headless`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from a3b.agent.about import opened_line
from a3b.agent.approvals import DenyingApprover
from a3b.agent.events import (
    AgentEvent,
    Compacted,
    Notice,
    TaskFinished,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    event_json,
)
from a3b.agent.session import AgentSession
from a3b.printable import fit_for, say

STATUS = {"done": 0, "failed": 1, "stuck": 1, "limit": 1, "stopped": 130}  # exit status


async def run_headless(session: AgentSession, task: str, as_json: bool, approver: DenyingApprover) -> int:
    """Returns the exit status. approver: of the session; what it refused is told before the end.

    Ctrl-C and SIGTERM stop the task, and what is finished stays; twice, they end all."""
    stopped_by: list[int] = []

    def stop(number: int) -> None:
        if stopped_by:
            raise KeyboardInterrupt
        stopped_by.append(number)
        say("a3b code: stopping; once more ends at once")
        session.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        show = print_json if as_json else _print_line
        say(f"a3b code: {opened_line(session.opened)}")
        show(session.opened)
        for notice in session.notices:
            show(notice)
        finished = None
        async for event in session.run(task):
            if isinstance(event, TaskFinished):
                finished = event
                for line in approver.report():
                    show(Notice(line, "warning"))
            show(event)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    if finished is None:
        return 1
    if not as_json:
        _print_end(session, finished)
    return 128 + stopped_by[0] if stopped_by else STATUS.get(finished.status, 1)


def print_json(event: AgentEvent) -> None:
    """An event as a line."""
    print(json.dumps(event_json(event)), flush=True)


def _print_line(event: AgentEvent) -> None:
    """Progress for people, a line for each step."""
    match event:
        case ToolStarted(summary=summary):
            say(f"  {summary}")
        case ToolFinished(tool=tool, is_error=True, text=text):
            say(f"  {tool}: {text.splitlines()[0][:200] if text else 'failed'}")
        case TurnFinished(turn, _, usage, recomputed):
            again = f", {recomputed:,} again" if recomputed else ""
            say(f"turn {turn}: {usage.read:,} tokens read, {usage.cached:,} cached{again}, {usage.written:,} written")
        case Compacted(before, after):
            say(f"begun anew from a summary: {before:,} tokens are now {after:,}")
        case Notice(text, level):
            say(f"a3b code: {text}" if level == "info" else f"a3b code: {level}: {text}")


def _print_end(session: AgentSession, finished: TaskFinished) -> None:
    sys.stdout.write(fit_for(sys.stdout, finished.text.rstrip("\n") + "\n") if finished.status == "done" else "")
    sys.stdout.flush()
    if finished.status != "done":
        say(f"a3b code: {finished.status}: {finished.text}")
        say(f"a3b code: the session is kept: a3b code --resume {session.id}")
