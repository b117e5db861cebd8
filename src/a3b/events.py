"""What leaves the engine: values that say what the model wrote, in the order it wrote it.

Owns the event types, merging of neighbouring deltas and the assistant message that a list of events
amounts to. Knows neither tokens nor syntax nor transport. Enter at `assistant_message`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal


@dataclass(frozen=True)
class ThinkingDelta:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """The model began to call the tool `name`; `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A fragment of the JSON object of arguments; all fragments of a call joined are valid JSON."""

    index: int
    text: str


@dataclass(frozen=True)
class ToolCallEnd:
    """A call is over; `arguments` equals the joined fragments, parsed.

    `complete` is False when the output ended inside the call. Its arguments may then be cut off
    anywhere, so it should be shown and reported back rather than carried out.
    """

    index: int
    id: str
    name: str
    arguments: dict[str, Any]
    complete: bool = True


@dataclass(frozen=True)
class Usage:
    """Tokens counted and seconds spent for one answer; `completion_tokens` includes thinking and calls."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0


Reason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True)
class Finished:
    """The last event of an answer. `stop_string` is the caller's stop string that ended it, if one did."""

    reason: Reason
    usage: Usage = Usage()
    stop_string: str | None = None


Event = ThinkingDelta | TextDelta | ToolCallStart | ToolCallDelta | ToolCallEnd | Finished


def merge_events(events: Iterable[Event]) -> list[Event]:
    """Join neighbouring deltas of one kind (and one call); empty deltas vanish. The rest is kept as it is."""

    def kind(event: Event) -> tuple[type, int | None]:
        return type(event), getattr(event, "index", None)

    kept = (event for event in events if getattr(event, "text", None) != "")
    merged: list[Event] = []
    for _, group in groupby(kept, kind):
        run = list(group)
        if isinstance(run[0], ThinkingDelta | TextDelta | ToolCallDelta) and len(run) > 1:
            run = [replace(run[0], text="".join(event.text for event in run))]  # type: ignore[union-attr]
        merged.extend(run)
    return merged


def assistant_message(events: Iterable[Event]) -> dict[str, Any]:
    """The message to append to a conversation after an answer, in the form chat templates read.

    Keys: role, content, reasoning_content (both always strings, so that no template looks for thinking
    inside the content) and, if there are calls, tool_calls with arguments as a dict. A call in which the output
    ended has complete: False. Text before, between and after calls becomes one content, because a message has one.
    """
    thinking: list[str] = []
    text: list[str] = []
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case ThinkingDelta(piece):
                thinking.append(piece)
            case TextDelta(piece):
                text.append(piece)
            case ToolCallEnd():
                function = {"name": event.name, "arguments": event.arguments}
                cut = {} if event.complete else {"complete": False}
                calls.append({"id": event.id, "type": "function", "function": function, **cut})
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text),
        "reasoning_content": "".join(thinking),
    }
    if calls:
        message["tool_calls"] = calls
    return message
