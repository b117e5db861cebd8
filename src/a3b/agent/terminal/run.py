"""`a3b code` at a terminal: opens sessions, and lets the user attend to them. Enter at `run_terminal`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prompt_toolkit.utils import is_dumb_terminal

from a3b.agent.options import AgentOptions
from a3b.agent.session import AgentSession, open_session
from a3b.agent.terminal.approver import TerminalApprover
from a3b.agent.terminal.front import TerminalFront
from a3b.errors import A3BError
from a3b.printable import say

if TYPE_CHECKING:
    from prompt_toolkit.history import History

    from a3b.agent.terminal.plain_screen import PlainScreen
    from a3b.agent.terminal.screen import PromptScreen

Open = Callable[[AgentOptions, Any], AbstractAsyncContextManager[AgentSession]]


async def run_terminal(
    options: AgentOptions,
    *,
    history: History | None = None,
    first_task: str | None = None,
    is_dumb: bool | None = None,
    open_session: Open = open_session,
) -> int:
    """The exit status, once the user has left. history: lines typed earlier; first_task: as if it had been typed;
    is_dumb: the terminal knows no control sequences; None asks TERM.

    Raises A3BError if the first session cannot be opened."""
    front = TerminalFront(options)
    screen: PlainScreen | PromptScreen
    if is_dumb_terminal() if is_dumb is None else is_dumb:
        from a3b.agent.terminal.plain_screen import PlainScreen

        screen = PlainScreen(front.submit, front.key, front.toolbar)
    else:
        from a3b.agent.terminal.commands import COMMANDS
        from a3b.agent.terminal.completion import LineCompleter
        from a3b.agent.terminal.screen import PromptScreen

        completer = LineCompleter([f"/{name}" for name in COMMANDS], options.directory)
        screen = PromptScreen(front.submit, front.key, front.live, front.toolbar, completer, history)
    front.screen = screen
    work = asyncio.create_task(_sessions(front, TerminalApprover(screen, front.wait), first_task, open_session))
    shown = asyncio.create_task(screen.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, front.switch, None)
    try:
        await asyncio.wait({work, shown}, return_when=asyncio.FIRST_COMPLETED)
        front.switch(None)  # the terminal has gone
        id = await work
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        screen.leave()
        with suppress(EOFError, OSError):
            await shown
    with suppress(OSError):  # nobody is there to read it
        if id:
            say(f"a3b code --resume {id} goes on with this session")
    return 0


async def _sessions(front: TerminalFront, approver: TerminalApprover, first_task: str | None, opens: Open) -> str:
    """One session after the other, until the user leaves; the id of the last, "" if nothing was said in it."""
    options: AgentOptions | None = front.options
    id, is_kept = "", False
    while options is not None:
        try:
            async with opens(options, approver) as session:
                front.options, id = options, session.id
                options = await front.attend(session, first_task)
                first_task, is_kept = None, bool(session.history())
        except A3BError as error:
            if not id or options is None or options.resume == id:
                raise
            front.say(str(error), "red")
            options = replace(options, resume=id)  # back to the one that was left
    return id if is_kept else ""
