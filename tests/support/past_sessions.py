"""Sessions of the agent on disk, as transcripts that a test writes. Enter at `past_session`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from a3b.agent.events import TokenUsage
from a3b.agent.sessions import ProjectSessions


def past_session(sessions: ProjectSessions, *turns: dict[str, Any], kind: str = "session") -> str:
    """Writes a session and returns its id. turns: task, thinking, answer, call (name, arguments as JSON) and result,
    each where it is given."""
    transcript = sessions.create(kind)
    transcript.say({"role": "system", "content": "You are a3b."})
    for number, turn in enumerate(turns, 1):
        if "task" in turn:
            text = f"<environment>\ndirectory: {sessions.workspace}\n</environment>\n\n{turn['task']}"
            transcript.say({"role": "user", "content": text}, task=turn["task"])
        message: dict[str, Any] = {"role": "assistant", "content": turn.get("answer", "")}
        if "thinking" in turn:
            message["reasoning_content"] = turn["thinking"]
        if "call" in turn:
            name, arguments = turn["call"]
            call = {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            message["tool_calls"] = [call]
        transcript.answer(message, TokenUsage(0, 0, 0))
        if "result" in turn:
            transcript.say({"role": "tool", "tool_call_id": f"call_{number}", "content": turn["result"]})
    transcript.close()
    return transcript.head.id


def sessions_in(tmp_path: Path, name: str = "project", api_key: str = "") -> ProjectSessions:
    """Sessions of a directory below `tmp_path`, which is made."""
    workspace = tmp_path / name
    workspace.mkdir(exist_ok=True)
    return ProjectSessions(tmp_path / "home", workspace, api_key)
