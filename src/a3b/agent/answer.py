"""Puts an answer together from the chunks of a stream, which come in pieces, out of order, or wrong.

Enter at `AnswerReader`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from a3b.agent.event_lines import BadStreamError
from a3b.agent.events import CallProgress, PromptProgress, TextChunk, ThinkingChunk, TokenUsage

MAX_CALLS = 64  # of one answer
MAX_NAME = 200
MAX_ANSWER = 8 << 20  # characters; the longest answer that is asked for has some 150,000
MOST = 1 << 40  # more tokens or milliseconds are a lie
CUT_KEY = "arguments"  # where arguments go that are no JSON object, as the server itself keeps them


@dataclass(frozen=True)
class WrittenCall:
    """A call as the model wrote it; arguments: the text, which may be no JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ModelAnswer:
    """A complete answer. message: as it is sent back; reason: "stop", "tool_calls" or "length"; prompt, cached: tokens,
    None where the server does not say; thinking_stop: who ended the thinking, on a3b's server; is_cut: whether the
    last call is not complete."""

    message: dict[str, Any]
    calls: tuple[WrittenCall, ...]
    reason: str
    usage: TokenUsage
    prompt: int | None = None
    cached: int | None = None
    thinking_stop: str = ""
    is_cut: bool = False

    @property
    def text(self) -> str:
        return str(self.message.get("content") or "")


@dataclass
class _Call:
    index: int | None
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    size: int = 0  # characters

    @property
    def is_complete(self) -> bool:
        """Whether its arguments are whole."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads("".join(self.pieces)), dict)
        except (ValueError, RecursionError):
            return False


class AnswerReader:
    """Collects one answer."""

    def __init__(self, used_ids: Collection[str] = ()):
        """used_ids: ids of earlier calls; a server that counts from 0 in each answer gets others."""
        self._used = set(used_ids)
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._thinking_key = "reasoning_content"
        self._calls: list[_Call] = []
        self._usage: dict[str, Any] = {}
        self._report: dict[str, Any] = {}
        self._thinking_stop = ""
        self._size = 0  # characters so far
        self.finish: str | None = None
        self.is_ended = False  # as the server says; not all give a reason for the end

    @property
    def has_begun(self) -> bool:
        return bool(self._text or self._thinking or self._calls)

    @property
    def longest_call(self) -> int:
        """Characters of arguments."""
        return max((call.size for call in self._calls), default=0)

    def add(self, chunk: dict[str, Any]) -> Iterator[PromptProgress | ThinkingChunk | TextChunk | CallProgress]:
        """Takes a chunk; what there is to show of it. Raises BadStreamError for an error that the server tells."""
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise BadStreamError(f"the server broke off: {error_text(chunk)}")
        if isinstance(progress := chunk.get("prompt_progress"), dict):
            read, total = count(progress.get("processed")), count(progress.get("total"))
            if read is not None and total is not None:
                yield PromptProgress(read, total, count(progress.get("cache")) or 0)
        for key, place in (("usage", self._usage), ("timings", self._usage), ("a3b", self._report)):
            if isinstance(found := chunk.get(key), dict):
                place.update(found)
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message")
        delta = choice.get("delta", message)
        if isinstance(delta, dict):
            yield from self._delta(delta, is_whole=delta is message)
        if isinstance(stop := choice.get("thinking_stop_reason"), str):
            self._thinking_stop = stop
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self.finish = reason

    def _delta(self, delta: dict[str, Any], is_whole: bool) -> Iterator[ThinkingChunk | TextChunk | CallProgress]:
        for key in ("reasoning_content", "reasoning"):
            if piece := _text_of(delta.get(key)):
                self._thinking_key = key if not self._thinking else self._thinking_key
                self._thinking.append(self._bounded(piece))
                yield ThinkingChunk(piece)
                break
        if piece := _text_of(delta.get("content")):
            self._text.append(self._bounded(piece))
            yield TextChunk(piece)
        calls = delta.get("tool_calls")
        for given in calls if isinstance(calls, list) else ():
            if isinstance(given, dict):
                call = self._call(given, is_whole)
                yield CallProgress(call.name, call.size)

    def _bounded(self, piece: str) -> str:
        """The piece. Raises BadStreamError if the answer has become endless."""
        self._size += len(piece)
        if self._size > MAX_ANSWER:
            raise BadStreamError(f"an answer has more than {MAX_ANSWER >> 20} MiB of text")
        return piece

    def _call(self, given: dict[str, Any], is_whole: bool) -> _Call:
        index = given["index"] if type(given.get("index")) is int else None
        id = given["id"] if isinstance(given.get("id"), str) else ""
        function = given.get("function")
        function = function if isinstance(function, dict) else {}
        name = function["name"] if isinstance(function.get("name"), str) else ""
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some servers send the object
            arguments = json.dumps(arguments, ensure_ascii=False)
        call = None if is_whole else self._found(index, id, bool(name))
        if call is None:
            if len(self._calls) >= MAX_CALLS:
                raise BadStreamError(f"more than {MAX_CALLS} calls in one answer")
            call = _Call(index)
            self._calls.append(call)
        call.id = call.id or id[:MAX_NAME]
        call.name = call.name or name[:MAX_NAME]
        if isinstance(arguments, str):
            call.pieces.append(self._bounded(arguments))
            call.size += len(arguments)
        return call

    def _found(self, index: int | None, id: str, has_name: bool) -> _Call | None:
        """The call that a piece belongs to. Another id, or a name after arguments that are whole, begins another call,
        also at the same index; a piece without a name goes on with one, also under another id."""
        same = [call for call in self._calls if index is None or call.index == index]
        same = [call for call in same if call.id == id] or same if id else same
        if not same:
            return None
        call = same[-1]
        is_other = (call.id != id if id and call.id else call.is_complete) and has_name and bool(call.name)
        return None if is_other else call

    def answer(self) -> ModelAnswer:
        """What came. Raises BadStreamError for an answer that broke off."""
        if self.finish is None and not (self.has_begun and (self._usage or self.is_ended)):
            raise BadStreamError("the connection broke off in the middle of an answer")
        return self._made(self.finish or ("tool_calls" if self._calls else "stop"))

    def beginning(self) -> dict[str, Any] | None:
        """The message of an answer that was stopped, without its calls; None if nothing came."""
        self._calls = []
        return self._made("stop").message if self._text or self._thinking else None

    def _made(self, finish: str) -> ModelAnswer:
        ordered = sorted(self._calls, key=lambda call: call.index or 0)
        ids = [self._unused(call.id) for call in ordered]
        calls = tuple(
            WrittenCall(id, call.name, "".join(call.pieces)) for id, call in zip(ids, ordered, strict=True) if call.name
        )
        reason = "length" if finish == "length" else "tool_calls" if calls else "stop"
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text)}
        if self._thinking:
            message[self._thinking_key] = "".join(self._thinking)
        if calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": fit_arguments(c.arguments)}}
                for c in calls
            ]
        is_cut = reason == "length" and bool(calls)
        prompt, cached = count(self._usage.get("prompt_tokens")), self._cached()
        return ModelAnswer(
            message, calls, reason, self._cost(prompt, cached), prompt, cached, self._thinking_stop, is_cut
        )

    def _unused(self, id: str) -> str:
        while not id or id in self._used:
            id = f"call_{uuid.uuid4().hex[:12]}"
        self._used.add(id)
        return id

    def _cached(self) -> int | None:
        details = self._usage.get("prompt_tokens_details")
        found = count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return found if found is not None else count(self._usage.get("cache_n"))

    def _cost(self, prompt: int | None, cached: int | None) -> TokenUsage:
        details = self._usage.get("completion_tokens_details")
        thinking = count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
        drafts = found if isinstance(found := self._report.get("speculation"), dict) else {}
        return TokenUsage(
            read=max((prompt or 0) - (cached or 0), 0),
            cached=cached or 0,
            written=count(self._usage.get("completion_tokens")) or 0,
            thinking=thinking or 0,
            prefill_s=self._seconds("prefill_s", "prompt_ms"),
            decode_s=self._seconds("decode_s", "predicted_ms"),
            drafted=count(drafts.get("drafted")) or count(self._usage.get("draft_n")) or 0,
            accepted=count(drafts.get("accepted")) or count(self._usage.get("draft_n_accepted")) or 0,
        )

    def _seconds(self, ours: str, llama: str) -> float:
        for value, scale in ((self._report.get(ours), 1.0), (self._usage.get(llama), 1e-3)):
            if isinstance(value, int | float) and 0 <= value < MOST:
                return round(float(value) * scale, 3)
        return 0.0


def _text_of(content: Any) -> str:
    """Text, also where a server sends it in parts: {"type": "text", "text": ...}."""
    if isinstance(content, list):
        return "".join(_text_of(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def count(value: object) -> int | None:
    """A number of tokens that a server tells; None for anything else."""
    return value if type(value) is int and 0 <= value < MOST else None


def fit_arguments(text: str) -> str:
    """Arguments as they may stand in a conversation: servers refuse a call whose arguments are no JSON object."""
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({CUT_KEY: text}, ensure_ascii=False) if text.strip() else "{}"


def error_text(body: Any) -> str:
    """What an error of a server says, in any of the common forms; at most 500 characters."""
    found = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or json.dumps(found, ensure_ascii=False, default=str)
    return str(found)[:500]
