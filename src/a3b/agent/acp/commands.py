"""Lines with a slash that an editor may send as a prompt. Enter at `COMMANDS`, `run_acp_command`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

from acp.schema import AvailableCommand, AvailableCommandInput, UnstructuredCommandInput

from a3b.agent.about import diff_title, mcp_lines, model_lines
from a3b.agent.cost import cost_lines
from a3b.agent.events import AgentEvent, TextChunk
from a3b.agent.session import AgentSession
from a3b.agent.sessions import outline_lines
from a3b.errors import UsageError

FORM = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
COMMANDS = {  # (what it does, which words it takes)
    "undo": (
        "take back what the last answer changed in files; again for earlier ones, with earlier also of past sessions",
        "force, earlier",
    ),
    "redo": ("do again what the last undo took back", "force"),
    "compact": ("begin the conversation anew from a summary", ""),
    "diff": ("what this session has changed in files", "PATH"),
    "model": ("which model and server, and how much of the context is used", ""),
    "mcp": ("MCP servers: state, tools, what went wrong", ""),
    "cost": ("turns, tokens and seconds so far", ""),
    "think": ("whether the model thinks", "on, off or auto"),
    "tools": ("what the agent can do, and what it may; forget: ask again about what is allowed always", "forget NAME"),
    "tree": ("the turns of this session", ""),
    "help": ("these commands", ""),
}
ELSEWHERE = {  # commands of the terminal that an editor has in another form
    "fork": "the editor forks sessions, if it can",
    "resume": "the editor lists and opens sessions",
    "new": "the editor begins sessions",
    "show": "the editor shows calls whole",
    "exit": "the editor ends the agent",
}
THINKS = {"on": True, "off": False, "auto": None}


def available_commands() -> list[AvailableCommand]:
    """What an editor may offer after a slash."""
    return [
        AvailableCommand(
            name=name,
            description=words,
            input=AvailableCommandInput(root=UnstructuredCommandInput(hint=hint)) if hint else None,
        )
        for name, (words, hint) in COMMANDS.items()
    ]


def acp_command(text: str) -> tuple[str, Sequence[str]] | None:
    """The name and the words of a prompt that is a command; None if it is for the model."""
    found = FORM.fullmatch(text.strip())
    if found is None or found[1] not in COMMANDS | ELSEWHERE:
        return None
    return found[1], (found[2] or "").split()


async def run_acp_command(session: AgentSession, name: str, words: Sequence[str]) -> AsyncIterator[AgentEvent]:
    """What a command tells. Raises A3BError."""
    if name in ELSEWHERE:
        yield TextChunk(f"/{name} is for the terminal; here {ELSEWHERE[name]}")
    elif name == "compact" and not words:
        async for event in session.compact():
            yield event
    else:
        yield TextChunk(await _answer(session, name, words))


async def _answer(session: AgentSession, name: str, words: Sequence[str]) -> str:
    match name, *words:
        case "undo", *rest if set(rest) <= {"force", "earlier"}:
            return await session.undo("force" in rest, "earlier" in rest)
        case ("redo",) | ("redo", "force"):
            return await session.redo(bool(words))
        case "diff", *rest:
            found = await session.diff(" ".join(rest))
            return f"{diff_title(found)}\n{fenced(found.text)}" if found.text else diff_title(found)
        case ("model",):
            return "\n".join(model_lines(session.served(), session.cost()))
        case ("mcp",):
            return "\n".join(mcp_lines(*session.mcp_servers()))
        case ("cost",):
            return "\n".join(cost_lines(session.cost()))
        case "think", ("on" | "off" | "auto") as word:
            session.set_thinking(THINKS[word])
            return {"on": "the model thinks", "off": "the model does not think", "auto": "the server decides"}[word]
        case ("tools",):
            return "\n".join([*(f"{tool.name} ({tool.origin})" for tool in session.tools()), "", *session.allowed()])
        case "tools", "forget", *rest:
            gone = session.forget_approval(" ".join(rest) or None)
            return f"no longer allowed without a question: {', '.join(gone) or 'nothing was'}"
        case ("tree",):
            return "\n".join(outline_lines(session.outline())) or "no turn yet"
        case ("help",):
            return "\n".join(f"/{name} {hint}: {what}".replace(" :", ":") for name, (what, hint) in COMMANDS.items())
    takes = COMMANDS[name][1] or "no words"
    raise UsageError(f"/{name} takes {takes}; found {' '.join(words)[:40]!r}")


def fenced(diff: str) -> str:
    """A diff as a block of Markdown that nothing in it ends."""
    longest = max((len(run) for run in re.findall("`+", diff)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}diff\n{diff}\n{fence}"
