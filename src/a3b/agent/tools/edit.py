"""The tools that change files: write and edit. `changed_text` has the form of their results.

Enter at `WriteTool`, `EditTool`."""

from __future__ import annotations

from typing import Any

from a3b.agent.tools import schemas
from a3b.agent.tools.files import FileCalls
from a3b.agent.tools.known_tests import KnownTests
from a3b.agent.tools.read import FileTool
from a3b.agent.tools.tool import ToolCallContext, ToolResult


def changed_text(text: str, syntax: str | None, tests: str) -> str:
    """What the model reads of a changed file. syntax: as `syntax_of` has it; tests: the known command, or ""."""
    if syntax:
        return f"{text} Syntax error: {syntax}"
    told = text if syntax is None else f"{text} Syntax is fine."
    return f"{told}\nNow run the tests: {tests}" if tests else told


class _ChangingTool(FileTool):
    changes_files = True

    def __init__(self, files: FileCalls, tests: KnownTests):
        super().__init__(files)
        self._tests = tests

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        answer = await self._files.call(self.name, arguments)
        return ToolResult(changed_text(answer.text, answer.syntax, self._tests.command), diff=answer.diff, is_cut=True)


class WriteTool(_ChangingTool):
    schema = schemas.WRITE


class EditTool(_ChangingTool):
    schema = schemas.EDIT
