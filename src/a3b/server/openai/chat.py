"""OpenAI's /v1/chat/completions: its responses and stream chunks. `chat_request` reads the body. Enter at `routes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.interface.events import Event, Finished, Started, TextDelta, ThinkingDelta, ToolCallDelta, ToolCallStart
from a3b.server.context import ApiContext, namespace, request_id
from a3b.server.openai.chat_request import read_chat
from a3b.server.openai.choices import Choice, chat_logprobs
from a3b.server.openai.completion_base import CompletionResponder
from a3b.server.request_body import read_json


def routes(api: ApiContext) -> list[Route]:
    async def chat_completions(http: HttpRequest) -> Response:
        """The next message of a conversation (OpenAI chat completions)"""
        parsed = await read_json(http, lambda body: read_chat(body, namespace(http), request_id(http)))
        return await _ChatResponder(http, parsed, api.service.model).respond(api.service)

    return [Route(path, chat_completions, methods=["POST"]) for path in ("/v1/chat/completions", "/chat/completions")]


class _ChatResponder(CompletionResponder):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice_json(self, index: int, choice: Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": self._message(choice),
            "logprobs": chat_logprobs(choice.logprobs) if self.with_logprobs else None,
            "finish_reason": self._reason(choice.end),
            "thinking_stop_reason": choice.end.thinking_stop or None,
        }

    def _reason(self, finished: Finished) -> str:
        reason = "stop" if finished.reason == "cancelled" else finished.reason
        return "function_call" if reason == "tool_calls" and self.parsed.legacy_functions else reason

    def _message(self, choice: Choice) -> dict[str, Any]:
        text, calls = "".join(choice.text), list(choice.calls.values())
        thinking = "".join(choice.thinking) if self.parsed.show_thinking else ""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "reasoning_content": thinking or None,
            "reasoning": thinking or None,
            "refusal": None,
        }
        if calls and self.parsed.legacy_functions:
            message["function_call"] = calls[0].function
        elif calls:
            message["tool_calls"] = [{"id": call.id, "type": "function", "function": call.function} for call in calls]
        return message

    # -- streamed

    def pieces(self, index: int, choice: Choice, event: Event) -> Iterator[dict[str, Any]]:
        """The role comes first. Logprobs are sent with the text that they belong to."""
        if isinstance(event, Started):
            yield self._piece(index, {"role": "assistant", "content": ""})
        elif isinstance(event, Finished):
            if choice.logprobs:
                yield self._piece(index, {"content": ""}, choice)
            end = self._piece(index, {}, reason=self._reason(event))
            yield {**end, "thinking_stop_reason": event.thinking_stop or None}
        elif (delta := self._delta(event)) is not None:
            yield self._piece(index, delta, choice if "content" in delta else None)

    def _piece(
        self, index: int, delta: dict[str, Any], choice: Choice | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = chat_logprobs(choice.take_logprobs()) if self.with_logprobs and choice is not None else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _delta(self, event: Event) -> dict[str, Any] | None:
        match event:
            case TextDelta(text) if text:
                return {"content": text}
            case ThinkingDelta(text) if text and self.parsed.show_thinking:
                return {"reasoning_content": text, "reasoning": text}
            case ToolCallStart(index, id, name):
                return self._call_delta(index, {"id": id, "type": "function"}, {"name": name, "arguments": ""})
            case ToolCallDelta(index, text) if text:
                return self._call_delta(index, {}, {"arguments": text})
        return None

    def _call_delta(self, index: int, first: dict[str, Any], function: dict[str, str]) -> dict[str, Any] | None:
        if self.parsed.legacy_functions:
            return {"function_call": function} if index == 0 else None
        return {"tool_calls": [{"index": index, **first, "function": function}]}
