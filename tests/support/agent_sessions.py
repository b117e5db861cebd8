"""Sessions of the agent against a scripted model, with tools of tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from a3b.agent.events import AgentEvent, TaskFinished
from a3b.agent.options import AgentOptions
from a3b.agent.session import AgentSession, open_session
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult
from tests.support.scripted_model import ScriptedModel


class NotesTool:
    """Notes texts; `fails` and `hangs` are texts that do so."""

    name, description = "note", "Note a text."
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["text"],
    }
    changes_files = False

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.running = asyncio.Event()
        self.cancelled = 0

    def summary(self, arguments: dict[str, Any]) -> str:
        return f"note {arguments.get('text')}"

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        text = arguments["text"]
        if text == "fails":
            raise ToolError("it fails")
        self.noted.append(text)
        context.emit(text)
        if text == "hangs":
            self.running.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        return ToolResult(f"noted {text}")


def session_of(
    tmp_path: Path,
    model: ScriptedModel,
    use: Callable[[AgentSession, NotesTool], Any],
    more: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """What `use` gives, of a session in tmp_path/project with no built-in tools; more: others than `note`."""
    project = tmp_path / "project"
    project.mkdir(exist_ok=True)
    note = NotesTool()

    async def work(url: str) -> Any:
        given = AgentOptions(project, tmp_path / "home", url, **{"tools": (), **options})
        async with open_session(given, None, [note] if more is None else more) as session:
            return await use(session, note)

    with model.serving() as url:
        return asyncio.run(work(url))


async def events_of(session: AgentSession, task: str = "Do it.") -> list[AgentEvent]:
    return [event async for event in session.run(task)]


def task_of(tmp_path: Path, model: ScriptedModel, task: str = "Do it.", **options: Any) -> list[AgentEvent]:
    """All events of one task."""

    async def use(session: AgentSession, note: NotesTool) -> list[AgentEvent]:
        return await events_of(session, task)

    found: list[AgentEvent] = session_of(tmp_path, model, use, **options)
    return found


def of(events: Sequence[AgentEvent], kind: Any) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def end_of(events: Sequence[AgentEvent]) -> TaskFinished:
    last = events[-1]
    assert isinstance(last, TaskFinished)
    return last
