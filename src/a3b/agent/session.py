"""A session of the agent, as front ends see it: the terminal, the headless mode, editors.

    async with open_session(options, approver) as session:
        print(session.opened.model, session.notices)
        async for event in session.run("Fix the failing test."):
            ...

Enter at `open_session`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from a3b.agent.approvals import Approver
from a3b.agent.client import ModelClient
from a3b.agent.compaction import Compactor
from a3b.agent.control import TaskControl, TaskHalted, TaskLimits
from a3b.agent.events import (
    AgentEvent,
    Compacted,
    Notice,
    SessionOpened,
    TaskFinished,
    ToolFinished,
    ToolOutput,
    ToolStarted,
)
from a3b.agent.idle import IdleWork, read_ahead
from a3b.agent.journal.diffs import WorkspaceDiff
from a3b.agent.loop import LoopParts, TaskLoop
from a3b.agent.options import AgentOptions, ServedBy, ServerLine, SessionCost, SessionNode, ToolLine
from a3b.agent.past import past_events
from a3b.agent.project_files import Project, first_message, read_project
from a3b.agent.prompt import system_prompt
from a3b.agent.requests import PromptSize, RequestMaker
from a3b.agent.resuming import close_calls, plan_of, resume_note
from a3b.agent.sessions import ProjectSessions
from a3b.agent.sub_agent import SubAgents
from a3b.agent.tools.tool import Tool, ToolCallContext, ToolError
from a3b.agent.transcript import AgentTranscript, TurnLine
from a3b.agent.workshop import Workshop, open_workshop
from a3b.errors import A3BError, UsageError

BASH = "bash"
SETTLE_S = 1.0  # after a task, before something is computed that nobody asked for


class AgentSession:
    """One conversation with everything that it acts through. One task runs at a time.

    opened: the first event, for front ends that show it; notices: what the user should hear before the first task (a
    second session here, no exact replay, how files changed since a session that is resumed)."""

    def __init__(
        self,
        options: AgentOptions,
        sessions: ProjectSessions,
        transcript: AgentTranscript,
        requests: RequestMaker,
        workshop: Workshop,
        project: Project,
    ):
        self.options, self.opened = options, _opened(options, transcript, requests, workshop)
        self.notices: list[Notice] = []
        self._sessions, self._transcript, self._requests = sessions, transcript, requests
        self._workshop, self._project = workshop, project
        self._compactor = Compactor(requests, transcript, self._emit, workshop.notes, options.compact_at)
        self._events: asyncio.Queue[AgentEvent | None] = asyncio.Queue()
        self._control: TaskControl | None = None
        self._idle = IdleWork()
        self._news: list[str] = []  # for the model, with the next task

    @property
    def id(self) -> str:
        """Names the session: for --resume, and for session ids of editors."""
        return self._transcript.head.id

    @property
    def is_running(self) -> bool:
        """Whether a task or a compaction runs."""
        return self._control is not None

    def run(self, task: str) -> AsyncIterator[AgentEvent]:
        """Works on a task to its end; the last event is TaskFinished, whatever happens. Leaving the iteration stops it.

        Raises UsageError if a task runs already."""
        limits = TaskLimits(self.options.max_turns, self.options.max_tokens, self.options.max_seconds)
        control = self._begun(limits)
        return self._worked(self._task(task, control), control)

    async def _task(self, task: str, control: TaskControl) -> None:
        await self._idle.end()
        try:
            close_calls(self._transcript)  # of a task that failed in the middle of them
            self._say_task(task)
        except A3BError as error:  # a full disk
            self._emit(TaskFinished("failed", str(error), 0, control.usage))
            return
        parts = LoopParts(
            self._requests,
            self._workshop.toolbox,
            self._transcript,
            self._emit,
            self._make_room(control),
            self._workshop.around_call,
            self._reports,
            lambda: self._workshop.approvals.waited,
        )
        self._workshop.spawn = SubAgents(self._sessions, parts, control).spawn
        finished = await TaskLoop(parts, control).run()
        if finished.status == "done":
            self._idle.begin(self._settled())
        self._emit(finished)

    async def _settled(self) -> None:
        """What is done while the user reads: a conversation that has become long begins anew."""
        await asyncio.sleep(SETTLE_S)
        size = await self._requests.size(self._transcript.state)
        mark = self._compactor.compact_at
        compactor = Compactor(self._requests, self._transcript, self._emit_later, self._workshop.notes, mark)
        if await compactor.make_room(size, TaskControl()):
            await read_ahead(self._requests, self._transcript)

    def _make_room(self, control: TaskControl) -> Callable[[PromptSize], Awaitable[object]]:
        return lambda size: self._compactor.make_room(size, control)

    def _reports(self) -> list[str]:
        self._take_told()
        return self._workshop.reports()

    def _take_told(self) -> None:
        """Passes on what parts of the workshop have to say to the user."""
        told = self._workshop.told
        while told:
            notice = told.pop(0)
            if self._control is None:
                self.notices.append(notice)
            else:
                self._emit(notice)

    def _say_task(self, task: str) -> None:
        messages = self._transcript.messages
        if not messages:
            tools = [tool.name for tool in self._workshop.toolbox]
            self._transcript.say({"role": "system", "content": system_prompt(tools)}, tools=tools)
        is_first = len(messages) <= 1
        text = first_message(self.options.directory, self._project, task) if is_first else task
        news = "".join(f"<notice>\n{note}\n</notice>\n\n" for note in self._news)
        self._news.clear()
        self._transcript.say({"role": "user", "content": news + text}, task=task)

    def steer(self, text: str) -> None:
        """Adds a message of the user at the next step of the running task, after the results of its tools."""
        if self._control is None:
            raise UsageError("no task runs; give the text as a task")
        self._control.steering.append(text)

    def stop(self) -> None:
        """Stops the running task: finished calls keep their results, others get "aborted". The iteration of `run` goes
        on to its TaskFinished (status "stopped")."""
        if self._control is not None:
            self._control.stop()

    def compact(self) -> AsyncIterator[AgentEvent]:
        """Begins anew from a summary that the model writes; events are those of a turn, then Compacted or a Notice."""
        control = self._begun(TaskLimits())
        return self._worked(self._compaction(control), control)

    async def _compaction(self, control: TaskControl) -> None:
        await self._idle.end()
        if sum(message["role"] == "assistant" for message in self._transcript.messages) < 2:
            self._emit(Notice("The conversation is short: there is nothing to begin anew from.", "info"))
            return
        try:
            size = await self._requests.size(self._transcript.state)
            await self._compactor.compact(size, control, must_gain=True)
        except TaskHalted as halted:
            self._emit(Notice(f"{halted}: the conversation is as it was", "info"))
        except A3BError as error:
            self._emit(Notice(str(error), "error"))
            return
        self._idle.begin(read_ahead(self._requests, self._transcript))

    def run_command(self, command: str) -> AsyncIterator[AgentEvent]:
        """Runs a command of the user in the sandbox; its result is told to the model with the next task. Raises
        UsageError if a task runs, or there is no bash here."""
        if BASH not in self._workshop.toolbox:
            raise UsageError("bash is not among the tools of this session")
        control = self._begun(TaskLimits())
        return self._worked(self._command(command, control), control)

    async def _command(self, command: str, control: TaskControl) -> None:
        await self._idle.end()
        tool, arguments, id = self._workshop.toolbox.tool(BASH), {"command": command}, f"user_{secrets.token_hex(6)}"
        summary, context = tool.summary(arguments), ToolCallContext(id, lambda text: self._emit(ToolOutput(id, text)))
        self._emit(ToolStarted(id, BASH, arguments, summary))
        try:
            work = self._workshop.around_call(BASH, summary, 0, lambda: tool.run(arguments, context))
            text, is_error = (await control.until_stopped(work))[0].text, False
        except (ToolError, TaskHalted, A3BError) as error:
            text, is_error = str(error), True
        self._emit(ToolFinished(id, BASH, text, is_error))
        self._news.append(f"The user ran a command himself.\n$ {command}\n{text}")

    async def undo(self, force: bool = False, earlier: bool = False) -> str:
        """Puts files back as they were before the last turn that changed some; says which, in lines for people. The
        model is told at its next step. force: also files that others changed since; earlier: also of sessions that
        have ended, once nothing newer is left. Raises JournalError."""
        if self._control is not None:
            raise UsageError("a task runs; stop it first")
        told = await self._workshop.undo(force, earlier)
        self._news.append(f"The user took changes of files back. {told}")
        return told

    async def redo(self, force: bool = False) -> str:
        """Takes the last undo back, as `undo` tells it. Raises JournalError."""
        if self._control is not None:
            raise UsageError("a task runs; stop it first")
        told = await self._workshop.redo(force)
        self._news.append(f"The user took an undo of files back. {told}")
        return told

    async def diff(self, path: str = "") -> WorkspaceDiff:
        """What this session has changed and what stands of it, as unified diffs. path: of one file or directory.

        Raises JournalError, and UsageError while a task runs."""
        if self._control is not None:
            raise UsageError("a task runs; stop it first, or wait")
        return await self._workshop.diff(self.id, path)

    @property
    def num_jobs(self) -> int:
        """Commands that run in the background."""
        return self._workshop.built_in.bash.jobs.num_running

    def fork(self, turn: int | None = None) -> str:
        """The id of a new session that has this one's conversation up to the end of `turn` (None: all of it). Open it
        with `replace(session.options, resume=id)`; files stay as they are."""
        return self._sessions.fork(self.id, turn)

    def tree(self) -> list[SessionNode]:
        """The sessions of this directory that belong together with this one, parents first."""
        return self._sessions.family(self.id)

    def tools(self) -> list[ToolLine]:
        """What the agent can do here."""
        return self._workshop.tool_lines()

    def allowed(self) -> list[str]:
        """What commands may do here, in lines."""
        return self._workshop.allowed()

    def forget_approval(self, subject: str | None) -> list[str]:
        """Takes back what the user has allowed always, None: all of it; returns what. Raises UsageError."""
        try:
            return self._workshop.remembered.forget(subject)
        except OSError as error:
            raise UsageError(f"{self._workshop.remembered.file}: {error.strerror}; nothing is taken back") from None

    def served(self) -> ServedBy:
        """Which model and server compute this session, and how old it is."""
        facts, age = self._requests.facts, max(time.time() - self._transcript.head.created, 0.0)
        return ServedBy(facts.model, self.opened.base_url, facts.kind, facts.context, facts.positions, age)

    def mcp_servers(self) -> tuple[list[ServerLine], Sequence[str]]:
        """The MCP servers with their states, and what is wrong with their configuration."""
        servers = self._workshop.servers
        return (servers.states(), servers.problems) if servers is not None else ([], ())

    def cost(self) -> SessionCost:
        """Turns, tokens and seconds so far."""
        state = self._transcript.state
        return SessionCost(
            state.turn,
            state.usage,
            state.in_context,
            self._requests.facts.context,
            self._compactor.compact_at,
            state.recomputed,
            state.seconds,
        )

    def history(self) -> list[dict[str, Any]]:
        """The conversation as messages of a chat completion."""
        return list(self._transcript.messages)

    def past(self) -> list[AgentEvent]:
        """The conversation as the events that it was, with the user's own words, for front ends that show it."""
        return list(past_events(self._transcript.state, self._workshop.toolbox))

    def outline(self) -> list[TurnLine]:
        """The turns that `fork` takes, with what the user said between them."""
        return self._sessions.outline(self.id)

    def set_thinking(self, think: bool | None) -> None:
        """Whether the model thinks from the next turn on; None leaves it to the server."""
        self._requests.think = think

    def set_thinking_budget(self, tokens: int | None) -> None:
        """After how many tokens the model has to end a thought, from the next turn on; None is no limit.

        Raises UsageError for a server that knows no such limit."""
        if self._requests.facts.kind != "a3b":
            raise UsageError(f"{self.opened.base_url} is no a3b server, which alone limits thinking; use /think off")
        self._requests.sampling["thinking_budget"] = -1 if tokens is None else tokens

    # -- how work runs

    def _emit(self, event: AgentEvent) -> None:
        self._events.put_nowait(event)

    def _emit_later(self, event: AgentEvent) -> None:
        """For the beginning of the next task: what became of the conversation meanwhile."""
        if isinstance(event, Compacted) or isinstance(event, Notice) and event.level != "info":
            self._emit(event)

    def _begun(self, limits: TaskLimits) -> TaskControl:
        if self._control is not None:
            raise UsageError("a task runs already; steer or stop it")
        self._control = TaskControl(limits, lambda: self._workshop.approvals.waited)
        return self._control

    async def _worked(self, work: Coroutine[Any, Any, None], control: TaskControl) -> AsyncGenerator[AgentEvent, None]:
        """What is emitted until the work has ended."""
        worker = asyncio.ensure_future(work)
        worker.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            while (event := await self._events.get()) is not None:
                yield event
            worker.result()
        finally:
            control.stop()  # if the front end has left
            with suppress(asyncio.CancelledError, Exception):
                await worker
            self._control = None

    async def _resumed(self, problem: str) -> None:
        """What is to be said of a session that is resumed, to the user and to the model."""
        if problem:
            self.notices.append(Notice(problem, "warning"))
        before, now = self._transcript.head.positions, self._requests.facts.positions
        if before and now and before != now:
            said = f"this session began with {before}, and the server now has {now}: all of it is read again"
            self.notices.append(Notice(said, "warning"))
        close_calls(self._transcript)
        head = self._transcript.head
        since = (head.parent, head.parent_turn) if head.kind == "fork" else (head.id, self._transcript.turn)
        changed = await self._workshop.changed_since(since[0] or head.id, since[1] or 0)
        self._news.append(resume_note(self._transcript, changed))


def _opened(
    options: AgentOptions, transcript: AgentTranscript, requests: RequestMaker, workshop: Workshop
) -> SessionOpened:
    facts = requests.facts
    return SessionOpened(
        transcript.head.id,
        str(options.directory),
        facts.model,
        requests.client.root,
        facts.context,
        workshop.sandbox.name,
        facts.replays_exactly,
        bool(transcript.messages),
    )


@asynccontextmanager
async def open_session(
    options: AgentOptions, approver: Approver | None, tools: Sequence[Tool] = ()
) -> AsyncIterator[AgentSession]:
    """Opens a session, new or resumed; all that it started ends with the block.

    approver: asks the user; None says no to everything; tools: beside the built-in ones.

    Raises A3BError if the server does not answer, the sandbox does not work here, or the session cannot be resumed."""
    client = ModelClient(options.base_url, options.api_key, options.model, options.context, options.streams)
    sessions = ProjectSessions(options.home, options.directory, options.api_key)
    transcript: AgentTranscript | None = None
    try:
        facts = await client.facts()
        project = read_project(options.directory, options.home)
        elsewhere = sessions.open_elsewhere()
        problem = ""
        if options.resume is None:
            transcript = sessions.create(model=facts.model, positions=facts.positions)
        else:
            transcript, problem = sessions.load(options.resume)
        with sessions.held(transcript.head.id):
            plan = plan_of(transcript)
            mcp = transcript.mcp_tools
            async with open_workshop(
                options, project, sessions, transcript.head.id, approver, tools, plan, mcp
            ) as workshop:
                if mcp is None and workshop.servers is not None and workshop.servers.tools:
                    transcript.note(mcp=workshop.servers.surface.record())
                requests = RequestMaker(client, facts, workshop.toolbox.schemas(), options.sampling)
                requests.think = options.think
                session = AgentSession(options, sessions, transcript, requests, workshop, project)
                session.notices += [
                    Notice(f"another session works in this directory: {other.id}, process {other.pid}", "warning")
                    for other in elsewhere
                ]
                session.notices += _server_notices(session)
                session._take_told()
                if transcript.messages:
                    await session._resumed(problem)
                elif line := project.line():
                    session.notices.append(Notice(line))
                yield session
                session.stop()
                await session._idle.end()
    finally:
        if transcript is not None:
            transcript.close()
            if not transcript.messages:
                transcript.path.unlink(missing_ok=True)
        await client.aclose()


def _server_notices(session: AgentSession) -> list[Notice]:
    facts, notices = session._requests.facts, []
    if not facts.replays_exactly:
        notices.append(
            Notice(
                f"{session.opened.base_url} is no a3b server: thinking goes back as text, so a turn may cost more than "
                "its new tokens",
                "info",
            )
        )
    if not facts.is_known:
        said = f"the server does not say its context; {facts.context:,} tokens are assumed, --context N says how many"
        notices.append(Notice(said, "warning"))
    if facts.kind == "other" and session.options.max_tokens is not None:
        notices.append(
            Notice("where this server does not tell what it computes, --max-tokens counts estimates", "info")
        )
    if facts.kind == "other" and session.options.think is not None:
        notices.append(Notice("--think and --no-think have no effect on this server", "warning"))
    return notices
