"""An earlier conversation as the events that it once was, for front ends that show a resumed session.

What the user said is what he typed, as the transcript has it: notices, instructions of the project and whatever else
stands in his place in a message is not his. Enter at `past_events`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from a3b.agent.compaction import BEGUN
from a3b.agent.events import AgentEvent, Notice, Steered, TextChunk, ThinkingChunk, ToolFinished, ToolStarted
from a3b.agent.tools.tool import one_line
from a3b.agent.tools.toolbox import Toolbox
from a3b.agent.transcript import Message, TranscriptState

SUMMARY_MARK = BEGUN.partition("\n")[0]


def past_events(state: TranscriptState, toolbox: Toolbox) -> Iterator[AgentEvent]:
    """What was said, thought and called, each call with its result. toolbox: names the calls."""
    results = {m.get("tool_call_id"): m["content"] for m in state.messages if m["role"] == "tool"}
    for place, message in enumerate(state.messages):
        if place in state.said:
            yield Steered(state.said[place])
        elif message["role"] == "user" and message["content"].startswith(SUMMARY_MARK):
            yield Notice("The conversation begins anew here, from a summary of what came before.")
        elif message["role"] == "assistant":
            yield from _answer(message, results, toolbox)


def _answer(message: Message, results: dict[Any, str], toolbox: Toolbox) -> Iterator[AgentEvent]:
    if (thought := message.get("reasoning_content") or message.get("reasoning") or "").strip():
        yield ThinkingChunk(thought)
    if message["content"].strip():
        yield TextChunk(message["content"])
    for call in message.get("tool_calls", ()):
        name, arguments = call["function"]["name"], _arguments(call["function"]["arguments"])
        summary = toolbox.tool(name).summary(arguments) if name in toolbox else one_line(name, *arguments.values())
        yield ToolStarted(call["id"], name, arguments, summary)
        text = results.get(call["id"], "")
        yield ToolFinished(call["id"], name, text, text.startswith("Error: "))


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
