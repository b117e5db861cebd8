"""Notes of the agent on what it does, which outlive a compaction. Enter at `PlanTool`."""

from __future__ import annotations

from typing import Any

from a3b.agent.tools import schemas
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult, one_line

MAX_CHARACTERS = 8_000


class PlanTool:
    """Keeps one text, replaced whole. text: the notes now, "" for none."""

    name, description, parameters = schemas.PLAN.name, schemas.PLAN.description, schemas.PLAN.parameters
    changes_files = False

    def __init__(self, text: str = ""):
        self.text = text

    def summary(self, arguments: dict[str, Any]) -> str:
        return one_line(self.name, arguments.get("text", ""))

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        text = str(arguments["text"]).strip()
        if len(text) > MAX_CHARACTERS:
            raise ToolError(f"the notes have {len(text):,} characters; expected at most {MAX_CHARACTERS:,}")
        self.text = text
        return ToolResult("Noted." if text else "The notes are empty now.")
