"""OpenAI's older /v1/completions: text that continues a text. Enter at `routes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.events import Event, Finished, TextDelta
from a3b.requests import Request
from a3b.server.answers import Answer, text_logprobs
from a3b.server.chat_request import MAX_CHOICES, MAX_LOGPROBS, UNSUPPORTED, Asked, choices, read_count, read_sampling, read_stream
from a3b.server.exchange import Api, namespace, read_json, request_id
from a3b.server.openai import Call
from a3b.server.wire import Fields

DEFAULT_TOKENS = 16  # the API's own default
NOT_HERE = {**UNSUPPORTED, "suffix": lambda value: value == "", "echo": lambda value: value is False,
            "best_of": lambda value: value == 1}  # fmt: skip


def routes(api: Api) -> list[Route]:
    async def text_completions(http: HttpRequest) -> Response:
        asked = read_completion(await read_json(http), namespace(http), request_id(http))
        return await _Completion(http, asked, api.service.model).respond(api.service)

    return [Route("/v1/completions", text_completions, methods=["POST"])]


def read_completion(body: Any, namespace: str = "", request_id: str = "") -> Asked:
    """Raises Refusal or UsageError, naming the field."""
    fields = Fields(body)
    fields.refuse(NOT_HERE)
    fields.text("model")
    prompts, n = _prompts(fields), read_count(fields)
    if len(prompts) * n > MAX_CHOICES:
        raise fields.fail("prompt", f"at most {MAX_CHOICES} answers in all, n = {n} for each prompt")
    logprobs = fields.whole("logprobs")
    if logprobs is not None and logprobs > MAX_LOGPROBS:
        raise fields.fail("logprobs", f"at most {MAX_LOGPROBS}")
    sampling = read_sampling(fields)
    if fields.whole("max_tokens", least=-1) is None:
        sampling.setdefault("max_tokens", DEFAULT_TOKENS)
    found = [Request(prompt=prompt, sampling=sampling, top_logprobs=logprobs, namespace=namespace, request_id=request_id)
             for prompt in prompts]  # fmt: skip
    return Asked(choices(found, n), *read_stream(fields), prompts=len(prompts))


def _prompts(fields: Fields) -> list[str]:
    expected = "text, or a list of texts, that is not empty; ids of tokens are not taken"
    value = fields.get("prompt", (str, list), expected, [])
    prompts = [value] if isinstance(value, str) else value
    if not prompts or not all(isinstance(prompt, str) and prompt for prompt in prompts):
        raise fields.fail("prompt", expected)
    return prompts


class _Completion(Call):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, http: HttpRequest, asked: Asked, model: str):
        super().__init__(http, asked, model)
        self.offsets = [0 for _ in asked.requests]  # characters that the logprobs so far stood for

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        return self._piece(index, answer, "".join(answer.text), answer.end)

    def pieces(self, index: int, answer: Answer, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(event, TextDelta) and event.text:
            yield self._piece(index, answer, event.text)
        elif isinstance(event, Finished):
            yield self._piece(index, answer, "", event)

    def _piece(self, index: int, answer: Answer, text: str, finished: Finished | None = None) -> dict[str, Any]:
        logprobs = None
        if self.with_logprobs:
            logprobs = text_logprobs(answer.take_logprobs(), self.offsets[index])
            self.offsets[index] += sum(map(len, logprobs["tokens"]))
        reason = finished and {"cancelled": "stop", "tool_calls": "stop"}.get(finished.reason, finished.reason)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
