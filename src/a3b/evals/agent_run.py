"""One task for `a3b code`, without a person: what it did, what it cost. For benchmarks that drive the agent.

Enter at `run_agent`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from a3b.agent.events import Compacted, Notice, TaskFinished, ToolFinished, ToolStarted, TurnFinished
from a3b.agent.loop import TOO_LONG
from a3b.agent.options import AgentOptions
from a3b.agent.session import open_session
from a3b.errors import A3BError
from a3b.evals.records import CaseCost

MAX_LOG = 4 << 20  # characters that are kept of calls and results


@dataclass
class AgentRun:
    """How a task went. status: of TaskFinished, or "context" if the task does not fit into the server's; messages: the
    conversation; log: calls and results as text; recomputed: tokens of the history that were read again;
    compactions: how often the conversation began anew from a summary."""

    status: str = ""
    text: str = ""
    turns: int = 0
    cost: CaseCost = CaseCost()
    recomputed: int = 0
    compactions: int = 0
    log: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Figures for the record of the case."""
        figures = {"turns": self.turns, "recomputed": self.recomputed, "compactions": self.compactions}
        return {"status": self.status, **figures}


class AgentServerError(A3BError):
    """The agent could not work, because its server failed: an error of the run, not a wrong answer."""


async def run_agent(options: AgentOptions, task: str, tools: tuple[Any, ...] = ()) -> AgentRun:
    """Works on a task to its end. Raises AgentServerError if the server failed, A3BError if the session cannot be
    opened."""
    found, log = AgentRun(), []
    async with open_session(options, None, tools) as session:
        offered = {line.origin for line in session.tools()}
        if absent := [name for name in options.mcp_servers if f"MCP server {name}" not in offered]:
            told = "; ".join(notice.text for notice in session.notices)
            raise AgentServerError(f"MCP server {', '.join(absent)} does not run: {told}")
        async for event in session.run(task):
            match event:
                case ToolStarted(arguments=arguments, tool=tool):
                    log.append(f"> {tool} {json.dumps(arguments)}")
                case ToolFinished(text=text):
                    log.append(text)
                case TurnFinished(usage=usage, recomputed=recomputed):
                    found.turns += 1
                    found.cost += CaseCost.of_request(usage.read, usage.cached, usage.written, usage.thinking)
                    found.recomputed += recomputed or 0
                case Compacted():
                    found.compactions += 1
                case Notice(text=text, level="warning" | "error"):
                    log.append(f"notice: {text}")
                case TaskFinished(status=status, text=text):
                    found.status, found.text = status, text
                    log.append(f"{status}: {text}")
        found.messages = session.history()
    found.log = "\n".join(log)[:MAX_LOG]
    if found.text.startswith(TOO_LONG.partition("{")[0]):
        found.status = "context"  # the model cannot do it: no error of the run
    if found.status == "failed":
        raise AgentServerError(found.text or "the agent's server failed")
    return found
