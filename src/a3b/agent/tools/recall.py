"""What earlier sessions of this directory said and thought, with where it stands. Enter at `RecallTool`."""

from __future__ import annotations

import asyncio
from typing import Any

from a3b.agent.recall.search_index import RecallResult, SearchIndex
from a3b.agent.tools import schemas
from a3b.agent.tools.tool import ToolCallContext, ToolError, ToolResult, one_line
from a3b.errors import StoreError

MATCHES = 6
MAX_QUERY = 2_000  # characters


class RecallTool:
    """Searches the sessions of one directory and API key. session: the one that asks, of which only what has left
    its conversation counts."""

    name, description, parameters = schemas.RECALL.name, schemas.RECALL.description, schemas.RECALL.parameters
    changes_files = False

    def __init__(self, index: SearchIndex, session: str = ""):
        self._index, self._session = index, session

    def summary(self, arguments: dict[str, Any]) -> str:
        return one_line(self.name, arguments.get("query", ""))

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        query = str(arguments["query"])[:MAX_QUERY]
        if not any(character.isalnum() for character in query):
            raise ToolError("query has no word to search for; give some words, such as names of functions or files")
        try:
            found = await asyncio.to_thread(self._index.search, query, MATCHES, self._session)
        except StoreError as error:
            raise ToolError(str(error)) from None
        return ToolResult(recalled(found))


def recalled(found: RecallResult) -> str:
    """Matches as the model and people read them: where each stands, then its lines, marked so that they cannot be
    taken for another source."""
    sessions = f"{found.sessions:,} earlier session{'' if found.sessions == 1 else 's'}"
    oldest = f"; {found.left_out:,} older ones are not searched" if found.left_out else ""
    if not found.matches:
        return f"[no match in {sessions} of this directory{oldest}]"
    parts = [
        f"{match.source}:\n" + "\n".join(f"| {line}" for line in match.text.splitlines()) for match in found.matches
    ]
    return "\n\n".join([*parts, f"[the best matches in {sessions}{oldest}; files may have changed since]"])
