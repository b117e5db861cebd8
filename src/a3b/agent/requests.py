"""From a conversation to a request, and how much of the context it takes. Enter at `RequestMaker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from a3b.agent.answer import ModelAnswer
from a3b.agent.client import ModelClient, ModelServerError, ServerFacts
from a3b.agent.events import AgentEvent, Notice, TextChunk, ThinkingChunk, TokenUsage
from a3b.agent.loop_guard import repeated_from
from a3b.agent.transcript import TranscriptState

ANSWER_TOKENS = 32_768  # most of one answer
RESERVE = 8_192  # tokens that stay free for an answer and a summary
MARGIN = 16  # tokens
BYTES_A_TOKEN = 3  # an estimate on the safe side; text has about 4
MESSAGE_TOKENS, MOST_MARKS = 12, 100  # of a message's marks, usually and at most
MAX_CALL = 64_000  # characters of one call: many times the 300 lines of a write
LOOK_EVERY = 1_000  # characters of text between two looks for repetition


class AnswerCutShort(Exception):
    """An answer that was stopped here, since it would only go on and on. message: its useful beginning, if any;
    advice: for the model."""

    def __init__(self, message: dict[str, Any] | None, advice: str):
        super().__init__(advice)
        self.message, self.advice = message, advice


@dataclass(frozen=True)
class PromptSize:
    """tokens: as well as is known; most: surely not more, where the server counts; is_exact: counted just now."""

    tokens: int
    most: int
    is_exact: bool = False


class RequestMaker:
    """Requests of one session; its tools and its model stay the same."""

    def __init__(
        self, client: ModelClient, facts: ServerFacts, tools: Sequence[dict[str, Any]], sampling: Mapping[str, Any]
    ):
        self.client, self.facts, self.tools, self.sampling = client, facts, list(tools), dict(sampling)
        self.think: bool | None = None
        self._refused: set[str] = set()  # fields that the server does not like

    @property
    def reserve(self) -> int:
        return min(RESERVE, self.facts.context // 4)

    def body(self, messages: Sequence[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
        """A request. What a server does with thinking is asked for in its own words; a server that is not known gets
        nothing but OpenAI's fields."""
        body: dict[str, Any] = {"model": self.facts.model, "messages": list(messages)}
        if self.tools:
            body["tools"] = self.tools
        body |= {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": max_tokens}
        template: dict[str, Any] = {"preserve_thinking": True}  # or what was read before would have to be read again
        if self.think is not None:
            template["enable_thinking"] = self.think
        if self.facts.kind in ("a3b", "llama.cpp", "vllm", "sglang"):
            body["chat_template_kwargs"] = template
        if self.facts.kind in ("a3b", "llama.cpp"):
            body["return_progress"] = True
        return {key: value for key, value in (body | self.sampling).items() if key not in self._refused}

    async def size(self, state: TranscriptState) -> PromptSize:
        """How long the prompt of the next request is. Counted by the server where it can and where it matters, or else
        what it counted the last time and an estimate of what has come since."""
        known = state.prompt is not None
        new: Sequence[dict[str, Any]] = state.messages[state.counted :] if known else [*self.tools, *state.messages]
        base, num_bytes = (state.prompt or 0) + (state.written or 0) if known else 0, sum(map(_num_bytes, new))
        guess = base + num_bytes // BYTES_A_TOKEN + MESSAGE_TOKENS * len(new)
        most = base + num_bytes + MOST_MARKS * len(new)  # a token has at least a byte
        if most + self.reserve < self.facts.context * 3 // 4:
            return PromptSize(guess, most)
        counted = await self.client.count(self.body(state.messages, 1))
        return PromptSize(guess, guess) if counted is None else PromptSize(counted, counted, is_exact=True)

    def estimated(self, size: PromptSize, message: dict[str, Any]) -> TokenUsage:
        """What a request may have cost, where the server does not say."""
        return TokenUsage(size.tokens, 0, _num_bytes(message) // BYTES_A_TOKEN)

    def answer_tokens(self, size: PromptSize, most: int | None = None) -> int:
        """How long the answer to a prompt may be, so that both fit."""
        room = self.facts.context - size.most - MARGIN
        return max(min(room, ANSWER_TOKENS, ANSWER_TOKENS if most is None else most), 1)

    async def ask(
        self,
        messages: Sequence[dict[str, Any]],
        max_tokens: int,
        used_ids: set[str],
        emit: Callable[[AgentEvent], None],
    ) -> ModelAnswer:
        """One answer; what comes meanwhile is emitted. A request that a server refuses for a field that it can do
        without is sent again, without it. Raises ModelServerError, AnswerCutShort."""
        while True:
            try:
                return await self._asked(messages, max_tokens, used_ids, emit)
            except ModelServerError as error:
                if not error.field or error.field in self._refused:
                    raise
                self._refused.add(error.field)
                emit(Notice(f"{error}; {error.field} is left out from now on", "info"))

    async def _asked(
        self,
        messages: Sequence[dict[str, Any]],
        max_tokens: int,
        used_ids: set[str],
        emit: Callable[[AgentEvent], None],
    ) -> ModelAnswer:
        text, thought = _Watched(), _Watched()
        async with aclosing(self.client.answer(self.body(messages, max_tokens), used_ids)) as items:
            async for item in items:
                if isinstance(item, ModelAnswer):
                    return item
                emit(item)
                if isinstance(item, TextChunk | ThinkingChunk):
                    watched = text if isinstance(item, TextChunk) else thought
                    if (at := watched.add(item.text)) is not None:
                        raise self._cut(watched.text[:at], watched is thought)
                if self.client.reader.longest_call > MAX_CALL:
                    raise AnswerCutShort(
                        self.client.reader.beginning(),
                        f"Your call was stopped after {MAX_CALL:,} characters of arguments, and nothing was done. Go "
                        "on in parts: write at most 300 lines a call, then continue the file with append.",
                    )
        raise ModelServerError(f"{self.client.root}: the answer has no end")

    def _cut(self, text: str, is_thinking: bool) -> AnswerCutShort:
        """text: what came of an answer, or of its thinking, before it repeated itself."""
        message = self.client.reader.beginning() or {"role": "assistant", "content": ""}
        keys = [key for key in ("reasoning_content", "reasoning") if key in message] if is_thinking else ["content"]
        what = "thinking" if is_thinking else "answer"
        return AnswerCutShort(
            {**message, **dict.fromkeys(keys, text)},
            f"Your {what} repeated itself and was stopped. Do not go on with it: say in other words what is to be "
            "said, or call a tool.",
        )


@dataclass
class _Watched:
    """Text that comes in pieces, and may begin to repeat itself."""

    text: str = ""
    looked: int = 0

    def add(self, piece: str) -> int | None:
        """Where the text begins to be nothing but repetition."""
        self.text += piece
        if len(self.text) - self.looked < LOOK_EVERY:
            return None
        self.looked = len(self.text)
        return repeated_from(self.text)


def _num_bytes(value: dict[str, Any]) -> int:
    """Of the text of a message or a tool."""
    texts = [str(value.get(key) or "") for key in ("content", "reasoning_content", "reasoning")]
    texts += [str(value[key]) for key in ("tool_calls", "function") if key in value]
    return sum(len(text.encode(errors="replace")) for text in texts)


def used_ids(messages: Sequence[dict[str, Any]]) -> set[str]:
    """Ids of the calls of a conversation."""
    return {call["id"] for message in messages for call in message.get("tool_calls", ())}
