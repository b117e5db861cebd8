"""Goes on with a session that ended or broke off: calls get results, and the model is told what it cannot know.

Files are never put back by this. Enter at `close_calls`, `resume_note`, `plan_of`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress

from a3b.agent.transcript import AgentTranscript

LISTED = 30  # files that a note names
NOT_RUN = "Error: aborted: the session ended before this call ran; nothing was done."
BROKEN_OFF = (
    "Error: aborted: the session ended while this call ran. It may have had its effect, in part or whole: look before "
    "you repeat it."
)


def close_calls(transcript: AgentTranscript) -> int:
    """Gives each call without a result one that says so; returns how many there were."""
    open_calls: list[str] = []
    for message in transcript.messages:
        if message["role"] == "assistant":
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
        elif message["role"] == "tool" and message.get("tool_call_id") in open_calls:
            open_calls.remove(message["tool_call_id"])
    for id in open_calls:
        text = BROKEN_OFF if id in transcript.state.begun else NOT_RUN
        transcript.say({"role": "tool", "tool_call_id": id, "content": text})
    return len(open_calls)


def resume_note(transcript: AgentTranscript, changed: Sequence[str]) -> str:
    """What the model is told. changed: files that are known to have changed since, as lines."""
    head = transcript.head
    what = (
        f"This session is a fork of an earlier one, up to its turn {head.parent_turn}."
        if head.kind == "fork"
        else ("This session ended and is resumed now.")
    )
    text = (
        f"{what} Time: {time.strftime('%Y-%m-%d %H:%M')}. Files are as they are now, not as the conversation has them"
    )
    if not changed:
        return text + "; read what you need again."
    more = f"\nand {len(changed) - LISTED} more" if len(changed) > LISTED else ""
    return f"{text}. Changed since:\n" + "\n".join(changed[:LISTED]) + more


def plan_of(transcript: AgentTranscript) -> str:
    """The notes that the agent took last."""
    found = transcript.state.notes
    asked: dict[str, str] = {}
    for message in transcript.messages:
        for call in message.get("tool_calls", ()):
            if call["function"]["name"] == "plan":
                asked[call["id"]] = call["function"]["arguments"]
        given = asked.get(message.get("tool_call_id", ""))
        if given is not None and not message["content"].startswith("Error"):
            with suppress(ValueError, RecursionError, AttributeError):
                found = str(json.loads(given).get("text", ""))
    return found
