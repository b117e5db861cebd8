"""An editor, as the client side of the library plays one, with a real agent process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from acp import PROTOCOL_VERSION, spawn_agent_process
from acp.schema import AllowedOutcome, DeniedOutcome, RequestPermissionResponse

from tests.support.paths import ROOT


class Editor:
    """updates: (session, update) in order; answers: to questions, an option's id or "cancelled"."""

    def __init__(self, *answers: str):
        self.updates: list[tuple[str, Any]] = []
        self.questions: list[Any] = []
        self._answers = list(answers)
        self._news = asyncio.Event()

    def on_connect(self, conn: Any) -> None:
        self.agent = conn

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        self.updates.append((session_id, update))
        self._news.set()

    async def request_permission(self, session_id: str, tool_call: Any, options: Any, **kwargs: Any) -> Any:
        self.questions.append(tool_call)
        self._news.set()
        answer = self._answers.pop(0) if self._answers else "cancelled"
        if answer == "cancelled":
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=answer))

    async def until(self, kind: str) -> Any:
        """Waits for the first update of a kind."""
        async with asyncio.timeout(60):
            while not (found := [update for _, update in self.updates if update.session_update == kind]):
                self._news.clear()
                await self._news.wait()
        return found[0]

    def text(self, kind: str = "agent_message_chunk") -> str:
        """The text of all chunks of a kind."""
        return "".join(update.content.text for _, update in self.updates if update.session_update == kind)

    def of(self, kind: str) -> list[Any]:
        return [update for _, update in self.updates if update.session_update == kind]


def command_line(url: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "a3b.cli", "code", "--acp", "--base-url", url, *options]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"A3B_HOME": str(home), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


@asynccontextmanager
async def editing(editor: Editor, url: str, home: Path, *options: str, cwd: Path | None = None) -> AsyncIterator[Any]:
    """A connection that has been initialised; it has `process`, the agent's."""
    argv = command_line(url, *options)
    async with spawn_agent_process(editor, *argv, env=environment(home), cwd=cwd, use_unstable_protocol=True) as (
        connection,
        process,
    ):
        connection.process = process
        connection.greeting = await connection.initialize(protocol_version=PROTOCOL_VERSION)
        yield connection
