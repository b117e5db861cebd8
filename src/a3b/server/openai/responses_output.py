"""Events of the engine as output items and stream events of the Responses API. Enter at `OutputBuilder`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from a3b.interface.events import (
    Event,
    Finished,
    TextDelta,
    ThinkingDelta,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from a3b.server.openai.responses_items import new_id
from a3b.server.openai.responses_tools import ToolTable
from a3b.server.thinking_signatures import ThinkingSigner

StreamEvent = dict[str, Any]
LEAST_LOGPROB = -9999.0  # JSON has no minus infinity


class OutputBuilder:
    """Grows by events: `push` gives the stream events of each, not yet numbered. `items` is the output so far."""

    def __init__(self, tools: ToolTable, signer: ThinkingSigner, namespace: str, has_summary: bool, is_encrypted: bool):
        """has_summary: send the thinking as a summary too, for clients that show only summaries. is_encrypted: add
        `encrypted_content` to it."""
        self.tools, self.signer, self.namespace = tools, signer, namespace
        self.has_summary, self.is_encrypted = has_summary, is_encrypted
        self.items: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.text = ""  # of the open item
        self.logprobs: list[dict[str, Any]] = []  # not sent yet
        self.sent: list[dict[str, Any]] = []  # of the open item
        self.is_open = False
        self.custom = CustomInputDecoder()

    def push(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case ThinkingDelta(text) if text:
                yield from self._open("reasoning", summary=[], content=[])
                yield from self._add("reasoning_text", text)
            case TextDelta(text) if text:
                yield from self._open("message", role="assistant", content=[])
                yield from self._add("output_text", text)
            case TokenLogprobs():
                self.logprobs.append(_logprob(event))
            case ToolCallStart():
                yield from self._open_call(event)
            case ToolCallDelta(_, text) if text:
                yield from self._add_arguments(text)
            case ToolCallEnd():
                yield from self._close_call(event)
            case Finished():
                yield from self._close(is_complete=event.reason != "length")

    def _event(self, kind: str, **rest: Any) -> StreamEvent:
        return {
            "type": f"response.{kind}",
            "item_id": self.items[-1]["id"],
            "output_index": len(self.items) - 1,
            **rest,
        }

    def _open(self, kind: str, **rest: Any) -> Iterator[StreamEvent]:
        """Open a new item unless the open one is of this kind."""
        if self.is_open and self.items[-1]["type"] == kind:
            return
        yield from self._close()
        item = {"id": new_id(kind), "type": kind, "status": "in_progress", **rest}
        self.items.append(item)
        self.is_open, self.text = True, ""
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": dict(item)}
        if kind in ("reasoning", "message"):
            yield self._event("content_part.added", content_index=0, part=_part(kind, ""))
        if kind == "reasoning" and self.has_summary:
            yield self._event("reasoning_summary_part.added", summary_index=0, part=_summary(""))

    def _add(self, kind: str, text: str) -> Iterator[StreamEvent]:
        self.text += text
        if kind == "output_text":
            fresh, self.logprobs = self.logprobs, []
            self.sent += fresh
            yield self._event("output_text.delta", content_index=0, delta=text, logprobs=fresh)
            return
        yield self._event("reasoning_text.delta", content_index=0, delta=text)
        if self.has_summary:
            yield self._event("reasoning_summary_text.delta", summary_index=0, delta=text)

    def _close(self, is_complete: bool = True) -> Iterator[StreamEvent]:
        if not self.is_open:
            return
        item, kind, self.is_open = self.items[-1], self.items[-1]["type"], False
        item["status"] = "completed" if is_complete else "incomplete"
        if kind == "message":
            logprobs, self.sent, self.logprobs = [*self.sent, *self.logprobs], [], []
            item["content"] = [{**_part(kind, self.text), "logprobs": logprobs}]
            yield self._event("output_text.done", content_index=0, text=self.text, logprobs=logprobs)
        elif kind == "reasoning":
            item["content"] = [_part(kind, self.text)]
            yield self._event("reasoning_text.done", content_index=0, text=self.text)
            if self.has_summary:
                item["summary"] = [_summary(self.text)]
                yield self._event("reasoning_summary_text.done", summary_index=0, text=self.text)
                yield self._event("reasoning_summary_part.done", summary_index=0, part=item["summary"][0])
            if self.is_encrypted:
                item["encrypted_content"] = self.signer.encrypt(self.text, self.namespace)
        if kind in ("reasoning", "message"):
            yield self._event("content_part.done", content_index=0, part=item["content"][0])
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    # -- calls

    def _open_call(self, event: ToolCallStart) -> Iterator[StreamEvent]:
        origin = self.tools.origin(event.name)
        names = {"name": origin.name, **({"namespace": origin.namespace} if origin.namespace else {})}
        self.custom = CustomInputDecoder()
        if origin.is_custom:
            yield from self._open("custom_tool_call", call_id=event.id, **names, input="")
        else:
            yield from self._open("function_call", call_id=event.id, **names, arguments="")

    def _add_arguments(self, text: str) -> Iterator[StreamEvent]:
        if self.items[-1]["type"] == "function_call":
            self.text += text
            yield self._event("function_call_arguments.delta", delta=text)
        elif piece := self.custom.push(text):
            self.text += piece
            yield self._event("custom_tool_call_input.delta", delta=piece)

    def _close_call(self, event: ToolCallEnd) -> Iterator[StreamEvent]:
        item = self.items[-1]
        if not event.complete:
            self.warnings.append(f"tool call {event.id} is incomplete: the output ended inside it")
        if item["type"] == "function_call":
            if not self.text:
                yield from self._add_arguments(json.dumps(event.arguments, ensure_ascii=False))
            item["arguments"] = self.text
            yield self._event("function_call_arguments.done", name=item["name"], arguments=self.text)
        else:
            given = event.arguments.get("input", "")
            whole = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            if not self.text and whole:
                yield self._event("custom_tool_call_input.delta", delta=whole)
            item["input"] = whole
            yield self._event("custom_tool_call_input.done", input=whole)
        yield from self._close(event.complete)


class CustomInputDecoder:
    """Decodes the string of {"input": "..."} from fragments of that JSON, each character as soon as it is complete."""

    _BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')
    _WHOLE = re.compile(r'(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*')
    _HALF_PAIR = re.compile(r"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})\Z")

    def __init__(self) -> None:
        self.rest = ""
        self.is_inside = False

    def push(self, text: str) -> str:
        self.rest += text
        if not self.is_inside:
            begin = self._BEGIN.match(self.rest)
            if begin is None:
                return ""
            self.rest, self.is_inside = self.rest[begin.end() :], True
        match = self._WHOLE.match(self.rest)
        piece = match[0] if match else ""
        if half := self._HALF_PAIR.search(piece):
            piece = piece[: half.start(1)]
        self.rest = self.rest[len(piece) :]
        decoded: str = json.loads(f'"{piece}"', strict=False)
        return decoded


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _logprob(event: TokenLogprobs) -> dict[str, Any]:
    def one(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token.decode("utf-8", "replace"), "bytes": list(token), "logprob": max(logprob, LEAST_LOGPROB)}

    return {**one(event.token, event.logprob), "top_logprobs": [one(token, logprob) for _, token, logprob in event.top]}
