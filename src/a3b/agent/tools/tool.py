"""What a tool is. `Tool` is the protocol; `ToolResult` is what a call comes back with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


class ToolError(Exception):
    """A call that did nothing. The message is for the model: what was wrong, what was found, what to do instead."""


@dataclass(frozen=True)
class ToolResult:
    """text: what the model reads, before it is cut; diff: what changed, in unified form, for people; is_cut: the tool
    has kept the text within its bounds by itself, so that nobody cuts it again."""

    text: str
    is_error: bool = False
    diff: str = ""
    is_cut: bool = False


@dataclass(frozen=True)
class ToolCallContext:
    """One call. emit: shows a piece of output to people while the call runs."""

    call: str
    emit: Callable[[str], None] = field(default=lambda text: None)


class ToolText(Protocol):
    """What the model is told of a tool. parameters is a JSON schema; its property order is the order in which the
    model writes them."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> dict[str, Any]: ...


class Tool(ToolText, Protocol):
    """One tool. changes_files: whether a call may change the workspace, so that the journal has to look before and
    after."""

    changes_files: bool

    def summary(self, arguments: dict[str, Any]) -> str:
        """One line for people; arguments may be anything the model wrote."""
        ...

    async def run(self, arguments: dict[str, Any], context: ToolCallContext) -> ToolResult:
        """Runs one call whose arguments fit the schema. Raises ToolError; cancelled, it leaves nothing behind."""
        ...


def function_schema(tool: ToolText) -> dict[str, Any]:
    """The tool as `tools` of a chat completion has it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def error_text(message: object) -> str:
    """What the model reads of a call that did nothing."""
    return f"Error: {message}"


def one_line(*words: object) -> str:
    """Words on one line of bounded length, for people."""
    text = " ".join(" ".join(str(word)[:400].split()) for word in words if word != "")
    return text if len(text) <= 200 else f"{text[:197]}..."
