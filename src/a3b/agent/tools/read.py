"""The tools that look into files: read and search. Enter at `ReadTool`, `SearchTool`."""

from __future__ import annotations

from typing import Any

from a3b.agent.tools import schemas
from a3b.agent.tools.files import FileCalls, search_program
from a3b.agent.tools.tool import ToolCallContext, ToolResult, one_line


class FileTool:
    """A tool whose work is one call of the file tool. schema: what the model is told of it."""

    schema: schemas.ToolSchema
    changes_files = False

    def __init__(self, files: FileCalls):
        self.name, self.description, self.parameters = self.schema.name, self.schema.description, self.schema.parameters
        self._files = files

    def summary(self, arguments: dict[str, Any]) -> str:
        return one_line(self.name, arguments.get("path", ""))

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        answer = await self._files.call(self.name, arguments)
        return ToolResult(answer.text, diff=answer.diff, is_cut=True)


class ReadTool(FileTool):
    schema = schemas.READ


class SearchTool(FileTool):
    schema = schemas.SEARCH

    def summary(self, arguments: dict[str, Any]) -> str:
        return one_line(self.name, arguments.get("pattern", ""), arguments.get("path", ""))

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        return await super().run({**arguments, "rg": search_program()}, context)
