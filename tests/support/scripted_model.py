"""An OpenAI-compatible server whose answers are a script: for tests of the agent without a model.

Tokens are characters, so that every byte that changes in what was sent before shows: `cached` is how much of a prompt
begins as an earlier prompt and its answer did, as on a server with an exact prefix cache."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.served import served

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
Script = Callable[[dict[str, Any], int], Any]


@dataclass
class Says:
    """An answer. calls: (name, arguments as an object or as text); pause: seconds before each piece; breaks: whether
    the connection ends before the answer does."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[tuple[str, Any]] = ()
    reason: str = ""
    pause: float = 0.0
    breaks: bool = False

    def deltas(self, turn: int) -> Iterator[dict[str, Any]]:
        for i in range(0, len(self.thinking), 7):
            yield {"reasoning_content": self.thinking[i : i + 7]}
        for i in range(0, len(self.text), 7):
            yield {"content": self.text[i : i + 7]}
        for i, (name, arguments) in enumerate(self.calls):
            text = arguments_of(arguments)
            yield {"tool_calls": [{"index": i, "id": f"call_{turn}_{i}", "function": {"name": name, "arguments": ""}}]}
            for j in range(0, len(text), 500):
                yield {"tool_calls": [{"index": i, "function": {"arguments": text[j : j + 500]}}]}

    def message(self) -> str:
        return json.dumps([self.thinking, self.text, [name for name, _ in self.calls]])


@dataclass
class ScriptedModel:
    """answers: what it says, in order; the last one again and again. A number is an HTTP status, bytes are sent as they
    are, a response too; a function gets the body and the number of the request from 1. streams: False refuses to, and
    tells usage with whole answers alone, as llama-cpp-python's server does with tools."""

    answers: Sequence[Says | int | bytes | Script]
    context: int = 100_000
    owner: str = "a3b"
    tells_usage: bool = True
    streams: bool = True
    positions: str = ""  # how they are read, if it says so
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: int = 0  # answers that a client did not hear to the end
    _known: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
            ]
        )

    @contextmanager
    def serving(self) -> Iterator[str]:
        with served(self.app()) as url:
            yield url

    async def _models(self, http: Request) -> Response:
        model = {"id": "scripted", "object": "model", "owned_by": self.owner, "max_model_len": self.context}
        model |= {"positions": self.positions} if self.positions else {}
        return JSONResponse({"object": "list", "data": [model]})

    async def _tokenize(self, http: Request) -> Response:
        return JSONResponse({"count": len(prompt_of(await http.json()))})

    async def _chat(self, http: Request) -> Response:
        body = await http.json()
        self.bodies.append(body)
        self.headers.append(dict(http.headers))
        number = len(self.bodies)
        if wrong := self._wrong_stream(body):
            return JSONResponse({"error": {"message": wrong, "type": "invalid_request_error"}}, 400)
        answer = self.answers[min(number, len(self.answers)) - 1]
        if callable(answer):
            answer = answer(body, number)
        if isinstance(answer, int):
            error = {"error": {"message": f"refused with {answer}", "type": "test"}}
            return JSONResponse(error, answer, {"retry-after": "0"})
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, bytes):
            return Response(answer, media_type="text/event-stream")
        if not body.get("stream"):
            return JSONResponse(await self._whole(body, answer, number))
        return StreamingResponse(self._stream(body, answer, number), media_type="text/event-stream")

    def _wrong_stream(self, body: dict[str, Any]) -> str:
        """What is wrong with the fields of a stream."""
        if body.get("stream"):
            return "" if self.streams else "Automatic streaming tool choice is not supported"
        return "stream_options: only with stream" if "stream_options" in body else ""

    async def _whole(self, body: dict[str, Any], answer: Says, number: int) -> dict[str, Any]:
        await asyncio.sleep(answer.pause)
        functions = [{"name": name, "arguments": arguments_of(given)} for name, given in answer.calls]
        calls = [{"id": f"call_{number}_{i}", "type": "function", "function": f} for i, f in enumerate(functions)]
        message = {"role": "assistant", "content": answer.text, "reasoning_content": answer.thinking}
        message |= {"tool_calls": calls} if calls else {}
        reason = answer.reason or ("tool_calls" if calls else "stop")
        usage = self._usage(body, answer, self._cached(body))
        usage["completion_tokens_details"] = {"reasoning_tokens": len(answer.thinking)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        told = {"usage": usage} if self.tells_usage else {}
        return {**HEAD, "object": "chat.completion", "choices": [choice], **told}

    async def _stream(self, body: dict[str, Any], answer: Says, number: int) -> AsyncIterator[bytes]:
        cached = self._cached(body)
        ended = False
        try:
            yield chunk({"role": "assistant", "content": ""})
            for delta in answer.deltas(number):
                self.started.set()
                if answer.pause:
                    yield b": waiting\n\n"
                    await asyncio.sleep(answer.pause)
                yield chunk(delta)
            if answer.breaks:
                raise ConnectionResetError
            reason = answer.reason or ("tool_calls" if answer.calls else "stop")
            yield chunk({}, reason)
            usage = self._usage(body, answer, cached)
            data = {**HEAD, "choices": [], "usage": usage, "a3b": {"prefill_s": 0.5, "decode_s": 0.25}}
            if self.tells_usage:
                yield b"data: " + json.dumps(data).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"
            ended = True
        finally:
            self.left += not ended

    def _cached(self, body: dict[str, Any]) -> int:
        """How much of a prompt an earlier one and its answer began with."""
        prompt = prompt_of(body)
        return max((len(os.path.commonprefix([prompt, known])) for known in self._known), default=0)

    def _usage(self, body: dict[str, Any], answer: Says, cached: int) -> dict[str, Any]:
        """Of an answer that has ended, which the cache knows from now on."""
        prompt, written = prompt_of(body), answer.message()
        self._known.append(prompt + written)
        return {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(written),
            "total_tokens": len(prompt) + len(written),
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def arguments_of(given: Any) -> str:
    """As text, whatever a script has."""
    return given if isinstance(given, str) else json.dumps(given)


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n"


def prompt_of(body: dict[str, Any]) -> str:
    """What stands for the rendered prompt: an answer that comes back looks as it was written."""
    parts = [json.dumps(body.get("tools", []))]
    for message in body["messages"]:
        if message["role"] == "assistant":
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            parts.append(json.dumps([message.get("reasoning_content", ""), message["content"], names]))
        else:
            parts.append(json.dumps(message))
    return "".join(parts)
