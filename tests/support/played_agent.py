"""`a3b code` at a terminal with a session that a test plays: events go in, calls come out.

    python -m tests.support.played_agent IN OUT DIRECTORY [TASK]     file descriptors of two pipes

Enter at `PlayedAgent`, in tests."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import select
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from a3b.agent.events import (
    AgentEvent,
    Notice,
    SessionOpened,
    Steered,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    TokenUsage,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from a3b.agent.journal.diffs import WorkspaceDiff
from a3b.agent.options import AgentOptions, ServedBy, ServerLine, SessionCost, SessionNode, ToolLine
from a3b.agent.session import AgentSession
from a3b.agent.transcript import TurnLine
from a3b.errors import UsageError
from tests.support.terminals import Terminal

NOTHING = TokenUsage(0, 0, 0)
OPENED = SessionOpened("20261130-070000-abcd", "/w", "nano", "http://127.0.0.1:1", 8192, "bubblewrap", True)


class PlayedSession(AgentSession):
    """Yields what the test sends; tells the test what is asked of it."""

    def __init__(self, options: AgentOptions, approver: Any, events: asyncio.Queue[Any], out: int):
        id = options.resume or OPENED.session
        self.opened = SessionOpened(**{**vars(OPENED), "session": id, "is_resumed": options.resume is not None})
        self.notices = [Notice("nothing is stored", "warning")]
        self._approver, self._events, self._out = approver, events, out
        self._usage, self._turns, self._runs = NOTHING, 0, False

    def tell(self, *said: Any) -> None:
        os.write(self._out, json.dumps(said).encode() + b"\n")

    @property
    def id(self) -> str:
        return self.opened.session

    @property
    def is_running(self) -> bool:
        return self._runs

    async def run(self, task: str) -> AsyncIterator[AgentEvent]:
        self.tell("run", task)
        async for event in self._play(TaskFinished):
            yield event

    async def compact(self) -> AsyncIterator[AgentEvent]:
        from a3b.agent.events import Compacted

        self.tell("compact")
        async for event in self._play((Compacted, Notice)):
            yield event

    async def _play(self, last: Any) -> AsyncIterator[AgentEvent]:
        self._runs = True
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, dict):
                    self.tell("decision", await self._approver.ask(event["request"]))
                    continue
                if isinstance(event, TurnFinished):
                    self._usage, self._turns = event.usage, self._turns + 1
                yield event
                if isinstance(event, last):
                    return
        finally:
            self._runs = False

    def steer(self, text: str) -> None:
        self.tell("steer", text)

    def stop(self) -> None:
        self.tell("stop")

    num_jobs = 2  # type: ignore[assignment]

    async def redo(self, force: bool = False) -> str:
        self.tell("redo", force)
        return "calc.py is as it had become"

    async def undo(self, force: bool = False, earlier: bool = False) -> str:
        self.tell("undo", force, earlier)
        return "calc.py is as it was"

    def fork(self, turn: int | None = None) -> str:
        self.tell("fork", turn)
        if turn == 99:
            raise UsageError("turn 99: the session has turns 1 to 3")
        return "20261130-080000-f0f0"

    def tree(self) -> list[SessionNode]:
        root = SessionNode(OPENED.session, "session", None, None, "Fix \x1b[31mit", 3, 1200, time.time() - 600)
        return [root, SessionNode("20261130-080000-f0f0", "fork", root.id, 2, "again", 4, 1500, time.time(), True)]

    def tools(self) -> list[ToolLine]:
        return [ToolLine("read", "Read a text file."), ToolLine("git_log", "Shows\n\x1b]0;evil\x07", "git")]

    def allowed(self) -> list[str]:
        return ["sandbox: bubblewrap", "writes: /project\x1b[2J"]

    async def diff(self, path: str = "") -> WorkspaceDiff:
        self.tell("diff", path)
        text = "--- calc.py\n+++ calc.py\n@@ -1,1 +1,1 @@\n-    return a - b\x1b[2J\n+    return a + b"
        return WorkspaceDiff() if path == "other" else WorkspaceDiff(text, 3, 1, 1, 2)

    def served(self) -> ServedBy:
        return ServedBy("nano", "http://127.0.0.1:1", "a3b", 8192, "", 600.0)

    def mcp_servers(self) -> tuple[list[ServerLine], list[str]]:
        lines = [
            ServerLine("git", "runs", "1.2", ("git_log", "git_show")),
            ServerLine("slow", "did not start", trouble="was not ready\x1b[2J"),
        ]
        return lines, [".mcp.json: server 'x': command is no text"]

    def forget_approval(self, subject: str | None) -> list[str]:
        self.tell("forget", subject)
        return ["pypi.org:443"] if subject else []

    async def run_command(self, command: str) -> AsyncIterator[AgentEvent]:
        self.tell("command", command)
        async for event in self._play(ToolFinished):
            yield event

    def cost(self) -> SessionCost:
        return SessionCost(self._turns, self._usage, 900, 8192, 6000, 0, 12.5)

    def history(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": "Earlier task"}]

    def past(self) -> list[AgentEvent]:
        return [
            Steered("Earlier task"),
            ThinkingChunk("Earlier thought"),
            ToolStarted("call_1", "bash", {}, "$ make"),
            ToolFinished("call_1", "bash", "one\ntwo\n", False),
            TextChunk("Earlier answer"),
        ]

    def outline(self) -> list[TurnLine]:
        return [
            TurnLine(1, "Earlier task", is_user=True),
            TurnLine(1, "bash make\x1b[2J"),
            TurnLine(2, "Earlier answer"),
        ]

    def set_thinking(self, think: bool | None) -> None:
        self.tell("think", think)

    def set_thinking_budget(self, tokens: int | None) -> None:
        self.tell("budget", tokens)


async def _main(source: int, out: int, directory: Path, first_task: str | None) -> int:
    from a3b.agent.terminal.run import run_terminal

    events: asyncio.Queue[Any] = asyncio.Queue()
    reader = asyncio.StreamReader(limit=1 << 26)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), open(source, "rb", buffering=0)
    )

    async def receive() -> None:
        while line := await reader.readline():
            events.put_nowait(pickle.loads(base64.b64decode(line)))

    @asynccontextmanager
    async def played(options: AgentOptions, approver: Any) -> AsyncIterator[AgentSession]:
        if options.resume == "gone":
            raise UsageError("session gone: is open elsewhere")
        session = PlayedSession(options, approver, events, out)
        session.tell("open", options.resume)
        try:
            yield session
        finally:
            session.tell("close", session.id)

    task = asyncio.create_task(receive())
    try:
        options = AgentOptions(directory, directory / "home", OPENED.base_url)
        return await run_terminal(options, open_session=played, first_task=first_task)
    finally:
        task.cancel()
        transport.close()


class PlayedAgent(Terminal):
    """A terminal with a played session in it."""

    def __init__(
        self,
        directory: Path,
        env: dict[str, str] | None = None,
        size: tuple[int, int] = (24, 80),
        first_task: str | None = None,
    ):
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        argv = [sys.executable, "-W", "error", "-m", "tests.support.played_agent"]
        argv += [str(theirs_in), str(theirs_out), str(directory), *([first_task] if first_task else [])]
        super().__init__(argv, env, (theirs_in, theirs_out), size)
        os.close(theirs_in)
        os.close(theirs_out)
        self._told = b""

    def play(self, *events: Any) -> None:
        """Sends events, an exception to raise, or {"request": ...} to be decided."""
        for event in events:
            os.write(self._to, base64.b64encode(pickle.dumps(event)) + b"\n")

    def told(self, *said: Any, timeout_s: float = 30) -> None:
        """Waits for a call of the session, the next one, while the terminal goes on."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self._told:
            assert time.monotonic() < end, f"not told {said}:\n{self.screen.text}"
            watched = [self._from] if self.has_ended else [self._from, self.fd]
            ready = select.select(watched, [], [], 1)[0]
            if self.fd in ready:
                self.read(0)
            if self._from in ready:
                piece = os.read(self._from, 65536)
                assert piece, f"ended without {said}:\n{self.screen.text}"
                self._told += piece
        line, _, self._told = self._told.partition(b"\n")
        assert tuple(json.loads(line)) == said

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), next(iter(sys.argv[4:]), None))))
