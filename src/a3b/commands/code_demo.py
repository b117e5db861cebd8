"""`a3b code --demo`: the embedded model repairs a small package in a scratch directory. Enter at `demo`."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from a3b.agent import demo as package
from a3b.agent.options import AgentOptions
from a3b.commands.client_server import first_key, serving
from a3b.commands.server_answers import ServedModel
from a3b.errors import A3BError, UsageError
from a3b.printable import report, say
from a3b.units import counted

MAX_TURNS = 20
INDENT = "    "


def demo(args: Namespace, check: Callable[[ServedModel], None]) -> int:
    """Shows each step; the exit status says whether the package is repaired. Files and session leave with the end."""
    given = {
        "a task": args.words,
        "-p": args.prompt,
        "--json": args.json,
        "--acp": args.acp,
        "--resume": args.resume,
        "--continue": args.go_on,
        "--base-url": args.base_url,
        "--model": args.named,
        "--tools": args.tools,
        "--yolo": args.yolo,
    }
    for name, value in given.items():
        if value:
            raise UsageError(f"--demo: {name} has no place there: model, task and tools of the demo are its own")
    args.named, args.port = package.MODEL, 0
    if shutil.which("python3") is None:
        raise A3BError("the model runs the tests of the demo with python3, which is not on PATH; put one there")
    with tempfile.TemporaryDirectory(prefix="a3b-demo-", ignore_cleanup_errors=True) as scratch:
        project = Path(scratch) / "project"
        try:
            project.mkdir()
            task = package.write_demo(project)
        except OSError as error:
            raise A3BError(f"{scratch}: {error.strerror}; the demo writes there, TMPDIR is another place") from None
        _show(f"{', '.join(package.FILES)} in {project}: a function has a bug, and a test fails.")
        _show(f"Task: {task}")
        with serving(args, check) as served:
            home = Path(scratch) / "home"
            options = AgentOptions(
                project,
                home,
                served.asker.url,
                first_key(args),
                tools=package.TOOLS,
                max_turns=MAX_TURNS,
                sampling={"temperature": 0},
            )
            asyncio.run(_work(options, task))
        said = package.outcome(project)
        _show(said)
        return 0 if "is repaired" in said else 1


async def _work(options: AgentOptions, task: str) -> None:
    from a3b.agent.events import AgentEvent, Notice, TaskFinished, ThinkingChunk, ToolFinished, ToolStarted
    from a3b.agent.session import open_session

    thought: list[str] = []

    def show(event: AgentEvent) -> None:
        if isinstance(event, ThinkingChunk):
            thought.append(event.text)
            return
        if thought:
            _show("".join(thought), "  thinks: ")
            thought.clear()
        match event:
            case ToolStarted(summary=summary):
                _show(f"  {summary}")
            case ToolFinished(text=text, diff=diff):
                _show(diff or text, INDENT)
            case TaskFinished(status, text, turns, usage):
                _show(text, "  says: " if status == "done" else f"  {status}: ")
                read, cached = f"{usage.read:,} tokens read", f"{usage.cached:,} cached"
                _show(f"{counted(turns, 'turn')}: {read}, {cached}, {usage.written:,} written.")
            case Notice(text, level):
                say(f"a3b code: {text}" if level == "info" else f"a3b code: {level}: {text}")

    async with open_session(options, None) as session:
        _show(f"The model is {session.opened.model}; its commands run in a sandbox ({session.opened.sandbox}).\n")
        for notice in session.notices:
            show(notice)
        async for event in session.run(task):
            show(event)


def _show(text: str, indent: str = "") -> None:
    for line in text.rstrip("\n").split("\n"):
        report(f"{indent}{line}")
        indent = " " * len(indent)
