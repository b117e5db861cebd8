"""How long the model may think: token budgets, a nudge before they run out, and a way out of loops.

Owns the decision to end thinking, and the tokens that are forced into the answer for that. Knows tokens and their
bytes, but neither the model nor the request. Enter at `ThinkingControl`: `start`, then `after` each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from a3b.interface.events import ThinkingStop
from a3b.output.dialects import DIALECTS
from a3b.output.dialects.dialect import Dialect
from a3b.prompt.tokenizer import Tokenizer
from a3b.thinking.loop_detector import LoopDetector

NUDGE = "\n\nI have thought enough about this; I will now answer.\n"
NUDGE_TOKENS, NUDGE_SHARE = 32, 10  # the nudge comes when fewer than 32 tokens, or a tenth, are left


@dataclass(frozen=True)
class ThinkingTokens:
    """Ids of the control tokens around thinking, and of the texts that are forced.

    calls: ids that open a call, and after how many tokens it is clear whether a call follows.
    closing: ends the thinking as the template writes it, "\\n" `</think>` "\\n\\n"; the first newline is left out where
    a line has just ended."""

    open: int
    close: int
    calls: Mapping[int, int]
    nudge: tuple[int, ...]
    closing: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, nudge: str = NUDGE, dialects: Sequence[Dialect] = DIALECTS) -> ThinkingTokens:
        """Those of a tokenizer."""
        open_id, close_id = map(tokenizer.control_id, ("<think>", "</think>"))
        known = [one for one in dialects if one is dialects[0] or one.opener in tokenizer.control_names]
        calls = {tokenizer.control_id(one.opener): one.max_opening for one in known}
        closing = (*tokenizer.encode_text("\n"), close_id, *tokenizer.encode_text("\n\n"))
        return cls(open_id, close_id, calls, tuple(tokenizer.encode_text(nudge)), closing)


class ThinkingControl:
    """Watches the tokens of one answer, sampled or forced, and says which must come next.

    budget: tokens of thinking in this answer. task_budget: the same since the user's last turn, of which `spent` are
    used. None means no limit. in_thinking: whether the prompt ends inside `<think>`. token_bytes: of an ordinary token.

    reason: what ended the thinking: "closed" if the model did, "budget" or "repetition" if this control did, which
    remains even if the model thinks again. thinking_tokens: tokens of thinking so far, with the nudge. needs_text:
    whether the thinking was ended by force and no text has followed yet."""

    def __init__(
        self,
        tokens: ThinkingTokens,
        token_bytes: Callable[[int], bytes],
        *,
        in_thinking: bool,
        budget: int | None = None,
        task_budget: int | None = None,
        spent: int = 0,
    ):
        self._tokens, self._token_bytes = tokens, token_bytes
        limits = [
            limit for limit in (budget, None if task_budget is None else task_budget - spent) if limit is not None
        ]
        self._limit = max(0, min(limits)) if limits else None
        self._threshold = max(NUDGE_TOKENS, (self._limit or 0) // NUDGE_SHARE)
        self._nudged = self._limit is None or self._limit <= self._threshold  # a short thought needs no nudge
        self._in_thinking = in_thinking
        self._num_forced = 0  # forced tokens that have not come back yet
        self._call_tokens = 0  # tokens left in which a call may begin
        self._at_line_end = True
        self._loops = LoopDetector()
        self.thinking_tokens = 0
        self.reason: ThinkingStop = ""
        self.needs_text = False

    @property
    def in_thinking(self) -> bool:
        """Whether the last token is within thinking."""
        return self._in_thinking

    @property
    def may_think(self) -> bool:
        """Whether thinking may begin; if not, the caller masks `<think>`."""
        return self.reason not in ("budget", "repetition") and self._left() > 0

    def start(self) -> list[int]:
        """Tokens to begin the answer with: they close the thinking if there is no budget for any."""
        return self._close("budget", whole=True) if self._in_thinking and self._left() <= 0 else []

    def after(self, token_id: int, in_thinking: bool | None = None) -> list[int]:
        """Take the next token; the tokens that must follow it, usually none. While those arrive, no others are
        returned.

        in_thinking: whether the output is in thinking after this token, by its parser; None: by the control tokens."""
        was = self._in_thinking
        if in_thinking is None:
            in_thinking = token_id == self._tokens.open or (was and token_id != self._tokens.close)
        self._in_thinking = in_thinking
        if not in_thinking:
            return self._after_text(token_id, was)
        is_opening = token_id == self._tokens.open and not was
        if is_opening:
            self._loops = LoopDetector()
        else:
            self._count(token_id)
        if self._num_forced:
            self._num_forced -= 1
            return []
        if self._call_tokens:
            self._call_tokens -= 1  # a call in between does not restart the wait, or it might never end
        else:
            self._call_tokens = self._tokens.calls.get(token_id, 0)
        return [] if self._call_tokens else self._due(is_opening)

    def _after_text(self, token_id: int, was_thinking: bool) -> list[int]:
        forced = self._num_forced > 0
        self._num_forced = max(0, self._num_forced - 1)
        self._call_tokens = 0
        if was_thinking:
            self.reason = self.reason or "closed"
        if not forced and token_id != self._tokens.close and self._token_bytes(token_id).strip():
            self.needs_text = False
        return []

    def _count(self, token_id: int) -> None:
        """Count a token of thinking."""
        self.thinking_tokens += 1
        data = self._token_bytes(token_id)
        self._at_line_end = data.endswith(b"\n")
        self._loops.add(token_id, data)

    def _due(self, is_opening: bool) -> list[int]:
        left = self._left()
        if left <= 0:
            return self._close("budget", whole=is_opening)
        if self._loops.found:
            return self._close("repetition")
        if self._nudged or left >= self._threshold:
            return []
        if len(self._tokens.nudge) >= left:
            self._nudged = True
        elif self._loops.at_end_of_sentence or left <= self._threshold // 2:
            self._nudged = True
            self._num_forced = len(self._tokens.nudge)
            return list(self._tokens.nudge)
        return []

    def _close(self, reason: ThinkingStop, whole: bool = False) -> list[int]:
        if self.reason not in ("budget", "repetition"):
            self.reason = reason
        self.needs_text = True
        closing = list(self._tokens.closing)
        if self._at_line_end and not whole:
            closing = closing[closing.index(self._tokens.close) :]
        self._num_forced = len(closing)
        return closing

    def _left(self) -> float:
        return float("inf") if self._limit is None else self._limit - self.thinking_tokens
