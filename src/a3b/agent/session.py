"""A session of the agent, as front ends see it: the terminal, the headless mode, editors.

    async with open_session(options, approver) as session:
        print(session.opened.model, session.notices)
        async for event in session.run("Fix the failing test."):
            ...

Enter at `open_session`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from a3b.agent.events import AgentEvent, Notice, SessionOpened
from a3b.agent.options import AgentOptions, SessionCost, SessionNode, ToolLine


class AgentSession:
    """One conversation with everything that it acts through. One task runs at a time.

    opened: the first event, for front ends that show it; notices: what the user should hear before the first task (a
    second session here, no exact replay, how files changed since a session that is resumed)."""

    opened: SessionOpened
    notices: list[Notice]

    @property
    def id(self) -> str:
        """Names the session: for --resume, and for session ids of editors."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether a task or a compaction runs."""
        raise NotImplementedError

    def run(self, task: str) -> AsyncIterator[AgentEvent]:
        """Works on a task to its end; the last event is TaskFinished, whatever happens. Leaving the iteration stops it.

        Raises UsageError if a task runs already."""
        raise NotImplementedError

    def steer(self, text: str) -> None:
        """Adds a message of the user at the next step of the running task, after the results of its tools."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stops the running task: finished calls keep their results, others get "aborted". The iteration of `run` goes
        on to its TaskFinished (status "stopped")."""
        raise NotImplementedError

    def compact(self) -> AsyncIterator[AgentEvent]:
        """Begins anew from a summary that the model writes; events are those of a turn, then Compacted or a Notice."""
        raise NotImplementedError

    async def undo(self) -> str:
        """Puts files back as they were before the last turn that changed some; says which, in lines for people. The
        model is told at its next step."""
        raise NotImplementedError

    def fork(self, turn: int | None = None) -> str:
        """The id of a new session that has this one's conversation up to the end of `turn` (None: all of it). Open it
        with `replace(session.options, resume=id)`; files stay as they are."""
        raise NotImplementedError

    def tree(self) -> list[SessionNode]:
        """The sessions of this directory that belong together with this one, parents first."""
        raise NotImplementedError

    def tools(self) -> list[ToolLine]:
        """What the agent can do here."""
        raise NotImplementedError

    def cost(self) -> SessionCost:
        """Turns, tokens and seconds so far."""
        raise NotImplementedError

    def history(self) -> list[dict[str, Any]]:
        """The conversation as messages of a chat completion, for front ends that show a resumed session."""
        raise NotImplementedError

    def set_thinking(self, think: bool | None) -> None:
        """Whether the model thinks from the next turn on; None leaves it to the server."""
        raise NotImplementedError


@asynccontextmanager
async def open_session(options: AgentOptions, approver: Any) -> AsyncIterator[AgentSession]:
    """Opens a session, new or resumed; all that it started ends with the block.

    Raises A3BError if the server does not answer, the sandbox does not work here, or the session cannot be resumed."""
    raise NotImplementedError
    yield
