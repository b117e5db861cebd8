"""From a request to the prompt that the model reads: turns recalled, dates kept, the template run, ids counted.

Owns what a service does unless a request says otherwise (`ServiceSettings`). Knows no backend. Used by any thread.
Enter at `RequestRenderer.render` and `RequestRenderer.prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from a3b.engine.backend import ModelInfo
from a3b.errors import UsageError
from a3b.interface.events import ThinkingInContext
from a3b.interface.request import Request, check_policy
from a3b.interface.sampling_params import SamplingParams, preset
from a3b.prompt.chat_template import check_template_kwargs
from a3b.prompt.normalise_messages import normalise_messages
from a3b.prompt.renderer import Renderer
from a3b.prompt.segments import END_OF_TURN, VISION_PADS, Prompt, Text, refuse_images
from a3b.prompt.tokenizer import too_long
from a3b.thinking.budget import ThinkingTokens
from a3b.thinking.policy import apply_policy, last_question
from a3b.thinking.stable_dates import DatePreamble, Dates, without_billing_lines
from a3b.thinking.turn import Message
from a3b.thinking.turn_memory import TurnMemory


@dataclass(frozen=True)
class ServiceSettings:
    """What a service does unless a request says otherwise."""

    policy: str = "all"  # which thinking of earlier turns stays
    think: bool = True
    thinking_budget: int | None = None  # tokens in one answer
    task_budget: int | None = None  # tokens since the last turn of the user
    persist_thinking: bool = True  # False: nothing after the first thinking goes to the disk
    exact_dates: bool = False  # True: dates in prompts are always those of the request
    # False: calls of tools that were not offered, and thinking in circles, are left as the model writes them
    guards_output: bool = True

    def __post_init__(self) -> None:
        check_policy(self.policy)


@dataclass(frozen=True)
class RenderedRequest:
    """A request as the prompt that the model reads."""

    messages: list[Message]  # as recalled, policy applied
    prompt: Prompt
    thinking: ThinkingInContext
    spent: int  # tokens of thinking since the last turn of the user
    dates: Dates  # at its beginning
    kept_dates: int  # of them, not those of the request


@dataclass(frozen=True)
class PreparedRequest(RenderedRequest):
    """A request made into tokens."""

    request: Request
    ids: list[int]
    params: SamplingParams


class RequestRenderer:
    def __init__(self, model: ModelInfo, turns: TurnMemory, settings: ServiceSettings):
        self.model, self.turns, self.settings = model, turns, settings
        self.thinking_tokens = ThinkingTokens.of(model.tokenizer)
        self._renderer = Renderer(model.template)
        self._end = model.tokenizer.control_id(END_OF_TURN)

    def close(self) -> None:
        self._renderer.close()

    def render(self, request: Request) -> RenderedRequest:
        """The prompt of a request, as segments; none for a prompt of ids."""
        if request.prompt is not None:
            prompt: Prompt = [Text(request.prompt)] if isinstance(request.prompt, str) else []
            return RenderedRequest([], prompt, ThinkingInContext(), 0, {}, 0)
        rendered = self._conversation(request)
        refuse_images(rendered.prompt)
        return rendered

    def ids(self, request: Request, rendered: RenderedRequest, most: int | None = None) -> list[int]:
        """The ids of a rendered request. most: tokens that fit; ends as soon as it is certain that there are more.

        Raises ContextError, UsageError, TokenizerError."""
        if isinstance(request.prompt, list):
            if most is not None and len(request.prompt) > most:
                raise too_long(len(request.prompt), most)
            return self._checked(request.prompt)
        return self.model.tokenizer.encode(rendered.prompt, most)

    def prepare(self, request: Request, rendered: RenderedRequest, ids: list[int]) -> PreparedRequest:
        if not ids:
            raise UsageError("prompt: empty; expected text")
        return PreparedRequest(**vars(rendered), request=request, ids=ids, params=self.sampling(request))

    def sampling(self, request: Request) -> SamplingParams:
        """What tokens are chosen by: what the request says, then the recommendations for what it asks."""
        name = "nano" if self.model.is_nano else "thinking" if self._thinks(request) else "instruct"
        return preset(name, has_tools=bool(request.tools), is_nano=self.model.is_nano, **request.sampling)

    def encode_turn_tail(self, ids: Sequence[int], thinking: str | None, text: str) -> list[int]:
        """ids, then the end of the thinking if it is open (else None), the text and the end of the turn."""
        encode = self.model.tokenizer.encode_text
        closing = () if thinking is None else (*encode(thinking), *self.thinking_tokens.closing)
        return [*ids, *closing, *encode(text), self._end]

    def _thinks(self, request: Request) -> bool:
        return request.prompt is None and (self.settings.think if request.think is None else request.think)

    def _checked(self, ids: list[int]) -> list[int]:
        """Token ids that a client gave, control tokens among them. Raises UsageError, TokenizerError."""
        tokenizer = self.model.tokenizer
        for place, token in enumerate(ids):
            if not 0 <= token < tokenizer.num_tokens or tokenizer.control_name(token) in VISION_PADS:
                raise UsageError(
                    f"prompt[{place}]: token {token}; expected the id of a token "
                    f"of text, 0 to {tokenizer.num_tokens - 1}"
                )
            tokenizer.token_bytes(token)  # raises for an id between others that stands for nothing
        return ids

    def _conversation(self, request: Request) -> RenderedRequest:
        fitted, _ = normalise_messages([without_billing_lines(message) for message in request.messages])
        fitted = self.turns.rejoined(request.namespace, fitted)
        preamble = DatePreamble(fitted)
        dates: Dates = preamble.dates
        if dates and not self.settings.exact_dates:
            dates = self.turns.dates(request.namespace, fitted, preamble.dates)
            fitted = preamble.with_dates(dates)
        kept_dates = sum(
            own != kept for text in dates for own, kept in zip(preamble.dates[text], dates[text], strict=True)
        )
        recalled, blocks = self.turns.recall(
            request.namespace,
            fitted,
            lambda text: len(self.model.tokenizer.encode_text(text)),
            self.encode_turn_tail,
        )
        messages, fates, keep = apply_policy(recalled, blocks, request.policy or self.settings.policy)
        check_template_kwargs(request.template_kwargs)
        kwargs = dict(request.template_kwargs)
        kwargs |= {"preserve_thinking": True} if keep else {}
        kwargs |= {} if self._thinks(request) else {"enable_thinking": False}
        prompt = self._renderer.render(messages, request.namespace, tools=request.tools or None, **kwargs)
        question = last_question(recalled)
        spent = sum(block.tokens for block in blocks if block.index > question)
        return RenderedRequest(messages, prompt, fates, spent, dates, kept_dates)
