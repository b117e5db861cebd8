"""What a session acts through: the sandbox, the tools in it, the journal of changed files. Enter at `open_workshop`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from a3b.agent.approvals import Approver, DenyingApprover, RememberedApprovals, TellingApprover
from a3b.agent.events import Notice
from a3b.agent.journal.diffs import WorkspaceDiff
from a3b.agent.journal.journal import Journal, UndoOutcome
from a3b.agent.mcp.opening import session_servers
from a3b.agent.mcp.servers import McpServers
from a3b.agent.options import AgentOptions, ToolLine
from a3b.agent.project_files import Project
from a3b.agent.recall.search_index import SearchIndex
from a3b.agent.sandbox.describing import describe
from a3b.agent.sandbox.opening import open_sandbox
from a3b.agent.sandbox.sandbox import Sandbox, SandboxPolicy
from a3b.agent.sessions import ProjectSessions
from a3b.agent.tools.agent import AgentTool, Spawn
from a3b.agent.tools.built_in import BuiltInTools
from a3b.agent.tools.files import readable_paths
from a3b.agent.tools.kept_output import KeptOutput, sweep
from a3b.agent.tools.recall import RecallTool
from a3b.agent.tools.tool import Tool, ToolCallContext, ToolError, ToolResult
from a3b.agent.tools.toolbox import Toolbox
from a3b.errors import JournalError

LISTED = 20  # files that an undo names


@dataclass
class Workshop:
    """toolbox: filled by `open_workshop`; journal: None where it cannot be kept; told: what the user is to hear, until
    the owner takes it; spawn: starts a sub-agent, while a task runs; servers: of MCP."""

    sandbox: Sandbox
    built_in: BuiltInTools
    kept: KeptOutput
    approvals: TellingApprover
    remembered: RememberedApprovals
    toolbox: Toolbox = field(default_factory=lambda: Toolbox(()))
    journal: Journal | None = None
    told: list[Notice] = field(default_factory=list)
    spawn: Spawn | None = None
    servers: McpServers | None = None
    _said: set[str] = field(default_factory=set)
    _had_jobs: bool = False  # jobs ran when the last call that may change files ended

    def tell(self, text: str, level: str = "info") -> None:
        """Something for the user to hear."""
        self.told.append(Notice(text, level))

    def notes(self) -> str:
        """The agent's plan."""
        return self.built_in.plan.text

    def reports(self) -> list[str]:
        """What the model is to hear of background jobs, refused hosts and MCP servers, once."""
        news = self.servers.take_news() if self.servers is not None else []
        return [*self.built_in.drain_reports(), *self.approvals.take_news(), *news]

    def allowed(self) -> list[str]:
        """What commands may do, in lines for people."""
        known = [f"allowed always: {kind.replace('_', ' ')} {subject}" for kind, subject in self.remembered.known()]
        return [*describe(self.sandbox), *known]

    def tool_lines(self) -> list[ToolLine]:
        """What the agent can do here, for people; also tools that the model sees only by name."""
        of_servers = {tool.name for tool in self.servers.tools} if self.servers is not None else set()
        lines = [ToolLine(tool.name, tool.description) for tool in self.toolbox if tool.name not in of_servers]
        return [*lines, *(self.servers.lines() if self.servers is not None else ())]

    async def around_call(
        self, tool: str, summary: str, turn: int, run: Callable[[], Awaitable[ToolResult]]
    ) -> tuple[ToolResult, bool]:
        """Runs a call, and cuts its result; whether it changed files. summary: names the call, for an undo."""
        journal = self.journal if self.toolbox.tool(tool).changes_files else None
        if journal is None:
            return self._cut(await run()), False
        try:
            await asyncio.to_thread(journal.begin, summary, turn, self._had_jobs)
        except JournalError as error:  # such as a full disk: no reason not to work
            self._tell_once(f"{error}; what this call changes cannot be undone")
            return self._cut(await run()), False
        changes: Sequence[object] = ()
        try:
            result = self._with_refusals(await run())
        finally:
            self._had_jobs = self.built_in.bash.jobs.has_running
            try:
                changes = (await asyncio.to_thread(journal.finish)).changes
            except JournalError as error:
                self._tell_once(f"{error}; what this call changed may not be undone")
        return self._cut(result), bool(changes)

    def _tell_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.tell(text, "warning")

    def _with_refusals(self, result: ToolResult) -> ToolResult:
        """The result of a command, and who refused what it could not reach."""
        news = self.approvals.take_news()
        return replace(result, text="\n".join([result.text, *news])) if news else result

    def _cut(self, result: ToolResult) -> ToolResult:
        return result if result.is_cut else replace(result, text=self.kept.cut(result.text), is_cut=True)

    async def start_agent(self, task: str, context: ToolCallContext) -> ToolResult:
        if self.spawn is None:
            raise ToolError("no task runs")
        return await self.spawn(task, context)

    async def undo(self, force: bool = False, earlier: bool = False) -> str:
        """Takes back what the newest turn changed; what was done, in lines. force: also over changes of others since;
        earlier: also of sessions that have ended. Raises JournalError."""
        if self.journal is None:
            raise JournalError("undo: no journal is kept in this session")
        return _undo_lines("Taken back", await asyncio.to_thread(self.journal.undo, None, force, earlier))

    async def redo(self, force: bool = False) -> str:
        """Takes the last undo back; what was done, in lines. Raises JournalError."""
        if self.journal is None:
            raise JournalError("redo: no journal is kept in this session")
        return _undo_lines("Done again", await asyncio.to_thread(self.journal.redo, force))

    async def diff(self, session: str, path: str) -> WorkspaceDiff:
        """What a session has changed, and what stands of it. path: of a file or directory, "" for all. Raises
        JournalError."""
        if self.journal is None:
            raise JournalError("diff: no journal is kept in this session; git diff shows what git knows")
        return await asyncio.to_thread(self.journal.diff, session, path)

    async def changed_since(self, session: str, turn: int) -> list[str]:
        """Files that calls changed after a turn of a session, as lines."""
        if self.journal is None:
            return []
        journal = self.journal
        steps = await asyncio.to_thread(journal.steps)
        later = [step.number for step in steps if step.session != session or step.turn > turn]
        own = [step.number for step in steps if step.session == session and step.turn <= turn]
        first = min((number for number in later if number > max(own, default=0)), default=None)
        return [] if first is None else [str(c) for c in await asyncio.to_thread(journal.changed_since, first)]


def _undo_lines(word: str, done: UndoOutcome) -> str:
    lines = [f"{word}: {', '.join(step.label.removeprefix('undo of ') for step in done.steps)}."]
    if not (done.restored or done.conflicts or done.troubles):
        lines.append("  no file changed by this: all of them were like that already")
    lines += [f"  {change}" for change in done.restored[:LISTED]]
    lines += [f"  and {more} more" for more in [len(done.restored) - LISTED] if more > 0]
    lines += [f"  left as it is: {trouble}" for trouble in (*done.conflicts, *done.troubles)[:LISTED]]
    if done.conflicts:
        lines.append("'/undo force' overwrites what others changed since; what it overwrites is kept.")
    return "\n".join(lines)


@asynccontextmanager
async def open_workshop(
    options: AgentOptions,
    project: Project,
    sessions: ProjectSessions,
    session: str,
    approver: Approver | None,
    tools: Sequence[Tool] = (),
    plan: str = "",
    mcp: list[Any] | None = None,
) -> AsyncIterator[Workshop]:
    """Ends all that was started with the block.

    sessions: of the project, session: the id of this one; approver: None says no; tools: beside the built-in
    ones; plan: the agent's notes; mcp: tools of MCP servers that the session began with, None for a new one. Raises
    A3BError if the sandbox does not work here."""
    sweep()
    kept = KeptOutput()
    skills = options.home / "skills"
    policy = SandboxPolicy(
        options.directory,
        readable=(*readable_paths(), kept.directory, *([skills] if skills.is_dir() else [])),
        hidden=options.hidden,
        hosts=options.hosts,
        permitted=tuple(map(os.path.normpath, options.paths)),
    )
    shop: Workshop | None = None
    try:
        remembered = RememberedApprovals(sessions.place / "approvals.json", approver or DenyingApprover())
        asking = TellingApprover(remembered)
        sandbox = await asyncio.to_thread(
            open_sandbox,
            policy,
            yolo=options.yolo,
            approver=asking,
            home=options.home,
            environment=options.environment,
        )
        try:
            agents_md = "\n".join(file.text for file in reversed(project.instructions))
            built_in = BuiltInTools(sandbox, kept, agents_md, plan)
            shop = Workshop(sandbox, built_in, kept, asking, remembered)
            shop.told += [Notice(note, "warning") for note in sandbox.notes]
            await _open_journal(shop, sessions.place / "journal", options.directory, session)
            offered: list[Tool] = [
                *built_in.all,
                AgentTool(shop.start_agent),
                RecallTool(SearchIndex(sessions), session),
            ]
            wanted = [tool for tool in offered if options.tools is None or tool.name in options.tools]
            async with session_servers(options, asking, shop.tell, mcp) as shop.servers:
                shop.toolbox = Toolbox([*wanted, *tools, *shop.servers.tools])
                yield shop
            await built_in.close()
        finally:
            if shop is not None and shop.journal is not None:
                await asyncio.to_thread(shop.journal.close)
            sandbox.close()
    finally:
        kept.close()


async def _open_journal(shop: Workshop, directory: Path, workspace: Path, session: str) -> None:
    def tell(text: str) -> None:
        shop.told.append(Notice(text, "info"))

    try:
        shop.journal = await asyncio.to_thread(Journal, directory, workspace, session, None, tell)
    except JournalError as error:
        shop.told.append(Notice(f"{error}; this session has no undo", "warning"))
