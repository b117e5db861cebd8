"""What the answers to one call amount to, put together from their events. Knows OpenAI's form of usage and logprobs,
but no whole response.

Enter at `Choice`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from a3b.interface.events import (
    Event,
    Finished,
    PromptLogprobs,
    Started,
    TextDelta,
    ThinkingDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)

LEAST_LOGPROB = -9999.0  # JSON has no minus infinity


@dataclass
class StreamedToolCall:
    """A tool call as far as it has arrived; its pieces joined are the JSON of the arguments."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": "".join(self.pieces)}


@dataclass
class Choice:
    """One answer as far as it has arrived."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: dict[int, StreamedToolCall] = field(default_factory=dict)
    logprobs: list[TokenLogprobs | PromptLogprobs] = field(default_factory=list)  # of tokens not sent yet
    finished: Finished | None = None
    cached: int = 0  # tokens of the prompt that were not computed

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text):
                self.text.append(text)
            case ThinkingDelta(text):
                self.thinking.append(text)
            case ToolCallStart():
                self.calls[event.index] = StreamedToolCall(event.id, event.name)
            case ToolCallDelta():
                self.calls[event.index].pieces.append(event.text)
            case TokenLogprobs() | PromptLogprobs():
                self.logprobs.append(event)
            case Started():
                self.cached = event.usage.cached_tokens
            case Finished():
                self.finished = event

    def take_logprobs(self) -> list[TokenLogprobs | PromptLogprobs]:
        taken, self.logprobs = self.logprobs, []
        return taken

    @property
    def end(self) -> Finished:
        if self.finished is None:
            raise RuntimeError("a stream of the service ended without Finished")
        return self.finished


def total(choices: list[Choice], prompts: int = 1) -> Usage:
    """The usage of all choices; a prompt with several choices counts once."""
    usages = [choice.end.usage for choice in choices]
    asked = usages[:: len(usages) // prompts]
    return Usage(
        sum(u.prompt_tokens for u in asked),
        sum(u.cached_tokens for u in asked),
        sum(u.completion_tokens for u in usages),
        sum(u.thinking_tokens for u in usages),
    )


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
    }


def chat_logprobs(tokens: Iterable[TokenLogprobs | PromptLogprobs]) -> dict[str, Any]:
    def one(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token.decode("utf-8", "replace"), "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(token)}

    content = [
        {**one(t.token, t.logprob), "top_logprobs": [one(token, value) for _, token, value in t.top]}
        for t in tokens
        if isinstance(t, TokenLogprobs)
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Iterable[TokenLogprobs | PromptLogprobs], offset: int = 0) -> dict[str, Any]:
    """The form of text completions. offset: where the first token starts in the text, in characters.

    Of several tokens with the same text, the most likely one counts."""
    found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for t in tokens:
        token = t.token.decode("utf-8", "replace")
        top: dict[str, float] = {}
        for _, other, value in t.top:
            top.setdefault(other.decode("utf-8", "replace"), max(value, LEAST_LOGPROB))
        found["tokens"].append(token)
        found["token_logprobs"].append(None if t.logprob is None else max(t.logprob, LEAST_LOGPROB))
        found["top_logprobs"].append(None if t.logprob is None else top)
        found["text_offset"].append(offset)
        offset += len(token)
    return found
