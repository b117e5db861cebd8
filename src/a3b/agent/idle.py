"""Work that nobody waits for, while the user reads; it ends as soon as he types. Enter at `IdleWork`, `read_ahead`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from a3b.agent.client import ModelServerError
from a3b.agent.control import TaskHalted
from a3b.agent.requests import AnswerCutShort, RequestMaker, used_ids
from a3b.agent.transcript import AgentTranscript
from a3b.errors import A3BError


class IdleWork:
    """At most one piece of work at a time."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(_quiet(work))

    async def end(self) -> None:
        """Stops what runs. What it has finished stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _quiet(work: Coroutine[Any, Any, None]) -> None:
    with suppress(A3BError, TaskHalted):  # nobody asked for it
        await work


async def read_ahead(requests: RequestMaker, transcript: AgentTranscript) -> None:
    """Has the server read the conversation as it is, so that the next request finds it read. A server that is not
    known may take money for it, and is left alone."""
    if requests.facts.kind == "other":
        return
    with suppress(ModelServerError, AnswerCutShort):
        messages = transcript.messages
        answer = await requests.ask(messages, 1, used_ids(messages), lambda event: None)
        transcript.spent(answer.usage, prompt=answer.prompt, reason="read ahead")
