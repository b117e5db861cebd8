"""A session that an editor has open, with the task of its prompt. Enter at `HeldSession`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from acp import PromptResponse, RequestError
from acp.schema import StopReason, Usage

from a3b.agent.acp.commands import acp_command, run_acp_command
from a3b.agent.acp.permissions import AcpApprover
from a3b.agent.acp.updates import SessionUpdates
from a3b.agent.approvals import refusal
from a3b.agent.events import Notice, TaskFinished
from a3b.agent.session import AgentSession
from a3b.errors import A3BError

CLOSE_S = 20.0


class HeldSession:
    """Opens a session in a task of its own, which also closes it, since what it starts belongs to one task."""

    def __init__(self, client: Any, opening: AbstractAsyncContextManager[AgentSession], approver: AcpApprover):
        self._client, self._approver = client, approver
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[AgentSession] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(opening))
        self.session: AgentSession
        self.updates: SessionUpdates
        self._prompting = False
        self._is_cancelled = False

    async def _hold(self, opening: AbstractAsyncContextManager[AgentSession]) -> None:
        try:
            async with opening as session:
                self._opened.set_result(session)
                await self._closing.wait()
        except Exception as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    async def open(self) -> None:
        """Raises RequestError if the session cannot be opened."""
        try:
            self.session = await self._opened
        except A3BError as error:
            raise RequestError(-32603, str(error)) from None
        opened = self.session.opened
        self.updates = SessionUpdates(self.session.options.directory, opened.context)
        self._approver.updates = self.updates

    async def announce(self, with_history: bool) -> None:
        """What the client should hear of a session, once it knows its id: warnings, and the conversation so far."""
        self._approver.session = self.session.id
        self.session.notices += [Notice(f"not allowed: {refusal(one)}", "warning") for one in self._approver.refused]
        if with_history:
            for event in self.session.past():
                await self._tell(event)

    async def prompt(self, text: str) -> PromptResponse:
        """Raises RequestError if a prompt runs, or the task failed."""
        if self._prompting:
            raise RequestError(-32600, "a prompt runs in this session; wait for its end, or cancel it first")
        self._prompting, self._is_cancelled = True, False
        try:
            if (command := acp_command(text)) is not None:
                return await self._command(*command)
            return await self._worked(text)
        except A3BError as error:
            raise RequestError(-32603, str(error)) from None
        finally:
            self._prompting = False

    async def _worked(self, text: str) -> PromptResponse:
        finished: TaskFinished | None = None
        for notice in self._first_notices():
            await self._tell(notice)
        async for event in self.session.run(text):
            await self._tell(event)
            if isinstance(event, TaskFinished):
                finished = event
        if finished is None or finished.status == "failed":
            raise RequestError(-32603, finished.text if finished else "the task has no end")
        usage = finished.usage
        total = usage.read + usage.cached + usage.written
        told = Usage(
            total_tokens=total,
            input_tokens=usage.read + usage.cached,
            output_tokens=usage.written,
            thought_tokens=usage.thinking,
            cached_read_tokens=usage.cached,
        )
        return PromptResponse(stop_reason=_stop_reason(finished, self._is_cancelled), usage=told)

    async def _command(self, name: str, words: Sequence[str]) -> PromptResponse:
        async for event in run_acp_command(self.session, name, words):
            await self._tell(event)
        return PromptResponse(stop_reason="cancelled" if self._is_cancelled else "end_turn")

    def _first_notices(self) -> list[Any]:
        notices, self.session.notices = list(self.session.notices), []
        return notices

    async def _tell(self, event: Any) -> None:
        for update in self.updates.of(event):
            await self._client.session_update(session_id=self.session.id, update=update)

    def cancel(self) -> None:
        self._is_cancelled = True
        self.session.stop()

    async def close(self) -> None:
        """Stops what runs, and ends all that the session started."""
        if self._opened.done() and not self._opened.exception():
            self._opened.result().stop()
        self._closing.set()
        done, _ = await asyncio.wait({self._task}, timeout=CLOSE_S)
        if not done:
            self._task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._task


def _stop_reason(finished: TaskFinished, is_cancelled: bool) -> StopReason:
    if finished.status == "stopped" or is_cancelled:
        return "cancelled"
    if finished.status == "limit":
        return "max_tokens" if "--max-tokens" in finished.text else "max_turn_requests"
    return "end_turn"
