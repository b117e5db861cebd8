"""What the model is told of the built-in tools. Short on purpose: each request begins with it.

Enter at `READ` ... `RECALL`, with `function_schema`. nano is trained on the texts of read, edit and bash: a change here
needs a new training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolSchema:
    """Name, description and JSON schema of the arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


def _arguments(required: str, **properties: tuple[str, str]) -> dict[str, Any]:
    """An object whose properties have a type and, where the name does not say it, a description."""
    described = {
        name: {"type": kind, "description": text} if text else {"type": kind}
        for name, (kind, text) in properties.items()
    }
    return {"type": "object", "properties": described, "required": required.split()}


READ = ToolSchema(
    "read",
    "Read a text file.",
    _arguments("path", path=("string", ""), offset=("integer", "first line"), limit=("integer", "number of lines")),
)
WRITE = ToolSchema(
    "write",
    "Write a file, at most 300 lines a call.",
    _arguments(
        "path content",
        path=("string", ""),
        content=("string", ""),
        append=("boolean", "continue the file, on a new line"),
    ),
)
EDIT = ToolSchema(
    "edit",
    "Replace text that occurs exactly once in a file.",
    _arguments("path old new", path=("string", ""), old=("string", ""), new=("string", "")),
)
BASH = ToolSchema(
    "bash",
    "Run a command in bash.",
    _arguments("command", command=("string", ""), timeout=("integer", "seconds"), background=("boolean", "")),
)
SEARCH = ToolSchema(
    "search",
    "Search files for lines that match a regex.",
    _arguments("pattern", pattern=("string", ""), path=("string", ""), glob=("string", "")),
)
PLAN = ToolSchema(
    "plan",
    "Keep notes on goal, decisions and open steps. Replaces earlier notes.",
    _arguments("text", text=("string", "")),
)
RECALL = ToolSchema(
    "recall",
    "Search earlier sessions here: tasks, thinking, answers, tool results.",
    _arguments("query", query=("string", "words")),
)
