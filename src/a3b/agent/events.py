"""What the agent tells its front ends: the terminal, the headless mode, editors. Enter at `AgentEvent`.

Events of one session come in order. Texts are as the model or a tool wrote them: whoever shows them escapes them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SessionOpened:
    """The first event. context: tokens that the server can hold; exact_replay: whether it keeps sampled tokens."""

    session: str
    directory: str
    model: str
    base_url: str
    context: int
    sandbox: str
    exact_replay: bool
    is_resumed: bool = False


@dataclass(frozen=True)
class TurnStarted:
    """A request to the model goes out; turns count from 1 within a session."""

    turn: int


@dataclass(frozen=True)
class PromptProgress:
    """So many tokens of the prompt have been read, `cached` of them without computing."""

    read: int
    total: int
    cached: int = 0


@dataclass(frozen=True)
class ThinkingChunk:
    text: str


@dataclass(frozen=True)
class TextChunk:
    text: str


@dataclass(frozen=True)
class CallProgress:
    """The model is writing a call of a tool; so many characters of its arguments have come."""

    tool: str
    characters: int


@dataclass(frozen=True)
class TokenUsage:
    """Cost of one turn. read: prompt tokens that were computed; cached: that were not; written: of the answer, with
    `thinking` of them; seconds for the prompt and for the answer; drafted: read ahead, `accepted` of them for the
    answer. 0 where the server does not say."""

    read: int
    cached: int
    written: int
    thinking: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    drafted: int = 0
    accepted: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.read + other.read,
            self.cached + other.cached,
            self.written + other.written,
            self.thinking + other.thinking,
            round(self.prefill_s + other.prefill_s, 3),
            round(self.decode_s + other.decode_s, 3),
            self.drafted + other.drafted,
            self.accepted + other.accepted,
        )


@dataclass(frozen=True)
class TurnFinished:
    """The model's turn is complete. reason: "stop", "tool_calls" or "length". recomputed: tokens of the history that
    had to be read again; None where the server does not say."""

    turn: int
    reason: str
    usage: TokenUsage
    recomputed: int | None = None


@dataclass(frozen=True)
class ToolStarted:
    """A call is about to run. summary: one line for people, such as "edit calc.py"."""

    call: str
    tool: str
    arguments: dict[str, Any]
    summary: str


@dataclass(frozen=True)
class ToolOutput:
    """A piece of what a running call prints."""

    call: str
    text: str


@dataclass(frozen=True)
class ToolFinished:
    """text: what the model gets to read; diff: what changed, in unified form, for people."""

    call: str
    tool: str
    text: str
    is_error: bool
    diff: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Steered:
    """What the user typed meanwhile has joined the conversation."""

    text: str


@dataclass(frozen=True)
class Compacted:
    """The conversation begins anew from a summary. Token counts of the prompt before and after."""

    before: int
    after: int
    summary: str


@dataclass(frozen=True)
class Notice:
    """A word to the user that the model does not read. level: "info", "warning" or "error"."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class TaskFinished:
    """The last event of a task. status: "done", "stopped" (by the user), "limit" (turns, tokens or time), "stuck" or
    "failed"; text: the model's last words, or what went wrong."""

    status: str
    text: str
    turns: int
    usage: TokenUsage


AgentEvent = (
    SessionOpened
    | TurnStarted
    | PromptProgress
    | ThinkingChunk
    | TextChunk
    | CallProgress
    | TurnFinished
    | ToolStarted
    | ToolOutput
    | ToolFinished
    | Steered
    | Compacted
    | Notice
    | TaskFinished
)


def event_json(event: AgentEvent) -> dict[str, Any]:
    """The form of `--json`: {"type": "turn_started", ...}."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return {"type": name, **asdict(event)}
