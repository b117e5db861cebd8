"""OpenAI's older /v1/completions: continues a text or token ids, or says how likely they are. Enter at `routes`.

`echo` with `logprobs` reads the prompt from its beginning, as the cache holds states and no logits. `max_tokens: 0`
writes nothing. `TEXT` says what happens to each field."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from a3b.interface.events import Event, Finished, TextDelta
from a3b.interface.request import Request
from a3b.server import response_format
from a3b.server.context import ApiContext, namespace, request_id
from a3b.server.errors import ApiError
from a3b.server.fields import FieldRules, Fields, is_token_id, only
from a3b.server.openai.chat_fields import HARMLESS, MAX_CHOICES, MAX_LOGPROBS, UNSUPPORTED
from a3b.server.openai.chat_request import (
    CompletionRequest,
    expand_choices,
    read_count,
    read_stream,
)
from a3b.server.openai.choices import Choice, text_logprobs
from a3b.server.openai.completion_base import CompletionResponder
from a3b.server.request_body import read_json
from a3b.server.sampling_fields import COMPLETION_SAMPLING, read_completion_sampling
from a3b.server.service_protocol import ServiceProtocol
from a3b.server.shared_fields import ANY_MODEL, INCLUDE_USAGE, STREAM

MAX_ANSWERS = 128
MAX_SCORES = 1 << 19  # characters or ids of prompts, times the logprobs of each
DEFAULT_TOKENS = 16  # the API's own default
TEXT = FieldRules(
    read={
        "model": ANY_MODEL,
        "prompt": "text or token ids (control tokens too), or a list of them; no chat template is applied",
        "echo": "true: the answer begins with the prompt; with `logprobs`, the prompt has them too and is read whole",
        **COMPLETION_SAMPLING,
        "max_tokens": f"most tokens to write, {DEFAULT_TOKENS} by default; -1 is no limit, 0 writes nothing",
        "n": f"how many answers to each prompt, up to {MAX_CHOICES}; {MAX_ANSWERS} answers in all",
        "logprobs": f"so many likely tokens in the place of each, up to {MAX_LOGPROBS}",
        "stream": STREAM,
        "stream_options": "`include_usage`: " + INCLUDE_USAGE,
    },
    refused={
        **UNSUPPORTED,
        "suffix": only(""),
        "best_of": only(1),
        "prompt_embeds": None,
        "prompt_logprobs": None,
        **response_format.UNSUPPORTED,
        **dict.fromkeys(response_format.FIELDS),
        "response_format": only({"type": "text"}),
    },
    harmless=HARMLESS,
)


def routes(api: ApiContext) -> list[Route]:
    async def text_completions(http: HttpRequest) -> Response:
        """Continues a text or token ids, or says how likely they are (OpenAI completions)"""
        parsed = await read_json(http, lambda body: read_completion(body, namespace(http), request_id(http)))
        echoes = await asyncio.to_thread(_echoes, api.service, parsed) if parsed.echo else None
        return await _TextResponder(http, parsed, api.service.model, echoes).respond(api.service)

    return [Route(path, text_completions, methods=["POST"]) for path in ("/v1/completions", "/completions")]


def _echoes(service: ServiceProtocol, parsed: CompletionRequest) -> list[str]:
    prompts = [request.prompt or "" for request in parsed.requests]
    return [service.decode(prompt) if isinstance(prompt, list) else prompt for prompt in prompts]


def read_completion(body: Any, namespace: str = "", request_id: str = "") -> CompletionRequest:
    """Raises ApiError or UsageError that names the field."""
    fields = Fields(body)
    warnings = TEXT.check(fields)
    prompts, n = _prompts(fields), read_count(fields)
    if len(prompts) * n > MAX_ANSWERS:
        told = f"prompt: {len(prompts)} prompts, n = {n} for each; expected at most {MAX_ANSWERS} answers in all"
        raise ApiError(400, told, field="prompt")
    logprobs = fields.integer("logprobs")
    if logprobs is not None and logprobs > MAX_LOGPROBS:
        raise fields.invalid("logprobs", f"at most {MAX_LOGPROBS}")
    echo, limit = fields.boolean("echo"), fields.integer("max_tokens", least=-1)
    num_scores = sum(map(len, prompts)) * n * (1 + (logprobs or 0))
    if echo and logprobs is not None and num_scores > MAX_SCORES:
        told = (
            f"logprobs: up to {num_scores} for prompts of this length; expected "
            f"at most {MAX_SCORES}. Send fewer or shorter ones"
        )
        raise ApiError(400, told, field="logprobs")
    sampling = read_completion_sampling(Fields({**fields.body, "max_tokens": None} if limit == 0 else fields.body))
    if limit is None:
        sampling.setdefault("max_tokens", DEFAULT_TOKENS)
    found = [
        Request(
            prompt=prompt,
            sampling=sampling,
            top_logprobs=logprobs,
            scores_prompt=echo and logprobs is not None,
            only_reads=limit == 0,
            namespace=namespace,
            request_id=request_id,
        )
        for prompt in prompts
    ]
    stream = read_stream(fields, warnings)
    return CompletionRequest(
        expand_choices(found, n),
        *stream,
        prompts=len(prompts),
        echo=echo,
        model=fields.model(""),
        warnings=tuple(warnings),
    )


def _prompts(fields: Fields) -> list[str | list[int]]:
    expected = "text or a list of token ids, or a list of such, none of them empty"
    value = fields.get("prompt", (str, list), expected, [])
    prompts = [value] if isinstance(value, str) or _are_ids(value) else value
    if not prompts or not all(prompt and (isinstance(prompt, str) or _are_ids(prompt)) for prompt in prompts):
        raise fields.invalid("prompt", expected)
    return prompts


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_token_id, value))


class _TextResponder(CompletionResponder):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, http: HttpRequest, parsed: CompletionRequest, model: str, echoes: list[str] | None = None):
        """echoes: the prompts as text, if the answers begin with them."""
        super().__init__(http, parsed, model)
        self.offsets = [0 for _ in parsed.requests]  # characters that the logprobs sent so far cover
        self.echoes = echoes or ["" for _ in parsed.requests]  # not sent yet

    def choice_json(self, index: int, choice: Choice) -> dict[str, Any]:
        return self._piece(index, choice, "".join(choice.text), choice.end)

    def pieces(self, index: int, choice: Choice, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(event, TextDelta) and event.text:
            yield self._piece(index, choice, event.text)
        elif isinstance(event, Finished):
            yield self._piece(index, choice, "", event)

    def _piece(self, index: int, choice: Choice, text: str, finished: Finished | None = None) -> dict[str, Any]:
        text, self.echoes[index] = self.echoes[index] + text, ""
        logprobs = None
        if self.with_logprobs:
            logprobs = text_logprobs(choice.take_logprobs(), self.offsets[index])
            self.offsets[index] += sum(map(len, logprobs["tokens"]))
        reason = finished and {"cancelled": "stop", "tool_calls": "stop"}.get(finished.reason, finished.reason)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
