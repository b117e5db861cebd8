"""Events of a session as updates of the Agent Client Protocol. Enter at `SessionUpdates`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acp import (
    plan_entry,
    start_tool_call,
    text_block,
    tool_content,
    tool_diff_content,
    update_agent_message_text,
    update_agent_thought_text,
    update_plan,
    update_tool_call,
    update_user_message_text,
)
from acp.schema import PlanEntryStatus, ToolCallLocation, ToolKind, UsageUpdate

from a3b.agent.events import (
    AgentEvent,
    Compacted,
    Notice,
    Steered,
    TaskFinished,
    TextChunk,
    ThinkingChunk,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    TurnFinished,
)

KINDS: dict[str, ToolKind] = {
    "read": "read",
    "write": "edit",
    "edit": "edit",
    "search": "search",
    "bash": "execute",
    "plan": "think",
    "agent": "other",
    "recall": "search",
}
EVERY_S, MAX_SHOWN = 0.25, 16_000  # between updates of a running call; characters of its output
MAX_HUNKS = 50
HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@.*")
ENTRY = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+(?:\[(.)\]\s+)?(.+)")
MAX_ENTRIES = 100


def clean(text: str) -> str:
    """A text that every JSON reader takes: halves of surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class DiffHunk:
    """Lines that were replaced. old: None for a new file; line: the first one now, from 1."""

    path: str
    old: str | None
    new: str
    line: int


@dataclass
class _RunningCall:
    tool: str
    arguments: dict[str, Any]
    output: str = ""
    told: float = 0.0


class SessionUpdates:
    """directory: of the session; context: of the server, in tokens."""

    def __init__(self, directory: Path, context: int, clock: Callable[[], float] = time.monotonic):
        self._directory, self._context, self._clock = directory, context, clock
        self._running: dict[str, _RunningCall] = {}

    @property
    def running(self) -> str | None:
        """The call that runs."""
        return next(reversed(self._running), None)

    def of(self, event: AgentEvent) -> Iterator[Any]:
        """The updates that tell an event, none for some."""
        match event:
            case ThinkingChunk(text=text):
                yield update_agent_thought_text(clean(text))
            case TextChunk(text=text):
                yield update_agent_message_text(clean(text))
            case ToolStarted():
                yield self._started(event)
            case ToolOutput():
                yield from self._printed(event)
            case ToolFinished():
                yield from self._finished(event)
            case TurnFinished(usage=usage):
                used = usage.read + usage.cached + usage.written
                yield UsageUpdate(session_update="usage_update", used=used, size=self._context)
            case Steered(text=text):
                yield update_user_message_text(clean(text))
            case Compacted(before=before, after=after):
                yield update_agent_message_text(f"\n[compacted: {before:,} tokens became {after:,}]\n")
                yield UsageUpdate(session_update="usage_update", used=after, size=self._context)
            case Notice(text=text, level=level):
                yield update_agent_message_text(clean(f"\n[{'' if level == 'info' else level + ': '}{text}]\n"))
            case TaskFinished(status=status, text=text):
                self._running.clear()
                if status not in ("done", "failed", "stopped"):
                    yield update_agent_message_text(clean(f"\n[{status}: {text}]\n"))

    def _started(self, event: ToolStarted) -> Any:
        self._running[event.call] = _RunningCall(event.tool, event.arguments)
        return start_tool_call(
            clean(event.call),
            clean(event.summary)[:400],
            kind=KINDS.get(event.tool, "other"),
            status="in_progress",
            locations=self._locations(event.arguments),
            raw_input=_plain(event.arguments),
        )

    def _locations(self, arguments: dict[str, Any], line: int | None = None) -> list[ToolCallLocation] | None:
        path = arguments.get("path")
        if not isinstance(path, str) or not path:
            return None
        offset = arguments.get("offset")
        line = offset if line is None and isinstance(offset, int) and offset > 0 else line
        return [ToolCallLocation(path=self._absolute(path), line=line)]

    def _absolute(self, path: str) -> str:
        return clean(os.path.join(self._directory, path))

    def of_diff(self, diff: str) -> list[Any]:
        """The contents of a call that show a change."""
        hunks = diff_hunks(clean(diff))
        return [tool_diff_content(self._absolute(hunk.path), hunk.new, hunk.old) for hunk in hunks]

    def _printed(self, event: ToolOutput) -> Iterator[Any]:
        call = self._running.get(event.call)
        if call is None:
            return
        call.output = (call.output + event.text)[-MAX_SHOWN:]
        if (now := self._clock()) - call.told >= EVERY_S:
            call.told = now
            yield update_tool_call(clean(event.call), content=[tool_content(text_block(clean(call.output)))])

    def _finished(self, event: ToolFinished) -> Iterator[Any]:
        call = self._running.pop(event.call, _RunningCall(event.tool, {}))
        hunks = list(diff_hunks(clean(event.diff)))
        contents = self.of_diff(event.diff)
        text = clean(event.text)
        if event.is_error or not contents:
            shown = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}\n[...]\n{text[-MAX_SHOWN // 2 :]}"
            contents.append(tool_content(text_block(shown)))
        yield update_tool_call(
            clean(event.call),
            status="failed" if event.is_error else "completed",
            content=contents,
            locations=self._locations(call.arguments, hunks[0].line if hunks else None),
            raw_output={"text": text},
        )
        if event.tool == "plan" and not event.is_error:
            yield update_plan(plan_entries(clean(str(call.arguments.get("text", "")))))


def plan_entries(text: str) -> list[Any]:
    """Notes of the agent as entries: its list, or else its lines."""
    lines = [line for line in text.split("\n") if line.strip()][:MAX_ENTRIES]
    listed = [found for line in lines if (found := ENTRY.fullmatch(line))]
    if not listed:
        return [plan_entry(line.strip()) for line in lines]
    states: dict[str | None, PlanEntryStatus] = {"x": "completed", "X": "completed", "~": "in_progress"}
    return [plan_entry(found[2].strip(), status=states.get(found[1], "pending")) for found in listed]


def diff_hunks(diff: str) -> Iterator[DiffHunk]:
    """The first hunks of a unified diff, as whole as it has them."""
    path, found = "", 0
    rows = iter(diff.split("\n"))
    for row in rows:
        if row.startswith(("--- ", "+++ ")):
            path = row[4:].split("\t")[0]
        elif head := HUNK.fullmatch(row):
            old_left, new_left = int(head[2] or 1), int(head[4] or 1)
            is_new = head[1] == "0" and old_left == 0
            old, new = [], []
            while (old_left > 0 or new_left > 0) and (line := next(rows, None)) is not None:
                if line[:1] in ("", " ", "-"):
                    old.append(line[1:])
                    old_left -= 1
                if line[:1] in ("", " ", "+"):
                    new.append(line[1:])
                    new_left -= 1
            yield DiffHunk(path, None if is_new else "\n".join(old), "\n".join(new), int(head[3]))
            found += 1
            if found == MAX_HUNKS:
                return


def _plain(value: Any) -> Any:
    """A JSON value that every reader takes."""
    return json.loads(clean(json.dumps(value, ensure_ascii=False, default=str)), parse_constant=str)
