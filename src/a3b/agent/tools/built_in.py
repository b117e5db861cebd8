"""The built-in tools of a session and what they share. Enter at `BuiltInTools`."""

from __future__ import annotations

from a3b.agent.sandbox.sandbox import Sandbox
from a3b.agent.tools.bash import BashTool
from a3b.agent.tools.edit import EditTool, WriteTool
from a3b.agent.tools.files import FileCalls
from a3b.agent.tools.kept_output import KeptOutput
from a3b.agent.tools.known_tests import KnownTests
from a3b.agent.tools.plan import PlanTool
from a3b.agent.tools.read import ReadTool, SearchTool
from a3b.agent.tools.tool import Tool


class BuiltInTools:
    """Tools on files and commands of one session; `close` ends what they started.

    agents_md: text of AGENTS.md. The sandbox's policy has to have `readable_paths()` and the directory of `kept` in its
    `readable`. kept stays the caller's."""

    def __init__(self, sandbox: Sandbox, kept: KeptOutput, agents_md: str = "", plan: str = ""):
        self.tests = KnownTests(agents_md)
        files = FileCalls(sandbox)
        self.bash = BashTool(sandbox, kept, self.tests)
        self.plan = PlanTool(plan)
        self.all: list[Tool] = [
            ReadTool(files),
            WriteTool(files, self.tests),
            EditTool(files, self.tests),
            self.bash,
            SearchTool(files),
            self.plan,
        ]

    def drain_reports(self) -> list[str]:
        """What the model is to hear of background jobs at its next step."""
        return self.bash.drain_reports()

    async def close(self) -> None:
        await self.bash.close()
