"""`a3b code`: the coding agent on the project in this directory, at a terminal or, with -p, without one.

The server is one that runs, or is started and ends with the agent. Exit status with -p: 0 the task is done, 1 it is not
(the model gave up, a limit, a loop, a server that failed), 2 wrong usage, 130 Ctrl-C, 143 SIGTERM. Enter at `run`."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from a3b.agent.options import AgentOptions
from a3b.agent.sessions import ProjectSessions
from a3b.commands.client_server import first_key, serving
from a3b.commands.code_sessions import WORDS, check_words, chosen_session, listing, resumed, run_words
from a3b.commands.piped_input import piped_text, writer_of
from a3b.commands.server_answers import ServedModel, checked_url
from a3b.errors import A3BError, UsageError, did_you_mean
from a3b.printable import printable, report, say

ROOM = 2_048  # tokens of the context, besides the instructions
INSTRUCTIONS = 1_500
STDIN_S = 1.0  # for text that is piped besides -p, of a program that is not seen to write there
TOOLS = ("bash", "read", "write", "edit", "search", "plan", "agent", "recall", "mcp")


def run(args: Namespace) -> int:
    home = Path(os.path.abspath(Path(args.runtime.home).expanduser()))
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current directory is gone; go to one that is there") from None
    sessions = ProjectSessions(home, here, first_key(args))
    if args.demo:
        from a3b.commands.code_demo import demo

        return demo(args, check_context)
    if args.words and args.words[0] in WORDS:
        return run_words(args, sessions, home)
    typed = typed_task(args)
    check_words(args)
    if args.resume == "":
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            report(listing(sessions))
            return 0
        if (chosen := chosen_session(sessions)) is None:
            return 0
        args.resume = chosen
    if args.json and args.prompt is None and sys.stdin.isatty():
        raise UsageError("--json: needs a task; give one with -p TASK")
    if args.acp:
        check_mcp(args)
        return for_editor(args, here, home)
    check_mcp(args)
    task = given_task(args, typed)
    resume = resumed(args, sessions)
    with chosen_server(args) as url:
        options = agent_options(args, here, home, url, resume)
        if task is None:
            return at_terminal(options, sessions, typed)
        return headless(options, task, args.json)


def check_mcp(args: Namespace) -> None:
    """Raises UsageError for a file of MCP servers that was named and cannot be used."""
    if not args.mcp_config:
        return
    from a3b.agent.mcp.config_file import read_config_file

    try:
        read_config_file(Path(os.path.abspath(args.mcp_config)))
    except OSError as error:
        raise UsageError(f"--mcp-config {args.mcp_config}: {error.strerror}; expected a file of MCP servers") from None


def for_editor(args: Namespace, here: Path, home: Path) -> int:
    """Serves an editor, which names directories, sessions and tasks itself. Raises UsageError for options that do."""
    given = {
        "-p": args.prompt,
        "--json": args.json,
        "--resume": args.resume,
        "--continue": args.go_on,
        "--from-turn": args.from_turn,
    }
    for name, value in given.items():
        if value:
            raise UsageError(f"--acp: {name} has no place there; the editor gives tasks and names sessions")
    from a3b.agent.acp.server import run_acp

    if sys.stdin.isatty():
        say("a3b code --acp: speaks with an editor on stdin and stdout; docs/agent.md says how editors start it")
    with chosen_server(args) as url:
        return asyncio.run(run_acp(agent_options(args, here, home, url, None)))


def headless(options: AgentOptions, task: str, as_json: bool) -> int:
    from a3b.agent.approvals import DenyingApprover
    from a3b.agent.events import Notice
    from a3b.agent.headless import print_json, run_headless  # HTTP is loaded only here
    from a3b.agent.session import open_session

    async def work() -> int:
        approver = DenyingApprover()
        async with open_session(options, approver) as session:
            return await run_headless(session, task, as_json, approver)

    try:
        return asyncio.run(work())
    except A3BError as error:
        if as_json:
            print_json(Notice(str(error), "error"))
        raise


def at_terminal(options: AgentOptions, sessions: ProjectSessions, first_task: str | None = None) -> int:
    from a3b.agent.terminal.run import run_terminal
    from a3b.commands.typed_lines import TypedLines

    try:
        history = TypedLines(sessions.place / "lines")
    except OSError as error:
        say(f"typed lines are not kept: {error.filename}: {error.strerror or error}")
        history = None
    return asyncio.run(run_terminal(options, history=history, first_task=first_task))


def typed_task(args: Namespace) -> str | None:
    """The task that stands behind `a3b code`: the first message at a terminal. Raises UsageError."""
    if not args.words:
        return None
    task = " ".join(args.words)
    if not task.strip():
        raise UsageError("the task is empty")
    if len(args.words) == 1 and (near := did_you_mean(task, WORDS)):
        raise UsageError(f'{task[:80]!r} is no word of a3b code{near} A task of one word is given with -p "TASK"')
    for name, value in {"-p": args.prompt is not None, "--acp": args.acp, "--json": args.json}.items():
        if value:
            raise UsageError(
                f"{name}: has no place beside a task for the terminal; -p {task[:40]!r} runs it without one"
            )
    return task


def given_task(args: Namespace, typed: str | None = None) -> str | None:
    """The task of -p with what is piped, or what is piped alone; None at a terminal. typed: for a terminal; where there
    is none, it is run as with -p. Raises UsageError."""
    if args.prompt is None and typed is not None:
        if sys.stdin.isatty():
            return None
        args.prompt = typed
    if args.prompt is None:
        if sys.stdin.isatty():
            return None
        text = piped_text()
        if not text.strip():
            raise UsageError('no task: give one with -p "TASK" or on stdin, or start a3b code at a terminal')
        return text
    piped = ""
    if not sys.stdin.isatty():
        try:
            comes = bool(select.select([sys.stdin], [], [], STDIN_S)[0])
        except (OSError, ValueError):
            comes = False
        if not comes and (writer := writer_of(sys.stdin)) is not None:
            say(f"a3b code: waiting for text on stdin from process {writer}")
            comes = True
        if comes:
            piped = piped_text()
        else:
            say(
                "a3b code: stdin is open, but nothing comes: it is left unread; '</dev/null' says so from the beginning"
            )
    if not args.prompt.strip() and not piped.strip():
        raise UsageError("-p: the task is empty")
    return f"{args.prompt}\n\n{piped}" if piped.strip() else str(args.prompt)


@contextmanager
def chosen_server(args: Namespace) -> Iterator[str]:
    """The address of the server: any that was named, or one of a3b's own."""
    if args.base_url is not None:
        yield checked_url(args.base_url)
        return
    with serving(args, check_context) as served:
        yield served.asker.url


def check_context(model: ServedModel) -> None:
    """Raises A3BError if the agent's instructions do not fit."""
    if model.context < INSTRUCTIONS + ROOM:
        raise A3BError(
            f"the agent needs a context of {INSTRUCTIONS + ROOM:,} tokens, and {printable(model.name)} has "
            f"{model.context:,}; serve it with --context 32k or more"
        )


def agent_options(args: Namespace, here: Path, home: Path, url: str, resume: str | None) -> AgentOptions:
    sampling = {name: getattr(args, name) for name in ("temperature", "seed") if getattr(args, name) is not None}
    return AgentOptions(
        directory=here,
        home=home,
        base_url=url,
        api_key=first_key(args),
        model=args.named if args.base_url is not None else None,
        context=args.context if args.base_url is not None else None,
        tools=tool_names(args.tools),
        resume=resume,
        max_turns=args.max_turns,
        max_tokens=args.max_tokens,
        max_seconds=args.max_time,
        compact_at=args.compact_at,
        hosts=tuple(args.allow_host or ()),
        paths=tuple(inside(path, here) for path in args.allow_path or ()),
        yolo=args.yolo,
        think=args.think,
        sampling=sampling,
        mcp_config=Path(os.path.abspath(args.mcp_config)) if args.mcp_config else None,
        mcp_allowed=tuple(args.allow_mcp or ()),
    )


def inside(path: str, here: Path) -> str:
    """A path of --allow-path. Raises UsageError for one that is not below the directory."""
    full = os.path.normpath(here / Path(path).expanduser())
    if not Path(full).is_relative_to(here) or Path(full) == here:
        raise UsageError(f"--allow-path {path[:100]!r}: expected a protected file or directory in {here}")
    return path


def tool_names(given: str | None) -> tuple[str, ...] | None:
    """Names of built-in tools, from a list between commas. Raises UsageError."""
    if given is None:
        return None
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in TOOLS:
            raise UsageError(f"--tools: {name[:40]!r} is no built-in tool; expected some of {', '.join(TOOLS)}")
    if not names:
        raise UsageError(f"--tools: names no tool; expected some of {', '.join(TOOLS)}")
    return tuple(dict.fromkeys(names))
