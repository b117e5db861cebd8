"""The agent's side of the Agent Client Protocol. Enter at `run_acp`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from acp import PROTOCOL_VERSION, RequestError
from acp.agent.connection import AgentSideConnection
from acp.schema import (
    AgentCapabilities,
    AvailableCommandsUpdate,
    CloseSessionResponse,
    ForkSessionResponse,
    Implementation,
    InitializeResponse,
    ListSessionsResponse,
    LoadSessionResponse,
    McpCapabilities,
    NewSessionResponse,
    PromptCapabilities,
    PromptResponse,
    ResumeSessionResponse,
    SessionCapabilities,
    SessionCloseCapabilities,
    SessionForkCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SessionResumeCapabilities,
)

from a3b import __version__
from a3b.agent.acp.commands import available_commands
from a3b.agent.acp.frames import FrameTransport, open_frames
from a3b.agent.acp.held import HeldSession
from a3b.agent.acp.permissions import AcpApprover
from a3b.agent.acp.prompts import prompt_text
from a3b.agent.acp.updates import clean
from a3b.agent.options import AgentOptions
from a3b.agent.session import AgentSession, open_session
from a3b.agent.sessions import ProjectSessions
from a3b.errors import A3BError
from a3b.printable import say

MAX_SESSIONS = 16  # open at once
Open = Callable[[AgentOptions, Any], AbstractAsyncContextManager[AgentSession]]


class AcpAgent:
    """An `Agent` of the library: its methods are those of the protocol. options: of each session but for directory
    and MCP servers, which the client names."""

    def __init__(self, options: AgentOptions, opens: Open):
        self._options, self._opens = options, opens
        self._held: dict[str, HeldSession] = {}
        self._client: Any = None
        self._num_opening = 0
        self._asides: set[asyncio.Task[None]] = set()

    def on_connect(self, conn: Any) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **kwargs: Any) -> InitializeResponse:
        sessions = SessionCapabilities(
            list=SessionListCapabilities(),
            fork=SessionForkCapabilities(),
            resume=SessionResumeCapabilities(),
            close=SessionCloseCapabilities(),
        )
        return InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(embedded_context=True),
                mcp_capabilities=McpCapabilities(http=True),
                session_capabilities=sessions,
            ),
            agent_info=Implementation(name="a3b", title="a3b code", version=__version__),
        )

    async def new_session(self, cwd: str, mcp_servers: list[Any] | None = None, **kwargs: Any) -> NewSessionResponse:
        held = await self._open(cwd, None, mcp_servers)
        return NewSessionResponse(session_id=held.session.id)

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: list[Any] | None = None, **kwargs: Any
    ) -> LoadSessionResponse:
        await self._open(cwd, session_id, mcp_servers, with_history=True)
        return LoadSessionResponse()

    async def resume_session(
        self, session_id: str, cwd: str, mcp_servers: list[Any] | None = None, **kwargs: Any
    ) -> ResumeSessionResponse:
        await self._open(cwd, session_id, mcp_servers)
        return ResumeSessionResponse()

    async def fork_session(
        self, session_id: str, cwd: str, mcp_servers: list[Any] | None = None, **kwargs: Any
    ) -> ForkSessionResponse:
        directory = _directory(cwd)
        try:
            fork = ProjectSessions(self._options.home, directory).fork(session_id)
        except A3BError as error:
            raise RequestError(-32602, str(error)) from None
        held = await self._open(cwd, fork, mcp_servers)
        return ForkSessionResponse(session_id=held.session.id)

    async def list_sessions(self, cwd: str | None = None, **kwargs: Any) -> ListSessionsResponse:
        directory = self._options.directory if cwd is None else _directory(cwd)
        nodes = ProjectSessions(self._options.home, directory).nodes()
        infos = [
            SessionInfo(
                session_id=node.id,
                cwd=clean(str(directory)),
                title=clean(node.words) or None,
                updated_at=datetime.fromtimestamp(node.changed, UTC).isoformat(timespec="seconds"),
            )
            for node in nodes
            if node.kind != "sub-agent"
        ]
        return ListSessionsResponse(sessions=infos)

    async def prompt(self, session_id: str, prompt: list[Any], **kwargs: Any) -> PromptResponse:
        held = self._find(session_id)
        return await held.prompt(prompt_text(prompt, held.session.options.directory))

    async def cancel(self, session_id: str, **kwargs: Any) -> None:
        if (held := self._held.get(session_id)) is not None:
            held.cancel()

    async def close_session(self, session_id: str, **kwargs: Any) -> CloseSessionResponse:
        held = self._find(session_id)
        del self._held[session_id]
        await held.close()
        return CloseSessionResponse()

    async def close(self) -> None:
        """Ends all sessions."""
        held, self._held = list(self._held.values()), {}
        await asyncio.gather(*(one.close() for one in held), return_exceptions=True)

    def _find(self, session_id: str) -> HeldSession:
        held = self._held.get(session_id)
        if held is None:
            raise RequestError(-32602, f"session {session_id[:80]!r} is not open; load or resume it first")
        return held

    async def _open(
        self, cwd: str, session_id: str | None, servers: list[Any] | None, with_history: bool = False
    ) -> HeldSession:
        options = replace(self._options, directory=_directory(cwd), resume=session_id)
        if session_id in self._held:
            raise RequestError(-32602, f"session {session_id} is open here already")
        if len(self._held) + self._num_opening >= MAX_SESSIONS:
            raise RequestError(-32600, f"{MAX_SESSIONS} sessions are open; close one first")
        self._num_opening += 1
        try:
            approver = AcpApprover(self._client, None)
            held = HeldSession(self._client, self._opens(options, approver), approver)
            try:
                await held.open()
            except BaseException:
                await held.close()
                raise
        finally:
            self._num_opening -= 1
        self._held[held.session.id] = held
        await held.announce(with_history)
        self._aside(self._tell_commands(held.session.id))
        return held

    async def _tell_commands(self, session_id: str) -> None:
        commands = available_commands()
        update = AvailableCommandsUpdate(session_update="available_commands_update", available_commands=commands)
        with suppress(Exception):  # the client has gone
            await self._client.session_update(session_id=session_id, update=update)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs after the answer to this request has been written."""
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)


def _directory(cwd: str) -> Path:
    """Raises RequestError for anything but an absolute path of a directory."""
    path = Path(cwd)
    try:
        if path.is_absolute() and path.is_dir():
            return Path(os.path.abspath(path))
    except (OSError, ValueError):
        pass
    raise RequestError(-32602, f"cwd {cwd[:200]!r} is not the absolute path of a directory")


class _PrintableHandler(logging.Handler):
    """What libraries log goes to stderr, and quotes foreign text there."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):
            error = record.exc_info[1] if record.exc_info else None
            say(f"a3b code: {record.getMessage()}" + (f": {error!r}" if error else ""))


async def run_acp(options: AgentOptions, transport: FrameTransport | None = None, opens: Open = open_session) -> int:
    """Serves one client on stdin and stdout until it leaves, or SIGTERM comes; the exit status."""
    logging.basicConfig(handlers=[_PrintableHandler()], level=logging.WARNING)
    transport = transport or open_frames()
    await transport.start()
    agent = AcpAgent(options, opens)
    connection = AgentSideConnection(cast(Any, agent), transport, listening=False, use_unstable_protocol=True)
    listening = asyncio.ensure_future(connection.listen())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, listening.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await listening
    finally:
        await agent.close()
        await connection.close()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return 0
