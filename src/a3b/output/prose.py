"""Thinking and text of an answer, trimmed as chat templates trim them. Knows no tags. Enter at `Prose.write`."""

from __future__ import annotations

from collections.abc import Mapping

from a3b.interface.events import TextDelta, ThinkingDelta
from a3b.output.line_starts import LineStarts


class Prose:
    """Alternating blocks of thinking and text. Whitespace is held back until more follows.

    thinking: whether the current block is thinking. blank: whether it has no text yet. lines: where its lines begin."""

    def __init__(self, thinking: bool, starts: str = "", fences: Mapping[str, str] | None = None):
        """starts, fences: as `LineStarts` takes them."""
        self.thinking, self.blank = thinking, True
        self._starts, self._fences = starts, fences
        self.lines = LineStarts(starts, fences)
        self._gap = False  # whether whitespace was held back when the block began
        self._held = {True: "", False: ""}  # whitespace by channel (thinking or not), emitted only if more follows
        self._begun = {True: False, False: False}

    @property
    def num_held(self) -> int:
        """Characters of whitespace held back at the end of the current channel."""
        return len(self._held[self.thinking])

    def enter(self, thinking: bool) -> None:
        """Begin a block."""
        self.thinking, self.blank, self.lines = thinking, True, LineStarts(self._starts, self._fences)
        self._gap = bool(self._held[thinking])

    def write(self, text: str) -> list[ThinkingDelta | TextDelta]:
        """Append to the block; return the events that this completes."""
        channel = self.thinking
        text = text.lstrip() if self.blank and self._gap else text
        text = self._held[channel] + text
        body = text.rstrip()
        self._held[channel] = text[len(body) :]
        if not self._begun[channel]:
            body = body.lstrip()
            self._held[channel] = self._held[channel] if body else ""
        if not body:
            return []
        self._begun[channel], self.blank = True, False
        return [(ThinkingDelta if channel else TextDelta)(body)]
