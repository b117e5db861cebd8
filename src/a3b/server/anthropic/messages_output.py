"""The answer of Anthropic's Messages API, from events of the engine: its stream events and the whole message. Enter at
`MessageBuilder`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from a3b.interface.events import (
    Event,
    Finished,
    Reading,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from a3b.interface.request import Request
from a3b.server.anthropic.threads import Threads
from a3b.server.report import report
from a3b.server.thinking_signatures import ThinkingSigner


@dataclass(frozen=True)
class MessagesRequest:
    """A request as it was understood."""

    request: Request
    stream: bool
    hide_thinking: bool  # send the thinking encrypted in its signature only
    warnings: list[str]
    model: str  # the name that was asked for
    whole: Mapping[str, Any]  # the body, with the conversation of its thread
    is_thread: bool


class MessageBuilder:
    """Turns events of the engine into events of this API; `content` is the message so far."""

    def __init__(self, signer: ThinkingSigner, parsed: MessagesRequest, threads: Threads):
        self.signer, self.parsed, self.threads = signer, parsed, threads
        self.id = f"msg_{uuid.uuid4().hex[:24]}"
        self.usage = Usage()
        self.content: list[dict[str, Any]] = []
        self.warnings = list(parsed.warnings)
        self.block: dict[str, Any] | None = None  # the open one, the last of `content`
        self.thought = ""  # text of the open thinking block
        self.is_begun = False

    def push(self, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(event, Started | Finished):
            self.usage = event.usage
        if isinstance(event, Started):
            self.warnings += event.warnings
        if not self.is_begun and not isinstance(event, Reading):
            yield from self.begin()
        match event:
            case Reading(done, total):
                yield from self.alive({"a3b": {"read": done, "total": total}})
            case ThinkingDelta(text) if text:
                yield from self._open("thinking", {"thinking": "", "signature": ""})
                self.thought += text
                if not self.parsed.hide_thinking:
                    yield from self._delta("thinking", "thinking_delta", text)
            case TextDelta(text) if text:
                yield from self._open("text", {"text": ""})
                yield from self._delta("text", "text_delta", text)
            case ToolCallStart():
                yield from self._open("tool_use", {"id": event.id, "name": event.name, "input": {}})
            case ToolCallDelta(_, text) if text:
                yield self._event("content_block_delta", delta={"type": "input_json_delta", "partial_json": text})
            case ToolCallEnd():
                if self.block is not None:
                    self.block["input"] = event.arguments
                if not event.complete:
                    self.warnings.append(f"tool call {event.id} is incomplete: the output ended inside it")
                yield from self._close()
            case Finished():
                yield from self._close()

    def begin(self) -> Iterator[dict[str, Any]]:
        self.is_begun = True
        yield {"type": "message_start", "message": self._message(None, None, usage=_usage(self.usage))}

    def alive(self, told: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Keep the stream alive. Pings alone are not enough: Claude Code disconnects after 300 s of nothing else. If
        thinking was asked for, an empty piece of thinking serves."""
        yield {"type": "ping", **(told or {})}
        is_next = not self.content or (self.block is not None and self.block["type"] == "thinking")
        if self.is_begun and self.parsed.request.think and is_next:
            yield from self._open("thinking", {"thinking": "", "signature": ""})
            yield from self._delta("thinking", "thinking_delta", "")

    def keep(self) -> None:
        """Store the answer in its thread before the end is sent: the client may continue it at once."""
        if self.parsed.is_thread:
            self.threads.put(self.parsed.request.namespace, self.id, self.parsed.whole, self.content)

    def end(self, finished: Finished) -> Iterator[dict[str, Any]]:
        self.keep()
        reason, stop = _stop(finished)
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": stop},
            "usage": _usage(finished.usage),
            "a3b": report(finished, self.warnings),
        }
        yield {"type": "message_stop"}

    def whole(self, finished: Finished) -> dict[str, Any]:
        self.keep()
        told = report(finished, self.warnings)
        return {**self._message(*_stop(finished), usage=_usage(finished.usage)), "content": self.content, "a3b": told}

    def _message(self, reason: str | None, stop: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.parsed.model,
            "content": [],
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _event(self, kind: str, **rest: Any) -> dict[str, Any]:
        return {"type": kind, "index": len(self.content) - 1, **rest}

    def _open(self, kind: str, empty: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Open a new block unless the open one is of this kind."""
        if self.block is not None and self.block["type"] == kind:
            return
        yield from self._close()
        self.block = {"type": kind, **empty}
        self.content.append(self.block)
        yield self._event("content_block_start", content_block=dict(self.block))

    def _delta(self, key: str, kind: str, text: str) -> Iterator[dict[str, Any]]:
        assert self.block is not None
        self.block[key] += text
        yield self._event("content_block_delta", delta={"type": kind, key: text})

    def _close(self) -> Iterator[dict[str, Any]]:
        if self.block is None:
            return
        if self.block["type"] == "thinking":
            make = self.signer.encrypt if self.parsed.hide_thinking else self.signer.sign
            self.block["signature"] = make(self.thought, self.parsed.request.namespace)
            yield self._event(
                "content_block_delta", delta={"type": "signature_delta", "signature": self.block["signature"]}
            )
        yield self._event("content_block_stop")
        self.block, self.thought = None, ""


def _stop(finished: Finished) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    if finished.stop_string is not None:
        return "stop_sequence", finished.stop_string
    return {"length": "max_tokens", "tool_calls": "tool_use"}.get(finished.reason, "end_turn"), None


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
    }
