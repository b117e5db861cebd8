"""The tools that change files: write and edit. Enter at `changed_text`, `EditTool`, `WriteTool`."""

from __future__ import annotations


def changed_text(text: str, syntax: str | None, tests: str) -> str:
    """What the model reads of a changed file. syntax: as `syntax_of` has it; tests: the known command, or ""."""
    if syntax:
        return f"{text} Syntax error: {syntax}"
    told = text if syntax is None else f"{text} Syntax is fine."
    return f"{told}\nNow run the tests: {tests}" if tests else told
