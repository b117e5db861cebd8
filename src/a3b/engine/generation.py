"""One answer while it is written: logits become a token, tokens become events.

Owns the order of decisions for a token. *Choose*: what a constraint allows, then the draw. *Accept*: what a thinking
budget forces after it, the parser, stop strings, the end. Knows no model and no state. Enter at `Generation.choose` and
`Generation.accept`; tokens that were drafted or sampled elsewhere need only the second."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from a3b.constrain.constraint import Constraint
from a3b.engine.sampler import Sampler, TokenCounts
from a3b.errors import UsageError
from a3b.interface.events import (
    Event,
    PromptLogprobs,
    Reason,
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
from a3b.thinking.budget import ThinkingControl


class Sampled(NamedTuple):
    """A chosen token, with its log probabilities where the request wants them."""

    token_id: int
    logprobs: TokenLogprobs | None


class Accepted(NamedTuple):
    """What became of a run of tokens: the events they completed, and how many of them are part of the answer."""

    events: list[Event]
    num_kept: int


class _RawParser:
    """Stands in for OutputParser where text is continued: everything is text."""

    in_thinking = is_whole = False
    all_complete = True
    num_calls = num_held = 0
    place: Place = "text"
    tool = ""

    def push(self, piece: Control | str) -> list[Event]:
        return [TextDelta(piece if isinstance(piece, str) else piece.name)]

    def finish(self) -> list[Event]:
        return []


class Generation:
    """The state of one answer. `reason` is None until it is over.

    feed: the tokens that joined the answer in the last step, which the model has to read next; empty at the end. A
    backend that sampled them itself has read the first `num_kept` already."""

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
        call_id: Callable[[int], str] = "call_{}".format,
        is_raw: bool = False,
    ):
        """params: without a seed they get a random one. max_tokens: of the answer, at least 1. is_raw: the text of the
        tokens as it is, without thinking, calls and trimming."""
        self.tokenizer, self.eos, self.max_tokens = tokenizer, frozenset(eos), max_tokens
        self.params = params if params.seed is not None else params.with_seed(secrets.randbits(63))
        self.num_prompt = len(prompt_ids)
        self.sampled: list[int] = []
        self.thinking_tokens = 0
        self.feed: list[int] = []
        self.reason: Reason | None = None
        self.cuts: list[TruncationPoint] = [TruncationPoint(0, in_thinking, 0, 0)]  # ascending
        self._num_chars = {True: 0, False: 0}  # out of the parser: of thinking, of text
        self._sampler = Sampler(self.params, tokenizer.num_tokens)
        self._counts = TokenCounts(tokenizer.num_tokens, prompt_ids)
        self._stops = StopStrings(params.stop)
        self._parser: OutputParser | _RawParser = (
            _RawParser() if is_raw else OutputParser(tools, in_thinking, call_id, only_offered=constraint is not None)
        )
        self._decoder = StreamDecoder(tokenizer)
        self._constraint, self._control, self._top_logprobs = constraint, control, top_logprobs
        self._open = tokenizer.control_id("<think>") if control else -1
        self._has_text = is_raw  # whether the text has begun: white space before it has no logprobs
        self._mask: np.ndarray | None = None  # what `_allowed` found ...
        self._mask_at = -1  # ... for this number of tokens
        self._chosen = (-1, -1)  # (place, token) of what `choose` gave last
        self._failure: Exception | None = None  # of a token that followed others in its run

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
        """The constraint, while it is still computing what may be written next."""
        constraint = self._constraint
        if constraint is None or self.reason or (self._parser.in_thinking and not constraint.sees_thinking):
            return None
        return None if constraint.ready else constraint

    def forced(self, most: int) -> list[int]:
        """The next tokens, as far as the constraint leaves no choice; at most so many. Never waits."""
        constraint = self._constraint
        if constraint is None or self.reason or (self._parser.in_thinking and not constraint.sees_thinking):
            return []
        return constraint.forced(most)

    def may_follow(self, token: int) -> bool:
        """Whether a token may come next, as far as that is known by now. Never waits."""
        if self.computing is not None:
            return True
        try:
            allowed = self._allowed()
        except UsageError:  # which `choose` will raise
            return True
        return allowed is None or bool(allowed[token])

    def guess(self, logits: np.ndarray, ids: np.ndarray, ahead: int) -> int:
        """What would be drawn so many tokens further on from logits float32 [n] of the tokens `ids`, int64 [n], rising,
        with the draw of that place.

        What earlier tokens change in penalties and constraints is left out: it is for drafts. Never waits. Raises
        LogitsError."""
        try:
            allowed = None if ahead or self.computing is not None else self._allowed()
        except UsageError:  # which `choose` will raise
            allowed = None
        return self._sampler.guess(logits, ids, self._counts, self.num_prompt + len(self.sampled) + ahead, allowed)

    def start(self) -> list[Event]:
        """What is forced before anything is sampled: the model then has to read `feed` first."""
        forced = self._control.start() if self._control else []
        return self._extend((), (), deque(forced)).events if forced else []

    def choose(self, logits: np.ndarray) -> Sampled:
        """Draw the token that follows everything accepted so far, logits float32 [V]. The answer stays as it is.

        Raises LogitsError, and UsageError if the constraint cannot go on."""
        self._raise_failure()
        token = self._sampler.sample(logits, self._counts, self.num_prompt + len(self.sampled), self._allowed())
        self._chosen = (len(self.sampled), token)
        return Sampled(token, self._logprobs(logits, token) if self._shows_logprobs(token) else None)

    def accept(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None] = ()) -> Accepted:
        """Take the next tokens into the answer, chosen here or elsewhere, in order.

        A run ends at the first token that cannot follow: one that the constraint does not allow, one that differs from
        what the thinking budget forces, or any token after the end (a stop string, an end token, a limit). The answer
        is then exactly as if that token and those after it had never come. What is forced after the last kept token
        joins the answer too. logprobs: of each token, as `choose` gives them.

        Raises UsageError or TokenizerError, with nothing changed, for ids that are not in the vocabulary."""
        self._raise_failure()
        for token in ids:
            self._check(token)
        return self._extend(ids, logprobs, deque())

    def scores(self, prompt_ids: Sequence[int], first: int, logits: np.ndarray) -> list[Event]:
        """How likely the tokens of the prompt after place `first` were, from logits float32 [n, V] of that place on."""
        text = self.tokenizer.token_bytes
        events: list[Event] = [PromptLogprobs(prompt_ids[0], text(prompt_ids[0]), None)] if first == 0 else []
        # what follows the last is not there
        for row, token in zip(logits, prompt_ids[first + 1 : first + 1 + len(logits)], strict=False):
            told, top = self._sampler.logprobs(row, token, self._top_logprobs or 0)
            events.append(PromptLogprobs(token, text(token), told, tuple((i, text(i), value) for i, value in top)))
        return events

    def stop(self, reason: Reason) -> list[Event]:
        """End the answer from outside; the events that were held back."""
        return self._end(reason)

    def close(self) -> None:
        """Give back what the constraint holds, after the last token."""
        if self._constraint is not None:
            self._constraint.close()

    def _allowed(self) -> np.ndarray | None:
        """bool [num_tokens]: the tokens that may come next, None for all."""
        if self._mask_at != len(self.sampled):
            self._mask, self._mask_at = self._find_allowed(), len(self.sampled)
        return self._mask

    def _find_allowed(self) -> np.ndarray | None:
        mask: np.ndarray | None = None
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

    def _extend(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], forced: deque[int]) -> Accepted:
        """Take tokens, and those that are forced before and after them, into the answer."""
        self.feed = []
        events: list[Event] = []
        left, num_kept = deque(ids), 0
        while self.reason is None and (forced or left):
            try:
                if left and not self._may_follow(left[0], forced):
                    left.clear()
                    continue
                if not forced:
                    events += self._shown_logprobs(left[0], logprobs[num_kept] if logprobs else None)
                events += self._take(forced.popleft() if forced else left[0], forced)
            except Exception as error:
                if not self.feed:
                    raise
                self._failure = error  # the tokens before it are whole: their events come first
                break
            if left:
                left.popleft()
                num_kept += 1
        return Accepted(events, num_kept)

    def _take(self, token: int, forced: deque[int]) -> list[Event]:
        """Take one token into the answer; `forced` gets the tokens that must follow it."""
        was_thinking = self._parser.in_thinking
        if self._constraint is not None and (not was_thinking or self._constraint.sees_thinking):
            self._constraint.accept(token)
        self._counts.add(token)
        self.sampled.append(token)
        self.thinking_tokens += was_thinking
        if token in self.eos:
            return self._end("stop")
        events = [event for piece in self._pieces(token) for event in self._stops.apply(self._parsed(piece))]
        if self._constraint is not None:
            self._constraint.at(self._parser.place, self._parser.tool, self._parser.num_calls)
        self._note_cut()
        self.feed.append(token)
        if self._control is not None:
            forced.extend(self._control.after(token, self._parser.in_thinking))
        if self._stops.found is not None:
            events += self._end("stop")
        elif len(self.sampled) >= self.max_tokens:
            events += self._end("length")
        return events

    def _check(self, token: int) -> None:
        if not 0 <= token < self.tokenizer.num_tokens:
            raise UsageError(f"token id: {token}; expected 0 to {self.tokenizer.num_tokens - 1}")
        self.tokenizer.token_bytes(token)  # raises for an id between others that stands for nothing

    def _may_follow(self, token: int, forced: Sequence[int]) -> bool:
        if forced:
            return token == forced[0]
        if self._chosen == (len(self.sampled), token):
            return True
        allowed = self._allowed()
        return allowed is None or bool(allowed[token])

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _end(self, reason: Reason) -> list[Event]:
        """End the answer; the events that were held back."""
        self.reason, self.feed = reason, []
        rest = self._decoder.flush() if reason != "cancelled" else ""  # an incomplete UTF-8 sequence is dropped
        events = self._stops.apply((self._parsed(rest) if rest else []) + self._parser.finish(), last=True)
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
        if parser.is_whole and self._decoder.is_whole:
            num_chars = self._num_chars[thinking] + parser.num_held
            self.cuts.append(TruncationPoint(len(self.sampled), thinking, num_chars, parser.num_calls))

    def _pieces(self, token: int) -> list[Control | str]:
        name = self.tokenizer.control_name(token)
        if name is None:
            pieces: list[Control | str] = [self._decoder.push(token)]
        else:
            pieces = [self._decoder.flush(), Control(name)]
        return [piece for piece in pieces if piece]

    def _logprobs(self, logits: np.ndarray, token: int) -> TokenLogprobs:
        chosen, top = self._sampler.logprobs(logits, token, self._top_logprobs or 0)
        text = self.tokenizer.token_bytes
        return TokenLogprobs(token, text(token), chosen, tuple((i, text(i), value) for i, value in top))

    def _shows_logprobs(self, token: int) -> bool:
        """Whether a token that comes next is a part of the text that has logprobs."""
        if self._top_logprobs is None or self._parser.in_thinking or token in self.eos:
            return False
        return self._has_text or bool(self.tokenizer.token_bytes(token).strip())

    def _shown_logprobs(self, token: int, logprobs: TokenLogprobs | None) -> list[Event]:
        if logprobs is None or not self._shows_logprobs(token):
            return []
        self._has_text = True
        return [logprobs]
