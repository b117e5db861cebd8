"""The calls of one answer as events: their ids, names and arguments.

Knows no syntax: a dialect says when a call begins, what its arguments are and when it ends. Enter at `CallWriter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from a3b.interface.events import Event, ToolCallDelta, ToolCallEnd, ToolCallStart
from a3b.output.prose import Prose
from a3b.output.tool_arguments import ArgumentsWriter, ToolSchemas


class CallWriter:
    """Writes `events`. After `begin` come the arguments, then `end`.

    arguments: of the call begun last. tool: its name. num_calls: calls begun so far. all_complete: whether none was
    cut off. is_open: whether one has begun and not ended."""

    def __init__(
        self,
        schemas: ToolSchemas,
        prose: Prose,
        events: list[Event],
        call_id: Callable[[int], str],
        only_offered: bool,
    ):
        """only_offered: a call of a tool that `schemas` does not have does not count as a call."""
        self.schemas, self._prose, self._events = schemas, prose, events
        self._call_id, self._only_offered = call_id, only_offered
        self.tool = self._id = ""
        self.num_calls = 0
        self.all_complete, self.is_open = True, False
        self.arguments = ArgumentsWriter(schemas, "")

    def may_call(self, name: str) -> bool:
        return name != "" and (self.schemas.offers(name) or not self._only_offered)

    def is_new_key(self, key: str) -> bool:
        """Whether the tool has a parameter `key` that this call has not yet had."""
        written = self.arguments
        return key != written.key and key not in written.arguments and self.schemas.may_have(self.tool, key)

    def begin(self, name: str) -> None:
        """Begin a call; it ends the thinking."""
        self._prose.thinking = False
        self.tool, self.arguments = name, ArgumentsWriter(self.schemas, name)
        self._id = self._call_id(self.num_calls)
        self._events.append(ToolCallStart(self.num_calls, self._id, name))
        self.num_calls += 1
        self.is_open = True

    def open(self, key: str) -> None:
        """Begin the value of `key`."""
        self._delta(self.arguments.open(key))

    def write(self, text: str) -> None:
        """Continue the value."""
        self._delta(self.arguments.write(text))

    def close(self) -> None:
        """End the value."""
        self._delta(self.arguments.close())

    def put(self, arguments: Mapping[str, Any]) -> None:
        """Write whole values."""
        for key, value in arguments.items():
            self._delta(self.arguments.put(key, value))

    def end(self, complete: bool, stray: str = "") -> None:
        """End the call. stray: what it held outside its arguments; it becomes text."""
        self._delta(self.arguments.end())
        self.all_complete = self.all_complete and complete
        self._events.append(ToolCallEnd(self.num_calls - 1, self._id, self.tool, self.arguments.arguments, complete))
        self._prose.enter(thinking=False)
        self._events += self._prose.write(stray)
        self.is_open = False

    def _delta(self, fragment: str) -> None:
        self._events.append(ToolCallDelta(self.num_calls - 1, fragment))
