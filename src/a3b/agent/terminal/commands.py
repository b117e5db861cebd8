"""What lines that begin with a slash do. Enter at `COMMANDS`, `command_of`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from a3b.agent.about import diff_title, mcp_lines, model_lines
from a3b.agent.cost import cost_lines
from a3b.agent.options import SessionNode
from a3b.agent.sessions import outline_lines
from a3b.agent.terminal.figures import short
from a3b.agent.terminal.lines import fit_line
from a3b.errors import A3BError, UsageError, did_you_mean
from a3b.units import counted, span, token_count

if TYPE_CHECKING:
    from a3b.agent.terminal.front import TerminalFront

FORM = re.compile(r"/([a-z?][a-z-]*)(?:\s+(.*))?", re.DOTALL)  # "/etc/hosts is wrong" is no command
KEYS = """\
Enter        send; while the agent works: joins at its next step
Alt+Enter    a new line, as Ctrl-J
Esc          stop the agent; Ctrl-C too
Ctrl-C twice leave, as Ctrl-D
Ctrl-T       show or fold thinking
Ctrl-O       show all of the last tool call
Tab          complete /commands and @paths
!COMMAND     run it in the sandbox; the agent hears of it with your next task"""
MOST_LISTED = 20


@dataclass(frozen=True)
class TerminalCommand:
    """run: gets what follows the name. while_working: whether it may run beside a task."""

    form: str
    help: str
    run: Callable[[TerminalFront, str], Awaitable[None]]
    while_working: bool = True


def command_of(text: str) -> tuple[str, str] | None:
    """The command and the rest of a line; None if it is for the model."""
    found = FORM.fullmatch(text.strip())
    return (found[1], (found[2] or "").strip()) if found else None


async def run_command(front: TerminalFront, name: str, rest: str) -> None:
    """Says what is wrong instead of raising."""
    name = ALIASES.get(name, name)
    command = COMMANDS.get(name)
    if command is None:
        near = did_you_mean(name, COMMANDS).replace("'", "'/", 1)  # the slash itself is no likeness
        front.say(f"no command /{name}{near or '; /help lists them'}", "yellow")
    elif front.is_working and not command.while_working:
        front.say(f"/{name} has to wait until the agent is done; Esc stops it", "yellow")
    else:
        try:
            await command.run(front, rest)
        except A3BError as error:
            front.say(str(error), "red")


async def _help(front: TerminalFront, rest: str) -> None:
    _no_words("/help", rest)
    width = max(len(command.form) for command in COMMANDS.values()) + 2
    lines = [f"{command.form:{width}}{command.help}" for command in COMMANDS.values()]
    front.say("\n".join([*lines, "", *KEYS.split("\n")]))


async def _undo(front: TerminalFront, rest: str) -> None:
    words = set(rest.split())
    if words - {"force", "earlier"}:
        raise UsageError(f"/undo {rest[:40]}: expected nothing, force or earlier")
    front.say(await front.session.undo("force" in words, "earlier" in words))


async def _redo(front: TerminalFront, rest: str) -> None:
    if rest not in ("", "force"):
        raise UsageError(f"/redo {rest[:40]}: expected nothing or force")
    front.say(await front.session.redo(rest == "force"))


async def _fork(front: TerminalFront, rest: str) -> None:
    turn = _number(rest, "/fork") if rest else None
    id = front.session.fork(turn)
    front.say(f"session {front.session.id} is left as it is; files stay as they are")
    front.switch(replace(front.options, resume=id))


async def _tree(front: TerminalFront, rest: str) -> None:
    _no_words("/tree", rest)
    lines = tree_lines(front.session.tree(), front.session.id, time.time())
    turns = outline_lines(front.session.outline())
    front.say("\n".join([*lines, *(["", "turns of this session, which /fork TURN takes:", *turns] if turns else [])]))


async def _compact(front: TerminalFront, rest: str) -> None:
    _no_words("/compact", rest)
    front.start(front.session.compact(), can_be_steered=False)


async def _tools(front: TerminalFront, rest: str) -> None:
    word, _, subject = rest.partition(" ")
    if word == "forget":
        gone = front.session.forget_approval(subject.strip() or None)
        front.say(
            f"no longer allowed without a question: {', '.join(gone) or 'nothing was'}; hosts that this session "
            "has reached stay open until it ends"
        )
        return
    _no_words("/tools", rest)
    tools = front.session.tools()
    width = min(max((len(tool.name) for tool in tools), default=0), 40) + 2
    lines = [f"{fit_line(t.name, 38):{width}}{_first_line(t.description)} ({t.origin})" for t in tools]
    front.say("\n".join([*lines, "", *(fit_line(line, 400) for line in front.session.allowed())]))


async def _cost(front: TerminalFront, rest: str) -> None:
    _no_words("/cost", rest)
    front.say("\n".join(cost_lines(front.session.cost())))


async def _model(front: TerminalFront, rest: str) -> None:
    _no_words("/model", rest)
    front.say("\n".join(model_lines(front.session.served(), front.session.cost())))


async def _mcp(front: TerminalFront, rest: str) -> None:
    _no_words("/mcp", rest)
    front.say("\n".join(mcp_lines(*front.session.mcp_servers())))


async def _diff(front: TerminalFront, rest: str) -> None:
    path = os.path.normpath(rest) if rest else ""
    found = await front.session.diff("" if path == "." else path)
    if path not in ("", ".") and not found.files:
        front.say(f"{path[:200]}: not changed by this session")
        return
    front.say(diff_title(found))
    front.view.show_diff(found.text)


async def _think(front: TerminalFront, rest: str) -> None:
    word, _, value = rest.partition(" ")
    if value and word not in ("budget", "show"):
        raise UsageError(f"/think {word[:20]} takes no more words; found {value[:40]!r}")
    if word in ("on", "off", "auto"):
        front.session.set_thinking({"on": True, "off": False, "auto": None}[word])
        if front.figures is not None:
            front.figures.does_think = word != "off"
        front.say({"on": "the model thinks", "off": "the model does not think", "auto": "the server decides"}[word])
    elif word == "budget":
        tokens = None if value.strip() in ("", "none") else token_count(value)
        front.session.set_thinking_budget(tokens)
        if front.figures is not None:
            front.figures.budget = tokens
        front.say("thinking has no limit" if tokens is None else f"a thought ends after {tokens:,} tokens")
    elif word == "show" and value.strip():
        front.view.show_thought(_number(value.strip(), "/think show"))
    elif word == "show":
        thoughts = list(enumerate(front.view.thoughts, 1))[-MOST_LISTED:]
        lines = [f"[{number}] {thought.line}: {_first_line(thought.text.strip())}" for number, thought in thoughts]
        front.say("\n".join(lines) + "\n/think show NUMBER shows one" if lines else "no thinking yet")
    else:
        raise UsageError("/think takes on, off, auto, budget TOKENS or show [NUMBER]; Ctrl-T folds and unfolds")


async def _sessions(front: TerminalFront, rest: str) -> None:
    if rest:
        front.switch(replace(front.options, resume=front.find_session(rest)))
        return
    nodes = [node for node in front.list_sessions() if node.kind != "sub-agent"][:MOST_LISTED]
    lines = [node_line(node, front.session.id, time.time()) for node in nodes]
    front.say("\n".join([*lines, "/resume ID goes on with one"]) if lines else "no earlier session here")


async def _new(front: TerminalFront, rest: str) -> None:
    _no_words("/new", rest)
    front.switch(replace(front.options, resume=None))


async def _show(front: TerminalFront, rest: str) -> None:
    front.view.show_call(_number(rest, "/show") if rest else None)


async def _exit(front: TerminalFront, rest: str) -> None:
    _no_words("/exit", rest)
    front.switch(None)


COMMANDS = {
    "help": TerminalCommand("/help", "this list", _help),
    "undo": TerminalCommand(
        "/undo [force] [earlier]",
        "take back what the last answer changed in files; again for earlier ones, with earlier also of past sessions",
        _undo,
        False,
    ),
    "redo": TerminalCommand("/redo [force]", "do again what the last undo took back", _redo, False),
    "fork": TerminalCommand("/fork [TURN]", "go on in a copy of this session, from a turn", _fork, False),
    "tree": TerminalCommand("/tree", "the sessions that belong together with this one, and its turns", _tree),
    "compact": TerminalCommand("/compact", "begin anew from a summary", _compact, False),
    "tools": TerminalCommand(
        "/tools [forget [NAME]]",
        "what the agent can do, and what it may; ask again about what is allowed always",
        _tools,
    ),
    "diff": TerminalCommand("/diff [PATH]", "what this session has changed in files", _diff, False),
    "model": TerminalCommand("/model", "which model and server, and how much of the context is used", _model),
    "mcp": TerminalCommand("/mcp", "MCP servers: state, tools, what went wrong", _mcp),
    "cost": TerminalCommand("/cost", "turns, tokens and seconds so far", _cost),
    "think": TerminalCommand(
        "/think on|off|auto|budget|show", "whether and how long the model thinks; show earlier thinking", _think
    ),
    "show": TerminalCommand("/show [NUMBER]", "all that a tool call printed", _show),
    "new": TerminalCommand("/new", "begin a new session", _new, False),
    "resume": TerminalCommand("/resume [ID]", "list earlier sessions, or go on with one", _sessions, False),
    "exit": TerminalCommand("/exit", "leave (or Ctrl-D)", _exit),
}
ALIASES = {"quit": "exit", "bye": "exit", "sessions": "resume", "clear": "new", "?": "help"}


def _no_words(command: str, rest: str) -> None:
    if rest:
        raise UsageError(f"{command} takes no words; found {rest[:40]!r}")


def _number(text: str, command: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise UsageError(f"{command} takes a number, not {text[:40]!r}")
    return int(text)


def _first_line(text: str) -> str:
    return fit_line(text.partition("\n")[0], 100)


def node_line(node: SessionNode, current: str, now: float) -> str:
    """A session in one line."""
    mark = "*" if node.id == current else "+" if node.is_open else " "
    kind = "" if node.kind == "session" else f" {node.kind}"
    kind += f" from turn {node.parent_turn}" if node.parent_turn else ""
    figures = f"{counted(node.turns, 'turn')}, {short(node.tokens)} tokens, {span(max(now - node.changed, 0))} ago"
    return f"{mark} {node.id}{kind}, {figures}: {fit_line(node.words, 60)}"


def tree_lines(nodes: Sequence[SessionNode], current: str, now: float) -> list[str]:
    """Sessions below those that they were forked from."""
    known = {node.id for node in nodes}
    lines: list[str] = []
    rest = [(node, 0) for node in reversed(nodes) if node.parent not in known]
    seen: set[str] = set()
    while rest:
        node, depth = rest.pop()
        if node.id in seen:
            continue
        seen.add(node.id)
        lines.append("  " * min(depth, 10) + node_line(node, current, now))
        rest += [(child, depth + 1) for child in reversed(nodes) if child.parent == node.id]
    return lines
