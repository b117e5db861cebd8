"""One answer while it is being written: logits in, the next tokens to read and events out. Knows no model and no state.

Owns the order of decisions for a token: what a constraint allows, the draw, what a thinking budget forces behind it,
the parser, stop strings, the end. Enter at `Answer.take`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from a3b.engine.sampler import Sampler, TokenCounts
from a3b.interface.events import (
    Event,
    PromptLogprobs,
    TextDelta,
    ThinkingDelta,
    ThinkingStop,
    TokenLogprobs,
    TruncationPoint,
)
from a3b.interface.sampling_params import SamplingParams
from a3b.output.parser import OutputParser, Place
from a3b.output.stop_strings import StopStrings
from a3b.prompt.segments import Control
from a3b.prompt.tokenizer import StreamDecoder, Tokenizer


class Constraint(Protocol):
    """What may be written; see a3b.constrain."""

    thinking: np.ndarray | None
    knows_end: bool  # whether it says when an answer is complete
    sees_thinking: bool
    notes: tuple[str, ...]
    ready: bool  # whether `mask` answers at once; else `wait`

    def mask(self) -> np.ndarray | None: ...

    def accept(self, token_id: int) -> None: ...

    def at(self, place: Place, tool: str, num_calls: int) -> None: ...

    def close(self) -> None: ...

    def wait(self, seconds: float) -> None: ...


class ThinkingControl(Protocol):
    """Says which tokens follow by force, so that thinking stays within a budget; see `a3b.thinking.budget`."""

    reason: ThinkingStop
    needs_text: bool
    may_think: bool

    def start(self) -> list[int]: ...

    def after(self, token_id: int, in_thinking: bool | None = None) -> list[int]: ...


class _Raw:
    """In the place of OutputParser where text is continued."""

    in_thinking, num_calls, all_complete, place, tool = False, 0, True, "text", ""

    def push(self, piece: Control | str) -> list[Event]:
        return [TextDelta(piece if isinstance(piece, str) else piece.name)]

    def finish(self) -> list[Event]:
        return []


class Answer:
    """reason is None until the answer is over; `feed` is then empty, else what the model has to read next."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos: Sequence[int],
        prompt_ids: Sequence[int],
        params: SamplingParams,
        max_tokens: int,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        in_thinking: bool = True,
        constraint: Constraint | None = None,
        control: ThinkingControl | None = None,
        top_logprobs: int | None = None,
        call_id=None,
        is_raw: bool = False,
    ):
        """params without a seed get one. max_tokens: of the answer, at least 1. is_raw: the text of the tokens as it
        is: no thinking, no calls, no trimming."""
        self.tokenizer, self.eos, self.max_tokens = tokenizer, frozenset(eos), max_tokens
        params = params if params.seed is not None else params.with_seed(secrets.randbits(63))
        self.num_prompt = len(prompt_ids)
        self.sampled: list[int] = []
        self.thinking_tokens = 0
        self.feed: list[int] = []
        self.reason: str | None = None
        self.cuts: list[TruncationPoint] = [TruncationPoint(0, in_thinking, 0, 0)]  # ascending
        self._num_chars = {True: 0, False: 0}  # out of the parser: of thinking, of text
        self._sampler = Sampler(params, tokenizer.num_tokens)
        self._counts = TokenCounts(tokenizer.num_tokens, prompt_ids)
        self._stops = StopStrings(params.stop)
        self._parser = (
            _Raw()
            if is_raw
            else OutputParser(
                tools, in_thinking, only_offered=constraint is not None, **({"call_id": call_id} if call_id else {})
            )
        )
        self._is_raw = is_raw
        self._decoder = StreamDecoder(tokenizer)
        self._constraint, self._control, self._top_logprobs = constraint, control, top_logprobs
        self._open = tokenizer.control_id("<think>") if control else -1
        self._has_text = False

    @property
    def stop_string(self) -> str | None:
        return self._stops.found

    @property
    def thinking_stop(self) -> ThinkingStop:
        if not self.thinking_tokens:
            return ""
        if self._parser.in_thinking:
            return "length"
        return (self._control.reason if self._control else "") or "closed"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the request asked for and the constraint does not enforce."""
        return self._constraint.notes if self._constraint is not None else ()

    @property
    def all_complete(self) -> bool:
        """Whether no call was cut off."""
        return self._parser.all_complete

    @property
    def computing(self) -> Constraint | None:
        """The constraint, if it has not yet computed what may be written next."""
        constraint = self._constraint
        if constraint is None or self.reason or (self._parser.in_thinking and not constraint.sees_thinking):
            return None
        return None if constraint.ready else constraint

    def start(self) -> list[Event]:
        """What is forced before anything is sampled: the model then has to read `feed` first."""
        forced = self._control.start() if self._control else []
        return self._extend(forced) if forced else []

    def take(self, logits: np.ndarray) -> list[Event]:
        """Choose the token that follows what was read, logits float32 [V]; the events it completes."""
        token = self._sampler.sample(logits, self._counts, self.num_prompt + len(self.sampled), self._allowed())
        events: list[Event] = []
        if self._top_logprobs is not None and not self._parser.in_thinking and token not in self.eos:
            self._has_text = self._has_text or self._is_raw or bool(self.tokenizer.token_bytes(token).strip())
            if self._has_text:  # white space before the text is no part of it
                events.append(self._logprobs(logits, token))
        return events + self._extend([token])

    def scores(self, prompt_ids: Sequence[int], first: int, logits: np.ndarray) -> list[Event]:
        """How likely the tokens of the prompt were that follow those from place `first` on, of which logits float32 [n,
        V] are."""
        text = self.tokenizer.token_bytes
        events: list[Event] = [PromptLogprobs(prompt_ids[0], text(prompt_ids[0]), None)] if first == 0 else []
        # what follows the last is not there
        for row, token in zip(logits, prompt_ids[first + 1 : first + 1 + len(logits)], strict=False):
            told, top = self._sampler.logprobs(row, token, self._top_logprobs or 0)
            events.append(PromptLogprobs(token, text(token), told, tuple((i, text(i), value) for i, value in top)))
        return events

    def stop(self, reason: str) -> list[Event]:
        """End from outside; the events that were held back."""
        self.reason, self.feed = reason, []
        return self._finish()

    def close(self) -> None:
        """Give back what the constraint holds, after the last token."""
        if self._constraint is not None:
            self._constraint.close()

    def _allowed(self) -> np.ndarray | None:
        mask = None
        if self._constraint is not None:
            mask = self._constraint.thinking if self._parser.in_thinking else self._constraint.mask()
        knows_end = self._constraint is not None and self._constraint.knows_end
        control, barred = self._control, []
        if self._parser.in_thinking:
            barred += list(self.eos) if knows_end else []  # an end within the thinking would pass the grammar by
        elif control is not None:
            barred += list(self.eos) if control.needs_text and not knows_end else []
            barred += [self._open] if not control.may_think else []
        if barred:
            mask = np.ones(self.tokenizer.num_tokens, bool) if mask is None else mask.copy()
            mask[barred] = False
        return mask

    def _extend(self, tokens: list[int]) -> list[Event]:
        """Take tokens, and those forced behind them, into the answer."""
        events: list[Event] = []
        queue, self.feed = list(tokens), []
        while queue and self.reason is None:
            token = queue.pop(0)
            was_thinking = self._parser.in_thinking
            self._counts.add(token)
            self.sampled.append(token)
            self.thinking_tokens += was_thinking
            if self._constraint is not None and (not was_thinking or self._constraint.sees_thinking):
                self._constraint.accept(token)
            if token in self.eos:
                self.reason = "stop"
                break
            for piece in self._pieces(token):
                events += self._stops.apply(self._parsed(piece))
            if self._constraint is not None:
                self._constraint.at(self._parser.place, self._parser.tool, self._parser.num_calls)
            self._note_cut()
            self.feed.append(token)
            if self._control is not None:
                queue += self._control.after(token, self._parser.in_thinking)
            if self._stops.found is not None:
                self.reason = "stop"
            elif len(self.sampled) >= self.max_tokens:
                self.reason = "length"
        return events + (self._finish() if self.reason else [])

    def _finish(self) -> list[Event]:
        self.feed = []
        rest = self._decoder.flush() if self.reason != "cancelled" else ""  # half a character is nobody's
        events = self._stops.apply((self._parser.push(rest) if rest else []) + self._parser.finish(), last=True)
        if self._stops.found is not None:
            self.reason = "stop"
        if self.reason == "stop" and self._parser.num_calls and self._parser.all_complete:
            self.reason = "tool_calls"
        return events

    def _parsed(self, piece: Control | str) -> list[Event]:
        events = self._parser.push(piece)
        for event in events:
            if isinstance(event, ThinkingDelta | TextDelta):
                self._num_chars[isinstance(event, ThinkingDelta)] += len(event.text)
        return events

    def _note_cut(self) -> None:
        parser, thinking = self._parser, self._parser.in_thinking
        if not self._is_raw and parser.is_whole and self._decoder.is_whole:
            self.cuts.append(
                TruncationPoint(
                    len(self.sampled), thinking, self._num_chars[thinking] + parser.num_held, parser.num_calls
                )
            )

    def _pieces(self, token: int) -> list[Control | str]:
        name = self.tokenizer.control_name(token)
        pieces = [self._decoder.push(token)] if name is None else [self._decoder.flush(), Control(name)]
        return [piece for piece in pieces if piece]

    def _logprobs(self, logits: np.ndarray, token: int) -> TokenLogprobs:
        chosen, top = self._sampler.logprobs(logits, token, self._top_logprobs)
        text = self.tokenizer.token_bytes
        return TokenLogprobs(token, text(token), chosen, tuple((i, text(i), value) for i, value in top))
