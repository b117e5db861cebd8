"""What the terminal does with what the user types, and with what the session tells. Enter at `TerminalFront`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from rich.text import Text

from a3b.agent.about import opened_line
from a3b.agent.events import AgentEvent, Compacted, Steered, TaskFinished, TurnFinished
from a3b.agent.options import AgentOptions, SessionNode
from a3b.agent.session import AgentSession
from a3b.agent.sessions import ProjectSessions
from a3b.agent.terminal.commands import command_of, run_command
from a3b.agent.terminal.figures import SessionFigures
from a3b.agent.terminal.lines import fit_line
from a3b.agent.terminal.view import NOTICE_STYLES, TerminalView
from a3b.errors import A3BError

TICK_S = 0.25  # between two looks at the clock while the agent works
AGAIN_S = 2.0  # within which a second Ctrl-C leaves
STOP_S = 20.0  # until a task that does not stop is cut off
STEERS = "joins after the running tools"


class TerminalScreen(Protocol):
    """Where a front writes, and what it asks there."""

    def write(self, text: Text, wrap: bool = True) -> None: ...
    def refresh(self) -> None: ...
    def ready(self) -> None: ...
    def put_back(self, text: str) -> None: ...


class TerminalFront:
    """One at a time, the sessions that a user attends to. `attend` returns when he leaves one."""

    def __init__(self, options: AgentOptions):
        self.options = options
        self.screen: TerminalScreen
        self.view = TerminalView(lambda text, wrap: self.screen.write(text, wrap))
        self.figures: SessionFigures | None = None
        self._session: AgentSession | None = None
        self._work: asyncio.Task[None] | None = None
        self._side_work: set[asyncio.Task[None]] = set()
        self._can_be_steered = self._is_stopping = False
        self._steered: list[str] = []  # said, but not part of the conversation yet
        self._waiting: list[str] = []  # to be said when the work is over
        self._interrupted = -AGAIN_S
        self._next: asyncio.Future[AgentOptions | None]

    # -- for the one who opens sessions

    async def attend(self, session: AgentSession, first_task: str | None = None) -> AgentOptions | None:
        """Lets the user work with a session; the options of the next one, or None if he leaves."""
        self._next = asyncio.get_running_loop().create_future()
        self._session = session
        self.figures = SessionFigures(session.opened, session.cost())
        self.figures.budget = _budget(self.options)
        self.figures.does_think = self.options.think is not False
        self._greet(session)
        if first_task:
            self.submit(first_task)
        else:
            self._ready()
        try:
            return await self._next
        finally:
            await self._end_work()
            self._session = None

    def _greet(self, session: AgentSession) -> None:
        opened = session.opened
        self.say(opened_line(opened))
        if opened.is_resumed:
            self.view.recall(session.past())
        for notice in session.notices:
            self.say(notice.text, NOTICE_STYLES.get(notice.level, "dim"))
        if not opened.is_resumed:
            self.say("/help lists commands, Esc stops the agent, Ctrl-D leaves.")

    async def _end_work(self) -> None:
        if self._work is not None:
            self._stop()
            done, _ = await asyncio.wait({self._work}, timeout=STOP_S)
            if not done:
                self._work.cancel()
        for task in [*self._side_work, *([self._work] if self._work else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # -- for the screen

    def submit(self, text: str) -> None:
        """A line that was typed and sent."""
        if self._session is None:
            self.screen.put_back(text)
            return
        command = command_of(text)
        if command is not None:
            self.view.user(text)
            self._aside(self._run_command(*command))
        elif not self.is_working:
            self._run(text)
        elif text.startswith("!"):
            self.say("a command has to wait until the agent is done; Esc stops it", "yellow")
        elif self._can_be_steered and not self._is_stopping and self._session.is_running:
            self._session.steer(text)
            self._steered.append(text)
        else:
            self._waiting.append(text)
        self.screen.refresh()

    def _run(self, text: str) -> None:
        self.view.user(text)
        try:
            if text.startswith("!") and text[1:].strip():
                self.start(self.session.run_command(text[1:].strip()), can_be_steered=False)
            else:
                self.start(self.session.run(text))
        except A3BError as error:
            self.say(str(error), "red")

    def key(self, name: str) -> None:
        """stop, interrupt, leave, fold or expand."""
        if name == "fold":
            self.view.fold()
        elif name == "expand":
            self.view.show_call()
        elif name == "leave" or name == "interrupt" and self._is_stopping:
            self.switch(None)
        elif self.is_working:
            self._stop()
        elif name == "interrupt":
            now = time.monotonic()
            if now - self._interrupted < AGAIN_S:
                self.switch(None)
            else:
                self._interrupted = now
                self.say("Ctrl-C again leaves, as does Ctrl-D")
        self.screen.refresh()

    def wait(self, does_wait: bool) -> None:
        """Whether the user is asked something."""
        if self.figures is not None:
            self.figures.wait(does_wait)
        self.screen.refresh()

    def live(self, width: int) -> list[tuple[str, str]]:
        rows = self.view.live(width)
        for texts, word in ((self._steered, STEERS), (self._waiting, "comes next")):
            rows += [
                ("class:dim", f"> {fit_line(text, width)[: width - len(word) - 5]} ({word})") for text in texts[-3:]
            ]
        return rows

    def toolbar(self) -> tuple[str, list[str]]:
        if self.figures is None:
            return "opening", []
        if self._session is not None:
            self.figures.jobs = self._session.num_jobs
        doing = self.figures.doing() if self.is_working else ""
        if self._is_stopping:
            doing = "stopping" + (f": {doing}" if doing else "")
        elif self.is_working:
            is_asked = self.figures.is_waiting
            doing = f"{doing or 'working'} | {'Esc says no, Ctrl-C stops' if is_asked else 'Esc stops'}"
        return doing or "ready", self.figures.numbers()

    # -- for commands

    @property
    def session(self) -> AgentSession:
        assert self._session is not None
        return self._session

    @property
    def is_working(self) -> bool:
        return self._work is not None

    def say(self, text: str, style: str = "dim") -> None:
        self.view.notice(text, style)

    def switch(self, options: AgentOptions | None) -> None:
        """Leaves this session for another one, or for good."""
        if self._session is not None and not self._next.done():
            self._next.set_result(options)

    def list_sessions(self) -> list[SessionNode]:
        return ProjectSessions(self.options.home, self.options.directory, self.options.api_key).nodes()

    def find_session(self, given: str) -> str:
        """Raises UsageError."""
        return ProjectSessions(self.options.home, self.options.directory, self.options.api_key).find(given)

    def start(self, events: AsyncIterator[AgentEvent], can_be_steered: bool = True) -> None:
        """Shows what a task or a compaction does, beside which the user can type."""
        self._can_be_steered, self._is_stopping = can_be_steered, False
        self._work = asyncio.create_task(self._follow(events))

    # -- work

    async def _follow(self, events: AsyncIterator[AgentEvent]) -> None:
        ticker = asyncio.create_task(self._tick())
        status = "failed"
        try:
            async for event in events:
                self._show(event)
                if isinstance(event, TaskFinished):
                    status = event.status
            if not (self._can_be_steered or self._is_stopping):  # a compaction, or a command of the user
                status = "done"
        except A3BError as error:
            self.say(str(error), "red")
        except Exception as error:
            if not self._next.done():
                self._next.set_exception(error)
        finally:
            ticker.cancel()
            self._work, self._is_stopping = None, False
            self.view.end()
            self._account()
        self._go_on(status)

    def _show(self, event: AgentEvent) -> None:
        assert self.figures is not None
        if isinstance(event, Steered) and event.text in self._steered:
            self._steered.remove(event.text)
        if isinstance(event, TurnFinished | Compacted | TaskFinished):
            self._account()
        self.figures.take(event)
        self.view.take(event)
        self.screen.refresh()

    def _account(self) -> None:
        if self.figures is not None and self._session is not None:
            self.figures.account(self._session.cost())

    def _go_on(self, status: str) -> None:
        """What was said too late to join becomes the next task; if the user stopped, it returns to the line."""
        said, self._steered, self._waiting = self._steered + self._waiting, [], []
        if said and status == "done" and self._session is not None and not self._next.done():
            self._run("\n".join(said))
        elif said:
            self.screen.put_back("\n".join(said))
        if not self.is_working:
            self._ready()

    def _ready(self) -> None:
        self.screen.refresh()
        self.screen.ready()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.screen.refresh()

    def _stop(self) -> None:
        if self._session is not None and self.is_working and not self._is_stopping:
            self._is_stopping = True
            self._session.stop()

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._side_work.add(task)
        task.add_done_callback(self._side_work.discard)

    async def _run_command(self, name: str, rest: str) -> None:
        try:
            await run_command(self, name, rest)
        except Exception as error:
            if not self._next.done():
                self._next.set_exception(error)
            return
        if not self.is_working and not self._next.done():
            self._ready()


def _budget(options: AgentOptions) -> int | None:
    given = options.sampling.get("thinking_budget")
    return given if isinstance(given, int) and given >= 0 else None
